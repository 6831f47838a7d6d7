"""The loop. It knows no study: it gets a model, a loss, a dataset, and a function that validates.

Order of data, augmentation and every random draw are functions of (seed, epoch, step), so a run that was cut off at any
moment and resumed ends with the same weights, bit for bit, on the same hardware and number of processes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipelines.shared import preemption
from pipelines.shared.config import TrainerSection
from pipelines.shared.errors import ConfigError, RunError, UserError, listed, nearest
from pipelines.shared.job import EXIT_RESUME_ME
from pipelines.shared.learning import checkpoint, distributed
from pipelines.shared.learning.dataset import EpochBatches, PreparedDataset, loader
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.hardware import loader_workers, uses_bf16
from pipelines.shared.learning.losses import Loss
from pipelines.shared.learning.optimization import make_optimizer, make_schedule
from pipelines.shared.log import log
from pipelines.shared.screen import progress_bar
from pipelines.shared.seeds import seed_of

Validate = Callable[[nn.Module], dict[str, float]]
History = list[dict[str, Any]]


@dataclass
class Progress:
    """Where training stands. Plain numbers, except for the best epoch's weights (a copy, not a reference)."""

    epoch: int = 0
    batch: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    best_value: float = math.nan
    best_epoch: int = -1
    best_weights: dict[str, torch.Tensor] | None = None


def fit(
    model: nn.Module,
    loss: Loss,
    data: PreparedDataset,
    validate: Validate,
    config: TrainerSection,
    *,
    name: str,
    seed: int,
    world: World,
    file: Path,
    belongs_to: dict[str, Any],
) -> History:
    """Train `model` in place; it ends with the weights of its best epoch (their moving average with EMA).

    Args:
        model: maps a batch of prepared arrays to outputs.
        loss: outputs and targets to a scalar; must ignore missing (NaN) targets itself.
        data: the training records, augmented.
        validate: called with the model after each epoch; must return `config.monitor`.
        config: the recipe.
        name: of the network, for history and screen.
        seed: of this network.
        world: this process among all; each takes its part of every batch.
        file: the checkpoint; if it exists, training goes on from there.
        belongs_to: what a checkpoint must match to be resumed (split, configuration …).

    Returns:
        One dict per epoch: network, epoch, train_loss, what `validate` returned, learning_rate, seconds, best.

    Raises:
        UserError: the loss is not finite (the records of that batch are named), or the disk is full.
        ConfigError: unknown optimiser or monitor, or a batch that cannot be divided among the processes.
        RunError: the checkpoint does not belong to this run.
        SystemExit: SIGTERM came; the state is saved.
    """
    run = _Training(model.to(world.device), loss, data, config, name, seed, world, file, belongs_to)
    run.resume()
    at = run.progress
    while at.epoch < config.epochs and not (config.patience and at.epoch - 1 - at.best_epoch >= config.patience):
        with preemption.deferred():
            run.train_epoch()
            distributed.copy_from_main(run.scored, world)
            run.save()  # before validation, which may take long
        measured = distributed.gather({k: float(v) for k, v in validate(run.scored).items()}, world)[0]
        with preemption.deferred():
            run.close_epoch(measured)
            run.save()
    if at.best_weights is None:
        raise UserError(
            f"{name}: {config.monitor} was never a number, so there is no best epoch.",
            "Check that the validation records hold every class; run.log has the epochs.",
        )
    model.load_state_dict(at.best_weights)
    return run.history


class _Training:
    """One network's training: the parts whose state a checkpoint holds, and the steps of the loop."""

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: PreparedDataset,
        config: TrainerSection,
        name: str,
        seed: int,
        world: World,
        file: Path,
        belongs_to: dict[str, Any],
    ) -> None:
        self.model, self.loss, self.data, self.config = model, loss, data, config
        self.name, self.seed, self.world, self.file = name, seed, world, file
        self.belongs_to = belongs_to | {"number of processes": world.size}
        if config.batch_size % world.size:
            raise ConfigError(
                f"trainer.batch_size={config.batch_size} is over all processes; {world.size} cannot share it equally.",
                f"Choose a multiple of {world.size}.",
            )
        self.batches = max(1, len(data) // config.batch_size)
        if config.max_steps is not None:
            self.batches = min(self.batches, config.max_steps * config.accumulate)
        self.updates = math.ceil(self.batches / config.accumulate)
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config, self.updates)
        self.ema = ModelEmaV3(model, decay=config.ema_decay) if config.ema_decay else None
        self.wrapped = distributed.wrap(model, world)
        self.bf16 = uses_bf16(config, world)
        self.progress = Progress()
        self.history: History = []
        self.stop = False  # SIGTERM has come, here or to another process

    @property
    def scored(self) -> nn.Module:
        """The model that is validated and kept."""
        return self.ema.module if self.ema else self.model

    def train_epoch(self) -> None:
        """The epoch's remaining batches."""
        at, config = self.progress, self.config
        n, world = len(self.data), self.world
        order = EpochBatches(
            n, config.batch_size, self.seed, at.epoch, at.batch, world.rank, world.size, self.data.shares
        )
        del order.batches[max(0, self.batches - at.batch) :]
        self.model.train()
        began = last_save = time.monotonic()
        with progress_bar() as bar:
            shown = bar.add_task(f"{self.name} epoch {at.epoch + 1}", total=self.batches, completed=at.batch, note="")
            for arrays, targets, positions in loader(self.data, order, loader_workers(config, self.world)):
                value = self._step(arrays, targets, positions)
                bar.update(shown, advance=1, note=f"loss {value:.3f}")
                now = time.monotonic()
                due = self.stop or now - last_save > config.checkpoint_seconds
                if due and at.batch % config.accumulate == 0:  # gradients in the making are not saved
                    at.seconds, began, last_save = at.seconds + now - began, now, now
                    self.save()
                    if self.stop:
                        distributed.barrier(self.world)
                        raise SystemExit(EXIT_RESUME_ME)
        at.seconds += time.monotonic() - began

    def _step(self, arrays: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> float:
        at, config = self.progress, self.config
        torch.manual_seed(seed_of(self.seed, "step", at.epoch, at.batch, self.world.rank))
        arrays = arrays.to(self.world.device, non_blocking=True)
        targets = targets.to(self.world.device, non_blocking=True)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            value = self.loss(self.wrapped(arrays), targets)
        mine = float(value.detach())
        number, self.stop = distributed.agree(mine, preemption.requested(), self.world)
        if not math.isfinite(number):
            ids = [self.data.ids[int(p)] for p in positions] if not math.isfinite(mine) else []
            records = [name for part in distributed.gather(ids, self.world) for name in part]
            raise UserError(
                f"{self.name}: the loss is {number} at epoch {at.epoch + 1}, batch {at.batch + 1}; stopped before the "
                f"optimiser's step. Its records:\n{listed(records, 64)}",
                "Look at these records; if they are sound, lower trainer.learning_rate or set trainer.clip_norm=1.",
            )
        first = at.batch - at.batch % config.accumulate  # the last group of an epoch may be smaller
        (value / min(config.accumulate, self.batches - first)).backward()
        at.batch += 1
        at.loss_sum += number
        if at.batch % config.accumulate == 0 or at.batch == self.batches:
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            done = at.epoch * self.updates + math.ceil(at.batch / config.accumulate)
            if isinstance(self.schedule, Scheduler):
                self.schedule.step_update(done)
            if self.ema:
                self.ema.update(self.model, step=done)
        return number

    def close_epoch(self, measured: dict[str, float]) -> None:
        """Write the epoch into the history, keep it if it is the best, move the schedule on."""
        at, monitor = self.progress, self.config.monitor
        if monitor not in measured:
            raise ConfigError(f"trainer.monitor={monitor} is not measured.", nearest(monitor, measured))
        value = measured[monitor]
        best = _better(value, at.best_value, monitor)
        if best:
            at.best_value, at.best_epoch = value, at.epoch
            at.best_weights = copy.deepcopy(self.scored.state_dict())
        train_loss, rate = at.loss_sum / self.batches, float(self.optimizer.param_groups[0]["lr"])
        row = {"network": self.name, "epoch": at.epoch + 1, "train_loss": train_loss} | measured
        self.history.append(row | {"learning_rate": rate, "seconds": at.seconds, "best": best})
        figures = "  ".join(f"{key} {number:.4f}" for key, number in ({"train_loss": train_loss} | measured).items())
        mark = "  best so far" if best else ""
        log.info(f"{self.name}  epoch {at.epoch + 1}/{self.config.epochs}  {figures}  {at.seconds:.0f} s{mark}")
        at.epoch, at.batch, at.loss_sum, at.seconds = at.epoch + 1, 0, 0.0, 0.0
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(value)
        elif self.schedule:
            self.schedule.step(at.epoch)

    def save(self) -> None:
        """Write the checkpoint."""
        if self.world.main:
            plateau = self.schedule if isinstance(self.schedule, ReduceLROnPlateau) else None
            state = {
                "belongs_to": self.belongs_to,
                "progress": dict(vars(self.progress)),
                "history": self.history,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "plateau": plateau.state_dict() if plateau else None,  # the others are functions of the step
                "ema": self.ema.module.state_dict() if self.ema else None,
            }
            checkpoint.save(self.file, state)

    def resume(self) -> None:
        """Take up the state of a run that was cut off, if there is one."""
        saved = checkpoint.load(self.file, self.belongs_to)
        place = None if saved is None else (saved["progress"]["epoch"], saved["progress"]["batch"])
        if len(set(distributed.gather(place, self.world))) > 1:
            raise RunError(
                f"{self.file} is not the same for all of the {self.world.size} processes.",
                "Keep the run folder on a disk that all machines see.",
            )
        if saved is None:
            log.info(f"{self.name}: {len(self.data)} training records, {self.batches} batches an epoch")
            return
        self.progress, self.history = Progress(**saved["progress"]), saved["history"]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.load_state_dict(saved["plateau"])
        if self.ema:
            self.ema.module.load_state_dict(saved["ema"])
        log.info(f"{self.name}: goes on in epoch {self.progress.epoch + 1} after batch {self.progress.batch}")


def _better(value: float, best: float, monitor: str) -> bool:
    """Whether a monitored value beats the best so far. NaN never does; the first number does."""
    if math.isnan(value) or math.isnan(best):
        return math.isnan(best) and not math.isnan(value)
    return value < best if monitor.endswith("loss") else value > best
