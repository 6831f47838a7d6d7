"""FROC of 200 slides, 110 of them with outlines, against the official order of work: full masks of level 5, then lists.

The reference gets its masks drawn already. Masks of a few slides are timed, and counted for all tumour slides.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measure import Row
from scipy import ndimage
from skimage import measure

from pipelines.camelyon.annotations import Polygon, check_annotation
from pipelines.camelyon.froc import Scored, froc_estimates, froc_score, score_detections
from pipelines.camelyon.masks import _draw, lesion_map
from pipelines.shared.stats.bootstrap import Bootstrap

MINUTES = 2
SLIDES, TUMOUR = 200, 110
WIDTH, HEIGHT = 97_792, 221_184  # level-0 pixels, the commonest size of the challenge's slides
DETECTIONS = 150  # per slide, on average
TIMED = 2  # slides whose full masks are made
RESAMPLES = 2000


def rows() -> list[Row]:
    """All rows of this file."""
    rng = np.random.default_rng(0)
    names = [f"test_{i:03d}" for i in range(SLIDES)]
    folder = Path(tempfile.mkdtemp())
    outlines = {name: _outlines(rng) for name in names[:TUMOUR]}
    for name, polygons in outlines.items():
        _write(folder / f"{name}.xml", polygons)
    detections = _detections(rng, names, outlines)

    began = time.perf_counter()
    maps = {name: lesion_map(check_annotation(folder / f"{name}.xml", strict=False)[0]) for name in outlines}
    scored, _ = score_detections(names, detections, maps)
    found = froc_score(scored)
    middle = time.perf_counter()
    froc_estimates(scored, bootstrap=Bootstrap(resamples=RESAMPLES, seed=0, level=0.95))
    ours, interval = middle - began, time.perf_counter() - middle

    masks = 0.0
    for name in names[:TIMED]:
        mask = _draw(outlines[name], (HEIGHT // 32, WIDTH // 32), 32)
        began = time.perf_counter()
        _lesions(mask)
        masks += (time.perf_counter() - began) / TIMED * TUMOUR
    began = time.perf_counter()
    expected = _score(scored)
    reference = masks + time.perf_counter() - began
    assert abs(found - expected) < 1e-12, (found, expected)
    return [
        {
            "what": f"camelyon: FROC of {SLIDES} slides from XML, interval of {RESAMPLES:,} resamples {interval:.1f} s",
            "ratio": reference / ours,
            "ours": f"{ours:.1f} s",
            "reference": f"full masks of level 5, without reading them {reference:.0f} s",
            "note": f"camelyon: the reference's masks were made for {TIMED} of {TUMOUR} slides and counted for all.",
        }
    ]


def _outlines(rng: np.random.Generator) -> list[Polygon]:
    """One to a dozen metastases between 50 microns and 6 mm, with a corner every 20 pixels."""
    found = []
    for k in range(int(rng.integers(1, 13))):
        radius = float(np.exp(rng.uniform(np.log(100), np.log(12_000))))
        n = int(np.clip(2 * np.pi * radius / 20, 12, 4000))
        angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
        walk = np.cumsum(rng.normal(0, 1, n))
        walk -= np.linspace(0, walk[-1], n)
        far = radius * (1 + 0.4 * walk / max(np.abs(walk).max(), 1e-9))
        centre = rng.uniform(0.2, 0.8, 2) * (WIDTH, HEIGHT)
        found.append(Polygon(f"{k}", "_0", centre + np.column_stack([np.cos(angle), np.sin(angle)]) * far[:, None]))
    return found


def _write(file: Path, polygons: list[Polygon]) -> None:
    lines = []
    for p in polygons:
        lines.append(f'<Annotation Name="{p.name}" Type="Polygon" PartOfGroup="{p.group}"><Coordinates>')
        lines += [f'<Coordinate Order="{i}" X="{x:.2f}" Y="{y:.2f}" />' for i, (x, y) in enumerate(p.points)]
        lines.append("</Coordinates></Annotation>")
    text = "<ASAP_Annotations><Annotations>" + "\n".join(lines) + "</Annotations></ASAP_Annotations>"
    file.write_text(text)


def _detections(rng: np.random.Generator, names: list[str], outlines: dict[str, list[Polygon]]) -> pd.DataFrame:
    parts = []
    for name in names:
        centres = [p.points.mean(axis=0) for p in outlines.get(name, []) if rng.random() < 0.8]
        points = np.vstack([*centres, rng.uniform(0, 1, (int(rng.integers(1, 2 * DETECTIONS)), 2)) * (WIDTH, HEIGHT)])
        probability = rng.random(len(points)) ** 4
        probability[: len(centres)] = rng.random(len(centres))
        parts.append(pd.DataFrame({"slide": name, "probability": probability, "x": points[:, 0], "y": points[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def _lesions(mask: np.ndarray) -> None:
    """The evaluation mask of a slide and its isolated tumour cells, over the whole of level 5."""
    grown = ndimage.distance_transform_edt(~mask) < 75 / (0.243 * 32 * 2)
    labels = measure.label(ndimage.binary_fill_holes(grown), connectivity=2)
    [region.axis_major_length for region in measure.regionprops(labels)]


def _score(scored: Scored) -> float:
    """The curve one threshold at a time."""
    true = np.concatenate([scored.lesion_score, np.zeros(int(scored.itc.sum()))])
    false = scored.false_score
    x, y = [], []
    for threshold in sorted({*false.tolist(), *true.tolist()})[1:]:
        x.append((false >= threshold).sum() / len(scored.slides))
        y.append((true >= threshold).sum() / len(scored.lesion_score))
    return float(np.interp([0.25, 0.5, 1, 2, 4, 8], [0.0, *x[::-1]], [0.0, *y[::-1]]).mean())
