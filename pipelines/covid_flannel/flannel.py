"""Stage 2: how the base learners' probabilities become one (Qiao et al., section "FLANNEL", and the released code).

Of L learners and C classes f holds the L x C probabilities of a picture; their outer product f f' goes through one
linear layer, which gives every learner a weight w_i for this picture; the answer is softmax(sum_i w_i P_i).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from pipelines.covid_flannel.config import EnsembleSection

Network = TypeVar("Network", bound=nn.Module)


class Flannel(nn.Module):
    """Probabilities (batch, learners, classes) -> logits (batch, classes), and the weights behind them.

    `weights`: what the linear layer's outputs go through. "tanh" (the released code's default) lets a learner count
    against a class. "softmax" makes a mean of probabilities, between 0 and 1; the softmax that follows can then never
    give a class more than e / (e + classes - 1), 0.475 for four classes.
    """

    def __init__(self, learners: int, classes: int, weights: str = "tanh") -> None:
        super().__init__()
        self.kind, self.classes = weights, classes
        self.linear = nn.Linear((learners * classes) ** 2, learners)

    def weights(self, p: torch.Tensor) -> torch.Tensor:
        """How much each learner counts for each picture, (batch, learners)."""
        f = p.flatten(1)
        raw = self.linear((f[:, :, None] * f[:, None, :]).flatten(1))
        weights: torch.Tensor = raw.tanh() if self.kind == "tanh" else raw.softmax(dim=1)
        return weights

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, classes)."""
        return torch.einsum("bl,blc->bc", self.weights(p), p)


class ConstantWeights(nn.Module):
    """A constant linear combination: one weight per learner, the same for all pictures."""

    def __init__(self, learners: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(learners))

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, classes)."""
        return torch.einsum("l,blc->bc", self.weight, p)


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: torch.Tensor) -> torch.Tensor:
    """Multi-class focal loss, mean over pictures of -alpha_m (1 - p_m)^gamma log p_m for the true class m.

    Lin et al., ICCV 2017, eq. 5, with one alpha per class. Cross-entropy at gamma 0 and alpha 1.

    Args:
        logits: (batch, classes).
        targets: (batch,) class numbers, int64.
        gamma: 0 or more; how little pictures count that are right already.
        alpha: (classes,).
    """
    log_p = logits.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]
    missing = (-torch.expm1(log_p)).clamp(min=1e-12)  # at 0 the derivative of a power below 1 is infinite
    return (-alpha[targets] * missing**gamma * log_p).mean()


def class_weights(targets: np.ndarray, classes: int, inverse_frequency: bool) -> torch.Tensor:
    """Alpha (classes,): inverse class frequency, on average over pictures 1; or 1 for all. An absent class has 0."""
    counts = np.bincount(targets, minlength=classes)
    if not inverse_frequency:
        return torch.ones(classes, dtype=torch.float64)
    present = max(1, np.count_nonzero(counts))
    return torch.tensor(np.where(counts > 0, counts.sum() / present / np.maximum(counts, 1), 0.0))


def fit_combination(
    combination: nn.Module, p: np.ndarray, targets: np.ndarray, section: EnsembleSection, seed: int
) -> nn.Module:
    """Train stage 2 on all pictures for a fixed number of epochs (nothing is chosen, so nothing can be seen twice).

    In float64 and one process: it takes seconds, and the result is the same on every machine to many digits.

    Args:
        combination: `Flannel` or `ConstantWeights`; trained in place.
        p: (pictures, learners, classes).
        targets: (pictures,) class numbers.
        section: gamma, alpha, epochs, batch size, Adam's learning rate and weight decay.
        seed: of the order of pictures.
    """
    inputs, answers = torch.from_numpy(p.astype(np.float64)), torch.from_numpy(targets.astype(np.int64))
    combination.double().train()
    alpha = class_weights(targets.astype(np.int64), p.shape[2], section.alpha)
    optimizer = torch.optim.Adam(combination.parameters(), section.learning_rate, weight_decay=section.weight_decay)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(section.epochs):
        for batch in torch.randperm(len(inputs), generator=generator).split(section.batch_size):
            loss = focal_loss(combination(inputs[batch]), answers[batch], section.gamma, alpha)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return combination.eval()


def combine(combination: nn.Module, p: np.ndarray) -> np.ndarray:
    """Probabilities (pictures, classes) of a trained combination for p (pictures, learners, classes)."""
    return _one_by_one(combination, p, lambda network, picture: network(picture).softmax(dim=1))


def weights_of(flannel: nn.Module, p: np.ndarray) -> np.ndarray:
    """The learned weights, (pictures, learners), for p (pictures, learners, classes)."""
    assert isinstance(flannel, Flannel)
    return _one_by_one(flannel, p, Flannel.weights)


def _one_by_one(network: Network, p: np.ndarray, answer: Callable[[Network, torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Answers in float64, each picture by itself: the last digits of a sum depend on how many pictures share it."""
    exact = copy.deepcopy(network).cpu().double().eval()  # a copy: in a service other threads ask the same network
    with torch.inference_mode():
        answers: np.ndarray = torch.cat([answer(exact, one) for one in torch.from_numpy(p).double().split(1)]).numpy()
    return answers


def vote(p: np.ndarray) -> np.ndarray:
    """Plain voting: the share of learners whose most probable class it is, (pictures, classes).

    Ties go to the class with the higher mean probability: a thousandth of it is mixed in.
    """
    votes = np.eye(p.shape[2])[p.argmax(axis=2)].mean(axis=1)
    shares: np.ndarray = 0.999 * votes + 0.001 * p.mean(axis=1)
    return shares
