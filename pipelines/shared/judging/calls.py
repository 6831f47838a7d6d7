"""What a frozen threshold says of a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipelines.shared.stats.operating_points import is_positive, threshold_of


def calls(predictions: pd.DataFrame, points: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The decision at each operating point, 0 or 1, as columns `<task>@<point>`; empty where there is no score.

    The rows keep the index of `predictions`: whoever joins the two tables joins them by it.
    """
    table = pd.DataFrame(index=predictions.index)
    for point in points:
        score = predictions[point["score"]]
        positive = is_positive(score, threshold_of(point, predictions)).astype(int)
        decision = pd.Series(positive, index=score.index, dtype="Int64")
        table[f"{point['task']}@{point['name']}"] = decision.mask(score.isna())
    return table
