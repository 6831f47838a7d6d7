"""A beat generator: P, QRS and T as Gaussians whose shape belongs to a patient (after McSharry et al. 2003).

McSharry et al.: A dynamical model for generating synthetic electrocardiogram signals. IEEE Trans Biomed Eng 50:289;
here without its differential equations: waves are placed in time by the rhythm (`rhythms`) and added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from pipelines.ecg.labels import RATE

# A wave: time of its peak (s), amplitude (mV), standard deviation (s).
Wave = tuple[float, float, float]


@dataclass(frozen=True)
class Heart:
    """What all beats of a patient share. Amplitudes in mV, times in s; widths are standard deviations.

    Attributes:
        p: height of the sinus P wave.
        p_width: its width.
        pr: from the P wave's peak to the R wave's.
        q: depth of Q.
        r: height of R; the axis makes it small or even negative.
        s: depth of S.
        qrs_width: of the R wave.
        t: height of T.
        t_width: its width.
        qt: from R to the peak of T at a cycle of 1 s.
        ectopic: height of the ectopic atrium's P wave relative to the sinus P wave's.
        ectopic_pr: its PR relative to the sinus rhythm's.
        retrograde: height of a P wave that runs backwards, relative to the sinus P wave's.
        wide: height of a ventricular beat.
        wide_width: its width.
    """

    p: float
    p_width: float
    pr: float
    q: float
    r: float
    s: float
    qrs_width: float
    t: float
    t_width: float
    qt: float
    ectopic: float
    ectopic_pr: float
    retrograde: float
    wide: float
    wide_width: float


def draw_heart(rng: Generator, subtlety: float) -> Heart:
    """A patient's heart. With `subtlety` (0 to 1) more ectopic P waves look nearly like the sinus node's."""
    axis = rng.uniform(-0.35, 1.0)  # cosine of the angle between the heart's axis and the lead
    upright = rng.random() < subtlety
    return Heart(
        p=float(rng.uniform(0.07, 0.18)),
        p_width=float(rng.uniform(0.018, 0.028)),
        pr=float(rng.uniform(0.13, 0.18)),
        q=float(rng.uniform(0.0, 0.15)),
        r=float(0.25 + 1.0 * max(axis, 0.1)),
        s=float(rng.uniform(0.05, 0.5)),
        qrs_width=float(rng.uniform(0.009, 0.014)),
        t=float(rng.choice([1, 1, 1, 1, -0.5]) * rng.uniform(0.12, 0.4)),
        t_width=float(rng.uniform(0.035, 0.055)),
        qt=float(rng.uniform(0.26, 0.32)),
        ectopic=float(rng.uniform(0.3, 0.75) if upright else rng.uniform(-1.3, -0.5)),
        ectopic_pr=float(rng.uniform(0.75, 1.0) if upright else rng.uniform(0.6, 0.85)),
        retrograde=float(rng.uniform(-1.1, -0.5)),
        wide=float(rng.choice([-1, 1]) * rng.uniform(0.8, 1.6)),
        wide_width=float(rng.uniform(0.030, 0.048)),
    )


def p_wave(heart: Heart, peak: float, height: float = 1.0) -> list[Wave]:
    """A P wave with its `peak`, s; `height` is relative to the sinus P wave's."""
    return [(peak, heart.p * height, heart.p_width)]


def narrow_beat(heart: Heart, peak: float, cycle: float) -> list[Wave]:
    """QRS and T of a beat that came through the atrioventricular node; R at `peak`, the cycle before it in s."""
    w = heart.qrs_width
    return [
        (peak - 2.4 * w, -heart.q, 0.8 * w),
        (peak, heart.r, w),
        (peak + 2.4 * w, -heart.s, w),
        *_t_wave(heart, peak, cycle, heart.t),
    ]


def wide_beat(heart: Heart, peak: float, cycle: float) -> list[Wave]:
    """A beat of ventricular origin: wide, without P, its T wave to the other side."""
    w = heart.wide_width
    return [
        (peak, heart.wide, w),
        (peak + 1.9 * w, -0.45 * heart.wide, 0.9 * w),
        *_t_wave(replace(heart, t_width=1.3 * heart.t_width, qt=1.15 * heart.qt), peak, cycle, -0.4 * heart.wide),
    ]


def _t_wave(heart: Heart, r_peak: float, cycle: float, height: float) -> list[Wave]:
    """T follows the square root of the cycle (Bazett); a second, smaller Gaussian gives it its slow rise."""
    stretch = float(np.sqrt(np.clip(cycle, 0.3, 1.4)))
    peak, width = r_peak + heart.qt * stretch, heart.t_width * stretch
    return [(peak, height, width), (peak - 1.3 * width, 0.35 * height, 1.2 * width)]


def render(waves: Iterable[Wave], samples: int) -> np.ndarray:
    """The sum of all waves, float64 (samples,) in mV at 200 Hz."""
    signal = np.zeros(samples)
    for peak, height, width in waves:
        first, last = max(0, int((peak - 4 * width) * RATE)), min(samples, int((peak + 4 * width) * RATE) + 2)
        if first < last:
            time = np.arange(first, last) / RATE
            signal[first:last] += height * np.exp(-0.5 * ((time - peak) / width) ** 2)
    return signal
