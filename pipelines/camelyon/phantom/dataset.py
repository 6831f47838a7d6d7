"""Synthetic lymph node slides with annotations, in CAMELYON16's layout, whose truth is known.

    training/normal/Normal_001.tif …        tiled JPEG pyramids that OpenSlide opens, with resolution tags
    training/tumor/Tumor_001.tif …
    training/lesion_annotations/*.xml       ASAP polygons, as the annotator drew them
    testing/images/Test_001.tif …
    testing/lesion_annotations/*.xml
    testing/reference.csv                   slide, class, type, stage
    truth/slides.csv, truth/lesions.csv     centre and artefacts; every metastasis, annotated or not
    SYNTHETIC.txt                           says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature. Everything is a function of the settings and the slide's number.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
from numpy.random import Generator

from pipelines.camelyon.config import PhantomSettings
from pipelines.camelyon.phantom.histology import (
    COARSE,
    CORTEX,
    MANTLE,
    Lesion,
    add_artefacts,
    draw_lesion,
    draw_regions,
    draw_tissue,
    stained,
)
from pipelines.camelyon.slides import WSI
from pipelines.shared.data.phantoms import ensure_folder, write_notice, write_table
from pipelines.shared.screen import parallel_map

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
MPP = {"A": 0.243, "B": 0.226}  # microns per level-0 pixel of the two centres' scanners
STREAMS = {"plan": 1, "regions": 2, "tissue": 3, "stain": 4, "annotator": 5}
# chance and radius (um) of macro-metastases, micro-metastases and isolated tumour cells
SIZES = {"macro": (0.12, 220, 360), "micro": (0.63, 105, 190), "itc": (0.25, 25, 80)}


TRIAL = {"slides": 16, "test": 6, "smallest": 2560, "largest": 3072}  # to see that all is connected


def _rng(settings: PhantomSettings, stream: str, slide: int) -> Generator:
    return np.random.default_rng([settings.seed, STREAMS[stream], slide])


def slide_names(settings: PhantomSettings) -> list[tuple[str, bool, str]]:
    """Name, whether it has metastases, and part (training, testing) of every slide."""
    train = settings.slides - settings.test
    names = [(f"Tumor_{i + 1:03d}", True, "training") for i in range(train // 2)]
    names += [(f"Normal_{i + 1:03d}", False, "training") for i in range(train - train // 2)]
    # Mixed, so that a test slide's number tells nothing.
    tumor = np.random.default_rng([settings.seed, 99]).permutation(settings.test) < settings.test // 2
    return names + [(f"Test_{i + 1:03d}", bool(t), "testing") for i, t in enumerate(tumor)]


# --- one slide ---


def _plan_lesions(rng: Generator, regions: np.ndarray, mpp: float, settings: PhantomSettings) -> list[Lesion]:
    """Metastases in the nodes, apart from each other by more than what the evaluation would join."""
    node = np.isin(regions, range(CORTEX, MANTLE + 5)).astype(np.uint8)
    room = cv2.distanceTransform(node, cv2.DIST_L2, 3) * mpp * COARSE  # um to the node's edge
    largest = float(room.max())
    lesions: list[Lesion] = []
    for i in range(1 + int(rng.poisson(3.2))):
        kind = str(rng.choice(list(SIZES), p=[s[0] for s in SIZES.values()]))
        if i == 0 and kind == "itc":  # every tumour slide has a lesion that counts
            kind = "micro"
        _, low, high = SIZES[kind]
        radius = min(float(rng.uniform(low, high)), 0.75 * largest)
        for _ in range(40):
            places = np.argwhere(room > 0.4 * radius)
            y, x = places[rng.integers(len(places))] * COARSE
            near = [np.hypot(o.x - x, o.y - y) * mpp < 1.15 * (o.radius + radius) + 85 for o in lesions]
            if not any(near):
                atypia = settings.atypia * float(rng.beta(1.2, 1.5))
                lesions.append(Lesion(float(x), float(y), radius, atypia))
                break
    return lesions


def _outline(mask: np.ndarray, rng: Generator, shake: float) -> np.ndarray | None:
    """The outer outline (n, 2) of a coarse mask in level-0 pixels, as an unsteady hand draws it."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return None
    contour = max(contours, key=cv2.contourArea)[:, 0].astype(float)
    contour = contour[:: max(1, len(contour) // 90)]
    if len(contour) < 3:
        y, x = np.argwhere(mask).mean(axis=0)
        contour = np.array([[x - 1, y - 1], [x + 1, y - 1], [x + 1, y + 1], [x - 1, y + 1]])
    return (contour + 0.5 + rng.normal(0, shake, contour.shape)) * COARSE * 2


def make_slide(number: int, root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw and write one slide and its annotation; returns its rows of the truth."""
    cv2.setNumThreads(1)
    name, tumor, part = slide_names(settings)[number]
    plan = _rng(settings, "plan", number)
    centre = "A" if plan.random() < 0.55 else "B"
    span = settings.largest - settings.smallest
    sides = settings.smallest + span * plan.beta(1.0, 2.0) + np.array([0, span * plan.uniform(-0.12, 0.12)])
    width, height = (np.clip(sides, settings.smallest, settings.largest) // 256 * 256).astype(int).tolist()
    mpp = 2 * MPP[centre]  # of drawing
    regions = draw_regions(
        _rng(settings, "regions", number), height // 2 // COARSE, width // 2 // COARSE, mpp * COARSE, settings.follicles
    )
    lesions: list[tuple[Lesion, np.ndarray]] = []
    if tumor:
        for lesion in _plan_lesions(plan, regions, mpp, settings):
            mask = draw_lesion(plan, regions, lesion, mpp * COARSE)
            if mask.any():
                lesions.append((lesion, mask))
    tissue = _rng(settings, "tissue", number)
    activity = settings.atypia * 0.5 * float(plan.beta(1.0, 1.6))
    haematoxylin, eosin = draw_tissue(tissue, regions, lesions, mpp, activity)
    stain = _rng(settings, "stain", number)
    grain = float(stain.uniform(0.7, 1.3))
    picture = stained(stain, haematoxylin, eosin, centre, settings.variation, grain)
    artefacts = add_artefacts(stain, picture, regions, mpp)
    folder = root / part / ("images" if part == "testing" else "tumor" if tumor else "normal")
    write_pyramid(folder / f"{name}.tif", picture, MPP[centre])
    rows = _annotate(root / part / "lesion_annotations" / f"{name}.xml", name, lesions, mpp, settings, number)
    about = {
        "slide": name, "tumor": int(tumor), "centre": centre, "width": width, "height": height,
        "artefacts": ";".join(artefacts),
    }  # fmt: skip
    return {"slide": about, "lesions": rows}


def _annotate(
    file: Path, name: str, lesions: list[tuple[Lesion, np.ndarray]], mpp: float, settings: PhantomSettings, number: int
) -> list[dict[str, Any]]:
    """Write what the annotator saw; returns the truth of every lesion."""
    if not lesions:
        return []
    rng = _rng(settings, "annotator", number)
    largest = max(range(len(lesions)), key=lambda i: lesions[i][1].sum())
    rows: list[dict[str, Any]] = []
    polygons: list[tuple[str, np.ndarray]] = []
    for i, (lesion, mask) in enumerate(lesions):
        seen = i == largest or lesion.radius > 200 or rng.random() >= settings.missed
        outline = _outline(mask, rng, 0.35)
        assert outline is not None
        if seen:
            polygons.append(("Tumor" if rng.random() < 0.3 else f"_{i % 2}", outline))
        spot = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
        y, x = np.unravel_index(int(spot.argmax()), spot.shape)
        rows.append(
            {
                "slide": name, "lesion": i + 1, "x": (x + 0.5) * COARSE * 2, "y": (y + 0.5) * COARSE * 2,
                "area_um2": float(mask.sum()) * (COARSE * mpp) ** 2, "radius_um": round(lesion.radius, 1),
                "atypia": round(lesion.atypia, 4), "annotated": int(seen),
            }
        )  # fmt: skip
    write_annotation(file, polygons)
    return rows


def write_annotation(file: Path, polygons: list[tuple[str, np.ndarray]]) -> None:
    """An ASAP XML file of polygons (group, (n, 2) level-0 pixels)."""
    top = ElementTree.Element("ASAP_Annotations")
    inside = ElementTree.SubElement(top, "Annotations")
    for i, (group, points) in enumerate(polygons):
        attributes = {"Name": f"Annotation {i}", "Type": "Polygon", "PartOfGroup": group, "Color": "#F4FA58"}
        coordinates = ElementTree.SubElement(ElementTree.SubElement(inside, "Annotation", attributes), "Coordinates")
        for order, (x, y) in enumerate(points):
            place = {"Order": str(order), "X": f"{max(x, 0):.2f}", "Y": f"{max(y, 0):.2f}"}
            ElementTree.SubElement(coordinates, "Coordinate", place)
    groups = ElementTree.SubElement(top, "AnnotationGroups")
    for group in sorted({g for g, _ in polygons}):
        ElementTree.SubElement(groups, "Group", {"Name": group, "PartOfGroup": "None", "Color": "#00ff00"})
    file.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(top).write(file, encoding="utf-8", xml_declaration=True)


def write_pyramid(file: Path, half: np.ndarray, mpp: float, quality: int = 85) -> None:
    """A tiled JPEG pyramid with resolution tags, from the picture at half of its resolution (height, width, 3)."""
    from tifffile import TiffWriter

    file.parent.mkdir(parents=True, exist_ok=True)
    height, width = half.shape[:2]
    levels = [cv2.resize(half, (width * 2, height * 2), interpolation=cv2.INTER_LINEAR), half]
    while max(levels[-1].shape) > 512:
        h, w = levels[-1].shape[:2]
        levels.append(cv2.resize(levels[-1], (w // 2, h // 2), interpolation=cv2.INTER_AREA))
    with TiffWriter(file) as writer:
        for i, level in enumerate(levels):
            writer.write(
                level, subfiletype=1 if i else 0, tile=(256, 256), photometric="rgb", metadata=None,
                compression="jpeg", compressionargs={"level": quality}, maxworkers=1,
                resolution=(1e4 / mpp / 2**i, 1e4 / mpp / 2**i), resolutionunit="CENTIMETER",
            )  # fmt: skip


# --- the whole folder ---


def ensure_phantom(cache_dir: Path, settings: PhantomSettings) -> Path:
    """The phantom's folder, made if it is not there."""
    return ensure_folder(
        cache_dir, "camelyon", PHANTOM_VERSION, settings.model_dump(), partial(make_phantom, settings=settings)
    )


def make_phantom(root: Path, settings: PhantomSettings) -> None:
    """Fill an empty folder."""
    WSI.require("The phantom")
    rows = parallel_map(partial(make_slide, root=root, settings=settings), range(settings.slides), "Drawing slides")
    (root / "truth").mkdir()
    write_table(root / "truth" / "slides.csv", [r["slide"] for r in rows])
    write_table(root / "truth" / "lesions.csv", [lesion for r in rows for lesion in r["lesions"]])
    reference = [r["slide"] for r in rows if r["slide"]["slide"].startswith("Test")]
    lines = [f"{r['slide']},{'Tumor' if r['tumor'] else 'Normal'},,\n" for r in reference]
    (root / "testing" / "reference.csv").write_text("".join(lines), encoding="utf-8")
    write_notice(
        root, "lymph nodes, stains and metastases are drawn by a program.", "pipelines.camelyon", settings.model_dump()
    )
