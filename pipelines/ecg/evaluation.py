"""The ECG report: every metric, table and figure, from the run's prediction tables. No torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg import published, readers
from pipelines.ecg.config import CLASSES
from pipelines.ecg.drawing import Panel, Strip, panels, strips
from pipelines.ecg.labels import RATE, STEP, unpack
from pipelines.ecg.metrics import (
    AVERAGES,
    CHALLENGE,
    LEVELS,
    RATES,
    answers,
    cells,
    chance,
    codes_of,
    known_steps,
    model_metrics,
    rate_estimates,
    recording_metrics,
    recordings,
    scores_of,
    window_scores,
    without,
)
from pipelines.ecg.strips import SHOWN, seconds, stretch
from pipelines.ecg.taught import taught
from pipelines.shared import figures
from pipelines.shared.evaluator import age_bands, bootstrap_settings, synthetic_note
from pipelines.shared.figures import Subgroup
from pipelines.shared.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import read_arrays, read_table
from pipelines.shared.stats.auc import precision_recall_curve, roc_curve
from pipelines.shared.stats.confusion import confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.readers import sensitivity_at
from pipelines.shared.study import Evidence, Results

CLIPPED = 0.02  # share of samples at the rails from which a window is called clipped
Found = dict[tuple[str, str], Estimate]


def evaluate(evidence: Evidence) -> Results:
    """All results of a run."""
    test = evidence.predictions["test"]
    bootstrap = bootstrap_settings(evidence.config)
    labels = evidence.config.labels
    metrics: dict[str, Estimate] = {}
    missing = taught(evidence.networks[0]["architecture"], labels).missing if evidence.networks else {}
    by_split: dict[str, Found] = {}
    whole: dict[str, Found] = {}
    for split, rows in evidence.predictions.items():
        by_split[split] = without(model_metrics(rows, bootstrap, areas=split == "test"), missing)
        whole[split] = without(recording_metrics(rows, labels, bootstrap), missing)
        metrics |= {f"{split}.{name}.{what}": e for (name, what), e in (by_split[split] | whole[split]).items()}
    found, recorded = by_split["test"], whole["test"]
    reading = None
    if evidence.readers is not None:
        reading = readers.readings_of(evidence.records[evidence.records["split"] == "test"], evidence.readers)
    read: Found = {}
    if reading is not None:
        read = readers.reader_metrics(reading, bootstrap)
        metrics |= {f"test.{name}.cardiologists_{what}": e for (name, what), e in read.items()}
        metrics["test.agreement.fleiss_kappa"] = readers.kappa_estimate(reading, bootstrap)
    oracle = _oracle(evidence, test, bootstrap) if found else None
    if oracle is not None:
        metrics["test.oracle.f1_sequence"] = oracle
    subgroups = _subgroups(evidence, test, bootstrap) if found else []
    metrics |= {f"test.weighted.f1_sequence[{s.group}={s.label}]": s.estimate for s in subgroups}  # type: ignore[misc]

    sections = [_cohort(evidence)]
    if found:
        sections += [
            *_by_class(evidence, found, read),
            _confusions(evidence, test, reading),
            _curves(evidence, test, reading, missing),
        ]
    if read and found and reading is not None:
        sections.append(_cardiologists(test, read, reading, missing, metrics))
    if recorded:
        sections.append(_whole_recordings(evidence, test, recorded))
    if subgroups:
        sections.append(_subgroup_section(evidence, subgroups, found["weighted", "f1_sequence"]))
    sections += _strips(evidence, test)
    headline, sentence, luck = _headline(test, found, recorded)
    nothing = Estimate(None, n=len(test), reason="no step and no recording of test has a label")
    metrics.setdefault(headline, nothing)
    return Results(
        metrics=metrics,
        headline=headline,
        sentence=sentence,
        chance=luck,
        oracle=oracle,
        operating_points=[],
        paper=[*([published.CHALLENGE] if headline == "test.challenge.f1" else []), *published.NUMBERS],
        departures=_departures(evidence),
        sections=sections,
        warnings=_warnings(evidence, test),
        chance_note="answers drawn with the classes' own frequencies",
    )


def _headline(test: pd.DataFrame, found: Found, whole: Found) -> tuple[str, str, float]:
    """Key, words and chance of the headline: the steps where they are labelled, else the recordings."""
    if found:
        return "test.weighted.f1_sequence", "F1 of twelve rhythms, step by step, average by support", chance(test)
    labelled = test[test["record_label"].notna()].drop_duplicates("record")["record_label"]
    share = labelled.value_counts(normalize=True)
    if ("challenge", "f1") in whole:
        luck = float(share.reindex(CHALLENGE).fillna(0).mean())
        return "test.challenge.f1", "F1 of the CinC Challenge 2017: mean of normal, AF and other", luck
    return "test.recordings.f1", "F1 of whole recordings, mean over labels", float(share.mean()) if len(share) else 0.0


def _warnings(evidence: Evidence, test: pd.DataFrame) -> list[str]:
    found = []
    if evidence.networks:
        facts = evidence.networks[0]["architecture"]
        missing = list(taught(facts, evidence.config.labels).missing)
        there = set(known_steps(test)["target"])
        if missing:
            summed = [name for name in missing if name in facts["classes"]]
            never = [name for name in missing if name not in facts["classes"]]
            parts = []
            if never:
                parts.append(f"{', '.join(never)} (never answered)")
            if summed:
                parts.append(f"{', '.join(summed)} (only as part of a sum of classes, so which one is a guess)")
            tested = [name for name in missing if name in there]
            tail = f" Test has steps of {', '.join(tested)}: they count as errors." if tested else ""
            found.append(f"Classes that training never saw: {'; '.join(parts)}.{tail}")
    clipped = evidence.records.get("clipped")
    if clipped is not None and (clipped > CLIPPED).any():
        count = int((clipped > CLIPPED).sum())
        found.append(f"{count:,} windows are clipped: more than {100 * CLIPPED:g} % of their samples are at a limit.")
    return found


def _departures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """What the paper did and this run did otherwise, from the run's own configuration."""
    config, records = evidence.config, evidence.records
    train = records[records["split"] == "train"]
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


def _oracle(evidence: Evidence, test: pd.DataFrame, bootstrap: dict[str, Any]) -> Estimate | None:
    """The phantom's true rhythms as answers, against the same committee."""
    if "truth" not in evidence.records:
        return None
    truth = evidence.records.dropna(subset=["truth"]).set_index("record")["truth"].map(unpack)
    rows = known_steps(test)
    rows = rows[rows["record"].isin(truth.index)]
    latent = [truth[record][step] for record, step in zip(rows["record"], rows["step"], strict=True)]
    counted = cells(
        codes_of(rows["target"]),
        codes_of(pd.Series(latent)),
        rows["id"].to_numpy(),
        rows["group"].to_numpy(),
        "sequence",
    )
    return rate_estimates(counted, "sequence", bootstrap)["weighted", "f1_sequence"]


# --- sections ---


def _cohort(evidence: Evidence) -> Section:
    records = evidence.records
    parts = {s: records[records["split"] == s] for s in ("train", "val", "test") if (records["split"] == s).any()}
    rows: list[list[Any]] = [
        ["Recordings", *(p["record"].nunique() for p in parts.values())],
        ["Windows", *(len(p) for p in parts.values())],
        ["Patients (groups)", *(p["group"].nunique() for p in parts.values())],
    ]
    if "age" in records:
        ages = [pd.to_numeric(p.drop_duplicates("group")["age"], errors="coerce") for p in parts.values()]
        rows.append(["Age, years: mean (SD)", *(f"{a.mean():.1f} ({a.std():.1f})" for a in ages)])
    counts = {s: _step_counts(p) for s, p in parts.items()}
    for name in [*CLASSES, "no label, or none of these", "label of the recording only"]:
        if any(c.get(name, 0) for c in counts.values()):
            rows.append([f"{name}, minutes", *(f"{c.get(name, 0) * STEP / RATE / 60:,.1f}" for c in counts.values())])
    labels = sorted({w for p in parts.values() for w in p["record_label"].dropna()})
    for word in labels:
        named = [p.loc[p["record_label"] == word, "record"].nunique() for p in parts.values()]
        rows.append([f"Recordings labelled {word}", *named])
    align: list[Any] = ["left", *["right"] * len(parts)]
    return Section("Cohort", [Table(["", *parts], rows, "The cohort by split.", align)])


def _step_counts(records: pd.DataFrame) -> dict[str, int]:
    """Steps by label."""
    names = {"?": "no label, or none of these", "-": "label of the recording only"}
    counts: dict[str, int] = {}
    for text in records["rhythms"]:
        for part in text.split():
            name, _, length = part.rpartition(":")
            counts[names.get(name, name)] = counts.get(names.get(name, name), 0) + int(length)
    return counts


def _by_class(evidence: Evidence, found: Found, read: Found) -> list[Section]:
    sections = []
    for level in LEVELS:
        unit = "Steps" if level == "sequence" else "Windows"
        place = LEVELS.index(level)
        align: list[Any] = ["left", *["right"] * 5]
        first: list[list[Any]] = []
        rest: list[list[Any]] = []
        for name in [*CLASSES, *AVERAGES]:
            f1, area = found[name, f"f1_{level}"], found[name, f"auroc_{level}"]
            known = published.CARDIOLOGISTS.get(name)
            row: list[Any] = [readers.title_of(name), f1.positives, f1, area]
            if read:
                row.append(read[name, f"f1_{level}"].value)
            first.append([*row, f"{known[place]:.3f}" if known else None])
            rest.append([readers.title_of(name), *(found[name, f"{rate}_{level}"].value for rate in RATES[1:])])
        people = ["Cardiologists"] if read else []
        columns = ["Rhythm", unit, "F1", "AUROC", *people, "Published"]
        about = "every step counts" if level == "sequence" else "the set of distinct rhythms in each window of 30 s"
        blocks: list[Any] = [
            Text(f"{level.capitalize()} level: {about}. The answer is the most probable rhythm of each step."),
            Table(columns, first, f"Test, {level} level. Published: F1 of the paper's cardiologists, 328 records.",
                  align[: len(columns)]),
            Table(["Rhythm", "PPV", "Sensitivity", "Specificity", "NPV"], rest, f"Test, {level} level, other rates.",
                  align[:5]),
        ]  # fmt: skip
        sections.append(Section(f"Rhythms at {level} level", blocks))
    return sections


def _confusions(evidence: Evidence, test: pd.DataFrame, reading: readers.Readings | None) -> Section:
    rows = known_steps(test)
    matrix = confusion_matrix(codes_of(rows["target"]), answers(rows), range(len(CLASSES)))
    note = synthetic_note(evidence)
    figures.confusion(evidence.folder.figures / "confusion.png", matrix, CLASSES, row_label="Committee", note=note)
    blocks = [Picture("figures/confusion.png", "Model against the committee, every step of test.", "Confusion matrix.")]
    if reading is not None:
        blocks.append(readers.confusion_picture(evidence.folder, reading, note))
    return Section("Confusions", blocks)


def _curves(
    evidence: Evidence, test: pd.DataFrame, reading: readers.Readings | None, missing: Collection[str]
) -> Section:
    """ROC and precision-recall curves of every class but the `missing`, with the cardiologists' points."""
    folder, note = evidence.folder.figures, synthetic_note(evidence)
    rows = known_steps(test)
    blocks: list[Any] = []
    for level in LEVELS:
        if level == "sequence":
            truth, scores = codes_of(rows["target"])[:, None] == np.arange(len(CLASSES)), scores_of(rows)
        else:
            truth, scores, _ = window_scores(rows)
        points = _reader_points(reading, level) if reading is not None else {}
        roc, recall = [], []
        for i, name in enumerate(CLASSES):
            if name in missing or not 0 < truth[:, i].sum() < len(truth):
                continue
            curve, pr = roc_curve(truth[:, i], scores[:, i]), precision_recall_curve(truth[:, i], scores[:, i])
            single, pooled = points.get(name, ([], None))
            sensitivity, others = [p[0] for p in single], [1 - p[1] for p in single]
            all_of_them = None if pooled is None else (1 - pooled[1], pooled[0])
            roc.append(Panel(name, 1 - curve.specificity, curve.sensitivity, others, sensitivity, all_of_them))
            recall.append(
                Panel(name, pr.recall, pr.precision, sensitivity, [p[2] for p in single],
                      None if pooled is None else (pooled[0], pooled[2]), float(truth[:, i].mean()))
            )  # fmt: skip
        panels(folder / f"roc_{level}.png", roc, "1 − specificity", "Sensitivity", note=note)
        panels(folder / f"recall_{level}.png", recall, "Recall (sensitivity)", "Precision (PPV)", steps=True, note=note)
        who = "; crosses: single cardiologists, diamond: all pooled" if points else ""
        blocks += [
            Picture(f"figures/roc_{level}.png", f"ROC curves, {level} level{who}.", f"ROC curves, {level} level."),
            Picture(f"figures/recall_{level}.png", f"Precision and recall, {level} level{who}; dotted: chance.",
                    f"Precision-recall curves, {level} level."),
        ]  # fmt: skip
    return Section("Curves", blocks)


def _reader_points(reading: readers.Readings, level: str) -> dict[str, tuple[list[Any], Any]]:
    """By class: (sensitivity, specificity, PPV) of every cardiologist, and of all pooled; None where undefined."""
    from pipelines.ecg.metrics import rates

    def of(counts: np.ndarray) -> list[Any]:
        values = rates(counts.sum(axis=0))
        return [None if np.isnan(v[[1, 2, 3]]).any() else (v[2], v[3], v[1]) for v in values]

    single = [of(reading.cells(level, name).counts) for name in sorted(set(reading.reader), key=str)]
    pooled = of(reading.cells(level).counts)
    return {name: ([p[i] for p in single if p[i] is not None], pooled[i]) for i, name in enumerate(CLASSES)}


def _cardiologists(
    test: pd.DataFrame,
    read: Found,
    reading: readers.Readings,
    missing: Collection[str],
    metrics: dict[str, Estimate],
) -> Section:
    """The cardiologists' table, and the model's sensitivity at their specificity."""
    rows = known_steps(test)
    blocks: list[Any] = []
    for level in LEVELS:
        if level == "sequence":
            truth, scores = codes_of(rows["target"])[:, None] == np.arange(len(CLASSES)), scores_of(rows)
        else:
            truth, scores, _ = window_scores(rows)
        table: list[list[Any]] = []
        for i, name in enumerate(CLASSES):
            specificity, sensitivity = (read[name, f"{rate}_{level}"] for rate in ("specificity", "sensitivity"))
            if specificity.value is None or sensitivity.value is None or name in missing:
                continue
            if not 0 < truth[:, i].sum() < len(truth):
                continue
            at = sensitivity_at(roc_curve(truth[:, i], scores[:, i]), specificity.value)
            metrics[f"test.{name}.sensitivity_at_cardiologists_{level}"] = Estimate(
                at, n=len(truth), positives=int(truth[:, i].sum()), reason="a point of the ROC curve, without interval"
            )
            table.append([name, specificity.value, sensitivity, at])
        columns = ["Rhythm", "Cardiologists' specificity", "Their sensitivity", "Model's sensitivity there"]
        caption = f"The model at the pooled cardiologists' specificity, {level} level."
        blocks += [readers.comparison_table(read, level, "Cardiologists"), Table(columns, table, caption)]
    blocks.append(readers.individual_table(reading))
    blocks += readers.agreement_blocks(reading, metrics["test.agreement.fleiss_kappa"])
    return Section("Beside the cardiologists", blocks)


def _whole_recordings(evidence: Evidence, test: pd.DataFrame, whole: Found) -> Section:
    rows, words = recordings(test, evidence.config.labels)
    matrix = confusion_matrix(rows["label"].to_numpy(), rows["answer"].to_numpy(), words)
    figures.confusion(
        evidence.folder.figures / "recordings.png", matrix, words, row_label="Label", note=synthetic_note(evidence)
    )
    table: list[list[Any]] = [
        [w, int((rows["label"] == w).sum()), whole[w, "f1_record"]] for w in words if (w, "f1_record") in whole
    ]
    blocks: list[Any] = [
        Text("A recording's probabilities are the means over its steps, summed over the classes of each label.")
    ]
    if ("challenge", "f1") in whole:
        table.append(["Mean of N, A and O", len(rows), whole["challenge", "f1"]])
        blocks.append(Text("The CinC Challenge 2017 scored the mean F1 of N, A and O; its best entries reached 0.83."))
    else:
        table.append(["Mean over labels", len(rows), whole["recordings", "f1"]])
    blocks += [
        Table(["Label", "Recordings", "F1"], table, "Labels of whole recordings, test."),
        Picture("figures/recordings.png", "Labels of whole recordings, test.", "Confusion matrix of recordings."),
    ]
    return Section("Whole recordings", blocks)


def _subgroups(evidence: Evidence, test: pd.DataFrame, bootstrap: dict[str, Any]) -> list[Subgroup]:
    rows = known_steps(test)
    records = evidence.records.set_index("id").reindex(rows["id"])
    found = []
    for column in evidence.config.subgroups:
        if column not in records:
            continue
        values = age_bands(records[column]) if column == "age" else records[column]
        for value in sorted(values.dropna().unique(), key=str):
            part = rows[(values == value).to_numpy()]
            counted = cells(
                codes_of(part["target"]), answers(part), part["id"].to_numpy(), part["group"].to_numpy(), "sequence"
            )
            estimate = rate_estimates(counted, "sequence", bootstrap)["weighted", "f1_sequence"]
            found.append(Subgroup(str(value), estimate, part["id"].nunique(), column))
    return found


def _subgroup_section(evidence: Evidence, subgroups: list[Subgroup], overall: Estimate) -> Section:
    windows = int((evidence.records["split"] == "test").sum())
    figures.forest(
        evidence.folder.figures / "subgroups.png", subgroups, Subgroup("All", overall, windows),
        metric="F1 by support", note=synthetic_note(evidence),
    )  # fmt: skip
    rows = [[f"{s.group}: {s.label}", s.n, s.estimate] for s in subgroups]
    return Section(
        "Subgroups",
        [
            Picture("figures/subgroups.png", "F1 (average by support, sequence level) by subgroup.", "Forest plot."),
            Table(["Subgroup", "Windows", "F1"], rows, "Intervals are wide where a subgroup is small."),
        ],
    )


def _strips(evidence: Evidence, test: pd.DataFrame) -> list[Section]:
    """Rhythm strips from the signals that the run left in strips/."""
    folder = evidence.folder.path / "strips"
    if not (folder / "strips.csv").exists():
        return []
    chosen = read_table(folder / "strips.csv", ["id", "kind", "name", "step"], dtype={"id": str}, keep_default_na=False)
    rows = test.assign(answer=np.array(CLASSES, dtype=object)[answers(test)])
    by_window = dict(tuple(rows.groupby("id", sort=False)))
    blocks: list[Any] = []
    captions = {
        "typical": "One stretch of each rhythm, chosen by its median probability, not by its looks.",
        "error": "The most confident errors, one per recording and kind.",
        "whole": "The whole window in which the answer changes most.",
    }
    signals = read_arrays(folder / "signals.npz")
    for kind, caption in captions.items():
        shown: list[Strip] = []
        for i, row in chosen[chosen["kind"] == kind].iterrows():
            window, signal = by_window[row["id"]], signals[str(i)]
            if kind == "whole":
                for first in range(0, len(window), SHOWN + 1):
                    shown.append(_strip(row["id"], window, signal, first, min(first + SHOWN + 1, len(window))))
                continue
            _, first = stretch(signal, int(row["step"]), len(window))
            title = f"{row['name']}: {row['id']}"
            shown.append(_strip(title, window, signal, first, min(first + SHOWN, len(window))))
        if shown:
            strips(evidence.folder.figures / f"strips_{kind}.png", shown, note=synthetic_note(evidence))
            blocks.append(
                Picture(
                    f"figures/strips_{kind}.png",
                    f"{caption} Background: the model's answer; bar below: the reference.",
                    "Rhythm strips with coloured episodes.",
                )
            )
    return [Section("Rhythm strips", blocks)] if blocks else []


def _strip(title: str, window: pd.DataFrame, signal: np.ndarray, first: int, last: int) -> Strip:
    part = window.iloc[first:last]
    # The window's first row may be a later step of the signal, where the window before has counted the others.
    skipped = max(0, len(signal) // STEP - len(window)) if window["step"].iloc[0] > 0 else 0
    piece = signal[(skipped + first) * STEP : (skipped + last) * STEP]
    reference = [t if isinstance(t, str) else None for t in part["target"]]
    shown = reference if any(reference) else []
    return Strip(title, piece, seconds(float(part["step"].iloc[0])), list(part["answer"]), shown)
