"""A learner of pictures. Beside learner.py, for timm takes a second to import and not every study uses it."""

from __future__ import annotations

from typing import Any

from torch import nn

from pipelines.shared.learning.backbones import Architecture, ImageNetwork, build_image_network
from pipelines.shared.learning.calibration import calibrated
from pipelines.shared.learning.learner import Learner
from pipelines.shared.learning.views import MeanOverViews
from pipelines.shared.study import C


class ImageLearner(Learner[C]):
    """A learner whose network is a backbone with a linear head: one output for each class."""

    def build(self) -> nn.Module:
        """The backbone with the weights that the configuration asks for, and a new head."""
        return build_image_network(self.config.model, outputs=len(self.classes))

    def architecture(self, network: nn.Module) -> dict[str, Any]:
        """What `rebuild` needs, for model.json."""
        assert isinstance(network, ImageNetwork)
        return network.architecture.to_dict()

    @staticmethod
    def rebuild(model: dict[str, Any]) -> nn.Module:
        """The network that a model.json describes, without weights."""
        return ImageNetwork(Architecture(**model["architecture"]))

    def finished(self, network: nn.Module, model: dict[str, Any]) -> nn.Module:
        """The network, over several views of a picture where `model.test_time` asked for them, and calibrated."""
        return calibrated(over_views(self, network, model), model)


def over_views(learner: Learner[Any], network: nn.Module, model: dict[str, Any]) -> nn.Module:
    """A finished network that looks at the views of a picture that its model.json names."""
    test_time = model["architecture"].get("test_time", "none")
    return network if test_time == "none" else MeanOverViews(network, test_time, learner.link, learner.never)
