"""The paper's own numbers. No torch."""

from __future__ import annotations

from functools import partial

from pipelines.shared.judging.published import Published

TABLE = "Qiao 2020, table of the five-fold results"
RECOMPUTED = "recomputed from the printed class columns of the same table"
_over_folds = partial(Published.over_folds, source=TABLE)
_number = partial(Published, source=TABLE)

NUMBERS = [
    _over_folds("FLANNEL, macro-F1", 0.7910, 0.01),
    _over_folds("FLANNEL, COVID-19 F1", 0.8168, 0.03),
    _over_folds("FLANNEL, COVID-19 precision", 0.7833, 0.07),
    _over_folds("FLANNEL, COVID-19 recall", 0.8609, 0.03),
    _number("Voting, macro-F1", 0.7745),
    _number("Voting, COVID-19 F1", 0.7684),
    _number("DenseNet161, macro-F1", 0.7445),
    _number("DenseNet161, COVID-19 F1", 0.6880),
    _number("ResNeXt101, macro-F1 as printed", 0.7140),
    Published("ResNeXt101, macro-F1", 0.7131, source=RECOMPUTED),
    _number("ResNet152, macro-F1 as printed", 0.7110),
    Published("ResNet152, macro-F1", 0.7118, source=RECOMPUTED),
]
