"""Random changes of a training window: gain, polarity, noise, wander; rate, place and another device's filters."""

from __future__ import annotations

import numpy as np

from pipelines.ecg.config import AugmentSection
from pipelines.ecg.labels import RATE


def change(window: np.ndarray, seed: int, keys: AugmentSection) -> np.ndarray:
    """float32 (samples,) at 200 Hz to one of the same length, a function of the seed."""
    rng = np.random.default_rng(seed)
    level, deviation = float(window.mean()), float(window.std())
    gain = 1 + keys.gain * rng.uniform(-1, 1)
    if rng.random() < keys.flip:
        gain = -gain
    changed = level + gain * (window - level)
    if keys.noise:
        noise = rng.standard_normal(len(window), dtype=np.float32)
        changed = changed + deviation * keys.noise * rng.random() * noise
    if keys.wander:
        time = np.arange(len(window)) / RATE
        wave = np.sin(2 * np.pi * rng.uniform(0.05, 0.5) * time + rng.uniform(0, 2 * np.pi))
        changed = changed + deviation * keys.wander * rng.random() * wave
    if keys.speed or keys.shift:
        speed, shift = 1 + keys.speed * rng.uniform(-1, 1), keys.shift * RATE * rng.uniform(-1, 1)
        changed = stretched(changed, speed, shift)
    if rng.random() < keys.band:
        changed = filtered(changed, float(np.exp(rng.uniform(np.log(0.05), np.log(1.0)))), rng.uniform(20, 90))
    return changed.astype(np.float32)


def stretched(window: np.ndarray, speed: float, shift: float) -> np.ndarray:
    """The window around its middle, `speed` times as fast, moved by `shift` samples; beyond its ends mirrored."""
    middle, last = (len(window) - 1) / 2, len(window) - 1
    places = np.abs(middle + (np.arange(len(window)) - middle) * speed + shift)
    places = np.where(places > last, 2 * last - places, places)
    resampled: np.ndarray = np.interp(places, np.arange(len(window)), window)
    return resampled


def filtered(window: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """The window between two frequencies (Hz): high-pass of the first, low-pass of the second order, without delay.

    Monitors begin at 0.05 to 1 Hz and end at 40 to 150 Hz (AHA/ACC/HRS recommendations, Kligfield et al., Circulation
    2007), wearables lower.
    """
    frequency = np.fft.rfftfreq(len(window), 1 / RATE)
    high_pass = frequency / np.hypot(frequency, lowest)
    low_pass = 1 / np.sqrt(1 + (frequency / highest) ** 4)
    level = window.mean()  # what device it came from does not change where its baseline lies
    passed: np.ndarray = level + np.fft.irfft(np.fft.rfft(window - level) * high_pass * low_pass, len(window))
    return passed
