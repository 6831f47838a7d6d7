"""The phantom's twenty diseases: how frequent they are, how they look, what they are mistaken for.

How a lesion looks is a set of named amounts (`Looks`); a disease is their means. The signs are those that dermoscopy
names (Argenziano et al., J Am Acad Dermatol 48:679, 2003; Kittler et al., ibid. 74:1093, 2016), drawn by `drawing`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.random import Generator


@dataclass(frozen=True)
class Looks:
    """Amounts of what is drawn. Pigments are optical densities, counts are means of Poisson numbers."""

    size: float = 0.5  # diameter over the picture's shorter side
    melanin: float = 0.0
    haem: float = 0.0  # blood: redness
    blue: float = 0.0  # melanin deep in the dermis
    irregular: float = 0.1  # of the border
    soft: float = 0.06  # width of the border
    variegation: float = 0.15  # unevenness of colour, with one eccentric dark patch
    network: float = 0.0  # reticular lines
    globules: float = 0.0  # brown dots
    streaks: float = 0.0  # radial lines at the border
    cysts: float = 0.0  # white dots (milia-like cysts)
    openings: float = 0.0  # dark plugs (comedo-like openings)
    vessels: float = 0.0  # branching vessels
    dots: float = 0.0  # dotted vessels
    scale: float = 0.0  # white flakes
    scar: float = 0.0  # white patch in the middle
    lacunae: float = 0.0  # red lagoons
    ulcer: float = 0.0  # erosion
    ring: float = 0.0  # annular
    papules: float = 0.0  # several small bumps instead of one body

    def array(self) -> np.ndarray:
        """The amounts as (features,)."""
        return np.array([getattr(self, f.name) for f in fields(self)])

    @classmethod
    def from_array(cls, values: np.ndarray) -> Looks:
        """The inverse of `array`."""
        return cls(**{f.name: float(v) for f, v in zip(fields(cls), values, strict=True)})


@dataclass(frozen=True)
class Disease:
    """Share of all lesions, age in years (mean), looks, and what it is mistaken for."""

    share: float
    age: float
    looks: Looks
    mistaken_for: tuple[str, ...]


DISEASES: dict[str, Disease] = {
    "common_nevus": Disease(
        0.13, 38, Looks(0.42, 0.85, irregular=0.06, soft=0.05, variegation=0.12, network=0.5, globules=6),
        ("atypical_nevus", "superficial_spreading_melanoma", "dermatofibroma"),
    ),
    "atypical_nevus": Disease(
        0.08, 40, Looks(0.52, 0.95, irregular=0.13, soft=0.10, variegation=0.32, network=0.6, globules=8),
        ("common_nevus", "superficial_spreading_melanoma", "lentigo_maligna"),
    ),
    "blue_nevus": Disease(
        0.03, 40, Looks(0.40, 0.5, blue=1.0, irregular=0.05, soft=0.05, variegation=0.1),
        ("nodular_melanoma", "common_nevus"),
    ),
    "flat_seborrheic_keratosis": Disease(
        0.08, 63, Looks(0.56, 0.5, 0.2, irregular=0.12, soft=0.04, variegation=0.2, cysts=6, openings=5, scale=0.15),
        ("basal_cell_carcinoma", "lentigo_maligna", "actinic_keratosis"),
    ),
    "raised_seborrheic_keratosis": Disease(
        0.07, 66, Looks(0.55, 0.75, 0.2, irregular=0.1, soft=0.03, variegation=0.25, cysts=11, openings=9, scale=0.35),
        ("squamous_cell_carcinoma", "nodular_melanoma", "flat_seborrheic_keratosis"),
    ),
    "wart": Disease(
        0.03, 30, Looks(0.42, 0.15, 0.25, irregular=0.1, dots=10, scale=0.4, papules=8),
        ("squamous_cell_carcinoma", "darier_disease"),
    ),
    "dermatofibroma": Disease(
        0.05, 46, Looks(0.42, 0.55, 0.2, irregular=0.05, soft=0.14, variegation=0.1, network=0.35, scar=1.0),
        ("common_nevus", "basal_cell_carcinoma"),
    ),
    "cherry_angioma": Disease(
        0.04, 52, Looks(0.38, 0.0, 1.1, irregular=0.05, soft=0.03, lacunae=8),
        ("kaposi_sarcoma", "nodular_melanoma"),
    ),
    "superficial_spreading_melanoma": Disease(
        0.10, 59, Looks(0.64, 1.1, blue=0.25, irregular=0.2, variegation=0.55, network=0.4, globules=8, streaks=8),
        ("atypical_nevus", "common_nevus", "lentigo_maligna"),
    ),
    "nodular_melanoma": Disease(
        0.05, 64, Looks(0.58, 1.2, 0.3, 0.7, 0.14, 0.04, 0.55, globules=4, ulcer=0.35),
        ("superficial_spreading_melanoma", "blue_nevus", "raised_seborrheic_keratosis"),
    ),
    "lentigo_maligna": Disease(
        0.03, 70, Looks(0.68, 0.75, irregular=0.26, soft=0.13, variegation=0.55, network=0.3, globules=5, openings=3),
        ("flat_seborrheic_keratosis", "atypical_nevus"),
    ),
    "basal_cell_carcinoma": Disease(
        0.09, 69, Looks(0.5, 0.25, 0.4, 0.15, 0.14, vessels=6, ulcer=0.35, globules=4),
        ("flat_seborrheic_keratosis", "squamous_cell_carcinoma", "dermatofibroma"),
    ),
    "squamous_cell_carcinoma": Disease(
        0.05, 72, Looks(0.54, 0.12, 0.5, irregular=0.16, soft=0.06, scale=0.6, ulcer=0.35, dots=12),
        ("raised_seborrheic_keratosis", "actinic_keratosis", "basal_cell_carcinoma"),
    ),
    "actinic_keratosis": Disease(
        0.03, 71, Looks(0.5, 0.1, 0.45, irregular=0.2, soft=0.14, scale=0.5, dots=6),
        ("squamous_cell_carcinoma", "flat_seborrheic_keratosis", "nummular_eczema"),
    ),
    "kaposi_sarcoma": Disease(
        0.02, 58, Looks(0.5, 0.0, 0.85, 0.5, 0.15, 0.08, lacunae=2),
        ("cherry_angioma", "nodular_melanoma"),
    ),
    "mycosis_fungoides": Disease(
        0.02, 57, Looks(0.74, 0.0, 0.35, irregular=0.25, soft=0.14, variegation=0.3, scale=0.25),
        ("nummular_eczema", "plaque_psoriasis"),
    ),
    "plaque_psoriasis": Disease(
        0.03, 45, Looks(0.76, 0.0, 0.65, irregular=0.15, soft=0.04, scale=0.9, dots=18),
        ("nummular_eczema", "mycosis_fungoides"),
    ),
    "nummular_eczema": Disease(
        0.03, 40, Looks(0.7, 0.0, 0.5, irregular=0.2, soft=0.15, variegation=0.35, scale=0.35, ulcer=0.2),
        ("plaque_psoriasis", "mycosis_fungoides", "actinic_keratosis"),
    ),
    "granuloma_annulare": Disease(
        0.02, 35, Looks(0.66, 0.0, 0.45, irregular=0.08, soft=0.07, ring=1.0),
        ("nummular_eczema", "basal_cell_carcinoma"),
    ),
    "darier_disease": Disease(
        0.02, 35, Looks(0.72, 0.35, 0.3, scale=0.35, papules=20),
        ("wart", "nummular_eczema"),
    ),
}  # fmt: skip
NAMES = list(DISEASES)
AVERAGE = np.average([d.looks.array() for d in DISEASES.values()], axis=0, weights=[d.share for d in DISEASES.values()])


def draw_looks(rng: Generator, disease: str, contrast: float, atypia: float) -> Looks:
    """How one lesion looks: the disease's means, drawn towards the average of all (`contrast` < 1) and by up to
    `atypia` towards a disease it is mistaken for, each amount varied by about a third.
    """
    own = AVERAGE + contrast * (DISEASES[disease].looks.array() - AVERAGE)
    other = DISEASES[str(rng.choice(DISEASES[disease].mistaken_for))].looks.array()
    share = atypia * rng.random()
    values = ((1 - share) * own + share * other) * np.exp(rng.normal(0, 0.3, len(own)))
    return Looks.from_array(np.clip(values, 0, None))


def recorded_shares(disease: str, label_noise: float) -> dict[str, float]:
    """What is recorded for a lesion of a disease: itself, or one it is mistaken for with `label_noise` in all."""
    others = DISEASES[disease].mistaken_for
    return {disease: 1 - label_noise} | {other: label_noise / len(others) for other in others}
