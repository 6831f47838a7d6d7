"""A synthetic archive of head CT studies with dictated reports, gold labels and physicians, whose truth is known.

    dicom/<folder>/<series>/<file>   DICOM series of two makers, with tilt, uneven spacing, compression, localisers
    reports.csv                      accession, report
    gold.csv                         accession, critical: what radiologists decided; only for the test studies
    readers.csv                      accession, reader, critical: single physicians on the test studies
    truth/truth.csv                  accession, severity of the worst critical finding, findings
    truth/statements.csv             accession, concept, status, known: what each report really says
    truth/masks/<accession>.npz      voxels of critical findings in the slices as written
    SYNTHETIC.txt                    says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature. Everything is a function of the settings and the study's number.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

from pipelines.head_ct.config import PhantomSettings
from pipelines.head_ct.phantom.anatomy import CRITICAL, INCIDENTAL, Finding, draw_finding, draw_head, hounsfield
from pipelines.head_ct.phantom.dictation import Noise, dictate
from pipelines.head_ct.writing import Header, uid_of, write_slices
from pipelines.shared.data.dicom_files import DICOM
from pipelines.shared.data.phantoms import ensure_folder, write_table
from pipelines.shared.screen import parallel_map

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
FIELD = 236.0  # mm
READERS = [("physician_1", 0.13, 0.21), ("physician_2", 0.17, 0.12), ("physician_3", 0.23, 0.11)]  # misses, alarms
TRIAL = {"studies": 100, "gold": 36}  # to see that all is connected
STREAMS = {"patient": 1, "findings": 2, "head": 3, "scan": 4, "noise": 5, "report": 6, "gold": 7}


def _rng(settings: PhantomSettings, stream: str, study: int) -> Generator:
    return np.random.default_rng([settings.seed, STREAMS[stream], study])


# --- one study ---


def draw_findings(rng: Generator, critical: bool) -> list[Finding]:
    """Findings of a study: if critical a main one of any severity and sometimes a second; incidental ones in any."""
    kinds: list[tuple[str, float]] = []
    if critical:
        main = str(rng.choice(CRITICAL))
        severity = float(rng.beta(1.3, 1.1))
        kinds.append((main, severity))
        if rng.random() < 0.35:
            second = str(rng.choice([k for k in CRITICAL if k != main]))
            kinds.append((second, float(severity * rng.uniform(0.3, 0.9))))
    for kind in INCIDENTAL:
        if rng.random() < 0.22:
            kinds.append((kind, float(rng.uniform(0.1, 1))))
    return [draw_finding(rng, kind, severity) for kind, severity in kinds]


def _positions(rng: Generator, settings: PhantomSettings) -> tuple[np.ndarray, list[float], float, list[float]]:
    """(n, 3) first pixels' centres, orientation, tilt in degrees, thickness of each slice."""
    step = float(rng.uniform(7.0, 9.5))
    count = int(np.clip(round(130 / step), 12, 20))
    steps = np.full(count - 1, step)
    if rng.random() < 0.25:  # finer in the posterior fossa
        steps[: count // 3] *= 0.6
    tilt = float(rng.choice([0, 0, rng.uniform(-8, 20)]))
    angle = np.radians(tilt)
    column = np.array([0, np.cos(angle), -np.sin(angle)])
    pixel = FIELD / settings.size
    half = (settings.size - 1) / 2 * pixel
    start = float(rng.uniform(-62, -50))
    z = start + np.concatenate([[0], np.cumsum(steps)])
    if rng.random() < 0.12:  # a slice got lost
        z = np.delete(z, int(rng.integers(3, count - 3)))
    # The table moves along z; the tilted plane's centre stays above it: the slices are sheared.
    offset = rng.normal(0, 4, 2)
    centres = np.stack([np.full(len(z), offset[0]), np.full(len(z), offset[1]), z], axis=1)
    first = centres - half * np.array([1, 0, 0]) - half * column
    thick = float(min(steps.min(), step) if rng.random() < 0.8 else steps.min() * 0.8)
    return first, [1, 0, 0, *column.tolist()], tilt, [thick] * len(z)


def _draw_slices(
    head: Any, first: np.ndarray, orientation: list[float], settings: PhantomSettings, rng: Generator, sharp: bool
) -> tuple[list[np.ndarray], np.ndarray]:
    """HU of each slice as the scanner would give them, and the mask of critical findings."""
    from scipy.ndimage import gaussian_filter

    pixel = FIELD / settings.size
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    grid = np.arange(settings.size) * pixel
    plane = row[None, None] * grid[None, :, None] + column[None, None] * grid[:, None, None]
    points = first[:, None, None, :] + plane[None]
    hu, mask = hounsfield(head, points[..., 0], points[..., 1], points[..., 2], settings.contrast)
    deviation = settings.noise * float(rng.uniform(2.5, 5.0)) * (2.5 if sharp else 1)
    noise = rng.standard_normal(hu.shape).astype(np.float32)
    noise = gaussian_filter(noise, (0, 0.3 if sharp else 0.8, 0.3 if sharp else 0.8))
    noise *= deviation / noise.std()
    if rng.random() < 0.2:  # the patient moved
        for i in rng.choice(len(hu), 3, replace=False):
            hu[i] = 0.6 * hu[i] + 0.4 * np.roll(hu[i], int(rng.integers(2, 5)), axis=1)
    x, y = points[..., 0] / 70, points[..., 1] / 88
    cupping = float(rng.normal(0, 2.5)) * np.clip(1 - x**2 - y**2, 0, 1)  # imperfect correction of beam hardening
    rest = (np.abs(np.hypot(points[..., 0], points[..., 1]) - 112) < 1.6) & (points[..., 1] > 45)
    hu[rest] = -120  # head rest
    hu = hu + noise + cupping * (hu > -500)
    return list(np.clip(hu, -1024, 3000)), mask


def make_study(number: int, root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw and write one study; returns its rows of the tables."""
    is_gold = number < settings.gold
    findings_rng = _rng(settings, "findings", number)
    critical = number % 2 == 0 if is_gold else bool(findings_rng.random() < settings.critical)
    findings = draw_findings(findings_rng, critical)
    head = draw_head(_rng(settings, "head", number), findings)
    patient_rng = _rng(settings, "patient", number)
    # A sixth of the patients have two studies; a patient's studies are all gold, or none.
    same = patient_rng.random() < 0.17 and number not in (0, settings.gold)
    patient = number - 1 if same else number
    person = _rng(settings, "patient", patient)
    person.random()
    age, sex = int(np.clip(person.normal(58, 19), 18, 96)), str(person.choice(["F", "M"]))
    scan = _rng(settings, "scan", number)
    maker_b = bool(scan.random() < 0.45)
    accession = f"A{100000 + number}"
    first, orientation, tilt, thickness = _positions(scan, settings)
    pixel = FIELD / settings.size
    header = Header(
        patient_id=f"PHANTOM-{patient:05d}", patient_name=f"Phantom^Number{patient}", accession=accession,
        study_uid=uid_of("head_ct", settings.seed, number), series_uid=uid_of("head_ct", settings.seed, number, "soft"),
        spacing=(pixel, pixel), orientation=orientation, thickness=round(thickness[0], 3),
        signed=maker_b, intercept=0.0 if maker_b else -1024.0, padding=-2000 if maker_b else None,
        maker="Phantom B" if maker_b else "Phantom A", kernel="STANDARD" if maker_b else "H31s", tilt=round(tilt, 2),
        age=age, sex=sex, syntax=str(scan.choice(["jpeg2000", "rle"])) if maker_b else "explicit",
    )  # fmt: skip
    noise = _rng(settings, "noise", number)
    slices, mask = _draw_slices(head, first, orientation, settings, noise, False)
    if maker_b:  # this maker reconstructs a circle
        grid = np.arange(settings.size) - (settings.size - 1) / 2
        outside = np.hypot(grid[None], grid[:, None]) > settings.size / 2
        slices = [np.where(outside, np.nan, s) for s in slices]
    order = range(len(slices))[:: int(scan.choice([1, -1]))]
    folder = root / "dicom" / f"S{number:05d}"
    names = [f"IM{i:04d}.dcm" for i in range(len(slices))]
    write_slices(folder / "SE2", header, [slices[i] for i in order], [first[i] for i in order], names)
    if scan.random() < 0.15:
        _write_others(folder, header, first, orientation, head, settings, noise)
    np.savez_compressed(root / "truth" / "masks" / f"{accession}.npz", mask=np.packbits(mask), shape=mask.shape)
    severity = max((f.severity for f in findings if f.kind in CRITICAL), default=0.0)
    text, statements = dictate(
        _rng(settings, "report", number), [(f.kind, f.severity) for f in findings], Noise(settings.unseen), age
    )
    gold_rng = _rng(settings, "gold", number)
    decided = int(critical) if gold_rng.random() >= settings.gold_error else 1 - int(critical)
    readings = []
    for reader, misses, alarms in READERS:
        chance = 1 - misses * (1.5 - severity) if critical else alarms
        readings.append({"accession": accession, "reader": reader, "critical": int(gold_rng.random() < chance)})
    return {
        "report": {"accession": accession, "report": text},
        "gold": {"accession": accession, "critical": decided} if is_gold else None,
        "readers": readings if is_gold else [],
        "truth": {
            "accession": accession,
            "severity": round(severity, 4),
            "critical": int(critical),
            "findings": ";".join(f"{f.kind}={f.severity:.3f}" for f in findings),
            "maker": header.maker,
            "slices": len(slices),
        },
        "statements": [{"accession": accession} | asdict(s) | {"known": int(s.known)} for s in statements],
    }


def _write_others(
    folder: Path, header: Header, first: np.ndarray, orientation: list[float], head: Any, settings: PhantomSettings,
    rng: Generator,
) -> None:  # fmt: skip
    """What lies beside the right series in practice: a localiser and a series with a bone kernel."""
    base = asdict(header)
    scout = Header(**(base | {
        "series_uid": header.series_uid + ".1", "orientation": (0, 1, 0, 0, 0, -1), "padding": None,
        "image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER"), "kernel": "",
    }))  # fmt: skip
    write_slices(folder / "SE1", scout, [np.zeros((64, 64))], [(0, -100, 100)], ["IM0000.dcm"])
    bone = Header(**(base | {"series_uid": header.series_uid + ".3", "kernel": "H70h", "padding": None}))
    some = first[::3]
    slices, _ = _draw_slices(head, some, orientation, settings, rng, True)
    write_slices(folder / "SE3", bone, slices, list(some), [f"IM{i:04d}.dcm" for i in range(len(some))])


# --- the folder ---


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Fill the empty folder `root`."""
    DICOM.require("The phantom")
    (root / "truth" / "masks").mkdir(parents=True)
    make = partial(make_study, root=root, settings=settings)
    made = parallel_map(make, range(settings.studies), "Drawing synthetic head CTs", workers)
    write_table(root / "reports.csv", [m["report"] for m in made])
    write_table(root / "gold.csv", [m["gold"] for m in made if m["gold"]])
    write_table(root / "readers.csv", [r for m in made for r in m["readers"]])
    write_table(root / "truth" / "truth.csv", [m["truth"] for m in made])
    write_table(root / "truth" / "statements.csv", [s for m in made for s in m["statements"]])
    lines = [f"{name} = {value}" for name, value in settings.model_dump().items()]
    (root / "SYNTHETIC.txt").write_text(
        "Everything in this folder is synthetic: no picture is of a head, no patient, report or physician exists.\n"
        "truth/ holds what the pictures and reports were made from; it is for scoring, never a feature.\n"
        f"Made by pipelines.head_ct.phantom.dataset, version {PHANTOM_VERSION}:\n\n" + "\n".join(lines) + "\n"
    )


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    make = partial(make_phantom, settings=settings, workers=workers)
    return ensure_folder(cache_dir, "head_ct", PHANTOM_VERSION, settings.model_dump(), make)
