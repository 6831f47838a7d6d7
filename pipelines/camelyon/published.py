"""The challenge's own numbers."""

from __future__ import annotations

from functools import partial

from pipelines.shared.judging.published import Published

_number = partial(Published, source="JAMA 2017, 129 test slides")

PATHOLOGIST = 0.724  # sensitivity for lesions, without a time limit, at no false positive
LESIONS = [
    _number("FROC, HMS-MIT II (the winner)", 0.807, 0.732, 0.889),
    _number("FROC, HMS-MGH III", 0.760),
    _number("FROC, ExB I", 0.511),
    _number("Sensitivity of a pathologist without time limit, at 0 false positives", PATHOLOGIST),
]
SLIDES = [
    _number("Slide AUC, HMS-MIT II (the winner)", 0.994, 0.983, 0.999),
    _number("Slide AUC, HMS-MGH III", 0.976),
    _number("Slide AUC, ExB I", 0.916),
    _number("Slide AUC, 11 pathologists with a time limit, mean", 0.810, 0.738, 0.884),
]
