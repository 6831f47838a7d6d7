"""A synthetic set of skin lesions in HAM10000's layout, with readers, whose truth is known.

    HAM10000_images_part_1/<image_id>.jpg, HAM10000_images_part_2/…
    HAM10000_metadata.csv      lesion_id, image_id, dx, dx_type, age, sex, localization, fitzpatrick_scale
    readers.csv                image_id, reader, diagnosis: what simulated dermatologists said
    truth/truth.csv            image_id, disease: what was drawn; dx is what was recorded, sometimes wrongly
    truth/masks/<image_id>.png the lesion's body, 0/255
    SYNTHETIC.txt              says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator

from pipelines.shared.data.phantoms import ensure_folder, write_notice, write_table
from pipelines.shared.screen import parallel_map
from pipelines.skin.config import PhantomSettings
from pipelines.skin.diseases import DISEASES, NAMES, draw_looks, recorded_shares
from pipelines.skin.labels import binary_scores
from pipelines.skin.phantom.artist import FRAME, draw_lesion, photograph
from pipelines.skin.taxonomy import NINE_WAY, THREE_WAY, Taxonomy, infer

PHANTOM_VERSION = 2  # raise it whenever the same settings give other files
SITES = ("back", "lower extremity", "upper extremity", "trunk", "face", "abdomen", "chest", "neck")
SKIN_TYPES = (0.14, 0.26, 0.22, 0.15, 0.13, 0.10)  # shares of Fitzpatrick's types I to VI
PICTURES = (0.35, 0.35, 0.25, 0.05)  # shares of lesions with 1 to 4 pictures
READERS = 21
READ = 0.25  # share of the pictures that a reader reads
SKILL = (0.45, 0.80)  # range of the probability that a reader names the drawn disease
STREAMS = {"lesion": 1, "looks": 2, "picture": 3, "reading": 4, "reader": 5}


def _rng(settings: PhantomSettings, stream: str, number: int, part: int = 0) -> Generator:
    return np.random.default_rng([settings.seed, STREAMS[stream], number, part])


def diseases_of(settings: PhantomSettings) -> list[str]:
    """The disease of every lesion: each as often as its share says, at least six lesions each, in random order."""
    counts = [max(6, round(settings.lesions * disease.share)) for disease in DISEASES.values()]
    counts[0] += settings.lesions - sum(counts)  # what rounding leaves goes to the commonest
    every = [name for name, count in zip(NAMES, counts, strict=True) for _ in range(count)]
    return [str(name) for name in np.random.default_rng([settings.seed, 0]).permutation(every)]


def _make_lesion(item: tuple[int, str], root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw one lesion and all its pictures; returns its rows of the tables."""
    number, disease = item
    rng = _rng(settings, "lesion", number)
    shares = recorded_shares(disease, settings.label_noise)
    recorded = str(rng.choice(list(shares), p=list(shares.values())))
    skin_type = int(rng.choice(6, p=SKIN_TYPES)) + 1
    about = {
        "dx_type": "histo" if rng.random() < 0.55 else str(rng.choice(["follow_up", "consensus", "confocal"])),
        "age": int(np.clip(round(rng.normal(DISEASES[disease].age, 14) / 5) * 5, 5, 90)),
        "sex": str(rng.choice(["female", "male"])),
        "localization": str(rng.choice(SITES)),
        "fitzpatrick_scale": skin_type,
    }
    looks = draw_looks(_rng(settings, "looks", number), disease, settings.contrast, settings.atypia)
    height, width = round(0.75 * settings.size), settings.size
    lesion = draw_lesion(_rng(settings, "looks", number, 1), looks, round(FRAME * height))
    metadata, truth, readings = [], [], []
    for view in range(1 + int(rng.choice(4, p=PICTURES))):
        image_id = f"SYN_{number:05d}_{view}"
        picture, mask = photograph(_rng(settings, "picture", number, view), lesion, skin_type, height, width)
        _write_image(root / f"HAM10000_images_part_{1 + number % 2}" / f"{image_id}.jpg", picture[..., ::-1])
        _write_image(root / "truth" / "masks" / f"{image_id}.png", mask)
        metadata.append({"lesion_id": f"SYN_{number:05d}", "image_id": image_id, "dx": recorded} | about)
        truth.append({"image_id": image_id, "disease": disease})
        readings += _readings(settings, image_id, disease, 10 * number + view)
    return {"metadata": metadata, "truth": truth, "readings": readings}


def _readings(settings: PhantomSettings, image_id: str, disease: str, number: int) -> list[dict[str, str]]:
    """What some readers say of one picture. They do not look at it: a reader names the drawn disease with a
    probability of their own, otherwise most often one that it is mistaken for.
    """
    rng = _rng(settings, "reading", number)
    rows = []
    for reader in np.flatnonzero(rng.random(READERS) < READ):
        skill = _rng(settings, "reader", int(reader)).uniform(*SKILL)
        named = disease
        if rng.random() > skill:
            named = str(rng.choice(DISEASES[disease].mistaken_for if rng.random() < 0.8 else NAMES))
        rows.append({"image_id": image_id, "reader": f"r{reader + 1:02d}", "diagnosis": named})
    return rows


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (blue, green, red, or grey); unlike OpenCV's own function this raises where it cannot."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 90] if path.suffix == ".jpg" else []
    path.write_bytes(cv2.imencode(path.suffix, image, flags)[1].tobytes())


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Fill an empty folder. Every picture is a function of settings and number alone, whatever the `workers`."""
    for folder in ("HAM10000_images_part_1", "HAM10000_images_part_2", "truth/masks"):
        (root / folder).mkdir(parents=True)
    items = list(enumerate(diseases_of(settings)))
    made = parallel_map(
        partial(_make_lesion, root=root, settings=settings), items, "Drawing synthetic skin lesions", workers
    )
    write_table(root / "HAM10000_metadata.csv", [row for lesion in made for row in lesion["metadata"]])
    write_table(root / "truth" / "truth.csv", [row for lesion in made for row in lesion["truth"]])
    write_table(root / "readers.csv", [row for lesion in made for row in lesion["readings"]])
    write_notice(
        root,
        "no picture shows a person's skin, no patient or reader exists.\n"
        "It has HAM10000's layout and nothing else of it.",
        f"pipelines.skin.phantom.dataset, version {PHANTOM_VERSION}",
        settings.model_dump(),
    )


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    make = partial(make_phantom, settings=settings, workers=workers)
    return ensure_folder(cache_dir, "skin", PHANTOM_VERSION, settings.model_dump(), make)


def oracle_columns(diseases: list[str], label_noise: float, tree: Taxonomy) -> pd.DataFrame:
    """What one who knows the drawn disease would answer, to be judged by the same sometimes wrong record.

    Returns:
        One row per picture: truth_label, truth_three_way, truth_nine_way (the most probable record) and truth_<task>
        (the score of each binary task).
    """
    shares = [recorded_shares(disease, label_noise) for disease in diseases]
    table = np.array([[share.get(leaf, 0.0) for leaf in tree.leaves] for share in shares])
    nodes = infer(table, [tree.paths[leaf] for leaf in tree.leaves])
    columns: dict[str, Any] = {"truth_label": diseases}
    for name, depth in (("three_way", THREE_WAY), ("nine_way", NINE_WAY)):
        names = [node for node in nodes if len(tree.paths[node]) == depth]
        best = np.stack([nodes[node] for node in names]).argmax(axis=0)
        columns[f"truth_{name}"] = [names[i] for i in best]
    return pd.DataFrame(columns | {f"truth_{task}": score for task, score in binary_scores(nodes).items()})
