"""Optimiser and learning-rate schedule, from the configuration by timm's names."""

from __future__ import annotations

from typing import Any, Literal

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers, param_groups_layer_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipelines.shared.config import TrainerSection
from pipelines.shared.errors import ConfigError, nearest
from pipelines.shared.learning.finetuning import backbone_of


def make_optimizer(model: nn.Module, config: TrainerSection) -> torch.optim.Optimizer:
    """timm's optimiser of that name; norms and biases have no weight decay.

    Raises:
        ConfigError: unknown name, or arguments that it does not take; layer decay of a network without layers.
    """
    extra: dict[str, Any] = fused(model, config) | config.optimizer_args
    try:
        return create_optimizer_v2(
            model if config.layer_decay is None else layers(model, config.layer_decay, config.weight_decay),
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


def layers(model: nn.Module, layer_decay: float, weight_decay: float) -> list[dict[str, Any]]:
    """A network's parameters by layer: the head and the backbone's last layer learn at the full rate, each layer before
    at `layer_decay` of it (BEiT, Bao et al., ICLR 2022). Norms and biases have no weight decay.

    Raises:
        ConfigError: it has no backbone, or the backbone says nothing of its layers.
    """
    backbone = backbone_of(model, f"trainer.layer_decay={layer_decay:g}")
    groups: list[dict[str, Any]] = param_groups_layer_decay(backbone, weight_decay, layer_decay=layer_decay)
    if len({group["lr_scale"] for group in groups}) < 2:
        raise ConfigError(
            f"trainer.layer_decay={layer_decay:g}: this backbone does not say what its layers are.",
            "Take one of timm's for model.backbone, or set trainer.layer_decay=null.",
        )
    inside = {id(p) for p in backbone.parameters()}
    for p in (p for p in model.parameters() if id(p) not in inside and p.requires_grad):
        groups.append({"params": [p], "lr_scale": 1.0, "weight_decay": weight_decay if p.ndim > 1 else 0.0})
    return groups


def fused(model: nn.Module, config: TrainerSection) -> dict[str, Any]:
    """The argument with which torch's own optimisers do a step in a few launches or loops instead of hundreds.

    On two cores a step of COVID's MobileNet on 16 pictures takes 25 ms instead of 28.
    """
    there = all(p.device.type in ("cuda", "cpu") for p in model.parameters())
    known = config.optimizer in list_optimizers()
    kind = get_optimizer_class(config.optimizer, bind_defaults=False) if known else None
    return {"fused": True} if there and kind in (Adam, AdamW, SGD) else {}


def make_schedule(
    optimizer: torch.optim.Optimizer, config: TrainerSection, updates: int
) -> Scheduler | ReduceLROnPlateau | None:
    """The learning rate's schedule; None where it is constant. `updates`: optimiser steps per epoch."""
    if config.schedule in ("constant", "plateau"):
        for group in optimizer.param_groups:  # timm's schedules do it themselves
            group["lr"] *= group.get("lr_scale", 1.0)
    if config.schedule == "constant":
        return None
    if config.schedule == "plateau":  # torch's own: timm's loses its count of bad epochs when it is resumed
        mode: Literal["min", "max"] = "min" if config.monitor.endswith("loss") else "max"
        return ReduceLROnPlateau(optimizer, mode, factor=config.decay_rate, patience=config.decay_epochs)
    schedule: Scheduler = create_scheduler_v2(
        optimizer,
        sched=config.schedule,
        num_epochs=config.epochs,
        warmup_epochs=config.warmup_epochs,
        decay_epochs=config.decay_epochs,
        decay_rate=config.decay_rate,
        step_on_epochs=config.schedule == "step",
        updates_per_epoch=updates,
    )[0]
    return schedule
