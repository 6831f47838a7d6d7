"""Augmentation of pictures. The only module that imports albumentations."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import albumentations as A
import cv2
import numpy as np

from pipelines.shared.config import AugmentSection
from pipelines.shared.learning.batch_augment import BatchChange
from pipelines.shared.learning.dataset import Augment, OnDevice

# What `augment.operations` draws from: operations of RandAugment (Cubuk et al., NeurIPS 2020) that keep the geometry
# and leave a grey picture grey. Brightness, contrast and colour have keys of their own; CLAHE would take 1.5 ms.
TONES: list[A.BasicTransform] = [
    A.RandomGamma(gamma_limit=(60, 160), p=1.0),
    A.RandomToneCurve(scale=0.2, p=1.0),
    A.AutoContrast(p=1.0),
    A.Sharpen(alpha=(0.1, 0.5), lightness=(1.0, 1.0), p=1.0),
    A.Posterize(num_bits=(5, 7), p=1.0),
]


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

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The matrix (2, 3) from the old picture's coordinates to the new one's: an angle and an enlargement."""
        height, width = params["shape"][:2]
        angle = self.py_random.uniform(-self.rotate, self.rotate)
        zoom = inscribed_zoom(angle) * self.py_random.uniform(1, 1 + self.scale)
        return {"matrix": cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, zoom)}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """The rotated, enlarged middle of a picture."""
        size = img.shape[1::-1]
        return cv2.warpAffine(img, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


class WholeView(A.Affine):
    """Rotation, scale and translation as `A.Affine` draws them, applied without its checks, which take longer."""

    def apply(self, img: np.ndarray, matrix: np.ndarray, output_shape: tuple[int, int], **params: Any) -> np.ndarray:
        """The picture that the matrix describes."""
        fill = (self.fill,) * 3
        turned = cv2.warpAffine(
            img, matrix[:2], img.shape[1::-1], flags=self.interpolation, borderMode=self.border_mode, borderValue=fill
        )
        return turned.reshape(img.shape)


class RandomView(A.ImageOnlyTransform):
    """A random part of a picture, turned and mirrored, enlarged to the picture's size, all in one interpolation.

    The part is drawn as in Inception's training (Szegedy et al., CVPR 2015, section 6): its area, then the ratio of its
    sides, then its place. It is turned where it lies. `inscribed` shrinks it as far as it must, so that no pixel comes
    from outside the picture; otherwise its corners may have the tone `outside`.
    """

    def __init__(self, settings: AugmentSection, inscribed: bool, outside: int = 0) -> None:
        """`settings`: the flips, `rotate`, `crop_area` (not null) and `crop_aspect` of them."""
        super().__init__(p=1.0)
        self.settings, self.inscribed, self.outside = settings, inscribed, outside

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The matrix (2, 3) from the new picture's coordinates to the old one's."""
        settings, draw = self.settings, self.py_random
        height, width = params["shape"][:2]
        area, widest = draw.uniform(settings.crop_area or 1.0, 1.0), math.log(settings.crop_aspect)
        ratio = math.exp(draw.uniform(-widest, widest))
        w, h = width * min(1.0, math.sqrt(area * ratio)), height * min(1.0, math.sqrt(area / ratio))
        angle = math.radians(draw.uniform(-settings.rotate, settings.rotate))
        cos, sin = math.cos(angle), math.sin(angle)
        reach_x, reach_y = w, h  # within which the part's middle keeps away from the picture's edge
        if self.inscribed:
            reach_x, reach_y = abs(w * cos) + abs(h * sin), abs(w * sin) + abs(h * cos)
            fits = min(1.0, width / reach_x, height / reach_y)
            w, h, reach_x, reach_y = w * fits, h * fits, reach_x * fits, reach_y * fits
        middle_x = (width - 1) / 2 + draw.uniform(-0.5, 0.5) * (width - reach_x)
        middle_y = (height - 1) / 2 + draw.uniform(-0.5, 0.5) * (height - reach_y)
        x = w / width * (-1 if draw.random() < settings.horizontal_flip else 1)
        y = h / height * (-1 if draw.random() < settings.vertical_flip else 1)
        turn = np.array([[cos * x, -sin * y], [sin * x, cos * y]])
        shift = np.array([middle_x, middle_y]) - turn @ [(width - 1) / 2, (height - 1) / 2]
        return {"matrix": np.column_stack([turn, shift])}

    def apply(self, img: np.ndarray, matrix: np.ndarray, **params: Any) -> np.ndarray:
        """The part that the matrix describes."""
        border = cv2.BORDER_REFLECT_101 if inside(self.settings, self.inscribed) else cv2.BORDER_CONSTANT
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        fill = (self.outside,) * 3
        turned = cv2.warpAffine(img, matrix, img.shape[1::-1], flags=flags, borderMode=border, borderValue=fill)
        return turned.reshape(img.shape)


class OnlyDrawn(A.ImageOnlyTransform):
    """A step that draws as ever and leaves the picture as it is."""

    def __init__(self, step: A.BasicTransform) -> None:
        super().__init__(p=step.p)
        self.step = step

    def get_params(self) -> dict[str, Any]:
        """The step's, from the draws of the whole."""
        self.step.set_random_state(self.random_generator, self.py_random)
        params: dict[str, Any] = self.step.get_params()
        return params

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """The step's."""
        found: dict[str, Any] = self.step.get_params_dependent_on_data(params, data)
        return found

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Nothing."""
        return img


def inscribed_zoom(angle: float) -> float:
    """How much a square picture must be enlarged so that, rotated by an angle in degrees, it fills its frame."""
    return abs(math.cos(math.radians(angle))) + abs(math.sin(math.radians(angle)))


def inside(settings: AugmentSection, inscribed: bool) -> bool:
    """Whether, but for rounding, nothing is seen that lies outside the picture: then it goes on as its mirror image."""
    return inscribed or (settings.crop_area is not None and settings.rotate == 0)


def image_augment(
    settings: AugmentSection,
    inscribed: bool = False,
    outside: int = 0,
    first: Augment | None = None,
    side: int | None = None,
) -> Augment:
    """A function (picture uint8 (H, W, 1 or 3), 32-bit seed) -> picture.

    Drawn anew from the seed at every call: without this, albumentations' loader workers repeat each other. As
    `on_device` says, it leaves geometry, brightness, contrast and colour to the device, with the same draws (see
    `OnDevice`). What else there is (tones, blur, JPEG, a lost rectangle) then happens where the picture is read, so
    before these and not after.

    Args:
        settings: what is changed and how much.
        inscribed: of a rotated picture keep an upright part, so that no corner is black; `translate` is then not used.
        outside: the tone (0 to 255) of what turns into the picture from outside, such as pictures have around the disc.
        first: what happens to a picture before.
        side: at the end a random square of so many pixels is seen; None: all of the picture.
    """
    drawn, others = [*_geometry(settings, inscribed, outside), *_colours(settings)], _others(settings)
    # Not closures: they must be sent to loader workers where these are spawned.
    one_by_one = partial(_apply, A.Compose([*drawn, *others]), first, side)
    if settings.on_device is False:
        return one_by_one
    coloured = bool(settings.hue or settings.saturation)
    change = BatchChange(side, inside(settings, inscribed), outside, coloured)
    begin = partial(_begin, A.Compose([*map(OnlyDrawn, drawn), *others]), first, side)
    return OnDevice(begin, change, elsewhere=None if settings.on_device else one_by_one)


# The steps in their order: these two can be left to the device, the others cannot.


def _geometry(settings: AugmentSection, inscribed: bool, outside: int) -> list[A.BasicTransform]:
    if settings.crop_area is not None:
        return [RandomView(settings, inscribed, outside)]
    return _whole_views(settings, inscribed, outside)


def _colours(settings: AugmentSection) -> list[A.BasicTransform]:
    steps: list[A.BasicTransform] = []
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
    return steps


def _others(settings: AugmentSection) -> list[A.BasicTransform]:
    steps: list[A.BasicTransform] = []
    if settings.operations:
        steps.append(A.SomeOf(TONES, n=settings.operations, replace=False, p=1.0))
    if settings.blur:
        steps.append(A.GaussianBlur(blur_limit=0, sigma_limit=(0.3, 2.0), p=settings.blur))
    if settings.jpeg:
        steps.append(A.ImageCompression(quality_range=(30, 90), p=settings.jpeg))
    if settings.erase:
        sides = (0.15, 0.4)
        steps.append(A.CoarseDropout((1, 1), hole_height_range=sides, hole_width_range=sides, fill=0, p=settings.erase))
    return steps


def _whole_views(settings: AugmentSection, inscribed: bool, outside: int) -> list[A.BasicTransform]:
    """Flips, then rotation, scale and translation of the whole picture."""
    steps: list[A.BasicTransform] = []
    if settings.horizontal_flip:
        steps.append(A.HorizontalFlip(p=settings.horizontal_flip))
    if settings.vertical_flip:
        steps.append(A.VerticalFlip(p=settings.vertical_flip))
    if inscribed:
        steps.append(InscribedRotation(settings.rotate, settings.scale))
    elif settings.rotate or settings.scale or settings.translate:
        steps.append(
            WholeView(
                rotate=(-settings.rotate, settings.rotate),
                scale=(1 - settings.scale, 1 + settings.scale),
                translate_percent=(-settings.translate, settings.translate),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                fill=outside,
                p=1.0,
            )
        )
    return steps


def _apply(steps: A.Compose, first: Augment | None, side: int | None, picture: np.ndarray, seed: int) -> np.ndarray:
    picture = first(picture, seed) if first else picture
    _start_draws(steps, seed)
    changed: np.ndarray = steps(image=picture)["image"].reshape(picture.shape)  # some drop a grey picture's channel
    if side is None:
        return changed
    left, top = _corner(picture, side, seed)
    return np.ascontiguousarray(changed[top : top + side, left : left + side])


def _begin(
    steps: A.Compose, first: Augment | None, side: int | None, picture: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A picture of which some steps are only drawn, and what `BatchChange` is still to do to it."""
    picture = first(picture, seed) if first else picture
    _start_draws(steps, seed)
    changed: np.ndarray = steps(image=picture)["image"].reshape(picture.shape)
    later = _numbers([step for step in steps.transforms if isinstance(step, OnlyDrawn)], picture.shape)
    if side is not None:
        matrix = later[:6].reshape(2, 3)
        matrix[:, 2] += matrix[:, :2] @ _corner(picture, side, seed)
    return changed, later.astype(np.float32)


def _start_draws(steps: A.Compose, seed: int) -> None:
    # One source of draws for all steps. `set_random_seed` gives each step a generator of its own from the same seed, so
    # that their draws are equal: a picture would be mirrored from left to right only where it is from top to bottom.
    steps.set_random_state(np.random.default_rng(seed), random.Random(seed))


def _corner(picture: np.ndarray, side: int, seed: int) -> tuple[int, int]:
    """The left upper corner (x, y) of a random square."""
    free = picture.shape[0] - side
    top, left = np.random.default_rng(seed).integers(0, free + 1, 2)
    return int(left), int(top)


def _numbers(steps: Sequence[OnlyDrawn], shape: Sequence[int]) -> np.ndarray:
    """What was drawn for a picture, steps one after the other: float64 (10,), see `BatchChange`."""
    height, width = shape[:2]
    matrix, factor, addend, hue, saturation = np.eye(3), 1.0, 0.0, 0.0, 0.0
    for drawn in steps:
        found = drawn.get_applied_params()
        if not found:  # it was drawn that this step is left out
            continue
        match drawn.step:
            case A.HorizontalFlip():
                matrix = matrix @ [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]
            case A.VerticalFlip():
                matrix = matrix @ [[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]
            case A.Affine() | InscribedRotation():
                matrix = matrix @ np.linalg.inv([*found["matrix"][:2], [0, 0, 1]])
            case RandomView():
                matrix = matrix @ [*found["matrix"], [0, 0, 1]]
            case A.RandomBrightnessContrast():
                factor, addend = found["alpha"], found["beta"]
            case A.HueSaturationValue():
                hue, saturation = 2 * found["hue_shift"], found["sat_shift"]  # in eight bits a hue has two degrees
            case _:
                raise TypeError(f"{type(drawn.step).__name__} cannot be left to the device.")
    return np.array([*matrix[:2].ravel(), factor, addend, hue, saturation])
