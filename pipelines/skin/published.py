"""The paper's own numbers. Its accuracy is the mean of the classes' accuracies: balanced accuracy."""

from __future__ import annotations

from pipelines.shared.judging.published import Published

CURVES = "Esteva 2017, biopsy-proven test images"
FOLDS = "Esteva 2017, validation images, nine folds"
READERS = "Esteva 2017, part of the validation images"

NUMBERS = [
    Published.over_folds("Three-way accuracy (mean of the classes')", 0.721, 0.009, source=FOLDS),
    Published("Three-way accuracy, two dermatologists: first", 0.656, source=READERS),
    Published("Three-way accuracy, two dermatologists: second", 0.660, source=READERS),
    Published("Three-way accuracy, trained on the three classes", 0.694, source=FOLDS),
    Published.over_folds("Nine-way accuracy (mean of the classes')", 0.554, 0.017, source=FOLDS),
    Published("Nine-way accuracy, two dermatologists: first", 0.533, source=READERS),
    Published("Nine-way accuracy, two dermatologists: second", 0.550, source=READERS),
    Published("Nine-way accuracy, trained on the nine classes", 0.489, source=FOLDS),
    Published("AUC, carcinoma", 0.96, source=CURVES),
    Published("AUC, melanoma", 0.94, source=CURVES),
    Published("AUC, melanoma in dermoscopy", 0.91, source=CURVES),
]
