"""The paper's own numbers."""

from __future__ import annotations

from pipelines.shared.judging.published import Published

EYEPACS = "Gulshan 2016, EyePACS-1"
MESSIDOR = "Gulshan 2016, Messidor-2"

NUMBERS = [
    Published("AUC, referable DR", 0.991, 0.988, 0.993, source=EYEPACS),
    Published("Sensitivity, high specificity", 0.903, source=EYEPACS),
    Published("Specificity, high specificity", 0.981, source=EYEPACS),
    Published("Sensitivity, high sensitivity", 0.975, source=EYEPACS),
    Published("Specificity, high sensitivity", 0.934, source=EYEPACS),
    Published("AUC, referable DR", 0.990, 0.986, 0.995, source=MESSIDOR),
    Published("Sensitivity, high specificity", 0.870, source=MESSIDOR),
    Published("Specificity, high specificity", 0.985, source=MESSIDOR),
    Published("Sensitivity, high sensitivity", 0.961, source=MESSIDOR),
    Published("Specificity, high sensitivity", 0.939, source=MESSIDOR),
]
