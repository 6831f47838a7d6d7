"""A synthetic set of fundus photographs with several graders, whose truth is known.

What is drawn (by `drawing`) follows the international clinical scale (Wilkinson et al., Ophthalmology 2003):
microaneurysms only in mild, also haemorrhages, exudates and cotton-wool spots in moderate, beading and IRMA in severe,
new vessels and preretinal haemorrhage in proliferative retinopathy; their number grows with a continuous latent
severity. Graders see that severity through a bias and a noise of their own.

    images/<image_id>.jpg             8-bit colour; image_id is p0001_left, p0001_right, …
    grades.csv                        image_id, grader, grade (0-4), dme (0/1), gradable (0/1); one row per image and
                                      grader; grade and dme are empty where that grader called it ungradable
    metadata.csv                      image_id, patient_id, eye, camera, age, sex
    truth/truth.csv                   image_id, severity, grade, dme_severity, dme, gradable, center_x, center_y, radius
    truth/masks/<image_id>.png        lesions, 0/255, for the images that show any (venous beading is not in them)
    SYNTHETIC.txt                     says that all is synthetic, and by which settings it was made

Nothing in truth/ may serve as a feature.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from pipelines.retinopathy.phantom.artist import draw_eye
from pipelines.retinopathy.phantom.camera import CAMERAS, DEFECTS, Camera, aim, photograph
from pipelines.retinopathy.phantom.canvas import Bytes
from pipelines.retinopathy.phantom.lesions import Difficulty
from pipelines.retinopathy.phantom.retina import Eye
from pipelines.shared.data.phantoms import ensure_folder, write_notice, write_table
from pipelines.shared.screen import parallel_map

PHANTOM_VERSION = 1  # raise it whenever the same settings give other files
EYES = ("left", "right")


@dataclass(frozen=True)
class PhantomSettings:
    """What is made. Fractions are of eyes, and each eye has one image.

    Attributes:
        patients: Each has two eyes, one image of each.
        size: Longest side of the largest images, px (two of the cameras make smaller ones).
        seed: Everything is a function of the settings, this included.
        graders_min: Fewest graders per image.
        graders_max: Most graders per image.
        panel: Graders in all.
        grader_noise: Standard deviation of a grader's reading of the severity (itself a standard normal), on average.
        grader_bias: Standard deviation of the graders' constant errors.
        mild: Fraction with mild retinopathy.
        moderate: Fraction with moderate retinopathy.
        severe: Fraction with severe retinopathy.
        proliferative: Fraction with proliferative retinopathy; what these four leave has none.
        dme: Fraction with macular oedema (a little less comes out: eyes without retinopathy have none).
        ungradable: Fraction whose images are truly ungradable.
        eye_correlation: Correlation of severity between the two eyes of a patient.
        lesion_contrast: Multiplies the lesions' contrast against the retina.
        lesion_size: Multiplies the lesions' diameters.
        lesion_count: Multiplies the lesions' mean numbers.
        distractors: Multiplies the number of harmless findings (drusen, pigment spots, reflections).
        image_noise: Multiplies every camera's noise.
    """

    patients: int = 600
    size: int = 256
    seed: int = 0
    graders_min: int = 3
    graders_max: int = 7
    panel: int = 12
    grader_noise: float = 0.4
    grader_bias: float = 0.15
    mild: float = 0.12
    moderate: float = 0.22
    severe: float = 0.09
    proliferative: float = 0.07
    dme: float = 0.16
    ungradable: float = 0.06
    eye_correlation: float = 0.8
    lesion_contrast: float = 1.0
    lesion_size: float = 1.0
    lesion_count: float = 1.0
    distractors: float = 1.0
    image_noise: float = 1.0

    def __post_init__(self) -> None:
        grades = (self.mild, self.moderate, self.severe, self.proliferative)
        scales = (self.grader_noise, self.grader_bias, self.lesion_contrast, self.lesion_size, self.lesion_count)
        checks = {
            "patients must be at least 1": self.patients >= 1,
            "size must be at least 64": self.size >= 64,
            "seed must not be negative": self.seed >= 0,
            "1 <= graders_min <= graders_max <= panel must hold": (
                1 <= self.graders_min <= self.graders_max <= self.panel
            ),
            "mild, moderate, severe and proliferative must be positive, their sum below 1": (
                min(grades) > 0 and sum(grades) < 1
            ),
            "dme must lie between 0 and 1": 0 < self.dme < 1,
            "ungradable must lie in [0, 1)": 0 <= self.ungradable < 1,
            "eye_correlation must lie in [0, 1]": 0 <= self.eye_correlation <= 1,
            "grader_noise, grader_bias, lesion_contrast, lesion_size, lesion_count, distractors and image_noise "
            "must not be negative": min(*scales, self.distractors, self.image_noise) >= 0,
        }
        for rule, holds in checks.items():
            if not holds:
                raise ValueError(f"phantom: {rule}")

    @property
    def borders(self) -> list[float]:
        """Severities at which mild, moderate, severe and proliferative begin."""
        tails = np.cumsum([self.proliferative, self.severe, self.moderate, self.mild])[::-1]
        return [NormalDist().inv_cdf(1 - float(tail)) for tail in tails]

    @property
    def dme_border(self) -> float:
        """DME severity at which macular oedema begins."""
        return NormalDist().inv_cdf(1 - self.dme)


# Separate random streams, so that changing (say) the lesions' number changes neither the grades nor the vessels.
STREAMS = {"person": 1, "state": 2, "camera": 3, "retina": 4, "lesions": 5, "grades": 6, "panel": 7}


def _rng(settings: PhantomSettings, stream: str, number: int, eye: int = 0) -> Generator:
    """The generator for one stream and one patient (or grader) and eye."""
    return np.random.default_rng([settings.seed, STREAMS[stream], number, eye])


# --- the patients ---


@dataclass(frozen=True)
class Person:
    """What both eyes of a patient share; see `drawing.Eye` for what pigment, tortuosity and drusen mean."""

    severity: float  # standard normal; each eye's own is correlated with it
    age: int  # years
    sex: str
    pigment: float
    tortuosity: float
    drusen: float
    camera: Camera


def _person(settings: PhantomSettings, patient: int) -> Person:
    """Draw a patient. The older are a little sicker, and tend to drusen."""
    rng = _rng(settings, "person", patient)
    severity = float(rng.standard_normal())
    age = int(np.clip(round(57 + 11 * (0.25 * severity + 0.97 * rng.standard_normal())), 20, 90))
    return Person(
        severity=severity,
        age=age,
        sex=str(rng.choice(["female", "male"])),
        pigment=float(rng.beta(1.6, 1.6)),
        tortuosity=float(rng.uniform(0.6, 1.6)),
        drusen=float(rng.gamma(0.5, 1.0) * max(0, age - 35) / 20),
        camera=CAMERAS[int(rng.integers(len(CAMERAS)))],
    )


@dataclass(frozen=True)
class State:
    """The truth about one eye and its image."""

    severity: float  # standard normal over eyes
    grade: int  # 0-4
    dme_severity: float  # standard normal too, but lowered in eyes without retinopathy
    dme: bool
    defect: str | None  # what makes the image ungradable, one of `DEFECTS`


def _state(settings: PhantomSettings, person: Person, patient: int, eye: int) -> State:
    """Draw the truth of one eye. DME severity correlates with that of retinopathy: 0.75 before it is lowered."""
    rng = _rng(settings, "state", patient, eye)
    shared = settings.eye_correlation
    severity = float(np.sqrt(shared) * person.severity + np.sqrt(1 - shared) * rng.standard_normal())
    dme_severity = float(0.75 * severity + np.sqrt(1 - 0.75**2) * rng.standard_normal())
    grade = int(np.searchsorted(settings.borders, severity, side="right"))
    if grade == 0:  # no macular oedema without retinopathy
        dme_severity = min(dme_severity, settings.dme_border - 1)
    defect = str(rng.choice(DEFECTS)) if rng.random() < settings.ungradable else None
    return State(severity, grade, dme_severity, dme_severity > settings.dme_border, defect)


def _level(severity: float, settings: PhantomSettings) -> float:
    """Severity on the scale of the grades, with fractions: 0-1 none, 1-2 mild, … 4-5 proliferative."""
    lowest, highest = settings.borders[0] - 1.5, settings.borders[-1] + 1.2  # beyond them it changes no more
    return float(np.interp(severity, [lowest, *settings.borders, highest], [0, 1, 2, 3, 4, 5]))


# --- the graders ---


def _grades(settings: PhantomSettings, state: State, patient: int, eye: int) -> list[dict[str, Any]]:
    """What some graders of the panel say about one image.

    A grader sees each severity with a constant bias of their own and a fresh noise, whose standard deviation is 0.6 to
    1.4 times the settings', by grader; twice that where the image is truly ungradable. They call 1.5 % of the gradable
    and 85 % of the ungradable images ungradable.
    """
    rng = _rng(settings, "grades", patient, eye)
    count = int(rng.integers(settings.graders_min, settings.graders_max + 1))
    gradable = state.defect is None
    rows = []
    for grader in sorted(rng.choice(settings.panel, count, replace=False).tolist()):
        habit = _rng(settings, "panel", grader)
        bias = habit.normal(0, settings.grader_bias, 2)
        noise = settings.grader_noise * habit.uniform(0.6, 1.4) * (1 if gradable else 2)
        seen = np.array([state.severity, state.dme_severity]) + bias + noise * rng.standard_normal(2)
        refused = rng.random() < (0.015 if gradable else 0.85)
        rows.append(
            {
                "grader": f"g{grader + 1:02d}",
                "grade": "" if refused else int(np.searchsorted(settings.borders, seen[0], side="right")),
                "dme": "" if refused else int(seen[1] > settings.dme_border),
                "gradable": int(not refused),
            }
        )
    return rows


# --- the folder ---


def _make_image(item: tuple[int, int], root: Path, settings: PhantomSettings) -> dict[str, Any]:
    """Draw and write one image with its mask; returns its rows of the tables.

    `item` is the number of the patient, from 0, and of the eye in `EYES`.
    """
    patient, eye = item
    person = _person(settings, patient)
    state = _state(settings, person, patient, eye)
    what = Eye(
        age=person.age,
        pigment=person.pigment,
        tortuosity=person.tortuosity,
        drusen=person.drusen,
        level=_level(state.severity, settings),
        dme_excess=state.dme_severity - settings.dme_border,
    )
    difficulty = Difficulty(settings.lesion_contrast, settings.lesion_size, settings.lesion_count, settings.distractors)
    camera, camera_rng = person.camera, _rng(settings, "camera", patient, eye)
    view = aim(camera_rng, camera, settings.size, left=EYES[eye] == "left")
    retina_rng, lesion_rng = _rng(settings, "retina", patient, eye), _rng(settings, "lesions", patient, eye)
    picture, mask = draw_eye(retina_rng, lesion_rng, view, what, difficulty)
    image = photograph(camera_rng, picture, view, camera, settings.image_noise, state.defect)

    patient_id = f"p{patient + 1:04d}"
    image_id = f"{patient_id}_{EYES[eye]}"
    flags = [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality]
    _write_image(root / "images" / f"{image_id}.jpg", image[..., ::-1], flags)
    if mask.any():
        _write_image(root / "truth" / "masks" / f"{image_id}.png", mask)
    return {
        "grades": [{"image_id": image_id, **row} for row in _grades(settings, state, patient, eye)],
        "metadata": {
            "image_id": image_id,
            "patient_id": patient_id,
            "eye": EYES[eye],
            "camera": camera.name,
            "age": person.age,
            "sex": person.sex,
        },
        "truth": {
            "image_id": image_id,
            "severity": round(state.severity, 6),
            "grade": state.grade,
            "dme_severity": round(state.dme_severity, 6),
            "dme": int(state.dme),
            "gradable": int(state.defect is None),
            "center_x": round(view.x, 3),
            "center_y": round(view.y, 3),
            "radius": round(view.radius, 3),
        },
    }


def _write_image(path: Path, image: Bytes, flags: list[int] | None = None) -> None:
    """Write an image (blue, green, red, or grey); unlike OpenCV's own function this raises where it cannot."""
    path.write_bytes(cv2.imencode(path.suffix, image, flags or [])[1].tobytes())


def make_phantom(root: Path, settings: PhantomSettings, workers: int | None = None) -> None:
    """Fill an empty folder. Every image is a function of settings, patient and eye alone, whatever the `workers`."""
    for folder in ("images", "truth/masks"):
        (root / folder).mkdir(parents=True)
    items = [(patient, eye) for patient in range(settings.patients) for eye in range(len(EYES))]
    make = partial(_make_image, root=root, settings=settings)
    made = parallel_map(make, items, "Drawing synthetic fundus photographs", workers)
    write_table(root / "grades.csv", [row for image in made for row in image["grades"]])
    write_table(root / "metadata.csv", [image["metadata"] for image in made])
    write_table(root / "truth" / "truth.csv", [image["truth"] for image in made])
    write_notice(
        root,
        "no picture shows a person's eye, no patient or grader exists.\n"
        "Retinopathy is more frequent here than in screening.",
        f"pipelines.retinopathy.phantom.dataset, version {PHANTOM_VERSION}",
        asdict(settings),
    )


def ensure_phantom(cache_dir: Path, settings: PhantomSettings, workers: int | None = None) -> Path:
    """The folder of the phantom of these settings, made if it is not there."""
    make = partial(make_phantom, settings=settings, workers=workers)
    return ensure_folder(cache_dir, "retinopathy", PHANTOM_VERSION, asdict(settings), make)
