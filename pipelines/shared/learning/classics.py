"""Networks that timm lacks: LeNet, written here as the literature describes it, and torchvision's AlexNet, GoogLeNet.

Each is a backbone like timm's: made without its last layer, `head_hidden_size` says how many features it gives.
Parameters keep torchvision's names, so that files saved from torchvision's models load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

# Mean and standard deviation that weights expect where they are not 0.5. GoogLeNet's came from another framework and
# expect 0.5: torchvision hides this in its `transform_input`.
SCALES = {"alexnet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601


class LeNet(nn.Module):
    """LeNet-5 without its last layer (LeCun et al., Proc IEEE 86:2278, 1998, section II.B).

    A 32 x 32 grey picture; twice a 5 x 5 convolution (6, then 16 maps) and 2 x 2 average pooling; fully connected
    layers of 120 and 84 units; tanh in between. As in most descriptions since, every map of the second convolution
    sees all six before it. With a head of ten classes: 61,706 parameters.

    Input: (batch, 1 or 3, height, width) of any size; colours become grey and the picture is averaged down to 32 x 32.
    Output: (batch, 84).
    """

    head_hidden_size = num_features = 84
    grey: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grey", torch.tensor(GREY).view(1, 3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(400, 120)
        self.fc2 = nn.Linear(120, 84)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if pictures.shape[1] == 3:
            pictures = (pictures * self.grey).sum(dim=1, keepdim=True)
        if pictures.shape[2:] != (32, 32):
            pictures = functional.adaptive_avg_pool2d(pictures, 32)
        maps = functional.avg_pool2d(self.conv1(pictures).tanh(), 2)
        maps = functional.avg_pool2d(self.conv2(maps).tanh(), 2)
        features: torch.Tensor = self.fc2(self.fc1(maps.flatten(1)).tanh()).tanh()
        return features


def _alexnet() -> nn.Module:
    from torchvision.models import alexnet

    network = alexnet(weights=None)
    network.classifier[6] = nn.Identity()
    return _with_width(network, 4096)


def _googlenet() -> nn.Module:
    from torchvision.models import googlenet

    network = googlenet(weights=None, aux_logits=False, init_weights=False)
    network.dropout, network.fc = nn.Identity(), nn.Identity()
    return _with_width(network, 1024)


def _with_width(network: nn.Module, width: int) -> nn.Module:
    for name in ("head_hidden_size", "num_features"):
        setattr(network, name, width)
    return network


CLASSICS: dict[str, Callable[[], nn.Module]] = {"lenet": LeNet, "alexnet": _alexnet, "googlenet": _googlenet}
NOWHERE = ["lenet"]  # never trained on ImageNet


def torchvision_weights(name: str) -> dict[str, torch.Tensor]:
    """ImageNet weights of AlexNet or GoogLeNet, from torchvision's hub or its local copy."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    state: dict[str, torch.Tensor] = weights.IMAGENET1K_V1.get_state_dict(progress=False, check_hash=True)
    return state
