"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

from functools import partial

from pipelines.retinopathy import published
from pipelines.retinopathy.config import RetinopathyConfig
from pipelines.retinopathy.metrics import headline_task, split_metrics, untaught_tasks
from pipelines.retinopathy.sections import graders_readings, report_sections
from pipelines.shared.judging.error_gallery import saliency_estimate
from pipelines.shared.judging.readers import against_readers
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_metrics
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.operating_points import point_estimates
from pipelines.shared.study import Evidence, Results


def evaluate(evidence: Evidence[RetinopathyConfig]) -> Results:
    """All results of a run."""
    test, bootstrap = evidence.predictions["test"], evidence.bootstrap
    task = headline_task(test)
    headline = f"test.{task.name}.auroc"
    untaught = untaught_tasks(evidence.untaught)
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        metrics |= split_metrics(rows, split, bootstrap, untaught)
    points, rates = point_estimates(test, evidence.operating_points, bootstrap)
    subgroups = subgroup_estimates(evidence, task.known(test), partial(task.auroc, bootstrap=bootstrap))
    metrics |= rates | subgroup_metrics(headline, subgroups)
    compared = against_readers(evidence, test, task, points, task.name, graders_readings(evidence, task))
    metrics |= compared.metrics if compared is not None else {}
    saliency = saliency_estimate(evidence, bootstrap)
    if saliency is not None:
        metrics["test.saliency.lesion_auroc"] = saliency
    warnings = []
    if task.name != "referable":
        lacking = "network was never taught" if "dme" in untaught else "source has no labels of"
        warnings.append(f"The {lacking} macular oedema: the headline is moderate-or-worse, not referable DR.")
    if not any(point["task"] == task.name for point in points):
        warnings.append(f"No operating points for {task.inline}: training or val lacked a class.")
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=f"AUROC, {task.inline}",
        chance=0.5,
        oracle=task.oracle(test, evidence.records, f"truth_{task.name}", bootstrap),
        operating_points=points,
        paper=published.NUMBERS,
        departures=_departures(evidence),
        sections=report_sections(evidence, task, metrics, points, subgroups, saliency, compared),
        warnings=warnings,
    )


def _outputs(config: RetinopathyConfig) -> str:
    thresholds = "ordered grade thresholds" + (" of one score" if config.loss.grade == "cumulative" else "")
    squared = f"; the expected grade's squared error counts {config.loss.expected_grade:g} times"
    return (
        f"four {thresholds}, macular oedema, gradability; referable from the second and the fifth"
        f"{squared if config.loss.expected_grade else ''}"
    )


def _departures(evidence: Evidence[RetinopathyConfig]) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config = evidence.config
    model, points = config.model, config.operating_points
    networks = "one network" if model.networks == 1 else f"{model.networks} networks"
    train = len(evidence.training)
    readers = evidence.readers
    graders = "one grade per image" if readers is None else f"{readers['reader'].nunique()} graders"
    rows = [
        (
            "Network",
            "Inception-v3 at 299 px, ImageNet weights, 10 networks averaged",
            f"{model.backbone} at {config.preprocess.size} px, weights: {model.weights}, {networks}{model.views}",
        ),
        ("Images to learn from", "128,175, each graded by 3 to 7 ophthalmologists", f"{train:,}, {graders}"),
        (
            "Outputs",
            "referable disease and several grades as binary outputs of one network",
            _outputs(config),
        ),
        (
            "Operating points",
            "two, fixed on the development set",
            f"specificity {points.high_specificity:g} and sensitivity {points.high_sensitivity:g} on val",
        ),
        (
            "Judged on",
            "two sets from other clinics",
            "held-out groups of one source, unless mode=evaluate says otherwise",
        ),
    ]
    return rows if train else rows[:1] + rows[2:]
