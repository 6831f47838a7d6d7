"""The sections of the skin report. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipelines.shared import figures
from pipelines.shared.evaluator import synthetic_note
from pipelines.shared.figures import Curve, Point, Subgroup
from pipelines.shared.report import Picture, Section, Table, Text
from pipelines.shared.run_folder import read_array
from pipelines.shared.stats.auc import roc_curve
from pipelines.shared.stats.calibration import reliability_curve
from pipelines.shared.stats.confusion import balanced_accuracy, confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.readers import Reader, reader_estimates, readers_below_curve
from pipelines.shared.stats.tsne import tsne
from pipelines.shared.study import Evidence
from pipelines.skin.labels import BINARY, LEVELS
from pipelines.skin.metrics import NAMES, OTHER, answered, known
from pipelines.skin.subgroups import Gap

SPLITS = ("train", "val", "test")
MOST_CLASSES = 24  # that a confusion matrix can show


def words(name: object) -> str:
    """A node's name for people."""
    return str(name).replace("_", " ")


def levels(evidence: Evidence, metrics: Mapping[str, Estimate]) -> Section:
    """What one network answers at every level, beside chance and oracle."""
    rows: list[list[Any]] = []
    for level in LEVELS:
        for name, label in (("balanced_accuracy", "balanced accuracy"), ("accuracy", "accuracy")):
            key = f"test.{level}.{name}"
            chance, oracle = metrics.get(f"{key}_chance"), metrics.get(f"{key}_oracle")
            rows.append([f"{NAMES[level]}: {label}", metrics[key], oracle, chance, metrics[key].n])
    for task in BINARY:
        key = f"test.{task}.auroc"
        rows.append(
            [
                f"{NAMES[task]}: AUROC",
                metrics[key],
                metrics.get(f"{key}_oracle"),
                metrics.get(f"{key}_chance"),
                metrics[key].n,
            ]
        )
    synthetic = evidence.flow["synthetic"]
    used = [0, 1, 2, 3, 4] if synthetic else [0, 1, 3, 4]
    head = ["Task", "Test", "Oracle", "Chance", "Images"]
    table = Table(
        [head[i] for i in used],
        [[row[i] for i in used] for row in rows],
        "One network, asked at every level: a node's probability is the sum over the training classes below it.",
    )
    text = (
        "Balanced accuracy is the mean of the classes' sensitivities: the paper calls it accuracy, ISIC 2018 ranked by "
        "it. Chance: one over the classes; for accuracy, always saying the commonest class of test; for AUROC 0.5. "
        "Intervals resample lesions (groups)."
    )
    undefined = [f"{row[0]}: {row[1].reason}." for row in rows if row[1].value is None]
    return Section("One network, every level", [Text(text), table, *(Text(line, "note") for line in undefined)])


def training_classes(evidence: Evidence) -> list[Section]:
    """What the network was trained on: the classes that the partitioning algorithm found."""
    train = evidence.records[evidence.records["split"] == "train"]
    if train.empty or not evidence.networks:
        return []
    rows: list[list[Any]] = []
    for name in evidence.networks[0]["classes"]:
        mine = train[(train["lineage"] + "/").str.startswith(name + "/")]
        inside = ", ".join(words(label) for label in sorted(mine["label"].unique()))
        rows.append(
            [
                words(name.split("/")[-1]),
                words(" > ".join(name.split("/")[:-1])),
                inside,
                len(mine),
                mine["group"].nunique(),
            ]
        )
    config = evidence.config
    limit = config.data.max_class_size
    how = f"Partitioning algorithm: a node with fewer than {limit:,} training images is one class."
    if limit == 1:
        how = "Every label is a class of its own (data.max_class_size=1)."
    if config.partition.level != "fine":
        how = f"Coarse classes (partition.level={config.partition.level}): the ablation."
    columns = ["Training class", "Below", "Labels in it", "Images", "Groups"]
    return [Section("Training classes", [Table(columns, rows, how, ["left", "left", "left", "right", "right"])])]


def cohort(evidence: Evidence) -> Section:
    """The records by split: counts, levels, age, sex, skin type."""
    records = evidence.records
    parts = {s: records[records["split"] == s] for s in SPLITS if (records["split"] == s).any()}
    rows: list[list[Any]] = [
        ["Images", *(len(p) for p in parts.values())],
        ["Groups", *(p["group"].nunique() for p in parts.values())],
    ]
    if "age" in records:
        ages = [pd.to_numeric(p.drop_duplicates("group")["age"], errors="coerce") for p in parts.values()]
        rows.append(
            ["Age, years: mean (SD)", *(f"{a.mean():.1f} ({a.std():.1f})" if a.notna().any() else "–" for a in ages)]
        )
    if "sex" in records:
        sexes = [p.drop_duplicates("group")["sex"] for p in parts.values()]
        rows.append(
            ["Female", *(_share((s.astype(str).str.lower() == "female").sum(), s.notna().sum()) for s in sexes)]
        )
    if "skin_type" in records:
        types = [p["skin_type"] for p in parts.values()]
        rows.append(["Skin types V and VI", *(_share((t >= 5).sum(), t.notna().sum()) for t in types)])
    for level in ("three_way", "nine_way"):
        for node in sorted(records[level].unique()):
            shares = [_share((p[level] == node).sum(), len(p)) for p in parts.values()]
            rows.append([f"{NAMES[level]}: {words(node)}", *shares])
    return Section("Cohort", [Table(["", *parts], rows, "Images by split; age and sex once per group.")])


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({100 * part / whole:.1f} %)" if whole else "–"


# --- binary tasks ---


def binary(
    evidence: Evidence, test: pd.DataFrame, metrics: Mapping[str, Estimate], points: list[dict[str, Any]]
) -> Section:
    """ROC curves of the binary tasks, with every reader's point and the readers' mean."""
    blocks: list[Any] = []
    for task in reversed(BINARY):
        estimate = metrics[f"test.{task}.auroc"]
        if estimate.value is None:
            blocks.append(Text(f"{NAMES[task]}: no curve, {estimate.reason}.", "note"))
            continue
        rows = known(test, task)
        curve = roc_curve(rows[task].to_numpy(), rows[f"p_{task}"].to_numpy())
        marks = [
            Point(words(p["name"]), _of(p["sensitivity"]), _of(p["specificity"])) for p in points if p["task"] == task
        ]
        readers = _readers(evidence, rows, task)
        if readers:
            sensitivity = float(np.mean([r.sensitivity.value for r in readers]))
            specificity = float(np.mean([r.specificity.value for r in readers]))
            marks.append(Point(f"mean of the {len(readers)} readers", sensitivity, specificity))
        figures.roc(
            evidence.folder.figures / f"roc_{task}.png",
            [Curve(f"network, AUROC {estimate.format()}", 1 - curve.specificity, curve.sensitivity)],
            marks,
            [Point(str(r.reader), r.sensitivity, r.specificity) for r in readers],
            note=synthetic_note(evidence),
        )
        caption = f"{NAMES[task]}, test: {len(rows):,} images. Crosses: exact binomial intervals at frozen thresholds."
        blocks.append(Picture(f"figures/roc_{task}.png", caption, f"ROC curve, {NAMES[task]}."))
        if readers:
            below, total = readers_below_curve(readers, curve)
            blocks.append(
                Text(
                    f"{below} of {total} readers ({100 * below / total:.0f} %) lie below the curve. A reader's point "
                    "is on the images that this reader read; positive is a diagnosis under malignant, which means to "
                    "biopsy or treat."
                )
            )
    return Section("Binary tasks", blocks)


def _of(fields: dict[str, Any]) -> Estimate:
    return Estimate.from_dict(fields)


def _readers(evidence: Evidence, rows: pd.DataFrame, task: str) -> list[Reader]:
    """Each reader's sensitivity and specificity on the test images of a binary task that the reader read."""
    if evidence.readers is None:
        return []
    truth = rows.set_index("id")[task]
    readings = evidence.readers[evidence.readers["id"].isin(truth.index)]
    if readings.empty:
        return []
    found = reader_estimates(
        readings["id"].to_numpy(), readings["reader"].to_numpy(), readings["biopsy"].to_numpy(float),
        truth.reindex(readings["id"]).to_numpy(float), level=evidence.config.statistics.level,
    )  # fmt: skip
    return [r for r in found if r.sensitivity.value is not None and r.specificity.value is not None]


def operating_points(evidence: Evidence, test: pd.DataFrame, points: list[dict[str, Any]]) -> Section:
    """The frozen thresholds and what they give on test."""
    blocks: list[Any] = [
        Text(
            "Thresholds were chosen on val to reach the targets of the configuration, then frozen. On test they are "
            "only applied, so the rates may fall short of the targets."
        )
    ]
    if not points:
        return Section("Operating points", [*blocks, Text("There are none: val lacked a class of each task.", "note")])
    table: list[list[Any]] = []
    for point in points:
        target = ", ".join(f"{k} {v:g}" for k, v in point["target"].items())
        for rate in ("sensitivity", "specificity"):
            both = _of(point[rate]), _of(point[f"{rate}_clustered"])
            table.append([f"{NAMES[point['task']]}: {rate}", target, f"{point['threshold']:.3f}", *both])
    columns = ["Rate", "Target on val", "Threshold", "Exact binomial interval", "Groups resampled"]
    blocks.append(Table(columns, table, "All operating points on test."))
    mine = {words(p["name"]): p["threshold"] for p in points if p["task"] == "malignant"}
    if mine and answered(test, "malignant"):
        scores = {
            n: test.loc[test["malignant"] == v, "p_malignant"].to_numpy()
            for n, v in (("not malignant", 0), ("malignant", 1))
        }
        figures.score_distribution(evidence.folder.figures / "scores.png", scores, mine, note=synthetic_note(evidence))
        blocks.append(Picture("figures/scores.png", "P(malignant) by reference, test.", "Histograms of the score."))
    return Section("Operating points", blocks)


# --- levels ---


def confusions(
    evidence: Evidence,
    test: pd.DataFrame,
    predicted: Mapping[str, Sequence[str]],
    paths: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Estimate],
) -> Section:
    """Confusion matrices of every level that is answered, and each label's sensitivity and AUROC."""
    blocks: list[Any] = []
    for level, said in predicted.items():
        classes = [*paths[level], *([OTHER] if OTHER in said else [])]
        if len(classes) <= MOST_CLASSES:
            matrix = confusion_matrix(test[level].to_numpy(), said, classes)
            name = f"figures/confusion_{level}.png"
            figures.confusion(
                evidence.folder.path / name, matrix, [words(c) for c in classes], column_label="Network",
                note=synthetic_note(evidence),
            )  # fmt: skip
            blocks.append(Picture(name, f"{NAMES[level]}, test.", f"Confusion matrix, {NAMES[level]}."))
    finest = list(predicted)[-1]
    rows: list[list[Any]] = []
    for node in paths[finest]:
        row = [words(node), int((test[finest] == node).sum()), metrics[f"test.{finest}.sensitivity[{node}]"]]
        rows.append(row + ([metrics.get(f"test.label.auroc[{node}]")] if finest == "label" else []))
    columns = ["Class", "Images", "Sensitivity", *(["AUROC against all others"] if finest == "label" else [])]
    caption = f"{NAMES[finest]}, test; intervals from resampling groups."
    blocks.append(Table(columns, rows, caption))
    return Section("Confusion and sensitivity by class", blocks)


def reader_accuracy(
    evidence: Evidence, test: pd.DataFrame, metrics: Mapping[str, Estimate], predicted: Mapping[str, Sequence[str]]
) -> list[Section]:
    """Each reader's balanced accuracy at both coarse levels, beside the network's on the same test images."""
    if evidence.readers is None:
        return []
    rows: list[list[Any]] = []
    truth = test.set_index("id")
    readings = evidence.readers[evidence.readers["id"].isin(truth.index)]
    answered_levels = [level for level in ("three_way", "nine_way") if level in predicted]
    for reader, mine in readings.groupby("reader"):
        row: list[Any] = [str(reader), len(mine)]
        for level in answered_levels:
            said = pd.Series(list(predicted[level]), index=test["id"]).reindex(mine["id"])
            given = mine[level].notna().to_numpy()
            true = truth[level].reindex(mine["id"])
            row += [_balanced(true[given], mine[level][given]), _balanced(true[given], said[given])]
        rows.append(row)
    if not rows or not answered_levels:
        return []
    means = ["Mean", sum(row[1] for row in rows) / len(rows)]
    for k in range(2, len(rows[0])):
        defined = [row[k] for row in rows if row[k] is not None]
        means.append(float(np.mean(defined)) if defined else None)
    columns = [
        "Reader",
        "Images",
        *(f"{NAMES[level]}, {who}" for level in answered_levels for who in ("reader", "network")),
    ]
    caption = "Balanced accuracy on the test images that each reader read, and the network's on the same images."
    return [Section("Beside the readers", [Table(columns, [*rows, means], caption)])]


def _balanced(truth: pd.Series, said: pd.Series) -> float | None:
    if truth.empty:
        return None
    classes = sorted({*truth, *said})
    return float(balanced_accuracy(confusion_matrix(truth.to_numpy(), said.to_numpy(), classes)))


def calibration(evidence: Evidence, test: pd.DataFrame, metrics: Mapping[str, Estimate]) -> Section:
    """Whether the probability of malignancy holds."""
    if not answered(test, "malignant"):
        return Section("Calibration", [Text("The network gives no probability of malignancy.", "note")])
    curve = reliability_curve(test["malignant"].to_numpy(), test["p_malignant"].to_numpy())
    figures.reliability(evidence.folder.figures / "calibration.png", curve, note=synthetic_note(evidence))
    names = {
        "brier": "Brier score",
        "brier_skill": "Brier skill against the prevalence",
        "ece": "Expected calibration error (10 equal-width bins)",
        "slope": "Calibration slope (1 is ideal)",
        "intercept": "Calibration intercept (0 is ideal)",
        "in_the_large": "Calibration in the large (0 is ideal)",
    }
    rows: list[list[Any]] = [[label, metrics[f"test.malignant.{name}"]] for name, label in names.items()]
    caption = "P(malignant), test: observed against predicted probability, exact binomial intervals per bin."
    blocks: list[Any] = [
        Picture("figures/calibration.png", caption, "Reliability curve."),
        Table(["Measure", "Test"], rows, "Calibration of P(malignant)."),
    ]
    if evidence.config.loss.class_balance:
        blocks.append(
            Text(
                "Rare classes weighed more in training, so rare diseases are predicted more often than they occur.",
                "note",
            )
        )
    return Section("Calibration", blocks)


def subgroup_section(
    evidence: Evidence, subgroups: list[Subgroup], gaps: list[Gap], metrics: Mapping[str, Estimate]
) -> list[Section]:
    """AUROC of malignancy by age band, sex, site and skin type, and the largest gaps."""
    if not subgroups:
        return []
    overall = metrics["test.malignant.auroc"]
    named = [Subgroup(s.label, s.estimate, s.n, words(s.group)) for s in subgroups]
    figures.forest(
        evidence.folder.figures / "subgroups.png", named, Subgroup("All", overall, overall.n or 0), metric="AUROC",
        note=synthetic_note(evidence),
    )  # fmt: skip
    rows: list[list[Any]] = [[f"{s.group}: {s.label}", s.n, s.estimate.positives, s.estimate] for s in named]  # type: ignore[union-attr]
    blocks: list[Any] = [
        Picture(
            "figures/subgroups.png", "Malignant vs all else: AUROC by subgroup, test.", "Forest plot of subgroups."
        ),
        Table(["Subgroup", "Images", "Malignant", "AUROC"], rows, "Intervals are wide where a subgroup is small."),
    ]
    if gaps:
        table: list[list[Any]] = [[words(g.column), f"{g.better} over {g.worse}", g.estimate] for g in gaps]
        caption = "The largest gap in AUROC between two subgroups of at least 20 images."
        blocks.append(Table(["Column", "Subgroups", "Difference"], table, caption))
        blocks.append(Text("Each pair was chosen because it differs most, so some gap is always found.", "note"))
    return [Section("Subgroups", blocks)]


# --- pictures ---


def embedding_map(evidence: Evidence, test: pd.DataFrame) -> list[Section]:
    """t-SNE of the last hidden layer on test, coloured by the nine-way disease group (the chapter's Fig 6.17)."""
    file = evidence.folder.path / "predictions" / "embeddings.npy"
    if not file.exists():
        return []
    places = tsne(read_array(file), evidence.config.seed % 2**32)
    groups = [words(node) for node in test["nine_way"]]
    order = sorted(set(groups))
    figures.embedding(evidence.folder.figures / "embedding.png", places, groups, order, note=synthetic_note(evidence))
    caption = "t-SNE of the last hidden layer, test images by disease group. Distances between far groups mean nothing."
    return [Section("What the last hidden layer holds", [Picture("figures/embedding.png", caption, "t-SNE map.")])]
