"""Augmentation of pictures. The only module that imports albumentations."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np

from pipelines.shared.config import AugmentSection

cv2.setNumThreads(0)  # one picture is too small to be worth waking other threads for


class InscribedRotation(A.ImageOnlyTransform):
    """Rotate a square picture and keep the largest upright square inside it, enlarged to the old size.

    A square of side s, rotated by an angle a, holds an upright square of side s / (|cos a| + |sin a|). Rotation, crop
    and enlargement are one interpolation, and no pixel comes from outside the picture.
    """

    def __init__(self, rotate: float, scale: float, p: float = 1.0) -> None:
        """`rotate`: degrees to either side; `scale`: largest further enlargement."""
        super().__init__(p=p)
        self.rotate = rotate
        self.scale = scale

    def get_params(self) -> dict[str, Any]:
        """An angle in degrees and an enlargement."""
        angle = self.py_random.uniform(-self.rotate, self.rotate)
        return {"angle": angle, "zoom": inscribed_zoom(angle) * self.py_random.uniform(1, 1 + self.scale)}

    def apply(self, img: np.ndarray, angle: float = 0.0, zoom: float = 1.0, **params: Any) -> np.ndarray:
        """The rotated, enlarged middle of a picture."""
        height, width = img.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom)
        return cv2.warpAffine(img, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def inscribed_zoom(angle: float) -> float:
    """How much a square picture must be enlarged so that, rotated by an angle in degrees, it fills its frame."""
    return abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle)))


def image_augment(settings: AugmentSection, inscribed: bool = False) -> Callable[[np.ndarray, int], np.ndarray]:
    """A function (picture uint8 (H, W, 3), 32-bit seed) -> picture of the same shape.

    Drawn anew from the seed at every call: without this, albumentations' loader workers repeat each other.

    Args:
        settings: what is changed and how much.
        inscribed: rotate by `InscribedRotation`, so that no corner is black; `translate` is then not used.
    """
    steps: list[A.BasicTransform] = []
    if settings.horizontal_flip:
        steps.append(A.HorizontalFlip(p=settings.horizontal_flip))
    if settings.vertical_flip:
        steps.append(A.VerticalFlip(p=settings.vertical_flip))
    if inscribed:
        steps.append(InscribedRotation(settings.rotate, settings.scale))
    elif settings.rotate or settings.scale or settings.translate:
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
