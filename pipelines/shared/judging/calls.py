"""What a frozen threshold says of a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipelines.shared.errors import RunError
from pipelines.shared.stats.operating_points import is_positive, threshold_of


def calls(predictions: pd.DataFrame, points: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The decision at each operating point, 0 or 1, as columns `<task>@<point>`; empty where there is no score.

    The rows keep the index of `predictions`: whoever joins the two tables joins them by it.

    Raises:
        RunError: a point is of a score that the table lacks.
    """
    table = pd.DataFrame(index=predictions.index)
    for point in points:
        if point["score"] not in predictions:
            raise RunError(
                f"operating_points.json asks for the score '{point['score']}', which the networks do not give.",
                "Copy the whole run folder again.",
            )
        score = predictions[point["score"]]
        positive = is_positive(score, threshold_of(point, predictions)).astype(int)
        decision = pd.Series(positive, index=score.index, dtype="Int64")
        table[f"{point['task']}@{point['name']}"] = decision.mask(score.isna())
    return table
