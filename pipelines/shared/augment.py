"""Augmentation of pictures. The only module that imports albumentations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import albumentations as A
import cv2
import numpy as np

from pipelines.shared.config import AugmentSection

cv2.setNumThreads(0)  # one picture is too small to be worth waking other threads for


def image_augment(settings: AugmentSection) -> Callable[[np.ndarray, int], np.ndarray]:
    """A function (picture uint8 (H, W, 3), 32-bit seed) -> picture of the same shape.

    Drawn anew from the seed at every call: without this, albumentations' loader workers repeat each other.
    """
    steps: list[A.BasicTransform] = []
    if settings.horizontal_flip:
        steps.append(A.HorizontalFlip(p=settings.horizontal_flip))
    if settings.vertical_flip:
        steps.append(A.VerticalFlip(p=settings.vertical_flip))
    if settings.rotate or settings.scale or settings.translate:
        steps.append(
            A.Affine(
                rotate=(-settings.rotate, settings.rotate),
                scale=(1 - settings.scale, 1 + settings.scale),
                translate_percent=(-settings.translate, settings.translate),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                p=1.0,
            )
        )
    if settings.brightness or settings.contrast:
        steps.append(
            A.RandomBrightnessContrast(
                brightness_limit=settings.brightness, contrast_limit=settings.contrast, ensure_safe_range=False, p=1.0
            )
        )
    if settings.hue or settings.saturation:
        steps.append(
            A.HueSaturationValue(
                hue_shift_limit=round(settings.hue * 180),
                sat_shift_limit=round(settings.saturation * 255),
                val_shift_limit=0,
                p=1.0,
            )
        )
    return partial(_apply, A.Compose(steps))  # not a closure: it must be sent to loader workers where they are spawned


def _apply(steps: A.Compose, picture: np.ndarray, seed: int) -> np.ndarray:
    steps.set_random_seed(seed)
    changed: np.ndarray = steps(image=picture)["image"]
    return changed
