"""Published numbers: Hannun et al. 2019, and the notebook that its authors released with the test set (328 records)."""

from __future__ import annotations

from pipelines.shared.judging.published import Published

PAPER = "Hannun 2019, 328 records"
NOTEBOOK = "authors' notebook, 328 records"

# F1 of the six cardiologists against the committee, (sequence, set).
CARDIOLOGISTS: dict[str, tuple[float, float]] = {
    "AF": (0.677, 0.686),
    "AVB": (0.772, 0.761),
    "BIGEMINY": (0.842, 0.853),
    "EAR": (0.482, 0.536),
    "IVR": (0.632, 0.720),
    "JUNCTIONAL": (0.692, 0.679),
    "NOISE": (0.768, 0.685),
    "SINUS": (0.852, 0.910),
    "SVT": (0.451, 0.564),
    "TRIGEMINY": (0.842, 0.812),
    "VT": (0.566, 0.769),
    "WENCKEBACH": (0.591, 0.738),
    "weighted": (0.753, 0.780),
}
FLEISS_KAPPA = 0.645


CHALLENGE = Published("Best entries, F1 (mean of N, A and O) on hidden recordings", 0.83, source="CinC Challenge 2017")
NUMBERS = [
    Published("Network, F1, support-weighted, sequence level", 0.809, source=NOTEBOOK),
    Published("Network, F1, support-weighted, set level", 0.831, source=NOTEBOOK),
    Published("Network, F1, support-weighted, set level", 0.837, source=PAPER),
    Published("Network, AUROC, support-weighted, sequence level", 0.978, source=PAPER),
    Published("Network, AUROC, support-weighted, set level", 0.977, source=PAPER),
    Published("Six cardiologists, F1, support-weighted, sequence level", CARDIOLOGISTS["weighted"][0], source=NOTEBOOK),
    Published("Six cardiologists, F1, support-weighted, set level", CARDIOLOGISTS["weighted"][1], source=NOTEBOOK),
    Published("Six cardiologists, Fleiss' kappa", FLEISS_KAPPA, source=NOTEBOOK),
]
