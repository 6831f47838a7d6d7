"""What is published about each network: year, size as usually quoted, error on ImageNet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """What is published of one network.

    Attributes:
        label: its name for people.
        year: of publication.
        parameters: in millions, as textbooks quote them; None: not usually quoted.
        megabytes: of the weights, likewise.
        top5_error: percent, as its authors reported it.
        how: what that error was measured with: years differ in this, so the numbers are a trend, not a contest.
        size: side of the input it was designed for, pixels.
        classes: outputs that the quoted number of parameters includes.
    """

    label: str
    year: int
    parameters: float | None
    top5_error: float | None
    how: str
    megabytes: float | None = None
    size: int = 224
    classes: int = 1000


SINGLE = "one network, one crop, validation"
PUBLISHED = {
    "lenet": Published("LeNet", 1998, 0.06, None, "digits only, never on ImageNet", size=32, classes=10),
    "alexnet": Published("AlexNet", 2012, 60, 15.3, "seven networks, test (ILSVRC 2012)"),
    "vgg16": Published("VGG16", 2014, 138, 7.3, "seven VGG networks, test (ILSVRC 2014)", megabytes=533),
    "vgg19": Published("VGG19", 2014, 144, 7.3, "seven VGG networks, test (ILSVRC 2014)"),
    "googlenet": Published("GoogLeNet (Inception V1)", 2014, 5, 6.67, "seven networks, 144 crops, test (ILSVRC 2014)"),
    "inception_v3": Published("Inception V3", 2015, 23, 5.6, SINGLE, size=299),
    "resnet50": Published("ResNet-50", 2015, 25, 6.71, "one network, ten crops, validation"),
    "resnext50_32x4d": Published("ResNeXt-50 (32x4d)", 2016, 25, None, "only top-1 was reported (22.2 %)"),
    "densenet121": Published("DenseNet-121", 2016, 8, 7.71, SINGLE),
    "tf_efficientnet_lite0": Published("EfficientNet-Lite0", 2020, None, None, "only top-1 was reported"),
}

# Top-1 and top-5 error, percent, of torchvision's ImageNet weights (version 1): one crop of the validation set each, so
# that networks are compared under one protocol. From the metadata of torchvision's weights.
ONE_PROTOCOL = "torchvision's weights, one crop"


def one_protocol_error(name: str) -> float | None:
    """Top-5 error in percent of torchvision's weights for a network (one crop, validation); None: it has none."""
    from torchvision.models import get_model_weights, list_models

    if name not in list_models():
        return None
    weights = next(iter(get_model_weights(name)))
    error: float | None = round(100 - weights.meta["_metrics"]["ImageNet-1K"]["acc@5"], 2)
    return error
