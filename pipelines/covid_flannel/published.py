"""The paper's own numbers. No torch."""

from __future__ import annotations

from typing import Any

TABLE = "Qiao 2020, table of the five-fold results (chapter table 6.3)"
RECOMPUTED = "recomputed from the printed class columns of the same table"


def _printed(what: str, value: float, deviation: float | None = None, source: str = TABLE) -> dict[str, Any]:
    """A number of the paper; its standard deviation over five folds is no interval."""
    what = what if deviation is None else f"{what} (standard deviation over folds {deviation:g})"
    return {"what": what, "value": value, "low": None, "high": None, "source": source}


NUMBERS = [
    _printed("FLANNEL, macro-F1", 0.7910, 0.01),
    _printed("FLANNEL, COVID-19 F1", 0.8168, 0.03),
    _printed("FLANNEL, COVID-19 precision", 0.7833, 0.07),
    _printed("FLANNEL, COVID-19 recall", 0.8609, 0.03),
    _printed("Voting, macro-F1", 0.7745),
    _printed("Voting, COVID-19 F1", 0.7684),
    _printed("DenseNet161, macro-F1", 0.7445),
    _printed("DenseNet161, COVID-19 F1", 0.6880),
    _printed("ResNeXt101, macro-F1 as printed", 0.7140),
    _printed("ResNeXt101, macro-F1", 0.7131, source=RECOMPUTED),
    _printed("ResNet152, macro-F1 as printed", 0.7110),
    _printed("ResNet152, macro-F1", 0.7118, source=RECOMPUTED),
]
