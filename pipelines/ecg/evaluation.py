"""How a run is judged: every metric, the headline, departures from the paper, warnings. No torch."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from pipelines.ecg import published, readers
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import EcgConfig
from pipelines.ecg.labels import unpack
from pipelines.ecg.metrics import (
    CHALLENGE,
    ByClass,
    answered,
    chance,
    known_steps,
    model_metrics,
    recording_metrics,
    step_f1,
    without,
)
from pipelines.ecg.sections import report_sections
from pipelines.ecg.taught import taught
from pipelines.shared.judging.subgroups import subgroup_estimates, subgroup_metrics
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.study import Evidence, Results

CLIPPED = 0.02  # share of samples at the rails from which a window is called clipped
Ecg = Evidence[EcgConfig]


def evaluate(evidence: Ecg) -> Results:
    """All results of a run."""
    labels, missing = evidence.config.labels, dict[str, str]()
    if evidence.networks:
        known = taught(Architecture.of(evidence.networks[0]).trained, labels)
        predictions = {split: answered(rows, known) for split, rows in evidence.predictions.items()}
        evidence, missing = replace(evidence, predictions=predictions), known.missing
    test, bootstrap = evidence.predictions["test"], evidence.bootstrap
    metrics: dict[str, Estimate] = {}
    steps: dict[str, ByClass] = {}  # by split
    recordings: dict[str, ByClass] = {}
    for split, rows in evidence.predictions.items():
        steps[split] = without(model_metrics(rows, bootstrap, areas=split == "test"), missing)
        recordings[split] = without(recording_metrics(rows, labels, bootstrap), missing)
        metrics |= _keyed(split, steps[split] | recordings[split])
    readings, people = _readings(evidence), ByClass()
    if readings is not None:
        people = readers.reader_metrics(readings, bootstrap)
        metrics |= {f"test.{name}.cardiologists_{what}": e for (name, what), e in people.items()}
        metrics["test.agreement.fleiss_kappa"] = readers.kappa_estimate(readings, bootstrap)
    judged = known_steps(test)
    oracle, subgroups = None, []
    if len(judged):
        oracle = _oracle(evidence, judged, bootstrap)
        subgroups = subgroup_estimates(evidence, judged, lambda rows: step_f1(rows, bootstrap))
    if oracle is not None:
        metrics["test.oracle.f1_sequence"] = oracle
    metrics |= subgroup_metrics("test.weighted.f1_sequence", subgroups)
    if len(judged) and people:
        metrics |= _keyed("test", readers.sensitivity_beside(people, judged, missing))
    headline, sentence, by_chance = _headline(test, steps["test"], recordings["test"])
    undefined = Estimate(None, n=len(test), reason="no step and no recording of test has a label")
    metrics.setdefault(headline, undefined)
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=sentence,
        chance=by_chance,
        oracle=oracle,
        operating_points=[],
        paper=[*([published.CHALLENGE] if headline == "test.challenge.f1" else []), *published.NUMBERS],
        departures=_departures(evidence),
        sections=report_sections(
            evidence, steps["test"], recordings["test"], metrics, readings, people, missing, subgroups
        ),
        warnings=_warnings(evidence, test),
        chance_note="answers drawn with the classes' own frequencies",
    )


def _keyed(split: str, estimates: ByClass) -> dict[str, Estimate]:
    return {f"{split}.{name}.{what}": estimate for (name, what), estimate in estimates.items()}


def _readings(evidence: Ecg) -> readers.Readings | None:
    """The cardiologists' readings of the test records."""
    if evidence.readers is None:
        return None
    return readers.readings_of(evidence.records[evidence.records["split"] == "test"], evidence.readers)


def _oracle(evidence: Ecg, judged: pd.DataFrame, bootstrap: Bootstrap) -> Estimate | None:
    """The phantom's true rhythms as answers, against the same committee; `judged`: test steps with a label."""
    if "truth" not in evidence.records:
        return None
    truth = evidence.records.dropna(subset=["truth"]).set_index("record")["truth"].map(unpack)
    rows = judged[judged["record"].isin(truth.index)]
    latent = [truth[record][step] for record, step in zip(rows["record"], rows["step"], strict=True)]
    return step_f1(rows, bootstrap, pd.Series(latent, dtype=object))


def _headline(test: pd.DataFrame, steps: ByClass, whole: ByClass) -> tuple[str, str, float]:
    """Key, words and chance of the headline: the steps where they are labelled, else the recordings."""
    if steps:
        return "test.weighted.f1_sequence", "F1 of twelve rhythms, step by step, average by support", chance(test)
    labelled = test[test["record_label"].notna()].drop_duplicates("record")["record_label"]
    share = labelled.value_counts(normalize=True)
    if ("challenge", "f1") in whole:
        by_chance = float(share.reindex(CHALLENGE).fillna(0).mean())
        return "test.challenge.f1", "F1 of the CinC Challenge 2017: mean of normal, AF and other", by_chance
    return "test.recordings.f1", "F1 of whole recordings, mean over labels", float(share.mean()) if len(share) else 0.0


def _warnings(evidence: Ecg, test: pd.DataFrame) -> list[str]:
    warnings = []
    if evidence.networks:
        architecture = Architecture.of(evidence.networks[0])
        missing = list(taught(architecture.trained, evidence.config.labels).missing)
        there = set(known_steps(test)["target"])
        if missing:
            summed = [name for name in missing if name in architecture.classes]
            never = [name for name in missing if name not in architecture.classes]
            parts = []
            if never:
                parts.append(f"{', '.join(never)} (never answered)")
            if summed:
                parts.append(f"{', '.join(summed)} (only as part of a sum of classes, so which one is a guess)")
            tested = [name for name in missing if name in there]
            tail = f" Test has steps of {', '.join(tested)}: they count as errors." if tested else ""
            warnings.append(f"Classes that training never saw: {'; '.join(parts)}.{tail}")
    clipped = evidence.records.get("clipped")
    if clipped is not None and (clipped > CLIPPED).any():
        count = int((clipped > CLIPPED).sum())
        warnings.append(
            f"{count:,} windows are clipped: more than {100 * CLIPPED:g} % of their samples are at a limit."
        )
    return warnings


def _departures(evidence: Ecg) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config, train = evidence.config, evidence.training
    scale = {"window": "each window's own mean and deviation", "global": "global mean and deviation of training"}
    rows = [
        ("Network", "33 convolutions, 32 filters in the first, 10.5 million parameters",
         f"33 convolutions, {config.model.filters} filters in the first, "
         f"{'one network' if config.model.networks == 1 else f'{config.model.networks} networks'}"),
        ("Records to learn from", "91,232 records of 53,549 patients",
         f"{len(train):,} windows of {train['group'].nunique():,} patients"),
        ("Scaling", scale["global"], scale[config.preprocess.scale]),
        ("Training", "Adam, 0.001, batch 128, divided by 10 when validation stalls",
         f"{config.trainer.optimizer}, {config.trainer.learning_rate:g}, batch {config.trainer.batch_size}, "
         f"{config.trainer.schedule}"),
        ("Window", "30 s, 23 steps of 1.28 s", f"{config.preprocess.steps} steps of 1.28 s"),
        ("Score of a set", "not said", "the highest probability of its steps"),
        ("Judged on", "328 records of other patients, a committee's consensus",
         "held-out groups of one source, unless mode=evaluate says otherwise"),
    ]  # fmt: skip
    return rows if len(train) else [rows[0], *rows[2:]]
