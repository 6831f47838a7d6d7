"""Synthetic chest X-rays in the layouts of covid-chestxray-dataset (CCX) and of Kermany's chest X-rays (KCX).

    covid-chestxray-dataset/metadata.csv, images/<name>.png   adults of two hospitals; lateral views and CT rows too
    chest_xray/train|test/NORMAL|PNEUMONIA/<name>.jpeg        children of a third hospital
    truth/truth.csv     path, disease: what was drawn; what is recorded is sometimes wrong
    SYNTHETIC.txt       says that all is synthetic, and by which settings it was made

The shortcut of the real sets is in it: most COVID-19 comes from the adults' hospitals, whose pictures have another
frame, letter, contrast and anatomy than the children's. Every hospital holds every class, in other proportions. With
`shortcut=False` all hospitals have the same proportions, ages and looks. Nothing in truth/ may serve as a feature.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.random import Generator

from pipelines.covid_flannel.config import CLASSES, PhantomSettings
from pipelines.covid_flannel.phantom.artist import Hospital, draw_anatomy, draw_picture
from pipelines.shared.data.phantoms import ensure_folder, write_table
from pipelines.shared.screen import parallel_map

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
CCX, KCX = "covid-chestxray-dataset", "chest_xray"
# share of the patients, and their diseases in the order of CLASSES
MIX = {
    "kcx": (0.64, (0.03, 0.27, 0.40, 0.30)),
    "north": (0.20, (0.62, 0.12, 0.14, 0.12)),
    "south": (0.16, (0.44, 0.20, 0.20, 0.16)),
}
LOOKS = {
    "kcx": Hospital("kcx", 0.0, "R", (0.04, 0.11), 1.05, 0.02),
    "north": Hospital("north", 0.045, "L", (0.86, 0.16), 0.90, 0.05),
    "south": Hospital("south", 0.025, "AP", (0.80, 0.94), 1.15, -0.03),
}
ALIKE = Hospital("any", 0.0, "R", (0.04, 0.11), 1.0, 0.0)
FINDINGS = {
    "covid19": ["COVID-19", "COVID-19", "COVID-19, ARDS", "Pneumonia/Viral/COVID-19"],
    "viral": ["SARS", "Pneumonia/Viral/Influenza"],
    "bacterial": ["Streptococcus", "Pneumonia/Bacterial/Klebsiella"],
    "normal": ["No Finding"],
}
NAMED = {"viral": "virus", "bacterial": "bacteria", "covid19": "covid"}


def _rng(settings: PhantomSettings, number: int, part: int = 0) -> Generator:
    return np.random.default_rng([settings.seed, number, part])


def plan(settings: PhantomSettings) -> list[tuple[str, str]]:
    """(hospital, disease) of every patient: as the shares say, in random order; at least one patient of each kind."""
    overall = np.sum([share * np.array(mix) for share, mix in MIX.values()], axis=0)
    rows = []
    for hospital, (share, mix) in MIX.items():
        shares = np.array(mix) if settings.shortcut else overall
        counts = np.maximum(1, np.rint(settings.patients * share * shares)).astype(int)
        rows += [(hospital, disease) for disease, n in zip(CLASSES, counts, strict=True) for _ in range(n)]
    order = np.random.default_rng([settings.seed, 1_000_003]).permutation(len(rows))
    return [rows[i] for i in order]


def _make_patient(item: tuple[int, tuple[str, str]], root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw all pictures of one patient; returns the rows of the tables."""
    number, (hospital, disease) = item
    rng = _rng(settings, number)
    recorded = disease
    if rng.random() < settings.label_noise:
        recorded = str(rng.choice([name for name in CLASSES if name != disease]))
    child = hospital == "kcx" if settings.shortcut else bool(rng.random() < 0.5)
    age = int(rng.integers(1, 6)) if child else int(np.clip(rng.normal(56, 15), 18, 90))
    anatomy = draw_anatomy(rng, child)
    look = LOOKS[hospital] if settings.shortcut else ALIKE
    wording = str(rng.choice(FINDINGS[recorded]))
    about = {"sex": str(rng.choice(["F", "M"])), "age": age, "view": str(rng.choice(["PA", "AP", "AP Supine"]))}
    metadata, truth = [], []
    for shot in range(int(rng.choice([1, 2, 3], p=[0.5, 0.32, 0.18]))):
        picture = draw_picture(
            _rng(settings, number, 1 + shot), anatomy, disease, settings.contrast, look, settings.size
        )
        if hospital == "kcx":
            kind = "NORMAL" if recorded == "normal" else "PNEUMONIA"
            name = f"IM-{number:04d}-{shot + 1:04d}" if kind == "NORMAL" else None
            name = name or f"person{number}_{NAMED[recorded]}_{10 * number + shot}"
            path = f"{KCX}/{'test' if number % 6 == 0 else 'train'}/{kind}/{name}.jpeg"
        else:
            path = f"{CCX}/images/syn-{number:04d}-day{3 * shot}.png"
            row = {"patientid": number, "offset": 3 * shot, "finding": wording, "modality": "X-ray"} | about
            metadata.append(row | {"location": hospital, "folder": "images", "filename": Path(path).name})
        _write_image(root / path, picture)
        truth.append({"path": path, "disease": disease})
    if hospital != "kcx" and number % 5 == 0:  # what an adapter must leave out: a lateral view, a CT without file
        name = f"syn-{number:04d}-lateral.png"
        _write_image(root / CCX / "images" / name, np.full((settings.size, settings.size), 90, np.uint8))
        base = {"patientid": number, "offset": 0, "finding": wording} | about | {"location": hospital}
        metadata.append(base | {"view": "L", "modality": "X-ray", "folder": "images", "filename": name})
        slice_ = {"view": "Axial", "modality": "CT", "folder": "volumes", "filename": f"syn-{number:04d}.nii.gz"}
        metadata.append(base | slice_)
    return {"metadata": metadata, "truth": truth}


def _write_image(path: Path, image: np.ndarray) -> None:
    """Write a picture; unlike OpenCV's own function this raises where it cannot."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpeg" else []
    path.write_bytes(cv2.imencode(path.suffix, image, flags)[1].tobytes())


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Fill an empty folder. Every picture is a function of settings and number alone, whatever the `workers`."""
    for part in ("train", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            (root / KCX / part / kind).mkdir(parents=True)
    (root / CCX / "images").mkdir(parents=True)
    (root / "truth").mkdir()
    items = list(enumerate(plan(settings), start=1))
    make = partial(_make_patient, root=root, settings=settings)
    made = parallel_map(make, items, "Drawing synthetic chest X-rays", workers)
    columns = ["patientid", "offset", "sex", "age", "finding", "view", "modality", "location", "folder", "filename"]
    rows = [{c: row[c] for c in columns} for patient in made for row in patient["metadata"]]
    write_table(root / CCX / "metadata.csv", rows)
    write_table(root / "truth" / "truth.csv", [row for patient in made for row in patient["truth"]])
    lines = [f"{name} = {value}" for name, value in settings.model_dump().items()]
    (root / "SYNTHETIC.txt").write_text(
        "Everything in this folder is synthetic: no picture shows a person, no patient or hospital exists. It has the\n"
        "layouts of covid-chestxray-dataset and of Kermany's chest X-rays and nothing else of them. truth/ holds what\n"
        "was drawn; it is for scoring, never a feature.\n"
        f"Made by pipelines.covid_flannel.phantom.dataset, version {PHANTOM_VERSION}:\n\n" + "\n".join(lines) + "\n"
    )


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    make = partial(make_phantom, settings=settings, workers=workers)
    return ensure_folder(cache_dir, "covid_flannel", PHANTOM_VERSION, settings.model_dump(), make)


def drawn(root: Path, paths: pd.Series) -> pd.Series:
    """The drawn disease of each path."""
    truth = pd.read_csv(root / "truth" / "truth.csv").set_index("path")["disease"]
    return truth.reindex(paths).set_axis(paths.index)
