"""What is put behind a trained network's outputs and chosen on val: a temperature, and a correction for the prior.

softmax(outputs / T - tau * log prior), with the training part's class frequencies as the prior. T makes a trained
network's probabilities as sure as they are right on val (Guo et al., ICML 2017). tau = 1 then answers as if all classes
were equally frequent (Menon et al., Long-tail learning via logit adjustment, ICLR 2021, section 4.2) where training
neither weighted nor balanced them. Weights (1 / count) ** b in the loss, and `trainer.sampling_power=b`, teach the
prior to the power 1 - b, which lies on the same line: there tau = 1 - b does the same. So tau is chosen on val, not
set, and a negative one takes back what weights did.

Both are frozen with the network, in its model.json under `calibration`. Every answer goes through them, an export's
too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from pipelines.shared.errors import StatisticsError
from pipelines.shared.learning.progress import better
from pipelines.shared.log import log
from pipelines.shared.sections import CalibrationSection
from pipelines.shared.stats.temperature import best_temperature

# Strengths of the prior's correction that are tried, in the order in which they win a tie.
STRENGTHS = [0.0, *(sign * k / 8 for k in range(1, 13) for sign in (1, -1))]


class Calibrated(nn.Module):
    """A network with a temperature and a correction for the prior behind it.

    Input as the network's; output (batch, classes): outputs / temperature - shift.

    Args:
        network: records to outputs (batch, classes).
        temperature: above 0.
        shift: (classes,) what is taken from the outputs, tau * log prior.
    """

    shift: torch.Tensor

    def __init__(self, network: nn.Module, temperature: float, shift: np.ndarray) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        self.register_buffer("shift", torch.from_numpy(shift.astype(np.float32)), persistent=False)

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Calibrated outputs, (batch, classes)."""
        tempered: torch.Tensor = self.network(records).float() / self.temperature - self.shift
        return tempered


def calibrated(network: nn.Module, model: dict[str, Any]) -> nn.Module:
    """A finished network with what its model.json has under `calibration`; the network itself where it has nothing."""
    chosen = model.get("calibration")
    if not chosen:
        return network
    return Calibrated(network, chosen["temperature"], chosen["prior_strength"] * np.asarray(chosen["log_prior"]))


def choose_calibration(
    section: CalibrationSection,
    counts: np.ndarray,
    never: np.ndarray,
    targets: np.ndarray,
    outputs: Callable[[], np.ndarray],
    measure: Callable[[np.ndarray], dict[str, float]],
    monitor: str,
) -> dict[str, Any]:
    """Choose on val what the configuration asks for: the temperature first, then how strong the prior's correction is.

    Args:
        section: what is asked for.
        counts: (classes,) training records of each class.
        never: (classes,) bool, the classes that nothing taught.
        targets: (records,) class numbers of val, NaN where unknown.
        outputs: predicts val, (records, classes); not called where nothing is asked for.
        measure: outputs for val to what can be monitored.
        monitor: which of it chooses the strength; of several equally good ones that nearest to 0 is taken.

    Returns:
        For model.json: temperature, prior_strength, log_prior (classes,), and of val `monitor` as it was and as it is.
        Nothing where nothing is asked for.
    """
    if not (section.temperature or section.prior):
        return {}
    raw = np.asarray(outputs(), np.float64)
    # A class without training records has no frequency to correct for.
    log_prior = np.where(counts > 0, np.log(np.maximum(counts, 1) / max(counts.sum(), 1)), 0.0)
    temperature, strength = 1.0, 0.0
    if section.temperature:
        try:
            temperature = best_temperature(np.where(never, -np.inf, raw), targets)
        except StatisticsError as reason:
            log.warning(f"calibration.temperature=true: val gives none ({reason}); it stays 1")

    def judged(tau: float) -> float:
        return measure((raw / temperature - tau * log_prior).astype(np.float32))[monitor]

    if section.prior:
        values = {tau: judged(tau) for tau in STRENGTHS}
        for tau in STRENGTHS:
            if better(values[tau], values[strength], monitor):
                strength = tau
    before, after = measure(raw.astype(np.float32))[monitor], judged(strength)
    log.info(
        f"calibration on val: temperature {temperature:.4g}, prior's strength {strength:g}: {monitor} "
        f"{before:.4f} -> {after:.4f}"
    )
    return {
        "temperature": temperature,
        "prior_strength": strength,
        "log_prior": log_prior.tolist(),
        "val": {"monitor": monitor, "before": before, "after": after},
    }
