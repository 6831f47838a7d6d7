"""Figures of a report, one function each: data and a path in, a PNG file out.

One style for all of them: 6.4 inches wide, large letters (a phone shows the page at 360 pixels), colours that
colour-blind readers tell apart (after Okabe and Ito, 2008; the light ones darkened, as lines are thin) and, for print
in grey, a line style or marker of its own for everything that has a colour of its own. The same input gives the same
bytes. Without data there is still a figure, and it says so. `note` is a small line under a figure, such as
'synthetic data'.

A metric is anything with `value`, `low`, `high` and `reason` (`stats.estimate.Estimate`); one whose value is None is
left out of curves and named with its reason in tables.
"""

from pipelines.shared.judging.figures.calibration import ReliabilityBins, reliability
from pipelines.shared.judging.figures.confusion_matrix import confusion
from pipelines.shared.judging.figures.discrimination import Curve, Point, precision_recall, roc
from pipelines.shared.judging.figures.embedding import embedding
from pipelines.shared.judging.figures.flow_diagram import flow
from pipelines.shared.judging.figures.pictures import Tile, gallery
from pipelines.shared.judging.figures.subgroups import Subgroup, forest
from pipelines.shared.judging.figures.thresholds import operating_curve, score_distribution
from pipelines.shared.judging.figures.training import history, subsample_curve

__all__ = [
    "Curve",
    "Point",
    "ReliabilityBins",
    "Subgroup",
    "Tile",
    "confusion",
    "embedding",
    "flow",
    "forest",
    "gallery",
    "history",
    "operating_curve",
    "precision_recall",
    "reliability",
    "roc",
    "score_distribution",
    "subsample_curve",
]
