"""Twelve rhythms as processes: when atria and ventricles beat, and how one leads to the other.

Each function fills a stretch of time, `begin` to `end` in s, with waves. Rates and intervals are those of textbooks
(Surawicz and Knilans, Chou's Electrocardiography in Clinical Practice); what is hard for readers is hard here: the
ectopic atrium's P wave may look like the sinus node's, fast atrial fibrillation becomes nearly regular.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from pipelines.ecg.phantom.beats import Heart, Wave, narrow_beat, p_wave, wide_beat

Rhythm = Callable[[Generator, Heart, float, float, float], list[Wave]]


def _cycles(rng: Generator, begin: float, end: float, cycle: float, breathing: float, jitter: float) -> list[float]:
    """Times of beats with respiratory arrhythmia: `breathing` and `jitter` are relative to the mean `cycle` (s)."""
    rate, phase = rng.uniform(0.18, 0.32), rng.uniform(0, 2 * np.pi)
    times, peak = [], begin + rng.uniform(0.1, 0.9) * cycle
    while peak < end:
        times.append(float(peak))
        change = breathing * np.sin(2 * np.pi * rate * peak + phase) + jitter * rng.standard_normal()
        peak += cycle * max(0.5, 1 + change)
    return times


def sinus(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """A P wave before every QRS; in some patients a few premature ventricular beats."""
    cycle = rng.uniform(0.6, 1.1)
    premature = 0.08 if rng.random() < 0.25 else 0.0
    waves: list[Wave] = []
    skip = False
    for peak in _cycles(rng, begin, end, cycle, rng.uniform(0.02, 0.07), 0.012):
        if skip:  # the compensatory pause: the sinus beat that the premature one forestalled
            skip = False
            continue
        waves += p_wave(heart, peak - heart.pr) + narrow_beat(heart, peak, cycle)
        if rng.random() < premature:
            waves += wide_beat(heart, peak + rng.uniform(0.52, 0.62) * cycle, cycle)
            skip = True
    return waves


def ectopic_atrial(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """As regular as sinus rhythm, but the P wave starts elsewhere: inverted or low, with a shorter PR."""
    cycle = rng.uniform(0.62, 1.05)
    waves: list[Wave] = []
    for peak in _cycles(rng, begin, end, cycle, rng.uniform(0.01, 0.04), 0.01):
        waves += p_wave(heart, peak - heart.ectopic_pr * heart.pr, heart.ectopic) + narrow_beat(heart, peak, cycle)
    return waves


def atrial_fibrillation(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """No P waves; irregular beats over fibrillatory waves, or flutter waves that are conducted 2:1 to 4:1."""
    return (_flutter if rng.random() < 0.3 else _fibrillation)(rng, heart, begin, end, subtlety)


def _fibrillation(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    fast = rng.random() < 0.5 * subtlety
    cycle = rng.uniform(0.34, 0.45) if fast else rng.uniform(0.45, 0.95)
    spread = rng.uniform(0.07, 0.13) if fast else rng.uniform(0.16, 0.28)
    waves: list[Wave] = []
    peak = begin + rng.uniform(0, cycle)
    while peak < end:
        gap = max(0.27, cycle * float(np.exp(spread * rng.standard_normal())))
        waves += narrow_beat(heart, peak, gap)
        peak += gap
    period, height = rng.uniform(0.12, 0.2), rng.uniform(0.02, 0.1)
    peak = begin
    while peak < end:
        swell = 0.6 + 0.4 * np.sin(2 * np.pi * 0.25 * peak)
        waves.append((peak, float(height * swell * rng.uniform(0.5, 1.5)), 0.28 * period))
        peak += period * float(np.exp(0.2 * rng.standard_normal()))
    return waves


def _flutter(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    period, height = rng.uniform(0.18, 0.24), -rng.uniform(0.08, 0.2)
    fixed = int(rng.choice([2, 3, 4])) if rng.random() < 0.6 else None
    waves: list[Wave] = []
    peak, left = begin + rng.uniform(0, period), 0
    while peak < end:
        waves += [(peak, height, 0.22 * period), (peak + 0.4 * period, -0.5 * height, 0.2 * period)]  # a saw's teeth
        if left == 0:
            left = fixed or int(rng.choice([2, 3, 4], p=[0.45, 0.2, 0.35]))
            waves += narrow_beat(heart, peak + 0.1, left * period)
        left -= 1
        peak += period * (1 + 0.01 * rng.standard_normal())
    return waves


def supraventricular_tachycardia(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Fast, narrow and regular; P waves hidden, or inverted just behind the QRS."""
    cycle = rng.uniform(0.29, 0.42)
    jitter = rng.uniform(0.02, 0.06) if rng.random() < subtlety else rng.uniform(0.003, 0.015)
    behind = rng.random() < 0.4
    waves: list[Wave] = []
    for peak in _cycles(rng, begin, end, cycle, 0.01, jitter):
        waves += narrow_beat(heart, peak, cycle)
        if behind:
            waves += p_wave(heart, peak + 0.09, heart.retrograde)
    return waves


def junctional(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Narrow, slow (or accelerated), very regular; the P wave runs backwards just before, in or after the QRS."""
    cycle = rng.uniform(0.65, 0.9) if rng.random() < 0.3 else rng.uniform(0.95, 1.5)
    where = rng.choice([-0.08, np.nan, 0.13])
    waves: list[Wave] = []
    for peak in _cycles(rng, begin, end, cycle, 0.005, 0.008):
        waves += narrow_beat(heart, peak, cycle)
        if not np.isnan(where):
            waves += p_wave(heart, peak + float(where), heart.retrograde)
    return waves


def idioventricular(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Wide beats at a ventricle's own pace, 38 to 100 a minute; in half of them P waves march through."""
    cycle = rng.uniform(0.6, 1.0) if rng.random() < 0.5 else rng.uniform(1.05, 1.6)
    return _ventricular(rng, heart, begin, end, cycle, 0.015, dissociated=rng.random() < 0.5)


def ventricular_tachycardia(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Wide beats, 120 to 210 a minute."""
    return _ventricular(rng, heart, begin, end, rng.uniform(0.285, 0.5), 0.012, dissociated=rng.random() < 0.3)


def _ventricular(
    rng: Generator, heart: Heart, begin: float, end: float, cycle: float, jitter: float, dissociated: bool
) -> list[Wave]:
    waves: list[Wave] = []
    for peak in _cycles(rng, begin, end, cycle, 0.005, jitter):
        waves += wide_beat(heart, peak, cycle)
    if dissociated:
        for peak in _cycles(rng, begin, end, rng.uniform(0.65, 0.95), 0.02, 0.01):
            waves += p_wave(heart, peak)
    return waves


def av_block(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """P waves march on, QRS drop out with a constant PR (Mobitz II, 2:1, high grade), or none is conducted."""
    cycle = rng.uniform(0.58, 0.95)
    kind = str(rng.choice(["mobitz", "two_to_one", "high_grade", "complete"], p=[0.35, 0.3, 0.15, 0.2]))
    if kind == "complete":
        waves: list[Wave] = []
        for peak in _cycles(rng, begin, end, cycle, 0.02, 0.01):
            waves += p_wave(heart, peak)
        escape, wide = rng.uniform(1.25, 1.9), rng.random() < 0.4
        for peak in _cycles(rng, begin, end, escape, 0.004, 0.01):
            waves += (wide_beat if wide else narrow_beat)(heart, peak, escape)
        return waves
    waves = []
    conducted = dropped = 0
    for peak in _cycles(rng, begin, end, cycle, 0.02, 0.01):
        if conducted == 0 and dropped == 0:
            conducted = int(rng.integers(2, 5)) if kind == "mobitz" else 1
            dropped = int(rng.integers(2, 4)) if kind == "high_grade" else 1
        waves += p_wave(heart, peak - heart.pr)
        if conducted:
            waves += narrow_beat(heart, peak, cycle)
            conducted -= 1
        else:
            dropped -= 1
    return waves


def wenckebach(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """PR grows from beat to beat, by ever less, until a QRS drops out; 3:2 to 6:5."""
    cycle = rng.uniform(0.6, 0.9)
    gain = rng.uniform(0.06, 0.13)
    waves: list[Wave] = []
    length, place = int(rng.integers(3, 7)), 0
    for peak in _cycles(rng, begin, end, cycle, 0.015, 0.008):
        waves += p_wave(heart, peak)
        if place < length - 1:
            delay = heart.pr + gain * sum(0.6**k for k in range(place))
            waves += narrow_beat(heart, peak + delay, cycle)
            place += 1
        else:
            length, place = int(rng.integers(3, 7)), 0
    return waves


def bigeminy(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Every second beat is ventricular and premature, with a compensatory pause."""
    return _geminy(rng, heart, begin, end, normal=1)


def trigeminy(rng: Generator, heart: Heart, begin: float, end: float, subtlety: float) -> list[Wave]:
    """Every third beat is ventricular and premature, with a compensatory pause."""
    return _geminy(rng, heart, begin, end, normal=2)


def _geminy(rng: Generator, heart: Heart, begin: float, end: float, normal: int) -> list[Wave]:
    """The sinus node keeps its pace; the beat after each premature one is missing, so the pause makes up for it."""
    cycle, coupling = rng.uniform(0.62, 1.0), rng.uniform(0.5, 0.64)
    waves: list[Wave] = []
    place = 0
    for peak in _cycles(rng, begin, end, cycle, 0.02, 0.01):
        if place < normal:
            waves += p_wave(heart, peak - heart.pr) + narrow_beat(heart, peak, cycle)
            if place == normal - 1:
                waves += wide_beat(heart, peak + (coupling + 0.01 * rng.standard_normal()) * cycle, cycle)
        place = (place + 1) % (normal + 1)
    return waves


RHYTHMS: dict[str, Rhythm] = {
    "AF": atrial_fibrillation,
    "AVB": av_block,
    "BIGEMINY": bigeminy,
    "EAR": ectopic_atrial,
    "IVR": idioventricular,
    "JUNCTIONAL": junctional,
    "NOISE": sinus,  # what lies below the noise, which `phantom` adds
    "SINUS": sinus,
    "SVT": supraventricular_tachycardia,
    "TRIGEMINY": trigeminy,
    "VT": ventricular_tachycardia,
    "WENCKEBACH": wenckebach,
}

# Into what a rhythm changes within a record, and from what it comes.
NEIGHBOURS: dict[str, list[str]] = {
    "AF": ["SINUS", "SINUS", "NOISE"],
    "AVB": ["SINUS", "SINUS", "WENCKEBACH"],
    "BIGEMINY": ["SINUS", "SINUS", "TRIGEMINY"],
    "EAR": ["SINUS", "SINUS", "JUNCTIONAL"],
    "IVR": ["SINUS", "SINUS", "JUNCTIONAL"],
    "JUNCTIONAL": ["SINUS", "SINUS", "EAR"],
    "NOISE": ["SINUS", "SINUS", "AF"],
    "SINUS": ["NOISE", "EAR", "SVT"],
    "SVT": ["SINUS", "SINUS", "AF"],
    "TRIGEMINY": ["SINUS", "SINUS", "BIGEMINY"],
    "VT": ["SINUS", "SINUS", "SVT"],
    "WENCKEBACH": ["SINUS", "SINUS", "AVB"],
}

# As what a reader may mistake a rhythm, and how much more often than others it is mistaken.
MISTAKEN: dict[str, tuple[list[str], float]] = {
    "AF": (["SVT", "SINUS"], 0.8),
    "AVB": (["WENCKEBACH", "SINUS"], 1.0),
    "BIGEMINY": (["TRIGEMINY", "SINUS"], 0.6),
    "EAR": (["SINUS", "SINUS", "JUNCTIONAL"], 2.0),
    "IVR": (["JUNCTIONAL", "VT"], 1.3),
    "JUNCTIONAL": (["SINUS", "EAR"], 1.2),
    "NOISE": (["SINUS", "AF"], 0.8),
    "SINUS": (["EAR", "JUNCTIONAL"], 0.5),
    "SVT": (["AF", "SINUS"], 1.8),
    "TRIGEMINY": (["BIGEMINY", "SINUS"], 0.7),
    "VT": (["IVR", "SVT"], 1.2),
    "WENCKEBACH": (["AVB", "SINUS"], 1.3),
}
