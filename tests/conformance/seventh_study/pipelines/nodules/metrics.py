"""The network's output, the task that it answers, and its operating points."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pipelines.nodules.config import NodulesConfig
from pipelines.shared.judging.tasks import BinaryTask
from pipelines.shared.stats.operating_points import choose_two_points

HEADS = ["nodule"]
NODULE = BinaryTask("nodule", "Nodule", target="nodule", score="p_nodule")


def choose_points(predictions: pd.DataFrame, config: NodulesConfig) -> list[dict[str, Any]]:
    """High specificity and high sensitivity, chosen on these predictions (those of `val`)."""
    if not NODULE.has_both_classes(predictions):
        return []
    return choose_two_points(NODULE.known(predictions), NODULE.name, config.operating_points)
