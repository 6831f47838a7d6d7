"""The paper's own numbers, some of them as a textbook quotes them. No torch."""

from __future__ import annotations

from functools import partial

from pipelines.shared.judging.published import Published

SECONDS_TO_ALARM = 1.2
_number = partial(Published, source="Titano 2018, quoted from a textbook")

NUMBERS = [
    _number("AUC, gold labels (180 studies)", 0.73),
    _number('AUC, silver labels ("on the training set")', 0.88),
    _number("Sensitivity, gold labels", 0.79),
    _number("Specificity, gold labels", 0.48),
    _number("Physicians, sensitivity (SD 0.04)", 0.79),
    _number("Physicians, specificity (SD 0.07)", 0.85),
    _number("Prevalence at 4 critical concepts", 0.076),
    _number("Prevalence at 8 critical concepts", 0.008),
    _number("Prevalence at 10 critical concepts", 0.007),
    _number("Queue trial, rank-sum P (n = 180)", 0.01),
    _number("Seconds from file to alarm", SECONDS_TO_ALARM),
    _number("Seconds a physician takes", 177.0),
]
