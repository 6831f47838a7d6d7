"""A logistic head on a frozen backbone (`model.freeze=backbone`): what to do with a hundred pictures.

The pictures go through the backbone once, without augmentation. The head is the minimum of the study's own loss plus an
L2 penalty, which is found exactly but for rounding; of a row of penalties the best on val is kept. The saved network is
an ordinary one.

Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019 (section A.1, logistic regression on features).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.shared.errors import ConfigError, UserError
from pipelines.shared.learning.losses import Loss
from pipelines.shared.learning.progress import better
from pipelines.shared.learning.trainer import History
from pipelines.shared.log import log

PENALTIES = [float(f"{10**k:.3g}") for k in np.arange(1.5, -4.1, -0.5)]  # from strong to weak


def fit_head(
    network: nn.Module,
    features: Callable[[nn.Module], tuple[np.ndarray, np.ndarray]],
    targets: np.ndarray,
    loss: Loss,
    measure: Callable[[np.ndarray], dict[str, float]],
    monitor: str,
    name: str,
) -> History:
    """Fit a network's head in place.

    Args:
        network: with a linear layer `head` behind its dropout.
        features: the outputs of a network for training and val, each (records, width); called once, without the head.
        targets: of the training records, as `loss` takes them.
        loss: of outputs and targets, to a scalar.
        measure: outputs for val to what can be monitored.
        monitor: which of it chooses the penalty.
        name: of the network, for history and screen.

    Returns:
        One row per penalty, as of an epoch: network, epoch (a number), train_loss, what `measure` says, learning_rate
        (NaN), seconds, best, penalty.

    Raises:
        ConfigError: the network has no such head, or `monitor` is not measured.
        UserError: `monitor` was never a number.
    """
    began = time.monotonic()
    owner = next((m for m in network.modules() if isinstance(getattr(m, "head", None), nn.Linear)), None)
    if owner is None:
        raise ConfigError("model.freeze=backbone: this network has no linear head.", "Set model.freeze=null.")
    head: Any = owner.head
    owner.head = nn.Identity()
    train, val = features(network)
    owner.head = head
    mean, deviation = train.mean(axis=0), train.std(axis=0) + 1e-6
    x, answers = torch.from_numpy((train - mean) / deviation), torch.from_numpy(targets)
    x_val = torch.from_numpy((val - mean) / deviation)
    weight = torch.zeros(head.out_features, x.shape[1])
    bias = torch.zeros(head.out_features)
    history: History = []
    kept, best_value = None, math.nan
    for number, penalty in enumerate(PENALTIES, 1):
        train_loss = _minimise(weight, bias, x, answers, loss, penalty)
        measured = measure((x_val @ weight.T + bias).numpy())
        if monitor not in measured:
            raise ConfigError(f"trainer.monitor={monitor} is not measured.", f"Allowed: {', '.join(measured)}.")
        best = better(measured[monitor], best_value, monitor)
        if best:
            best_value, kept = measured[monitor], (weight.clone(), bias.clone())
        row = {"network": name, "epoch": number, "train_loss": train_loss} | measured
        seconds, began = time.monotonic() - began, time.monotonic()
        history.append(row | {"learning_rate": math.nan, "seconds": seconds, "best": best, "penalty": penalty})
        figures = "  ".join(f"{key} {value:.4f}" for key, value in ({"train_loss": train_loss} | measured).items())
        log.info(f"{name}  penalty {penalty:g}  {figures}{'  best so far' if best else ''}")
    if kept is None:
        raise UserError(
            f"{name}: {monitor} was never a number, so there is no best penalty.",
            "Check that the validation records hold every class.",
        )
    scale, shift = torch.from_numpy(1 / deviation), torch.from_numpy(mean)
    with torch.no_grad():
        head.weight.copy_(kept[0] * scale)
        head.bias.copy_(kept[1] - (kept[0] * scale) @ shift)
    return history


def _minimise(
    weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor, targets: torch.Tensor, loss: Loss, penalty: float
) -> float:
    """Move weight (outputs, width) and bias (outputs,) to the minimum; the loss there, without the penalty."""
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=20, line_search_fn="strong_wolfe")

    def value() -> torch.Tensor:
        optimizer.zero_grad()
        total = loss(x @ weight.T + bias, targets) + penalty / 2 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(value)
    weight.requires_grad_(False)
    bias.requires_grad_(False)
    return float(loss(x @ weight.T + bias, targets))
