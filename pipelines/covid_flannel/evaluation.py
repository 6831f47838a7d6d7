"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

import pandas as pd

from pipelines.covid_flannel import published
from pipelines.covid_flannel.config import CLASSES, COVID, CovidConfig
from pipelines.covid_flannel.metrics import (
    NAMES,
    auroc_metrics,
    chance_of,
    comparisons,
    point_metrics,
    table_metrics,
    task_of,
)
from pipelines.covid_flannel.protocol import FIXED, fold_numbers
from pipelines.covid_flannel.sections import answered, bound, highest, report_sections, verdict
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_metrics
from pipelines.shared.run_folder import read_table
from pipelines.shared.stats.auc import auroc_difference, auroc_estimate
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Comparison, Estimate
from pipelines.shared.study import Evidence, Results
from pipelines.shared.untaught import undefined_classes

Covid = Evidence[CovidConfig]


def evaluate(evidence: Covid) -> Results:
    """All results of a run."""
    test, bootstrap = evidence.predictions["test"], evidence.bootstrap
    metrics: dict[str, Estimate] = {}
    for split, rows in evidence.predictions.items():
        metrics |= undefined_classes(table_metrics(rows, split, bootstrap), evidence.untaught)
    metrics |= undefined_classes(auroc_metrics(test, bootstrap), evidence.untaught)
    compared = comparisons(test, bootstrap)
    metrics |= {f"test.flannel.macro_f1_minus[{rival}]": c.difference for rival, c in compared.items()}
    points, rates = point_metrics(test, evidence.operating_points, bootstrap)
    metrics |= rates
    flannel = task_of("flannel")
    oracle = flannel.oracle(test, evidence.records, "truth", bootstrap)
    if oracle is not None:
        metrics["test.oracle.macro_f1"] = oracle
    shortcuts, leads = _shortcuts(evidence, test, bootstrap)
    metrics |= {f"test.shortcut.{name}": estimate for name, estimate in shortcuts.items()}
    metrics |= {f"test.flannel.auroc_minus_shortcut[{name}]": lead.difference for name, lead in leads.items()}
    subgroups = []
    if COVID not in evidence.untaught:
        subgroups = subgroup_estimates(evidence, test, lambda rows: flannel.auroc(rows, COVID, bootstrap))
    metrics |= subgroup_metrics("test.flannel.auroc", subgroups)
    return Results(
        metrics=metrics,
        headline="test.flannel.macro_f1",
        sentence="FLANNEL's macro-F1 over normal, bacterial, other viral pneumonia and COVID-19",
        chance=chance_of(test),
        chance_note="answers drawn with the classes' own frequencies",
        oracle=oracle,
        operating_points=points,
        paper=published.NUMBERS,
        departures=_departures(evidence),
        sections=report_sections(evidence, metrics, points, compared, shortcuts, leads, subgroups),
        warnings=_warnings(evidence, test, shortcuts, leads, compared),
    )


def _shortcuts(
    evidence: Covid, test: pd.DataFrame, bootstrap: Bootstrap
) -> tuple[dict[str, Estimate], dict[str, Comparison]]:
    """AUROC of every shortcut test, and FLANNEL's lead over those that speak of COVID-19."""
    file = evidence.folder.path / "shortcuts.parquet"
    if not file.exists():
        return {}, {}
    aurocs, leads = {}, {}
    flannel = test.groupby("id")[f"p_{COVID}"].mean()
    table = read_table(file, ["test", "truth", "score", "group", "id"])
    for name, rows in ((str(name), rows) for name, rows in table.groupby("test", sort=False)):
        truth, score, group = (rows[column].to_numpy() for column in ("truth", "score", "group"))
        aurocs[name] = auroc_estimate(truth, score, group, bootstrap=bootstrap)
        scored = rows["id"].isin(flannel.index).to_numpy()
        about_covid = name.endswith(f"[{COVID}]") and not name.startswith("source")
        if about_covid and scored.any() and COVID not in evidence.untaught:
            of_flannel = flannel.reindex(rows["id"][scored]).to_numpy()
            leads[name.split("[")[0]] = auroc_difference(
                truth[scored], of_flannel, score[scored], group[scored], bootstrap=bootstrap
            )
    return aurocs, leads


def _warnings(
    evidence: Covid,
    test: pd.DataFrame,
    shortcuts: dict[str, Estimate],
    leads: dict[str, Comparison],
    compared: dict[str, Comparison],
) -> list[str]:
    """What may spoil the result, for the top of the report."""
    config, records = evidence.config, evidence.records
    warnings = []
    for kind, comparison in leads.items():
        lead, alone = comparison.difference, shortcuts[f"{kind}[{COVID}]"]
        where = "frames without a centre" if kind == "border" else "heavily blurred pictures"
        if lead.low is not None and lead.low <= 0:
            warnings.append(
                f"The result for COVID-19 cannot be told from a shortcut: {where} give an AUROC of {alone}, and "
                f"FLANNEL's lead over that is {lead}."
            )
        elif alone.low is not None and alone.low > 0.5:
            warnings.append(
                f"There is a shortcut: {where} tell COVID-19 with an AUROC of {alone}; FLANNEL does better by {lead}."
            )
    if "best_base" in compared:
        lead = compared["best_base"].difference
        if lead.low is None or lead.low <= 0:
            warnings.append(verdict(lead))
    if records["source"].nunique() > 1:
        share = records.groupby("source")["label"].apply(lambda labels: float((labels == COVID).mean()))
        if share.max() > 0.3 > 0.1 > share.min():
            warnings.append(
                f"Most COVID-19 pictures come from one source ({share.idxmax()}): age and scanner go with the class."
            )
    if config.protocol == "released":
        warnings.append(
            "protocol=released: pictures were shuffled, not patients, and the ensemble learned from in-sample "
            "predictions; scores come out too high. It shows what the authors did."
        )
    missed = [NAMES[c] for c in evidence.untaught if (test["label"] == c).any()]
    if missed:
        warnings.append(
            f"Test has pictures of {', '.join(missed)}, which training lacks: all are errors, also in macro-F1."
        )
    absent = [NAMES[c] for c in CLASSES if not (records["label"] == c).any()]
    if absent:
        warnings.append(f"Classes without any picture: {', '.join(absent)}. The macro-F1 leaves them out.")
    if "fold" in records:
        there = len(fold_numbers(records))
        if there < config.fold_count:
            warnings.append(f"{there} folds instead of {config.fold_count}: the rarest class allows no more.")
        if (records["fold"] == FIXED).any():
            warnings.append("A fixed test part is scored by every fold: its pictures count once per fold.")
        done = test["fold"].nunique()
        if done < there or config.learners is not None:
            learners = f"{len(config.chosen_learners)} of {len(config.base_learners)} base learners"
            warnings.append(f"A part of the cross-validation: {done} of {there} folds, {learners}.")
    if config.ensemble.weights == "softmax":
        limit, most = bound(answered(test)), highest(test)
        warnings.append(f"Softmax weights: no probability can exceed {limit:.3f} (here {most:.3f}); not calibrated.")
    return warnings


def _departures(evidence: Covid) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config = evidence.config
    learners = "; ".join(
        f"{name}: {one.backbone or config.model.backbone} at {one.crop} px, "
        f"weights: {one.weights or config.model.weights}"
        for name, one in config.base_learners.items()
        if name in config.chosen_learners
    )
    learners += config.model.views
    stage2 = config.ensemble
    split = (
        "by patient; base learners, ensemble and test on different patients"
        if config.protocol == "strict"
        else "as released: by picture, the ensemble in-sample, one test part for all folds"
    )
    trained = f"{config.learning}, best {config.kept} by {config.trainer.monitor}"
    return [
        ("Base learners", "Inception-v3, VGG19-bn, ResNeXt101, ResNet152, DenseNet161, ImageNet weights", learners),
        (
            "Pictures",
            "5,508 of 2,874 patients; 100 COVID-19, 1,504 viral, 2,786 bacterial, 1,118 normal",
            f"{len(evidence.records):,} of {evidence.records['group'].nunique():,} patients",
        ),
        ("Split", "pictures shuffled; the ensemble learns from in-sample base predictions", split),
        ("Stage 1", "Adam, 0.001, weight decay 0.0001, divided by 10 at epoch 150 of 200", trained),
        ("Class weights of stage 1", "none", f"(1 / images) to the power {config.loss.class_balance:g}"),
        (
            "Stage 2",
            "outer product, focal loss with inverse class frequency; released code: tanh weights, gamma 10",
            f"{stage2.weights} weights, gamma {stage2.gamma:g}, alpha {'on' if stage2.alpha else 'off'}, "
            f"{stage2.epochs} epochs, all of them",
        ),
        (
            "PA views",
            "mirrored, with random noise, to resemble AP",
            "the same" if config.preprocess.pa_to_ap else "as they are",
        ),
        ("Standard deviation", "over five folds", "over folds, and intervals from resampling patients over all folds"),
    ]
