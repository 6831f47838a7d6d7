"""The free-response ROC of CAMELYON16, counted as the challenge's evaluator counts (JAMA 2017, supplement).

- Of several detections on one lesion the highest is the true positive, the others count for nothing.
- A detection on isolated tumour cells (ITC) counts for nothing. Outside of every component, beyond the slide's border
  included, it is a false positive; on a normal slide every detection is.
- Sensitivity is over all lesions that are no ITC, false positives are averaged over *all* slides.
- The probability list holds all false positives, every lesion's highest probability (0 if it was missed) and a 0 for
  every ITC. Thresholds are its distinct values but the lowest; then comes the point without any detection.
- The score is the mean of the linearly interpolated sensitivities at 1/4, 1/2, 1, 2, 4 and 8 false positives per slide;
  beyond its ends the curve is flat.

Everything is float64: the official script keeps true positives in float32, so that 0.9 and 0.9 may be no tie. A slide
without a file of detections stays in the denominator, where the official script loses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipelines.camelyon.masks import LESION_COLUMNS, LesionMap
from pipelines.shared.stats.bootstrap import STANDARD, Bootstrap, bootstrap_estimates, divide
from pipelines.shared.stats.estimate import Estimate

RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # false positives per slide
NAMES = ("sensitivity_at_1/4", "sensitivity_at_1/2", *(f"sensitivity_at_{r:g}" for r in RATES[2:]))
MACRO = 2000  # microns: metastases longer than 2 mm are macrometastases, others micrometastases

BLOCK = 2**22  # numbers that the bootstrap holds at a time


@dataclass(frozen=True)
class Scored:
    """What a submission found.

    Attributes:
        slides: (n,) names of all slides, also of those without detections.
        tumour: (n,) bool.
        lesion_slide: (m,) position in `slides` of every lesion that is no ITC.
        lesion_score: (m,) its highest detection, 0 if it was missed.
        lesion_length: (m,) its major axis, microns.
        false_slide: (k,) position in `slides` of every false positive.
        false_score: (k,) its probability.
        itc: (n,) ITC components of each slide.
    """

    slides: list[str]
    tumour: np.ndarray
    lesion_slide: np.ndarray
    lesion_score: np.ndarray
    lesion_length: np.ndarray
    false_slide: np.ndarray
    false_score: np.ndarray
    itc: np.ndarray


def score_detections(
    slides: Sequence[str], detections: pd.DataFrame, maps: Mapping[str, LesionMap]
) -> tuple[Scored, pd.DataFrame]:
    """Give each detection its lesion, and each lesion its highest detection.

    Args:
        slides: names of all slides of the test.
        detections: slide, probability, x, y (level-0 pixels), of these slides.
        maps: the lesions of each tumour slide; a slide that has none is normal.

    Returns:
        What was found; and the detections with `lesion` (label, 0: none) and `outcome`: `true_positive`, `repeated`
        (a lower detection on the same lesion), `itc` or `false_positive`.
    """
    place = {name: i for i, name in enumerate(slides)}
    slide = detections["slide"].map(place).to_numpy(np.int64)
    x, y = (detections[c].to_numpy(np.float64) for c in ("x", "y"))
    probability = detections["probability"].to_numpy(np.float64)
    label = np.zeros(len(detections), np.int64)
    component = np.full(len(detections), -1)  # row of `lesions` that each detection lies on
    tables, offset = [], 0
    for name, lesion_map in maps.items():
        on_slide = slide == place[name]
        label[on_slide] = lesion_map.at(x[on_slide], y[on_slide])
        component[on_slide & (label > 0)] = label[on_slide & (label > 0)] - 1 + offset
        tables.append(lesion_map.lesions.assign(slide=place[name]))
        offset += len(lesion_map.lesions)
    empty = pd.DataFrame({c: pd.Series(dtype=float) for c in [*LESION_COLUMNS, "slide"]})
    lesions = pd.concat(tables, ignore_index=True) if tables else empty
    itc = lesions["itc"].to_numpy(bool)

    score = np.zeros(len(lesions))
    on = component >= 0
    np.maximum.at(score, component[on], probability[on])
    outcome = np.full(len(detections), "false_positive", dtype=object)
    outcome[on] = np.where(itc[component[on]], "itc", "repeated")
    # The first of the highest on each lesion. With probability 0 it is found at no threshold.
    order = np.lexsort((np.arange(len(detections)), -probability))
    order = order[(outcome[order] == "repeated") & (probability[order] > 0)]
    _, first = np.unique(component[order], return_index=True)
    outcome[order[first]] = "true_positive"

    owner = lesions["slide"].to_numpy(np.int64)
    scored = Scored(
        slides=list(slides),
        tumour=np.array([name in maps for name in slides], bool),
        lesion_slide=owner[~itc],
        lesion_score=score[~itc],
        lesion_length=lesions["length"].to_numpy(np.float64)[~itc],
        false_slide=slide[~on],
        false_score=probability[~on],
        itc=np.bincount(owner[itc], minlength=len(slides)),
    )
    return scored, detections.assign(lesion=label, outcome=outcome)


@dataclass(frozen=True)
class Curve:
    """Points from the lowest threshold to the empty point: thresholds (the last is inf), false positives per slide,
    sensitivity (NaN without lesions)."""

    thresholds: np.ndarray
    false_positives: np.ndarray
    sensitivity: np.ndarray

    def at(self, rates: Sequence[float] = RATES) -> np.ndarray:
        """Linearly interpolated sensitivity at some false positives per slide; where the curve is upright, its top."""
        sensitivity: np.ndarray = np.interp(rates, self.false_positives[::-1], self.sensitivity[::-1])
        return sensitivity


def froc_curve(scored: Scored, lesions: np.ndarray | None = None) -> Curve:
    """The curve of a submission.

    Args:
        scored: what it found.
        lesions: (m,) bool, the lesions that sensitivity is about (all false positives and thresholds stay); None: all.
    """
    chosen = np.ones(len(scored.lesion_score), bool) if lesions is None else lesions
    listed = np.concatenate([scored.false_score, scored.lesion_score, np.zeros(min(1, int(scored.itc.sum())))])
    thresholds = np.append(np.unique(listed)[1:], np.inf)
    lesion_scores = np.sort(scored.lesion_score[chosen])
    false = np.sort(scored.false_score)
    # How many are at or above each threshold.
    sensitivity = divide(len(lesion_scores) - np.searchsorted(lesion_scores, thresholds), np.array(len(lesion_scores)))
    return Curve(thresholds, (len(false) - np.searchsorted(false, thresholds)) / len(scored.slides), sensitivity)


def unused_lowest(scored: Scored) -> str | None:
    """Why lesions count as missed although they were found: the lowest probability of all is never a threshold.

    None where that costs no lesion, as whenever some lesion was missed or isolated tumour cells are there (a 0).
    """
    listed = np.concatenate([scored.false_score, scored.lesion_score, np.zeros(min(1, int(scored.itc.sum())))])
    lowest = listed.min(initial=np.inf)
    lost = int((scored.lesion_score == lowest).sum())
    if lost == 0 or lowest == 0:
        return None
    if (listed == lowest).all():
        return (
            f"All detections share one probability ({lowest:g}) and every lesion is found, yet the score is 0: as in "
            "the challenge's evaluator the lowest probability is never a threshold. Give detections probabilities that "
            "differ."
        )
    return (
        f"{lost} of {len(scored.lesion_score)} lesions are found at the lowest probability of all ({lowest:g}) only "
        "and count as missed: as in the challenge's evaluator the lowest probability is never a threshold."
    )


def froc_score(scored: Scored) -> float:
    """Mean sensitivity at the six rates; NaN without lesions."""
    return float(froc_curve(scored).at().mean())


def froc_estimates(scored: Scored, *, bootstrap: Bootstrap = STANDARD) -> dict[str, Estimate]:
    """`froc` and the six sensitivities (`sensitivity_at_1/4` …), with bootstrap intervals over slides.

    Every resample is scored as a submission of its own, with its own thresholds and denominators. Those without a
    lesion are left out, and counted.
    """
    lesions, n = len(scored.lesion_score), len(scored.slides)
    names = ["froc", *NAMES]
    if lesions == 0:
        reason = "there is no lesion but isolated tumour cells" if scored.itc.sum() else "there is no lesion"
        return {name: Estimate(None, n=lesions, groups=n, reason=reason) for name in names}
    sensitivities = froc_curve(scored).at()
    values = [float(sensitivities.mean()), *sensitivities.tolist()]
    why = unused_lowest(scored)
    if n < 2:
        reason = "one slide only: no interval"
        estimates = [Estimate(v, groups=n, reason=reason) for v in values]
    else:
        estimates = bootstrap_estimates(
            values, _Resampling(scored), np.arange(n), n=n, bootstrap=bootstrap, undefined="without a lesion"
        )
    # Slides are resampled, but a sensitivity rests on lesions.
    return {
        name: replace(estimate, n=lesions, reason=". ".join(filter(None, (estimate.reason, why))) or None)
        for name, estimate in zip(names, estimates, strict=True)
    }


class _Resampling:
    """Counts of the slides (b, n) -> the score and the sensitivities (b, 7), all resamples at once.

    Events (false positives and lesions) are sorted once, from the highest probability down; a resample's curve is the
    running sum of how often the slide of each event was drawn. A value that no drawn slide holds adds no point.

    The rates lie at the beginning of the curve. Where a resample reaches the last of them among the first `enough`
    events and goes on behind these, they give the same sensitivities as all events.
    """

    def __init__(self, scored: Scored) -> None:
        probability = np.concatenate([scored.false_score, scored.lesion_score])
        order = np.argsort(-probability, kind="stable")
        self.slide = np.concatenate([scored.false_slide, scored.lesion_slide])[order]
        self.is_lesion = (np.arange(len(probability)) >= len(scored.false_score))[order]
        self.probability = probability[order]
        # Equal probabilities are one point of the curve: the last event of each.
        self.last = np.flatnonzero(np.append(self.probability[1:] != self.probability[:-1], True))
        self.lesions = np.bincount(scored.lesion_slide, minlength=len(scored.slides))
        self.itc = scored.itc > 0
        reached = np.cumsum(~self.is_lesion)[self.last] > 2 * RATES[-1] * len(scored.slides)
        self.enough = int(self.last[reached.argmax()]) + 1 if reached.any() else len(self.slide)

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        rows = max(1, BLOCK // len(self.slide))
        return np.concatenate([self._block(counts[i : i + rows]) for i in range(0, len(counts), rows)])

    def _block(self, counts: np.ndarray) -> np.ndarray:
        behind = np.unique(self.slide[self.enough :])
        first = self.slide[: self.enough][~self.is_lesion[: self.enough]]
        goes_on = (counts[:, behind] > 0).any(axis=1)
        reaches = counts[:, first].sum(axis=1) > RATES[-1] * counts.sum(axis=1)
        found = np.empty((len(counts), 1 + len(RATES)))
        for chosen, events in ((goes_on & reaches, self.enough), (~(goes_on & reaches), len(self.slide))):
            if chosen.any():
                found[chosen] = self._curves(counts[chosen], events)
        return found

    def _curves(self, counts: np.ndarray, events: int) -> np.ndarray:
        """The score and the sensitivities by the first `events` events."""
        points = self.last[self.last < events]
        drawn = counts.astype(np.int32)[:, self.slide[:events]]  # (b, events)
        lesion = self.is_lesion[:events]
        hits, falses = (np.cumsum(drawn * kind, axis=1)[:, points] for kind in (lesion, ~lesion))
        if events == len(self.slide):
            self._end(counts, drawn, hits, falses)
        zero = np.zeros((len(hits), 1), hits.dtype)
        hits, falses = np.hstack([zero, hits]), np.hstack([zero, falses])  # the empty point
        total = counts.astype(np.int64) @ self.lesions
        slides = counts.sum(axis=1, dtype=np.int64)
        hits_at_rates = np.stack([_interpolate(falses, hits, rate * slides) for rate in RATES], axis=1)
        sensitivity = divide(hits_at_rates, total[:, None])
        return np.column_stack([sensitivity.mean(axis=1), sensitivity])

    def _end(self, counts: np.ndarray, drawn: np.ndarray, hits: np.ndarray, falses: np.ndarray) -> None:
        """Make whole curves flat where they end.

        The lowest value that a resample holds is no threshold: the curve ends before it. An ITC is a value of 0.
        """
        end = np.where(drawn > 0, np.arange(drawn.shape[1]), -1).max(axis=1)
        lowest = np.searchsorted(self.last, end)  # the point that holds the last event drawn
        above_zero = self.probability[self.last[lowest]] > 0
        lowest = np.where((counts[:, self.itc] > 0).any(axis=1) & above_zero, lowest + 1, lowest)
        outside = np.arange(hits.shape[1]) >= lowest[:, None]
        for sums in (hits, falses):
            ending = np.where(lowest > 0, sums[np.arange(len(sums)), np.maximum(lowest - 1, 0)], 0)
            np.copyto(sums, ending[:, None], where=outside)


def _interpolate(x: np.ndarray, y: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """`np.interp` per row: x, y (b, p) never falling along a row, targets (b,) not below x[:, 0] -> (b,)."""
    left = (x <= targets[:, None]).sum(axis=1) - 1
    right = np.minimum(left + 1, x.shape[1] - 1)
    row = np.arange(len(x))
    step = (x[row, right] - x[row, left]).astype(np.float64)
    share = np.divide(targets - x[row, left], step, out=np.zeros(len(x)), where=step > 0)
    between: np.ndarray = y[row, left] + share * (y[row, right] - y[row, left])
    return between


def by_size(scored: Scored) -> pd.DataFrame:
    """Micrometastases (up to 2 mm, by the major axis of the grown lesion) and macrometastases.

    Returns:
        size, lesions, found (at any threshold), froc, and the six sensitivities; all false positives count for each
        size. NaN without lesions.
    """
    large = scored.lesion_length > MACRO
    rows = []
    for name, chosen in (("micrometastases", ~large), ("macrometastases", large)):
        sensitivities = froc_curve(scored, chosen).at()
        detected = int((scored.lesion_score[chosen] > 0).sum())
        rows.append({"size": name, "lesions": int(chosen.sum()), "found": detected, "froc": sensitivities.mean()})
        rows[-1] |= dict(zip(NAMES, sensitivities, strict=True))
    return pd.DataFrame(rows)
