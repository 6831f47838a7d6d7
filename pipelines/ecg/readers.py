"""Individual cardiologists against the committee, and with each other (Hannun 2019, Methods). Needs no model.

The readings of all cardiologists are pooled: a record that six have read counts six times against its one reference.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipelines.ecg import published
from pipelines.ecg.config import CLASSES
from pipelines.ecg.labels import step_codes
from pipelines.ecg.metrics import AVERAGES, LEVELS, ByClass, Cells, cells, level_scores, rate_estimates, rates
from pipelines.shared.cli.environment import read_environment, stage, start
from pipelines.shared.errors import DataError, StatisticsError
from pipelines.shared.judging import figures
from pipelines.shared.judging.evaluator import bootstrap_settings
from pipelines.shared.judging.report import Headline, HeadlineFigure, Picture, Report, Section, Table, Text, render
from pipelines.shared.log import log
from pipelines.shared.run_folder import RunFolder, plain, write_json
from pipelines.shared.screen import print_path
from pipelines.shared.stats.agreement import fleiss_kappa
from pipelines.shared.stats.auc import roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap, bootstrap_estimate, divide
from pipelines.shared.stats.confusion import cohen_kappa, confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.readers import sensitivity_at

if TYPE_CHECKING:
    from pipelines.shared.job import Job
    from pipelines.shared.study import Study


@dataclass(frozen=True)
class Readings:
    """One row per window, reader and step that both the committee and the reader labelled; arrays of one length.

    `truth` and `answer` are codes; `window`, `reader` and `group` keys; `step` is that of the window.
    """

    truth: np.ndarray
    answer: np.ndarray
    window: np.ndarray
    step: np.ndarray
    reader: np.ndarray
    group: np.ndarray

    def cells(self, level: str, reader: str | None = None) -> Cells:
        """Counts per window and reader; of one reader, or of all pooled."""
        rows = np.ones(len(self.truth), bool) if reader is None else self.reader == reader
        # Windows and readers as numbers, so that their pairs are numbers too.
        window, who = (np.unique(keys, return_inverse=True)[1] for keys in (self.window, self.reader))
        unit = window * (who.max() + 1) + who
        return cells(self.truth[rows], self.answer[rows], unit[rows], self.group[rows], level)


def readings_of(records: pd.DataFrame, readers: pd.DataFrame) -> Readings | None:
    """All readings of some records; None if there is none.

    Args:
        records: record table: id, group, rhythms.
        readers: id, reader, rhythms.
    """
    both = readers.merge(records[["id", "group", "rhythms"]], on="id", suffixes=("", "_committee"))
    if both.empty:
        return None
    size = max(int(records["steps"].max()), 1)
    truth, answer = (step_codes(list(both[c]), size) for c in ("rhythms_committee", "rhythms"))
    row, step = np.nonzero((truth >= 0) & (answer >= 0))
    if len(row) == 0:
        return None
    columns = [both[c].to_numpy()[row] for c in ("id", "reader", "group")]
    return Readings(truth[row, step], answer[row, step], columns[0], step, columns[1], columns[2])


def reader_metrics(readings: Readings, bootstrap: Bootstrap) -> ByClass:
    """(class or average, `<rate>_<level>`) -> estimate of the pooled readings; groups are resampled."""
    metrics: ByClass = {}
    for level in LEVELS:
        metrics |= rate_estimates(readings.cells(level), level, bootstrap)
    return metrics


def kappa_estimate(readings: Readings, bootstrap: Bootstrap) -> Estimate:
    """Fleiss' kappa: a case is a step, its raters the cardiologists who labelled it; windows' groups are resampled."""
    table, window, group = _ratings(readings)
    try:
        value = fleiss_kappa(table)
    except StatisticsError as reason:
        return Estimate(None, n=len(table), reason=str(reason))
    raters = table.sum(axis=1)
    several = raters >= 2
    table, window, raters = table[several], window[several], raters[several]
    agreement = (table * (table - 1)).sum(axis=1) / (raters * (raters - 1))
    keys, first, unit = np.unique(window, return_index=True, return_inverse=True)
    # Per window: sum of the agreement, number of steps, ratings of each class.
    sums = np.zeros((len(keys), 2 + len(CLASSES)))
    np.add.at(sums, unit, np.column_stack([agreement, np.ones(len(agreement)), table]))

    def statistic(counts: np.ndarray) -> np.ndarray:
        total = counts @ sums
        observed = divide(total[:, 0], total[:, 1])
        share = divide(total[:, 2:], total[:, 2:].sum(axis=1, keepdims=True))
        expected = (share**2).sum(axis=1)
        return divide(observed - expected, 1 - expected)

    estimate = bootstrap_estimate(value, statistic, group[several][first], n=len(keys), bootstrap=bootstrap)
    return Estimate(**(estimate.to_dict() | {"n": len(table)}))


def _ratings(readings: Readings) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How many readers gave each step each class (steps, 12), with the step's window and group."""
    window = np.unique(readings.window, return_inverse=True)[1]
    case = window * (readings.step.max() + 1) + readings.step
    _, first, unit = np.unique(case, return_index=True, return_inverse=True)
    k = len(CLASSES)
    table = np.bincount(unit * k + readings.answer, minlength=len(first) * k).reshape(-1, k)
    return table, window[first], readings.group[first]


def pairs(readings: Readings) -> pd.DataFrame:
    """Every two cardiologists on the steps that both labelled: first, second, steps, agreement, kappa (Cohen's)."""
    names = sorted(set(readings.reader), key=str)
    window = np.unique(readings.window, return_inverse=True)[1]
    case = window * (readings.step.max() + 1) + readings.step
    answers = {n: pd.Series(readings.answer[readings.reader == n], index=case[readings.reader == n]) for n in names}
    rows = []
    for a, b in combinations(names, 2):
        both = pd.concat([answers[a], answers[b]], axis=1, join="inner").to_numpy()
        if len(both):
            kappa = float(cohen_kappa(confusion_matrix(both[:, 0], both[:, 1], range(len(CLASSES))), "none"))
            rows.append((a, b, len(both), float((both[:, 0] == both[:, 1]).mean()), kappa))
    return pd.DataFrame(rows, columns=["first", "second", "steps", "agreement", "kappa"])


def sensitivity_beside(people: ByClass, rows: pd.DataFrame, missing: Collection[str]) -> ByClass:
    """The model's sensitivity at the specificity of the pooled cardiologists: (class, `<key>_<level>`).

    Args:
        people: of `reader_metrics`.
        rows: the labelled steps of the model's predictions.
        missing: classes that training never taught by themselves.
    """
    beside: ByClass = {}
    for level in LEVELS:
        truth, scores, _ = level_scores(rows, level)
        for i, name in enumerate(CLASSES):
            specificity, sensitivity = (
                people[name, f"{rate}_{level}"].value for rate in ("specificity", "sensitivity")
            )
            positives = int(truth[:, i].sum())
            if specificity is None or sensitivity is None or name in missing or not 0 < positives < len(truth):
                continue
            value = sensitivity_at(roc_curve(truth[:, i], scores[:, i]), specificity)
            beside[name, f"sensitivity_at_cardiologists_{level}"] = Estimate(
                value, n=len(truth), positives=positives, reason="a point of the ROC curve, without interval"
            )
    return beside


def reader_points(readings: Readings, level: str) -> dict[str, tuple[list[Any], Any]]:
    """By class: (sensitivity, specificity, PPV) of every cardiologist, and of all pooled; None where undefined."""

    def points(counts: np.ndarray) -> list[Any]:
        values = rates(counts.sum(axis=0))
        return [None if np.isnan(v[[1, 2, 3]]).any() else (v[2], v[3], v[1]) for v in values]

    single = [points(readings.cells(level, name).counts) for name in sorted(set(readings.reader), key=str)]
    pooled = points(readings.cells(level).counts)
    return {name: ([p[i] for p in single if p[i] is not None], pooled[i]) for i, name in enumerate(CLASSES)}


# --- the sections that every report with cardiologists has ---


def comparison_table(metrics: ByClass, level: str, who: str) -> Table:
    """F1 of the cardiologists by class beside the published ones of the whole test set."""
    place = LEVELS.index(level)
    rows: list[list[Any]] = []
    for name in [*CLASSES, *AVERAGES]:
        estimate = metrics[name, f"f1_{level}"]
        known = published.CARDIOLOGISTS.get(name)
        published_value = f"{known[place]:.3f}" if known else None
        rates_ = [metrics[name, f"{rate}_{level}"].value for rate in ("ppv", "sensitivity", "specificity")]
        rows.append([title_of(name), estimate.positives, estimate, published_value, *rates_])
    unit = "Steps" if level == "sequence" else "Windows"
    columns = ["Rhythm", unit, "F1", "Published F1", "PPV", "Sensitivity", "Specificity"]
    caption = f"{who} against the committee, {level} level. Published: the six cardiologists on all 328 records."
    align: list[Any] = ["left", *["right"] * 6]
    return Table(columns, rows, caption, align)


def title_of(name: str) -> str:
    """A class or average, for a table."""
    return {"weighted": "Average by support", "macro": "Average of classes"}.get(name, name)


def agreement_blocks(readings: Readings, kappa: Estimate) -> list[Any]:
    """Tables of how the cardiologists agree with each other."""
    both = pairs(readings)
    rows: list[list[Any]] = [["Fleiss' kappa", kappa, f"{published.FLEISS_KAPPA:.3f}"]]
    if len(both):
        agreement, kappas = (
            float(np.average(both[c].fillna(0), weights=both["steps"])) for c in ("agreement", "kappa")
        )
        rows += [
            ["Agreement of two, mean over pairs by steps", agreement, None],
            ["Cohen's kappa of two, mean over pairs by steps", kappas, None],
        ]
    pair_rows: list[list[Any]] = [
        [f"{r['first']} and {r['second']}", int(r["steps"]), float(r["agreement"]), float(r["kappa"])]
        for r in both.to_dict("records")
    ]
    return [
        Table(["Measure", "Here", "Published"], rows, "Agreement of the cardiologists, step by step."),
        Table(["Pair", "Steps", "Agreement", "Cohen's kappa"], pair_rows, "Every two who labelled the same steps."),
    ]


def individual_table(readings: Readings) -> Table:
    """Each cardiologist's own averages."""
    rows: list[list[Any]] = []
    for name in sorted(set(readings.reader), key=str):
        by_level = {level: readings.cells(level, name) for level in LEVELS}
        row: list[Any] = [str(name), len(set(readings.window[readings.reader == name]))]
        for cell in by_level.values():
            f1 = np.nan_to_num(rates(cell.counts.sum(axis=0))[:, 0])
            row += [float((f1 * cell.support).sum() / cell.support.sum())]
        rows.append(row)
    columns = ["Cardiologist", "Windows", "F1, sequence", "F1, set"]
    return Table(columns, rows, "Each cardiologist, average by support.", ["left", "right", "right", "right"])


def confusion_picture(folder: RunFolder, readings: Readings, note: str) -> Picture:
    """Draws the pooled confusion matrix."""
    matrix = confusion_matrix(readings.truth, readings.answer, range(len(CLASSES)))
    figures.confusion(
        folder.figures / "cardiologists.png", matrix, CLASSES,
        row_label="Committee", column_label="Cardiologists", note=note,
    )  # fmt: skip
    caption = "Cardiologists against the committee, every step of every reading."
    return Picture("figures/cardiologists.png", caption, "Confusion matrix of the cardiologists.")


# --- mode=readers ---


def read_by_cardiologists(study: Study[Any], job: Job) -> None:
    """`mode=readers`: the cardiologists' table of a source, without any model.

    Leaves config.yaml, records.parquet, readers.parquet, metrics.json, figures and report.html.

    Raises:
        DataError: the source has no individual readings.
    """
    config: Any = job.config
    source = study.sources[config.data.name](config)
    if source.readers is None:
        raise DataError(
            f"data={config.data.name} has no individual readings.",
            "mode=readers works on data=irhythm, or the phantom.",
        )
    run = start(study, job)
    folder = run.folder
    with stage(run, "readers"):
        records = source.records.assign(split="test")
        readings = readings_of(records, source.readers)
        if readings is None:
            raise DataError(
                f"{source.root} has no step that committee and cardiologists labelled.", "Look at its files."
            )
        folder.write_table(folder.records, records)
        folder.write_table(folder.readers, source.readers)
        bootstrap = bootstrap_settings(config)
        metrics, kappa = reader_metrics(readings, bootstrap), kappa_estimate(readings, bootstrap)
    environment = read_environment(folder)
    keyed = {f"test.{name}.{what}": estimate for (name, what), estimate in metrics.items()}
    keyed["test.agreement.fleiss_kappa"] = kappa
    content = {
        "schema": 1,
        "study": study.name,
        "source": {
            "name": source.name,
            "synthetic": source.synthetic,
            "records": len(records),
            "groups": int(records["group"].nunique()),
            "fingerprint": None,
        },
        "splits": {"test": {"records": len(records), "groups": int(records["group"].nunique())}},
        "headline": "test.weighted.f1_sequence",
        "metrics": {key: estimate.to_dict() for key, estimate in keyed.items()},
        "reference": {"chance": None, "oracle": None},
        "operating_points": [],
        "paper": [asdict(number) for number in published.NUMBERS],
        "seconds": environment["seconds"],
    }
    write_json(folder.metrics, plain(content))
    folder.figures.mkdir(exist_ok=True)
    note = "synthetic data" if source.synthetic else ""
    tables = [comparison_table(metrics, level, "Cardiologists") for level in LEVELS]
    main = metrics["weighted", "f1_sequence"]
    count, windows = len(set(readings.reader)), len(set(readings.window))
    each = len(set(zip(readings.window, readings.reader, strict=True))) / windows
    sentence = (
        f"Average F1 of individual cardiologists against the committee: {main} at sequence level, "
        f"{metrics['weighted', 'f1_set']} at set level, on {windows:,} records of {source.name}. {count} cardiologists "
        f"took part; each record was read by {each:g} of them."
    )
    shown = [
        HeadlineFigure("F1, sequence level", main, "average by support"),
        HeadlineFigure("F1, set level", metrics["weighted", "f1_set"], "average by support"),
        HeadlineFigure("Fleiss' kappa", kappa, f"{count} cardiologists, step by step"),
        HeadlineFigure("Published", published.CARDIOLOGISTS["weighted"][0], "sequence level, all 328 records"),
    ]
    sections = [
        Section("Cardiologists against the committee", [*tables, individual_table(readings)]),
        Section("Confusions", [confusion_picture(folder, readings, note)]),
        Section("Agreement", agreement_blocks(readings, kappa)),
        Section("How the source was read", [Text(note_, "note") for note_ in source.notes]),
    ]
    report = Report(
        f"{study.title}: the cardiologists", study.name, source.synthetic, Headline(sentence, shown, []), sections,
        footer=environment["version"],
    )  # fmt: skip
    path = render(report, folder.path)
    for line in _screen(metrics, kappa):
        log.info(line)
    print_path(path)


def _screen(metrics: ByClass, kappa: Estimate) -> list[str]:
    """The table as text."""
    lines = [f"{'rhythm':<20}{'steps':>8}{'F1 sequence':>13}{'published':>11}{'F1 set':>9}{'published':>11}"]
    for name in [*CLASSES, *AVERAGES]:
        known = published.CARDIOLOGISTS.get(name, (None, None))
        cells_ = [metrics[name, "f1_sequence"].value, known[0], metrics[name, "f1_set"].value, known[1]]
        text = ["-" if v is None else f"{v:.3f}" for v in cells_]
        steps = metrics[name, "f1_sequence"].positives
        lines.append(f"{title_of(name):<20}{steps:>8,}{text[0]:>13}{text[1]:>11}{text[2]:>9}{text[3]:>11}")
    lines.append(f"Fleiss' kappa: {kappa} (published: {published.FLEISS_KAPPA:.3f})")
    return lines
