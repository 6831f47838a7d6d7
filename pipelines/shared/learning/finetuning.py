"""Of pretrained networks: which part is the backbone, how it is frozen, and what averaged weights need."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel

from pipelines.shared.errors import ConfigError


def backbone_of(model: nn.Module, key: str) -> nn.Module:
    """The part of a network that carries pretrained weights: its module `backbone`, wherever it lies.

    Raises:
        ConfigError: it has none, so `key` of the configuration means nothing.
    """
    name: str
    module: nn.Module
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "backbone":
            return module
    raise ConfigError(f"{key}: this network has no backbone besides its head.", "Leave the key at its default.")


class Backbone:
    """A network's backbone, to be frozen and thawed: weights and BatchNorm statistics stay what they are."""

    def __init__(self, model: nn.Module, key: str) -> None:
        self.module = backbone_of(model, key)
        self.learning = [p for p in self.module.parameters() if p.requires_grad]

    def freeze(self, frozen: bool) -> None:
        """Freeze it, or let it learn again what learned before; after `model.train()`."""
        for parameter in self.learning:
            parameter.requires_grad_(not frozen)
        if frozen:
            self.module.eval()


class LastWeights(AveragedModel):
    """The mean of the weights after the last epochs (Izmailov et al., UAI 2018: averages lie in wider optima).

    Args:
        model: the network that learns.
        first: the first epoch, from 0, whose weights count.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__(model)
        self.first = first

    def take(self, model: nn.Module, epoch: int) -> None:
        """The weights after an epoch; nothing if they are there, as when a run was cut off before it was validated."""
        if int(self.n_averaged) <= epoch - self.first:
            self.update_parameters(model)

    def renew_statistics(self, model: nn.Module, batches: Iterable[torch.Tensor]) -> None:
        """BatchNorm statistics from these batches alone.

        torch's `update_bn` would also throw away those of a part that is frozen; here what is frozen keeps them.

        Args:
            model: the network that learns, in training mode but for what is frozen.
            batches: of prepared arrays, on the model's device.
        """
        for module, other in zip(self.module.modules(), model.modules(), strict=True):
            module.training = other.training
        norms = [m for m in self.module.modules() if isinstance(m, _BatchNorm) and m.training]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean over batches
        with torch.no_grad():
            for arrays in batches if norms else ():
                self.module(arrays)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
