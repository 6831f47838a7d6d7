"""The loop. It knows no study: it gets a model, a loss, a dataset, and a function that validates.

Order of data, augmentation and every random draw are functions of (seed, epoch, step), so a run that was cut off at any
moment and resumed ends with the same weights, bit for bit, on the same hardware and number of processes.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
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
from pipelines.shared.learning.dataset import EpochBatches, Loader, PreparedDataset
from pipelines.shared.learning.distributed import World
from pipelines.shared.learning.finetuning import Backbone, LastWeights
from pipelines.shared.learning.hardware import batch_in_memory, keep_freed_memory, loader_workers, uses_bf16
from pipelines.shared.learning.losses import Loss
from pipelines.shared.learning.mixing import mixed, mixed_loss, resized
from pipelines.shared.learning.optimization import make_optimizer, make_schedule
from pipelines.shared.learning.progress import Progress, better
from pipelines.shared.log import log
from pipelines.shared.screen import progress_bar
from pipelines.shared.seeds import seed_of

Validate = Callable[[nn.Module], dict[str, float]]
History = list[dict[str, Any]]


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
    must_match: dict[str, Any],
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
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
        must_match: what a checkpoint must match to be resumed (split, configuration …).
        on_epoch: called with each row of the history as it is made; again if the run is cut off before it is saved.

    Returns:
        One dict per epoch: network, epoch, train_loss, what `validate` returned, learning_rate, seconds, best.

    Raises:
        UserError: the loss is not finite (the records of that batch are named), or the disk is full.
        ConfigError: unknown optimiser or monitor, or a batch that cannot be divided among the processes.
        RunError: the checkpoint does not belong to this run.
        SystemExit: SIGTERM came; the state is saved.
    """
    keep_freed_memory(world.device)
    run = _Training(model.to(world.device), loss, data, config, name, seed, world, file, must_match)
    run.resume()
    progress = run.progress
    while progress.epoch < config.epochs and not (
        config.patience and progress.epoch - 1 - progress.best_epoch >= config.patience
    ):
        with preemption.deferred(), batch_in_memory(config, world):
            run.train_epoch()
            distributed.copy_from_main(run.scored, world)
            run.save()  # before validation, which may take long
        measured = distributed.gather({k: float(v) for k, v in validate(run.scored).items()}, world)[0]
        with preemption.deferred():
            run.close_epoch(measured)
            on_epoch(run.history[-1])
            run.save()
    if progress.best_weights is None:
        raise UserError(
            f"{name}: {config.monitor} was never a number, so there is no best epoch.",
            "Check that the validation records hold every class; run.log has the epochs.",
        )
    model.load_state_dict(progress.best_weights)
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
        must_match: dict[str, Any],
    ) -> None:
        self.model, self.loss, self.data, self.config = model, loss, data, config
        self.name, self.seed, self.world, self.file = name, seed, world, file
        self.must_match = must_match | {"number of processes": world.size}
        if config.batch_size % world.size:
            raise ConfigError(
                f"trainer.batch_size={config.batch_size} is over all processes; {world.size} cannot share it equally.",
                f"Choose a multiple of {world.size}.",
            )
        self.batches = max(1, len(data) // config.batch_size)
        if config.max_steps is not None:
            self.batches = min(self.batches, config.max_steps * config.accumulate)
        self.updates = math.ceil(self.batches / config.accumulate)
        self.loader = Loader(data, loader_workers(config, world), world.device)
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config, self.updates)
        self.ema = ModelEmaV3(model, config.ema_decay, use_warmup=config.ema_warmup) if config.ema_decay else None
        last = config.average_epochs
        self.average = LastWeights(model, config.epochs - last) if last > 1 else None
        self.backbone = Backbone(model, f"trainer.head_epochs={config.head_epochs}") if config.head_epochs else None
        self.frozen: bool | None = None
        self.bf16 = uses_bf16(config, world)
        self.progress = Progress()
        self.history: History = []
        self.stop = False  # SIGTERM has come, here or to another process

    @property
    def scored(self) -> nn.Module:
        """The model that is validated and kept."""
        if self.average is not None and self.progress.epoch == self.config.epochs - 1:
            return self.average.module
        return self.ema.module if self.ema else self.model

    def start_epoch(self) -> None:
        """Training mode; in the first epochs the backbone is frozen."""
        frozen = self.progress.epoch < self.config.head_epochs
        self.model.train()
        if self.backbone:
            self.backbone.freeze(frozen)
        if frozen != self.frozen:  # DDP wants to know what learns
            self.wrapped, self.frozen = distributed.wrap(self.model, self.world, self.config.compile), frozen

    def train_epoch(self) -> None:
        """The epoch's remaining batches."""
        progress, config = self.progress, self.config
        order = self._order(progress.epoch, progress.batch)
        then = self._order(progress.epoch + 1) if progress.epoch + 1 < config.epochs else ()
        self.start_epoch()
        began = last_save = time.monotonic()
        with progress_bar() as bar:
            title, done = f"{self.name} epoch {progress.epoch + 1}/{config.epochs}", progress.epoch * self.batches
            # Over all epochs: its time is to this network's last one, without validation; patience may end it before.
            shown = bar.add_task(title, total=config.epochs * self.batches, completed=done + progress.batch, note="")
            for arrays, targets, positions in self.loader(order, then):
                value = self._step(arrays, targets, positions)
                bar.update(shown, advance=1, note=f"loss {value:.3f}")
                now = time.monotonic()
                due = self.stop or now - last_save > config.checkpoint_seconds
                if due and progress.batch % config.accumulate == 0:  # gradients in the making are not saved
                    progress.seconds, began, last_save = progress.seconds + now - began, now, now
                    self.save()
                    if self.stop:
                        distributed.barrier(self.world)
                        raise SystemExit(EXIT_RESUME_ME)
        self._take_into_average()
        progress.seconds += time.monotonic() - began

    def _order(self, epoch: int, start: int = 0) -> EpochBatches:
        n, world, shares = len(self.data), self.world, self.data.shares
        order = EpochBatches(n, self.config.batch_size, self.seed, epoch, start, world.rank, world.size, shares)
        del order.batches[max(0, self.batches - start) :]
        return order

    def _take_into_average(self) -> None:
        """The weights after this epoch, if it is one of the last; at the end what BatchNorm needs."""
        progress, config = self.progress, self.config
        if self.average is None:
            return
        self.average.take(self.ema.module if self.ema else self.model, progress.epoch)
        if progress.epoch == config.epochs - 1:
            torch.manual_seed(seed_of(self.seed, "statistics", self.world.rank))
            batches = self.loader(self._order(config.epochs))
            with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
                self.average.renew_statistics(self.model, (arrays for arrays, _, _ in batches))

    def _step(self, arrays: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor) -> float:
        progress, config = self.progress, self.config
        torch.manual_seed(seed_of(self.seed, "step", progress.epoch, progress.batch, self.world.rank))
        arrays, own = mixed(resized(arrays, progress.epoch, config), config)
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            value = mixed_loss(self.loss, self.wrapped(arrays), targets, own)
        agreement = distributed.agreement(value, preemption.requested(), self.world)
        first = progress.batch - progress.batch % config.accumulate  # the last group of an epoch may be smaller
        (value / min(config.accumulate, self.batches - first)).backward()
        here, number, self.stop = agreement()  # a GPU is in the backward pass meanwhile: nothing waits for it
        if not math.isfinite(number):
            ids = [str(self.data.ids[int(p)]) for p in positions] if not math.isfinite(here) else []
            records = [name for part in distributed.gather(ids, self.world) for name in part]
            raise UserError(
                f"{self.name}: the loss is {number} at epoch {progress.epoch + 1}, batch {progress.batch + 1}; stopped "
                f"before the optimiser's step. Its records:\n{listed(records, 64)}",
                "Look at these records; if they are sound, lower trainer.learning_rate or set trainer.clip_norm=1.",
            )
        progress.batch += 1
        progress.loss_sum += number
        if progress.batch % config.accumulate == 0 or progress.batch == self.batches:
            if config.clip_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            done = progress.epoch * self.updates + math.ceil(progress.batch / config.accumulate)
            if isinstance(self.schedule, Scheduler):
                self.schedule.step_update(done)
            if self.ema:
                self.ema.update(self.model, step=done)
        return number

    def close_epoch(self, measured: dict[str, float]) -> None:
        """Write the epoch into the history, keep it if it is the best, move the schedule on."""
        progress, monitor = self.progress, self.config.monitor
        if monitor not in measured:
            raise ConfigError(f"trainer.monitor={monitor} is not measured.", nearest(monitor, measured))
        value = measured[monitor]
        best = better(value, progress.best_value, monitor)
        if best:
            progress.best_value, progress.best_epoch = value, progress.epoch
            progress.best_weights = copy.deepcopy(self.scored.state_dict())
        train_loss = progress.loss_sum / self.batches
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        row = {"network": self.name, "epoch": progress.epoch + 1, "train_loss": train_loss} | measured
        self.history.append(row | {"learning_rate": rate, "seconds": progress.seconds, "best": best})
        figures = "  ".join(f"{key} {number:.4f}" for key, number in ({"train_loss": train_loss} | measured).items())
        mark = "  best so far" if best else ""
        title = f"{self.name}  epoch {progress.epoch + 1}/{self.config.epochs}"
        log.info(f"{title}  {figures}  {progress.seconds:.0f} s{mark}")
        progress.epoch, progress.batch, progress.loss_sum, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        if isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step(value)
        elif self.schedule:
            self.schedule.step(progress.epoch)

    def save(self) -> None:
        """Write the checkpoint."""
        if self.world.main:
            plateau = self.schedule if isinstance(self.schedule, ReduceLROnPlateau) else None
            state = {
                "belongs_to": self.must_match,
                "progress": dict(vars(self.progress)),
                "history": self.history,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "plateau": plateau.state_dict() if plateau else None,  # the others are functions of the step
                "ema": self.ema.module.state_dict() if self.ema else None,
                "average": self.average.state_dict() if self.average else None,
            }
            checkpoint.save(self.file, state)

    def resume(self) -> None:
        """Take up the state of a run that was cut off, if there is one."""
        saved = checkpoint.load(self.file, self.must_match)
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
        if self.average:
            self.average.load_state_dict(saved["average"])
        log.info(f"{self.name}: goes on in epoch {self.progress.epoch + 1} after batch {self.progress.batch}")
