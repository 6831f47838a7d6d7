"""Find the fundus disc in a photograph, crop to it, and scale its diameter to the network's input size.

Gulshan et al. (JAMA 2016, eMethods) scale every picture so that the disc's diameter is 299 px. Graham's local-average
colour normalisation (report on the Kaggle Diabetic Retinopathy competition, 2015) is optional.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipelines.shared.errors import BadFile

Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Bools = NDArray[np.bool_]

THUMBNAIL = 256  # longest side, px: enough to place the disc's edge within 1 % of the radius
HYPOTHESES = 200  # circles tried per set of edge points
VOTERS = 150  # edge points that vote for one of them
BINS = 180  # directions, 2 degrees each, in which the edge is looked for
CONVINCING = 0.8  # a score at which no more sensitive threshold is tried
FINEST = 4.0  # px: a filter's sigma from which more pixels change nothing
GREY = 128  # what subtracting the local average leaves where there is nothing to see
TOLERANCE = 0.015  # of the radius: how far an edge point may lie from the circle


@dataclass(frozen=True)
class Circle:
    """The fundus disc, in pixels of the picture it was found in (0, 0 is the centre of the first pixel).

    Attributes:
        x: Column of the centre; may lie outside the picture, as the disc may be cut by its frame.
        y: Row of the centre.
        radius: Half the disc's width.
        aspect: Width over height. 1 but for pictures that were resized without keeping their proportions,
            where the disc is an ellipse (as in square copies of 3:2 photographs: 0.67).
    """

    x: float
    y: float
    radius: float
    aspect: float = 1.0

    @property
    def height_radius(self) -> float:
        """Half the disc's height, px."""
        return self.radius / self.aspect


def find_circle(image: Bytes) -> Circle | None:
    """Find the fundus disc, or None where nothing convincing is there (blank, noise, another kind of picture).

    What differs from the corners' colour, at one of several thresholds, is the foreground; a circle is fitted to its
    outline by RANSAC (Fischler and Bolles, 1981), so that notches, straight cuts and lettering do not matter. It is
    accepted if the outline follows it wherever it lies inside the picture. Discs that are cut by the frame on two or
    four sides are found too, and such that a local-average filter left on a grey background. Square pictures may have
    been squashed to that shape: there an upright ellipse is tried as well.

    Args:
        image: (H, W, 3) uint8, red, green, blue.
    """
    _check_image(image)
    height, width = image.shape[:2]
    if min(height, width) < 32 or max(height, width) > 8 * min(height, width):
        return None
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(16, round(width * scale)), max(16, round(height * scale)))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) if scale < 1 else image
    best: Circle | None = None
    best_score = 0.0
    for foreground in _foregrounds(small):
        points = _outline(foreground)
        if len(points) < 24:
            continue
        for free_aspect in (False, True) if height == width else (False,):
            circle = _fit(points, free_aspect)
            # An ellipse fits short arcs more easily than a circle does: it must be clearly better.
            score = (0.9 if free_aspect else 1.0) * (_score(circle, points, foreground) if circle else 0.0)
            if score > best_score:
                best, best_score = circle, score
            if best_score > CONVINCING:
                break
        if best_score > CONVINCING:
            break
    if best is None:
        return None
    best = _sharpen(best, small)
    step_x, step_y = width / size[0], height / size[1]
    return Circle(
        x=(best.x + 0.5) * step_x - 0.5,
        y=(best.y + 0.5) * step_y - 0.5,
        radius=best.radius * step_x,
        aspect=best.aspect,
    )


def prepare(
    image: Bytes,
    size: int,
    graham: bool,
    circle: Circle | None = None,
    *,
    sigma: float | None = None,
    applied: bool = False,
) -> Bytes:
    """Crop to the fundus disc, scale its diameter to `size`, black outside.

    With `graham`, the local average (a Gaussian of sigma radius/30, as in Graham 2015) is subtracted, the rest
    multiplied by 4 and centred on 128, within 0.98 of the radius; outside is the same neutral grey. Unlike in the
    original, the average is over pixels of the disc only, so that there is no halo at its edge and no need to cut
    the outer tenth.

    Args:
        image: (H, W, 3) uint8.
        size: Side of the result, px.
        graham: Whether to apply local-average colour normalisation.
        circle: The disc; looked for if not given.
        sigma: Of the Gaussian, as a share of the radius. Given, the filter sees the photograph at its own resolution,
            or as many pixels of it as so fine a filter needs, and its result is scaled. None: radius/30, at `size`.
        applied: The picture carries the filter already; only what is outside is made the same grey.

    Returns:
        (size, size, 3) uint8.

    Raises:
        BadFile: No circle was given and none is found.
    """
    _check_image(image)
    circle = circle or find_circle(image)
    if circle is None:
        raise BadFile("no fundus disc found")
    crop, inside = _crop(image, circle, size)
    if not (graham or applied):
        return np.where(inside[..., None], crop, np.uint8(0))
    if applied:
        local = crop
    elif sigma is None:
        local = _without_local_average(crop, inside, size / 60)
    else:
        fine = max(size, min(round(2 * circle.radius), math.ceil(2 * FINEST / sigma)))
        local = _without_local_average(*_crop(image, circle, fine), sigma * fine / 2)
        local = np.asarray(cv2.resize(local, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    return np.where((inside & _disc(size, 0.98))[..., None], local, np.uint8(GREY))


def _without_local_average(crop: Bytes, inside: Bools, sigma: float) -> Bytes:
    """Four times the difference from the local average over pixels inside, around 128; `sigma` in pixels."""
    weight = inside.astype(np.float32)
    pixels = crop.astype(np.float32) * weight[..., None]
    weight_near = np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)
    average = cv2.GaussianBlur(pixels, (0, 0), sigma) / weight_near[..., None]
    local = np.clip(np.rint(4 * (pixels - average) + GREY), 0, 255).astype(np.uint8)
    return np.where(inside[..., None], local, np.uint8(GREY))


def looks_filtered(image: Bytes) -> bool:
    """Whether the picture's corners have the neutral grey that a local-average filter leaves outside the disc."""
    corner = max(2, min(image.shape[:2]) // 50)
    ends = (slice(None, corner), slice(-corner, None))
    corners = [np.median(image[rows, columns].reshape(-1, 3), axis=0) for rows in ends for columns in ends]
    return bool((np.abs(np.median(corners, axis=0) - GREY) <= 4).all())


def prepare_mask(mask: Bytes, circle: Circle, size: int) -> Bytes:
    """The geometry of `prepare` for a mask (H, W), uint8 0/255 -> (size, size), uint8 0/255.

    A pixel of the result is set where at least a quarter of it was, so that small lesions survive.
    """
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"a mask is an array (H, W) of uint8, not {mask.shape} of {mask.dtype}")
    crop, inside = _crop(mask, circle, size)
    return np.where((crop >= 64) & inside, np.uint8(255), np.uint8(0))


def _check_image(image: Bytes) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is an array (H, W, 3) of uint8, not {image.shape} of {image.dtype}")


def _crop(image: Bytes, circle: Circle, size: int) -> tuple[Bytes, Bools]:
    """The disc's bounding box scaled to (size, size), and which pixels are disc and inside the picture."""
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if not (circle.radius >= 1 and circle.height_radius >= 1):
        raise ValueError(f"the circle's radius must be at least 1 px, not {circle.radius}")
    height, width = image.shape[:2]
    left, right = round(circle.x - circle.radius), round(circle.x + circle.radius) + 1
    top, bottom = round(circle.y - circle.height_radius), round(circle.y + circle.height_radius) + 1
    inner = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if inner.size == 0:
        raise ValueError(f"{circle} lies outside the picture of {width} x {height} px")
    margin = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    box = cv2.copyMakeBorder(inner, *margin, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    shrinks = min(box.shape[:2]) >= size
    crop = cv2.resize(box, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    wholly = _wholly_inside(top, bottom, size, height)[:, None] & _wholly_inside(left, right, size, width)
    return np.asarray(crop, np.uint8), wholly & _disc(size, 1.0)


def _wholly_inside(start: int, stop: int, size: int, length: int) -> Bools:
    """(size,) which pixels of the crop [start, stop) were made from the picture's rows [0, length) alone."""
    step = (stop - start) / size
    centre = start + (np.arange(size) + 0.5) * step
    reach = max(step, 1.0) / 2
    return (centre - reach >= -1e-9) & (centre + reach <= length + 1e-9)


def _disc(size: int, fraction: float) -> Bools:
    """(size, size): pixels within `fraction` of the inscribed circle's radius."""
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    return axis[:, None] ** 2 + axis**2 <= fraction**2


def _foregrounds(image: Bytes) -> Iterator[Bools]:
    """Candidate masks of the disc: what differs from the corners, from a cautious threshold to a sensitive one."""
    height, width = image.shape[:2]
    corner = max(3, round(0.03 * max(height, width)))
    pixels = image.astype(np.float32)
    ends = (slice(None, corner), slice(-corner, None))
    corners = np.stack([pixels[rows, columns].reshape(-1, 3) for rows in ends for columns in ends])
    background = np.median(np.median(corners, axis=1), axis=0)  # one corner may hold lettering or a bit of the disc
    noise = float(np.median(_largest_channel(np.abs(corners - background))))
    # Squared, then smoothed: texture around the background's own colour counts as much as another colour.
    distance = np.sqrt(cv2.GaussianBlur(_largest_channel((pixels - background) ** 2), (0, 0), 1.2))
    otsu = cv2.threshold(np.minimum(distance, 255).astype(np.uint8), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0]
    for level in (0.6 * otsu, 0.3 * otsu, 4 + 2 * noise):
        if level > noise + 1:
            yield _largest_part(distance > level)
    # Where noise drowns the texture (faint local-average filtered pictures) the mean colour still differs.
    smooth = cv2.GaussianBlur(pixels, (0, 0), 4)
    yield _largest_part(_largest_channel(np.abs(smooth - background)) > 1.5 + 0.2 * noise)


def _largest_channel(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maximum over the last axis of three (numpy's own is slow on short axes)."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def _largest_part(mask: Bools) -> Bools:
    """The largest connected part after closing gaps and removing specks and thin lines."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    clean = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)
    clean = cv2.morphologyEx(clean, cv2.MORPH_OPEN, kernel)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(clean, connectivity=4)
    if count < 2:
        return np.zeros(mask.shape, bool)
    largest: Bools = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    return largest


def _outline(foreground: Bools) -> Floats:
    """(N, 2) x, y of the first and last foreground pixel of every row and column, without those at the frame."""
    height, width = foreground.shape
    points = []
    for mask, swap in ((foreground, False), (foreground.T, True)):
        lines = np.flatnonzero(mask.any(axis=1))
        first = mask[lines].argmax(axis=1)
        last = mask.shape[1] - 1 - mask[lines, ::-1].argmax(axis=1)
        for ends in (first - 0.5, last + 0.5):
            points.append(np.stack([lines, ends] if swap else [ends, lines], axis=1))
    outline = np.concatenate(points).astype(np.float64)
    x, y = outline.T
    inner: Floats = outline[(x > 2) & (x < width - 3) & (y > 2) & (y < height - 3)]
    return inner


def _fit(points: Floats, free_aspect: bool) -> Circle | None:
    """RANSAC, then least squares on the points that agree. Points (N, 2)."""
    rng = np.random.default_rng(0)
    unknowns = 4 if free_aspect else 3
    sample = points[rng.integers(len(points), size=(HYPOTHESES, unknowns))]
    circles = _solve(sample, free_aspect)
    if len(circles) == 0:
        return None
    voters = points[rng.permutation(len(points))[:VOTERS]]
    agreeing = (_residuals(circles, voters) < TOLERANCE).sum(axis=1)
    parameters = circles[np.argmax(agreeing)]
    for _ in range(3):
        near = _residuals(parameters[None], points)[0] < TOLERANCE
        refined = _solve(points[near][None], free_aspect) if near.sum() >= 12 else parameters[None]
        if len(refined) == 0:
            return None
        parameters = refined[0]
    x, y, radius, aspect = (float(p) for p in parameters)
    return Circle(x, y, radius, aspect)


def _solve(points: Floats, free_aspect: bool) -> Floats:
    """Least-squares circles or upright ellipses through sets of points (S, N, 2): (K, 4) x, y, radius, aspect.

    x^2 + k y^2 + D x + E y + F = 0 is linear in its unknowns (Kasa 1976); k is the squared aspect. Solutions that are
    no ellipse, or far from what a camera shows, are left out.
    """
    origin = points.mean(axis=(0, 1))
    unit = 100.0
    x, y = np.moveaxis((points - origin) / unit, 2, 0)
    columns = [x, y, np.ones_like(x)] + ([y**2] if free_aspect else [])
    matrix = np.stack(columns, axis=2)
    target = -(x**2) if free_aspect else -(x**2 + y**2)
    normal = np.swapaxes(matrix, 1, 2) @ matrix + 1e-12 * np.eye(matrix.shape[2])
    solution = np.linalg.solve(normal, np.swapaxes(matrix, 1, 2) @ target[..., None])[..., 0]
    k = solution[:, 3] if free_aspect else np.ones(len(solution))
    plausible = (k > 0.63**2) & (k < 1.25**2)
    solution, k = solution[plausible], k[plausible]
    centre_x, centre_y = -solution[:, 0] / 2, -solution[:, 1] / (2 * k)
    squared = centre_x**2 + k * centre_y**2 - solution[:, 2]
    valid = squared > 0.05
    circles = np.stack([centre_x, centre_y, np.sqrt(np.maximum(squared, 0)), np.sqrt(k)], axis=1)[valid]
    scaled: Floats = circles * [unit, unit, unit, 1] + [*origin, 0, 0]
    return scaled


def _residuals(circles: Floats, points: Floats) -> Floats:
    """(K, N) distance of the points from each circle, as a fraction of its radius."""
    x, y, radius, aspect = (column[:, None] for column in circles.T)
    residuals: Floats = np.abs(np.sqrt((points[:, 0] - x) ** 2 + ((points[:, 1] - y) * aspect) ** 2) / radius - 1)
    return residuals


def _rim(circle: Circle, fractions: Floats) -> tuple[Floats, Floats]:
    """Columns and rows, (BINS, len(fractions)), of the points at these fractions of the radius in all directions."""
    angle = (np.arange(BINS)[:, None] + 0.5) * 2 * np.pi / BINS
    x = circle.x + circle.radius * fractions * np.cos(angle)
    y = circle.y + circle.height_radius * fractions * np.sin(angle)
    return x, y


def _score(circle: Circle, points: Floats, foreground: Bools) -> float:
    """How well the outline follows the circle where it could be seen: 0 (not a disc) to 1.

    It could be seen where the circle lies within the frame and within the foreground's bounding box (which may be
    smaller: many cameras cut the disc straight at top and bottom); the smaller the box, the lower the score.
    """
    height, width = foreground.shape
    if not 0.25 * max(height, width) < circle.radius < 1.2 * max(height, width):
        return 0.0
    x, y = (rim[:, 0] for rim in _rim(circle, np.ones(1)))
    in_frame = (x > 2) & (x < width - 3) & (y > 2) & (y < height - 3)
    rows, columns = np.flatnonzero(foreground.any(axis=1)), np.flatnonzero(foreground.any(axis=0))
    visible = in_frame & (x > columns[0] - 1) & (x < columns[-1] + 1) & (y > rows[0] - 1) & (y < rows[-1] + 1)
    near = points[_residuals(np.array([[circle.x, circle.y, circle.radius, circle.aspect]]), points)[0] < TOLERANCE]
    direction = np.arctan2((near[:, 1] - circle.y) * circle.aspect, near[:, 0] - circle.x)
    seen = np.zeros(BINS, bool)
    seen[(direction / (2 * np.pi) * BINS).astype(int) % BINS] = True
    seen = visible & (seen | np.roll(seen, 1) | np.roll(seen, -1))  # outline points are sparser than bins in places
    hits = np.flatnonzero(seen)
    if len(hits) < 0.04 * BINS:
        return 0.0
    widest_gap = np.diff(np.append(hits, hits[0] + BINS)).max() / BINS
    # A short piece of an outline fits many circles; four pieces around the disc (only its corners are cut) do not.
    short = len(hits) < 0.15 * BINS
    if widest_gap > (0.35 if short else 0.6):
        return 0.0
    row, column = np.ogrid[:height, :width]
    distance = ((column - circle.x) / circle.radius) ** 2 + ((row - circle.y) / circle.height_radius) ** 2
    filled, spilled = foreground[distance < 0.97**2], foreground[distance > 1.05**2]
    support = len(hits) / visible.sum()
    if support < (0.9 if short else 0.6) or filled.mean() < 0.5 or (spilled.size and spilled.mean() > 0.2):
        return 0.0
    return float(support * (len(hits) / in_frame.sum()) ** 0.25)


def _sharpen(circle: Circle, image: Bytes) -> Circle:
    """Scale the circle, which lies where the threshold was passed, to where brightness changes fastest outwards."""
    fractions = np.arange(0.92, 1.08, 0.004)
    x, y = _rim(circle, fractions)
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    profile = cv2.remap(grey, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR).astype(np.float64)
    inside = ((x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)).all(axis=1)
    if inside.sum() < 0.15 * BINS:
        return circle
    change = np.abs(np.gradient(np.median(profile[inside], axis=0)))
    factor = float(fractions[np.argmax(change)])
    return Circle(circle.x, circle.y, circle.radius * factor, circle.aspect)
