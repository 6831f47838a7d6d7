"""ASAP files, their strict reading, and random outlines for the tests of this study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipelines.camelyon.annotations import Annotation, Polygon, check_annotation
from pipelines.camelyon.lesions import check_detections
from pipelines.shared.errors import DataError


def read_annotation(file: Path, *settings: Any, **more: Any) -> Annotation:
    """An annotation, its problems raised."""
    annotation, problems = check_annotation(file, *settings, **more)
    if problems or annotation is None:
        raise DataError(f"{file}: {len(problems)} problems.\n" + "\n".join(problems), "Correct the file.")
    return annotation


def read_detections(file: Path) -> pd.DataFrame:
    """A slide's detections, the lines that are wrong raised."""
    table, problems = check_detections(file)
    if problems:
        raise DataError(f"{file}: {len(problems)} problems.\n" + "\n".join(problems), "Correct the file.")
    return table


def write_asap(file: Path, polygons: Sequence[Polygon]) -> Path:
    """An annotation as ASAP writes it."""
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "  <Annotations>"]
    for p in polygons:
        lines.append(f'    <Annotation Name="{p.name}" Type="Polygon" PartOfGroup="{p.group}" Color="#F4FA58">')
        lines.append("      <Coordinates>")
        lines += [
            f'        <Coordinate Order="{i}" X="{x!r}" Y="{y!r}" />' for i, (x, y) in enumerate(p.points.tolist())
        ]
        lines += ["      </Coordinates>", "    </Annotation>"]
    lines += ["  </Annotations>", '  <AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#ff0000" />']
    lines += ["  </AnnotationGroups>", "</ASAP_Annotations>"]
    file.write_text("\n".join(lines))
    return file


def star(rng: np.random.Generator, centre: Sequence[float], radius: float, corners: int | None = None) -> np.ndarray:
    """A star-shaped outline, which never crosses itself: (n, 2)."""
    n = corners or int(rng.integers(3, 30))
    angle = (np.arange(n) + rng.uniform(0, 0.8, n)) * 2 * np.pi / n
    far = radius * rng.uniform(0.4, 1.0, n)
    points = np.asarray(centre) + np.column_stack([np.cos(angle), np.sin(angle)]) * far[:, None]
    return points[::-1] if rng.random() < 0.5 else points


def random_polygons(rng: np.random.Generator, width: int, height: int, most: int = 6) -> list[Polygon]:
    """Tumour of all sizes, near each other and over the border, with pieces cut out."""
    found = []
    for k in range(int(rng.integers(1, most + 1))):
        centre = rng.uniform(-0.02, 1.02, 2) * (width, height)
        radius = float(np.exp(rng.uniform(np.log(20), np.log(min(width, height) / 3))))
        group = str(rng.choice(["Tumor", "_0", "_1"]))
        found.append(Polygon(f"Annotation {len(found)}", group, star(rng, centre, radius)))
        if rng.random() < 0.4:
            group = str(rng.choice(["_2", "Exclusion", "None"]))
            hole = star(rng, centre + rng.normal(0, radius / 4, 2), radius * rng.uniform(0.2, 0.8))
            found.insert(int(rng.integers(len(found) + 1)), Polygon(f"Cut {k}", group, hole))
    return found
