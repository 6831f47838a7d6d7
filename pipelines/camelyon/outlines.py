"""What may be wrong with outlines that are well written: of another slide, a digit too many, crossing themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

OUTSIDE = 256  # level-0 pixels by which a hand may draw beyond the slide's border
# What no slide and no hand does, where the slide's size is not known:
LARGEST_SIDE = 500_000  # level-0 pixels
GLASS = (52.0, 76.0)  # mm: short and long side of the largest glass
GAP = 30.0  # mm between neighbouring outlines: two sections on one glass are nearer to each other
LONGEST_OUTLINE = 50.0  # m, whether the size is known or not
SPIKE = (2.0, 8.0)  # mm, and times the median distance: how far one corner may lie from the middle of its outline

PAIRS = 30_000_000  # pairs of sides that are compared in the search for crossings
BLOCK = 2**18  # pairs at a time: they stay in the processor's cache

CROSSING = "an outline crosses itself and was filled as it runs"
UNSEARCHED = "an outline has too many corners to look for crossings"
BEYOND = "an outline reaches far outside its slide"
SPIKED = "one corner of an outline lies far from all others"


def doubts_about(
    points: np.ndarray, size: tuple[int, int] | None, mpp: float
) -> tuple[list[str], list[tuple[str, str]]]:
    """What cannot be of this slide; and (kind, text) of what may be a slip of the hand."""
    low, high = points.min(axis=0), points.max(axis=0)
    end = np.array([np.inf, np.inf]) if size is None else np.array(size, dtype=float)
    slide = "the slide" if size is None else f"the slide of {size[0]} x {size[1]} pixels"
    where = f"x {low[0]:.0f} to {high[0]:.0f}, y {low[1]:.0f} to {high[1]:.0f}"
    if (high < 0).any() or (low >= end).any():
        return [f"lies outside {slide} ({where}): it is of another slide"], []
    beyond = np.any((points < -OUTSIDE) | (points > end + OUTSIDE), axis=1, keepdims=True)[:, 0]
    fatal, doubts = [], []
    length = float(np.hypot(*(np.roll(points, -1, axis=0) - points).T).sum()) * mpp / 1e6
    if length > LONGEST_OUTLINE:
        fatal.append(f"is {length:.0f} m long, which no hand draws")
    far = _spike(points, mpp)
    if far is not None:
        x, y = points[far]
        text = f"its corner number {far} (x {x:.0f}, y {y:.0f}) lies far from all others: a digit too many?"
        if size is None or beyond[far]:
            fatal.append(text)
        else:
            doubts.append((SPIKED, text))
    elif size is None and not _on_glass(high, mpp):
        fatal.append(
            f"reaches further than any slide ({where}, at {mpp:g} microns per pixel {high[0] * mpp / 1000:.0f} x "
            f"{high[1] * mpp / 1000:.0f} mm)"
        )
    if beyond.any() and not fatal:
        doubts.append((BEYOND, f"reaches far outside {slide} ({where}): perhaps it is of another slide"))
    if fatal:
        return fatal, doubts
    try:
        crossing = first_crossing(points)
    except OverflowError:
        return fatal, [*doubts, (UNSEARCHED, f"has {len(points):,} corners, too many to look for crossings")]
    if crossing is not None:
        doubts.append((CROSSING, f"crosses itself near x {crossing[0]:.0f}, y {crossing[1]:.0f}"))
    return fatal, doubts


def _spike(points: np.ndarray, mpp: float) -> int | None:
    """The corner that lies furthest from the middle of its outline, if no hand drew it there."""
    distance = np.hypot(*(points - np.median(points, axis=0)).T)
    furthest = int(distance.argmax())
    far = distance[furthest] * mpp / 1000 > SPIKE[0] and distance[furthest] > SPIKE[1] * np.median(distance)
    return furthest if far else None


def _on_glass(corner: np.ndarray, mpp: float) -> bool:
    """Whether a slide may reach to a point (2,)."""
    millimetres = np.sort(corner) * mpp / 1000
    return bool((millimetres <= GLASS).all() and corner.max() <= LARGEST_SIDE)


def strays(outlines: Sequence[tuple[str, np.ndarray]], mpp: float) -> list[str]:
    """Outlines that a wide gap divides from all others, along x or y; of the two sides the one with fewer.

    `outlines`: name and points (n, 2) of each.
    """
    if len(outlines) < 2:
        return []
    low = np.array([points.min(axis=0) for _, points in outlines])
    high = np.array([points.max(axis=0) for _, points in outlines])
    problems = {}
    for axis, name in enumerate("xy"):
        order = np.argsort(low[:, axis], kind="stable")
        reach = np.maximum.accumulate(high[order, axis])[:-1]
        gap = (low[order[1:], axis] - reach) * mpp / 1000
        for i in np.flatnonzero(gap > GAP):
            few = order[: i + 1] if i + 1 < len(order) - i - 1 else order[i + 1 :]
            for k in few:
                problems[int(k)] = (
                    f"{outlines[k][0]}: lies far from all others ({gap[i]:.0f} mm along {name}, at {mpp:g} microns "
                    "per pixel): a digit too many, or an outline of another slide?"
                )
    return [problems[k] for k in sorted(problems)]


def first_crossing(points: np.ndarray) -> np.ndarray | None:
    """Where two sides of a polygon cross (the end of one of them), or None. Sides that only touch don't cross.

    Sides are sorted by their left ends and each is compared with those that begin before it ends, as far as their boxes
    meet. Of several crossings it is the one of the nearest two sides in that order.

    Raises:
        OverflowError: more than `PAIRS` pairs would have to be compared.
    """
    a, b = points, np.roll(points, -1, axis=0)
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.argsort(low[:, 0], kind="stable")
    a, b, low, high = a[order], b[order], low[order], high[order]
    # How many sides after each one begin before it ends; and how far one may look before there are too many pairs.
    number = np.arange(len(points))
    following = np.searchsorted(low[:, 0], high[:, 0], side="right") - number - 1
    at_distance = len(points) - np.cumsum(np.bincount(following))[: following.max(initial=0)]
    allowed = int(np.searchsorted(np.cumsum(at_distance), PAIRS, side="right"))
    followed = np.minimum(following, allowed)

    crossings = []
    ends = np.cumsum(followed)
    for first, last in _runs(ends, BLOCK):
        i = np.repeat(number[first:last], followed[first:last])
        j = i + 1 + np.arange(len(i)) - np.repeat(ends[first:last] - followed[first:last], followed[first:last])
        j += ends[first - 1] if first else 0
        meet = (low[i, 1] <= high[j, 1]) & (low[j, 1] <= high[i, 1])
        i, j = i[meet], j[meet]
        cross = (_side(a[i], b[i], a[j]) * _side(a[i], b[i], b[j]) < 0) & (
            _side(a[j], b[j], a[i]) * _side(a[j], b[j], b[i]) < 0
        )
        crossings += list(zip((j - i)[cross].tolist(), i[cross].tolist(), strict=True))
    if crossings:
        where: np.ndarray = a[min(crossings)[1]]
        return where
    if allowed < len(at_distance):
        raise OverflowError
    return None


def _runs(ends: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges of items, each of about `size` of what `ends` counts up."""
    first = 0
    while first < len(ends):
        before = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + size, side="right")))
        yield first, last
        first = last


def _side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """On which side of the lines a-b the points c lie: -1, 0, 1."""
    side: np.ndarray = np.sign((b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0]))
    return side
