"""How a run is judged, and what its report shows. No torch."""

from __future__ import annotations

from pipelines.nodules.config import NodulesConfig
from pipelines.nodules.metrics import NODULE
from pipelines.shared.judging.cohort import Cohort
from pipelines.shared.judging.report import Section
from pipelines.shared.judging.sections import calibration_section, operating_points_section, roc_blocks
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results


def evaluate(evidence: Evidence[NodulesConfig]) -> Results:
    """All results of a run."""
    test, bootstrap = evidence.predictions["test"], evidence.bootstrap
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        metrics |= NODULE.metrics(rows, split, bootstrap, calibration=True, untaught=evidence.untaught.get(NODULE.name))
    points, rates = point_estimates(test, evidence.operating_points, bootstrap)
    cohort = Cohort(evidence.records)
    cohort.counts("Pictures", "Patients (groups)")
    cohort.share("With a nodule", NODULE.target)
    return Results(
        metrics=metrics | rates,
        headline="test.nodule.auroc",
        sentence="AUROC, nodule",
        chance=0.5,
        oracle=NODULE.oracle(test, evidence.records, "truth_nodule", bootstrap),
        operating_points=points,
        paper=[],
        departures=[],
        sections=[
            Section("Cohort", [cohort.table("The cohort by split.")]),
            Section("Discrimination", roc_blocks(evidence, test, [NODULE], metrics, "Test.", points=points)),
            operating_points_section(evidence, test, NODULE, points),
            calibration_section(evidence, test, [NODULE], metrics),
        ],
    )
