"""Whole slides, outlines of metastases, and submissions to the FROC evaluation."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from asap import random_polygons, read_annotation, write_asap
from conftest import compose
from fuzzing import Format

from pipelines.camelyon import data
from pipelines.camelyon.annotations import MPP
from pipelines.camelyon.froc_inputs import read_submission
from pipelines.camelyon.froc_mode import score
from pipelines.camelyon.masks import lesion_map
from pipelines.camelyon.phantom.dataset import write_annotation, write_pyramid
from pipelines.camelyon.slides import Slide
from pipelines.shared.errors import DataError
from pipelines.shared.run_folder import RunFolder
from pipelines.shared.stats.bootstrap import Bootstrap

WIDTH, HEIGHT = 6000, 5000


def make_slides(folder: Path) -> None:
    """Pyramids of a pink blot, as the phantom writes them, one without a pyramid, one with outlines."""
    y, x = np.mgrid[:320, :384]
    inside = np.hypot(y - 160, x - 190) < 110
    rng = np.random.default_rng(0)
    picture = np.where(inside[..., None], [200, 120, 180], [243, 243, 243]) + rng.integers(-12, 12, (320, 384, 1))
    picture = picture.clip(0, 255).astype(np.uint8)
    for name, half in (("pyramid", picture), ("small", picture[:200, :240])):
        (folder / name).mkdir()
        write_pyramid(folder / name / "slide.tif", half, 1.0)
    square = np.array([[200, 200], [400, 200], [400, 400], [200, 400]], float)
    (folder / "outlined").mkdir()
    write_pyramid(folder / "outlined" / "slide.tif", picture, 1.0)
    write_annotation(folder / "outlined" / "slide.xml", [("Tumor", square)])


@functools.cache
def settings() -> Any:
    """Those of `prepare`."""
    return data.prepare_settings(compose("camelyon", "data=camelyon16"))


def read_slide(folder: Path) -> None:
    """A slide as training looks at it, and regions at several scales."""
    annotation = "slide.xml" if (folder / "slide.xml").is_file() else None
    overview, facts = data.prepare({"path": "slide.tif", "annotation": annotation}, folder, settings())
    assert overview.shape == (128, 128, 3)
    assert overview.dtype == np.uint8
    assert facts["tissue_mm2"] > 0
    slide = Slide(folder / "slide.tif")
    try:
        for mpp in (0.5, 1.0, 8.0):
            assert slide.read(0, 0, 64, 64, mpp).shape == (64, 64, 3)
    finally:
        slide.close()


def make_xml(folder: Path) -> None:
    """Annotations as ASAP and the phantom write them."""
    for seed in range(6):
        (folder / str(seed)).mkdir()
        polygons = random_polygons(np.random.default_rng(seed), WIDTH, HEIGHT, 3)
        if seed % 2:
            write_annotation(folder / str(seed) / "a.xml", [(p.group, p.points) for p in polygons])
        else:
            write_asap(folder / str(seed) / "a.xml", polygons)


def read_xml(folder: Path) -> None:
    """An annotation with and without its slide's size, and its lesions."""
    refused: list[DataError] = []
    for size in (None, (WIDTH, HEIGHT)):
        for strict in (False, True):
            try:
                annotation = read_annotation(folder / "a.xml", size, strict)
            except DataError as failure:
                refused.append(failure)
                continue
            for polygon in annotation.polygons:
                assert np.isfinite(polygon.points).all()
            lesions = lesion_map(annotation, *(size or (None, None)), MPP)
            assert len(lesions.lesions) < 200, "more lesions than outlines can have"
    if len(refused) == 4:
        raise refused[0]


def make_froc(folder: Path) -> None:
    """Three slides, two with metastases, their detections."""
    place = folder / "submission"
    for name in ("detections", "annotations"):
        (place / name).mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows = ["slide,label,mpp,width,height"]
    for k in range(3):
        name = f"test_{k:03d}"
        polygons = random_polygons(rng, WIDTH, HEIGHT, 3)
        rows.append(f"{name},{int(k < 2)},0.25,{WIDTH},{HEIGHT}" if k else f"{name},tumor,,,")
        points = rng.uniform(0, 1, (5, 2)) * (WIDTH, HEIGHT)
        if k < 2:
            write_asap(place / "annotations" / f"{name}.xml", polygons)
            points = np.vstack([points, [p.points.mean(axis=0) for p in polygons]]).clip(0)
        lines = [f"{rng.random():.3f},{x:.0f},{y:.0f}" for x, y in points]
        (place / "detections" / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (place / "slides.csv").write_text("\n".join(rows) + "\n")


def read_froc(folder: Path) -> None:
    """A submission, scored."""
    submission = read_submission(folder / "detections", folder / "annotations", folder / "slides.csv")
    _, estimates = score(submission, RunFolder(folder / "run"), Bootstrap(20, 0, 0.95))
    for name, estimate in estimates.items():
        assert estimate.value is None or np.isfinite(estimate.value), name


FORMATS = [
    Format("slides", make_slides, read_slide),
    Format("xml", make_xml, read_xml),
    Format("froc", make_froc, read_froc),
]
