"""Optimiser and learning-rate schedule, from the configuration by timm's names."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipelines.shared.config import TrainerSection
from pipelines.shared.errors import ConfigError, nearest


def make_optimizer(model: nn.Module, config: TrainerSection) -> torch.optim.Optimizer:
    """timm's optimiser of that name.

    Raises:
        ConfigError: unknown name, or arguments that it does not take.
    """
    extra: dict[str, Any] = dict(config.optimizer_args)
    try:
        return create_optimizer_v2(
            model,
            opt=config.optimizer,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            **extra,
        )
    except (ValueError, AssertionError, TypeError) as failure:
        reason = (str(failure) or type(failure).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"trainer.optimizer={config.optimizer}: {reason}.", nearest(config.optimizer, map(str, list_optimizers()))
        ) from None


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainerSection, updates: int
) -> Scheduler | ReduceLROnPlateau | None:
    """The learning rate's schedule; None where it is constant. `updates`: optimiser steps per epoch."""
    if config.schedule == "constant":
        return None
    if config.schedule == "plateau":  # torch's own: timm's loses its count of bad epochs when it is resumed
        mode: Literal["min", "max"] = "min" if config.monitor.endswith("loss") else "max"
        return ReduceLROnPlateau(optimizer, mode, factor=config.decay_rate, patience=config.decay_epochs)
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate,
        step_on_epochs=config.schedule == "step",
        updates_per_epoch=updates,
    )
    return schedule
