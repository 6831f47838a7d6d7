"""Which pictures are the same picture: exactly, by their pixels, or nearly, after saving, scaling or cropping again.

Near-duplicates are found in two steps. A 256-bit perceptual hash gives candidates, all pairs compared; thumbnails
then decide. Both ignore brightness and contrast, and the aspect ratio, as everything is scaled to a square first.

Measured with the thresholds below on 1,177 public pictures: 62 fundus photographs of APTOS 2019 (already filtered by
their local average, the hardest case), 821 dermoscopies of HAM10000, 240 chest radiographs of Kermany et al., 54 of
covid-chestxray-dataset. Copies found again, of APTOS and of the other three together:

    JPEG quality 50-90, scaled by 0.5 and 2, blurred, brightness and contrast changed   743/744   13,380/13,380
    cropped by 1 % on each axis                                                         60/62     1,115/1,115
    cropped by 2 % on each axis                                                         53/62     1,114/1,115
    cropped by 1.5 %, halved, brightened, JPEG quality 70                               55/62     1,115/1,115

Of the 368,612 pairs 21 are candidates and 10 are kept: the four pixel-identical pairs that APTOS has, and six pairs of
HAM10000, each two photographs of the same lesion. No pair of different eyes, lesions or patients is kept; the nearest
such candidate differs by 0.20. Raise the thresholds with care: with `max_distance` 72 different children's chests come
as near as 0.10.

A frame that all pictures share must be left out first (`describe`). Whole fundus photographs, a bright disc on black,
pass for one another: of 58 different eyes, drawn as one camera would show them, 24 pairs were joined by their whole
frames, none by the square inside the disc.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import dctn

from pipelines.shared.screen import Item, cpu_count, track

cv2.setNumThreads(0)  # one picture is too small to be worth waking other threads for

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

SIDE = 64  # of a thumbnail, px
MAX_DISTANCE = 64  # of 256 bits: a candidate
MAX_DIFFERENCE = 0.07  # of thumbnails: the same picture

BLUR, SURROUND = 1.5, 4.0  # standard deviations of Gaussians on the thumbnail, px
FLOOR = 2.0  # grey levels: structure below it counts less, as it may be compression noise
MARGIN, STEP = 3, 3  # thumbnail pixels left out at the frame; every third of the rest is enough after the blur
EXACT = 100_000  # pictures of which all pairs are compared whole
WORD, REACH = 1, 18  # of more: the word of a hash that is compared first, and by how many of its 64 bits it may differ
ROWS, COLUMNS = 256, 4096  # a block of pairs: its intermediate arrays stay within the processor's cache
TILE = 8192  # pictures whose descriptions are held at once, twice: 160 MB
CHUNK = 1024  # pictures described, and pairs compared, at once


def pixel_hash(image: Bytes) -> str:
    """SHA-256 (hex) of shape and pixels: equal for pictures that are equal, whatever their files look like."""
    digest = hashlib.sha256(repr((image.shape, image.dtype.str)).encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def thumbnail(image: Bytes, side: int = SIDE) -> Bytes:
    """(H, W, 3) uint8 -> grey (side, side) uint8, averaged over areas."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an image is an array (H, W, 3) of uint8, not {image.shape} of {image.dtype}")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def perceptual_hash(image: Bytes) -> Hashes:
    """256-bit hash of a picture (H, W, 3) uint8, as uint64 (4,).

    The signs of the 16 x 16 lowest frequencies of the thumbnail's discrete cosine transform, without the constant
    ones (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1). A picture
    of one colour has no structure to hash: zero, which stands for "no hash".
    """
    spectrum = dctn(thumbnail(image).astype(np.float64), norm="ortho")[1:17, 1:17]
    return np.packbits(spectrum.ravel() > 1e-6).view(np.uint64)


def describe(image: Bytes, content: Bytes) -> dict[str, Any]:
    """The metadata by which `cache.Prepare` lets a picture be found again.

    Args:
        image: as decoded; its pixels are the fingerprint, so identical pictures are found whatever the preparation.
        content: the part that tells one picture from another, without a frame that all of the study's pictures share
            (for a fundus the square inside its circle); hash and thumbnail are of this.

    Returns:
        `fingerprint` (hex), `hash` uint64 (4,), `thumbnail` uint8 (64, 64).
    """
    return {
        "fingerprint": pixel_hash(image),
        "hash": perceptual_hash(content),
        "thumbnail": thumbnail(content),
    }


def candidate_pairs(hashes: Hashes, max_distance: int = MAX_DISTANCE, exact: int = EXACT) -> Integers:
    """All pairs i < j of hashes (n, 4) that differ in at most `max_distance` bits: (m, 2), sorted.

    Up to `exact` hashes every pair is compared whole: 90,000 take about 35 s on one core. Beyond, only pairs are that
    differ in at most `REACH` of the 64 bits of word `WORD`, which is asked four times faster (500,000: five minutes of
    one core). Copies of 416 of the pictures above (JPEG, halved, brightened, cropped by 1 and 2 %, all of it): 2,428 of
    2,496 are verified when all pairs are compared, and every one of these is found by its word too.
    """
    words = np.ascontiguousarray(hashes.T)
    compare = partial(_compare_whole if len(hashes) <= exact else _compare_word, words, max_distance)
    blocks = range(0, len(hashes), ROWS)
    with ThreadPoolExecutor(cpu_count()) as pool:  # numpy lets other threads work
        found = list(
            _progress(pool.map(compare, blocks), "Comparing picture hashes", len(hashes) > 20_000, len(blocks))
        )
    pairs = np.concatenate([np.empty((0, 2), np.int64), *found])
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _compare_whole(words: Hashes, max_distance: int, top: int) -> Integers:
    """Pairs of one of `ROWS` hashes from `top` on and one that is not before them."""
    found = []
    for left in range(top, words.shape[1], COLUMNS):
        below, right = words[:, top : top + ROWS, None], words[:, None, left : left + COLUMNS]
        distance = np.zeros((below.shape[1], right.shape[2]), np.uint16)
        for a, b in zip(below, right, strict=True):
            distance += np.bitwise_count(a ^ b)
        i, j = np.nonzero(distance <= max_distance)
        found.append(np.stack([i + top, j + left], axis=1))
    return np.concatenate(found)


def _compare_word(words: Hashes, max_distance: int, top: int) -> Integers:
    """The same among those whose one word is near."""
    found = []
    for left in range(top, words.shape[1], COLUMNS):
        near = np.bitwise_count(words[WORD, top : top + ROWS, None] ^ words[WORD, left : left + COLUMNS]) <= REACH
        i, j = np.divmod(np.flatnonzero(near), near.shape[1])
        pairs = np.stack([i + top, j + left], axis=1)
        distance = np.bitwise_count(words[:, pairs[:, 0]] ^ words[:, pairs[:, 1]]).sum(axis=0, dtype=np.int64)
        found.append(pairs[distance <= max_distance])
    return np.concatenate(found)


def near_duplicates(
    hashes: Hashes, thumbnails: Bytes, max_distance: int = MAX_DISTANCE, max_difference: float = MAX_DIFFERENCE
) -> pd.DataFrame:
    """Pairs of pictures that are the same picture.

    Args:
        hashes: (n, 4) uint64; pictures whose hash is zero have none and are left out.
        thumbnails: (n, 64, 64) uint8.
        max_distance: Bits by which the hashes of candidates may differ.
        max_difference: See `thumbnail_difference`.

    Returns:
        One row per pair: `i`, `j` (positions, i < j), `distance` (bits), `difference`; sorted by i, j.
    """
    if thumbnails.shape != (len(hashes), SIDE, SIDE):
        raise ValueError(f"{len(hashes)} hashes need thumbnails ({len(hashes)}, 64, 64), not {thumbnails.shape}")
    usable = np.flatnonzero(hashes.any(axis=1))
    pairs = usable[candidate_pairs(hashes[usable], max_distance)]
    difference = thumbnail_difference(thumbnails, pairs)
    i, j = pairs[difference <= max_difference].T
    distance = np.bitwise_count(hashes[i] ^ hashes[j]).sum(axis=1, dtype=np.int64)
    return pd.DataFrame({"i": i, "j": j, "distance": distance, "difference": difference[difference <= max_difference]})


def thumbnail_difference(thumbnails: Bytes, pairs: Integers) -> NDArray[np.float64]:
    """How much of the structure of two thumbnails is not shared, from 0 (the same picture) to 1: (m,) for pairs (m, 2).

    What two pictures of the same kind have in common anyway (a bright disc on black, a rib cage) must not count. So
    each thumbnail is first reduced to local structure: smoothed, its surroundings' mean removed and divided by their
    contrast. Then one is regressed on the other and on that one's first-order changes under a shift or a scaling
    along each axis, which absorbs a slight crop (the linearisation of Lucas and Kanade, IJCAI 1981). The difference
    is 1 - the multiple correlation coefficient, of the two directions the worse.
    """
    difference = np.ones(len(pairs))
    if len(pairs) == 0:
        return difference
    tile = pairs // TILE
    order = np.lexsort((tile[:, 1], tile[:, 0]))  # pairs of the same two tiles together: each is described once
    starts = np.flatnonzero(np.diff(tile[order], axis=0, prepend=-1).any(axis=1))
    for block in _progress(np.split(order, starts[1:]), "Comparing pictures", len(pairs) > 20_000, len(starts)):
        members, local = np.unique(pairs[block], return_inverse=True)
        parts = [_describe(thumbnails[members[k : k + CHUNK]]) for k in range(0, len(members), CHUNK)]
        structure, basis = (np.concatenate(part) for part in zip(*parts, strict=True))
        for chunk in np.array_split(np.arange(len(block)), 1 + len(block) // CHUNK):
            i, j = local.reshape(-1, 2)[chunk].T
            forward = np.einsum("mkp,mp->mk", basis[j], structure[i])
            backward = np.einsum("mkp,mp->mk", basis[i], structure[j])
            explained = np.minimum((forward**2).sum(axis=1), (backward**2).sum(axis=1))
            difference[block[chunk]] = 1 - np.sqrt(np.clip(explained, 0, 1))
    return difference


def _describe(thumbnails: Bytes) -> tuple[Floats, Floats]:
    """Local structure of thumbnails (n, 64, 64), as unit vectors (n, p), and the bases (n, 5, p) for the regression.

    The rows of a basis are orthonormal and span the structure and its changes by shift and scaling. Where there is no
    structure, both are zero.
    """
    local = np.stack([_local_structure(t) for t in thumbnails])
    down, across = np.gradient(local, axis=1), np.gradient(local, axis=2)
    axis = np.linspace(-1, 1, SIDE, dtype=np.float32)
    changes = [local, across, across * axis, down, down * axis[:, None]]
    inner = slice(MARGIN, SIDE - MARGIN, STEP)
    vectors = np.stack([c[:, inner, inner].reshape(len(local), -1) for c in changes], axis=1)
    vectors -= vectors.mean(axis=2, keepdims=True)
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    vectors /= np.maximum(length, 1e-6)
    gram = vectors @ vectors.transpose(0, 2, 1) + 1e-5 * np.eye(5, dtype=np.float32)  # never singular
    return vectors[:, 0].copy(), np.linalg.inv(np.linalg.cholesky(gram)) @ vectors


def _local_structure(thumb: Bytes) -> Floats:
    smooth = cv2.GaussianBlur(thumb.astype(np.float32), (0, 0), BLUR)
    detail = smooth - cv2.GaussianBlur(smooth, (0, 0), SURROUND)
    contrast = np.sqrt(cv2.GaussianBlur(detail**2, (0, 0), SURROUND))
    return np.asarray(detail / (contrast + FLOOR), np.float32)


def _progress(items: Iterable[Item], description: str, long: bool, total: int) -> Iterable[Item]:
    return track(items, description, total) if long else items
