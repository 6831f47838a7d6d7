"""What a page shows of a picture: where the first base learner looked."""

from __future__ import annotations

import numpy as np
import torch

from pipelines.covid_flannel.config import CovidConfig
from pipelines.covid_flannel.learner import BaseLearner
from pipelines.covid_flannel.stage1 import name_of
from pipelines.shared.learning.method import load_network
from pipelines.shared.learning.saliency import saliency_maps
from pipelines.shared.run import FinishedRun, Run
from pipelines.shared.untaught import most_probable


def saliency_of(run: Run[CovidConfig], finished: FinishedRun, picture: np.ndarray) -> tuple[str, np.ndarray]:
    """The map of one prepared picture, uint8 (side, side, 1), and what it is about."""
    fold = min(int(name.split("-")[0].removeprefix("fold_")) for name in finished.models)
    name = name_of(fold, run.config.chosen_learners[0])
    learner = BaseLearner.from_model(run.config, finished.models[name])
    network = load_network(run, learner, finished.folder.network(name)).eval()
    with torch.inference_mode():
        outputs = network(torch.from_numpy(np.array(picture))[None].to(run.world.device)).float().cpu().numpy()
    chosen = int(most_probable(learner.probabilities(outputs))[0])

    def log_odds(outputs: torch.Tensor) -> torch.Tensor:
        others = [k for k in range(outputs.shape[1]) if k != chosen]
        return outputs[:, chosen] - torch.logsumexp(outputs[:, others], dim=1)

    everywhere = np.ones(picture.shape[:2], bool)
    found = saliency_maps(network, log_odds, [picture], [everywhere], run.world)
    what = learner.classes[chosen].replace("_", " ")
    return f"what speaks for or against {what}, by {run.config.chosen_learners[0]} alone", found[0]
