"""What is predicted and how it is judged: the prediction table, and rates per class at sequence and at set level.

Hannun 2019, Methods, "Statistical analysis". *Sequence level*: every step counts. *Set level*: the set of distinct
rhythms per window of 30 s. Both reduce to counts per window and class, so that resampling is a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipelines.ecg.config import CLASSES, LabelSection
from pipelines.ecg.labels import ABSENT, CODES, known_codes, membership, record_words
from pipelines.ecg.taught import Taught
from pipelines.shared.stats.agreement import confusion_estimates
from pipelines.shared.stats.auc import auroc, auroc_statistic
from pipelines.shared.stats.bootstrap import Bootstrap, bootstrap_estimates, divide
from pipelines.shared.stats.confusion import class_f1, confusion_matrix
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.stats.probabilities import softmax

SCORES = [f"p_{name}" for name in CLASSES]
RATES = ["f1", "ppv", "sensitivity", "specificity", "npv"]
AVERAGES = ["weighted", "macro"]  # by support, as the authors' numbers are; over the classes that occur
LEVELS = ["sequence", "set"]
ByClass = dict[tuple[str, str], Estimate]  # (class or average, `<metric>_<level>`) -> estimate
CHALLENGE = ["N", "A", "O"]  # whose mean F1 is the CinC Challenge 2017's score; noise is not in it


# --- the prediction table: one row per step ---


def predict_columns(probabilities: np.ndarray) -> pd.DataFrame:
    """`p_<class>` of every step: (windows, steps, 12) -> one row per step, window after window.

    A class that no training record taught has no probability: the network gives it exactly 0 (`model.UNSEEN`).
    """
    flat = probabilities.reshape(-1, len(CLASSES))
    return pd.DataFrame(np.where(flat == 0, np.nan, flat), columns=SCORES)


def scores_of(table: pd.DataFrame) -> np.ndarray:
    """The probabilities of a table's rows, (rows, 12); 0 for a class that is never answered."""
    return table[SCORES].fillna(0).to_numpy()


def target_columns(records: pd.DataFrame) -> pd.DataFrame:
    """record, step (of the recording), target (a class; None where masked or unknown) and record_label, per step.

    Steps that are padding, or that the window before has counted, are rows too, with the step -1.
    """
    size = int(records["steps"].max())
    codes = known_codes(records)
    steps = records["start"].to_numpy()[:, None] + np.arange(size)
    names = np.array([*CLASSES, None], dtype=object)
    return pd.DataFrame(
        {
            "record": np.repeat(records["record"].to_numpy(), size),
            "step": np.where(codes == CODES[ABSENT], -1, steps).ravel(),
            "target": names[np.where(codes < 0, len(CLASSES), codes)].ravel(),
            "record_label": np.repeat(records["record_label"].to_numpy(), size),
        }
    )


def prediction_table(records: pd.DataFrame, probabilities: np.ndarray) -> pd.DataFrame:
    """id, group, record, step, target, record_label, p_<class>…: one row per step that the recordings really have."""
    size = probabilities.shape[1]
    who = pd.DataFrame({name: np.repeat(records[name].to_numpy(), size) for name in ("id", "group")})
    table = pd.concat([who, target_columns(records), predict_columns(probabilities)], axis=1)
    return table[table["step"] >= 0].reset_index(drop=True)


def known_steps(table: pd.DataFrame) -> pd.DataFrame:
    """The rows whose target is known."""
    return table[table["target"].notna()]


def answers(table: pd.DataFrame) -> np.ndarray:
    """The answer to every step, as a code: the column `answer` (see `answered`), else the most probable class."""
    return codes_of(table["answer"]) if "answer" in table else scores_of(table).argmax(axis=1)


def answered(table: pd.DataFrame, known: Taught) -> pd.DataFrame:
    """The table with the column `answer`, a class: as in `mode=predict`, classes that training taught only as a sum
    compete with the others by their sum. Which of them it is then is a guess: the most probable.
    """
    p = scores_of(table)
    members = known.members[known.answers(p).argmax(axis=1)]
    return table.assign(answer=np.array(CLASSES, dtype=object)[np.where(members > 0, p, -1.0).argmax(axis=1)])


# --- counts per window and class ---


@dataclass(frozen=True)
class Cells:
    """True and false positives and negatives: int (windows, 12, 4) in the order TP, FP, FN, TN; group: (windows,)."""

    counts: np.ndarray
    group: np.ndarray

    @property
    def support(self) -> np.ndarray:
        """How often each class occurs in the reference, (12,)."""
        support: np.ndarray = (self.counts[:, :, 0] + self.counts[:, :, 2]).sum(axis=0)
        return support


def cells(truth: np.ndarray, answer: np.ndarray, window: np.ndarray, group: np.ndarray, level: str) -> Cells:
    """Counts from one row per step.

    Args:
        truth: (rows,) codes of the reference.
        answer: (rows,) codes of the model or reader.
        window: (rows,) keys: of a window, or of a window and reader.
        group: (rows,) keys; that of a window is its first row's.
        level: sequence or set.
    """
    _, first, unit = np.unique(window, return_index=True, return_inverse=True)
    k, n = len(CLASSES), len(first)
    flat = np.bincount((unit * k + truth) * k + answer, minlength=n * k * k)
    matrix = flat.reshape(n, k, k)
    if level == "set":
        present, answered = matrix.sum(axis=2) > 0, matrix.sum(axis=1) > 0
        hits, rejected = present & answered, ~present & ~answered
        counts = np.stack([hits, ~present & answered, present & ~answered, rejected], axis=2).astype(int)
        return Cells(counts, np.asarray(group)[first])
    hit = np.diagonal(matrix, axis1=1, axis2=2)
    more, less = matrix.sum(axis=1) - hit, matrix.sum(axis=2) - hit
    rest = matrix.sum(axis=(1, 2))[:, None] - hit - more - less
    return Cells(np.stack([hit, more, less, rest], axis=2), np.asarray(group)[first])


def rates(counts: np.ndarray) -> np.ndarray:
    """F1, PPV, sensitivity, specificity and NPV from (..., 12, 4): (..., 12, 5), NaN where undefined.

    The F1 of a class that neither reference nor answer has is undefined.
    """
    tp, fp, fn, tn = (counts[..., i].astype(float) for i in range(4))
    return np.stack(
        [
            divide(2 * tp, 2 * tp + fp + fn),
            divide(tp, tp + fp),
            divide(tp, tp + fn),
            divide(tn, tn + fp),
            divide(tn, tn + fn),
        ],
        axis=-1,
    )


def averages(values: np.ndarray, support: np.ndarray) -> np.ndarray:
    """Means over the classes that occur in the reference, weighted by support and plain: (..., 2).

    Args:
        values: (..., 12), NaN where undefined. A PPV that is undefined because the class was never answered counts as
            0, as in the authors' numbers.
        support: (..., 12).
    """
    filled = np.nan_to_num(values)
    there = support > 0
    weighted = divide((filled * support).sum(axis=-1), support.sum(axis=-1))
    plain = divide((filled * there).sum(axis=-1), there.sum(axis=-1))
    return np.stack([weighted, plain], axis=-1)


def rate_estimates(per_window: Cells, level: str, bootstrap: Bootstrap) -> ByClass:
    """Every rate of every class, and both averages, with intervals that resample groups.

    Returns:
        (class or average, `<rate>_<level>`) -> estimate; `positives` is the class's support.
    """
    names = [*CLASSES, *AVERAGES]
    flat = per_window.counts.reshape(len(per_window.counts), -1).astype(float)

    def statistic(counts: np.ndarray) -> np.ndarray:
        sums = (counts @ flat).reshape(len(counts), len(CLASSES), 4)
        each = np.moveaxis(rates(sums), -1, 1)  # (b, 5, 12)
        support = (sums[..., 0] + sums[..., 2])[:, None]
        both = averages(each, np.broadcast_to(support, each.shape))
        return np.concatenate([each, both], axis=-1).reshape(len(counts), -1)

    values = statistic(np.ones((1, len(flat))))[0].tolist()
    estimates = bootstrap_estimates(
        values, statistic, per_window.group, n=len(flat), undefined="without the class", bootstrap=bootstrap
    )
    support = [*per_window.support.tolist(), *[int(per_window.support.sum())] * 2]
    rows = int(per_window.counts[:, 0].sum())
    result = {}
    for i, estimate in enumerate(estimates):
        rate, name = RATES[i // len(names)], names[i % len(names)]
        reason = estimate.reason
        if estimate.value is None:
            reason = f"0 / 0: {name} is neither in the reference nor answered" if rate == "f1" else "0 / 0"
        result[name, f"{rate}_{level}"] = replace(estimate, n=rows, positives=support[i % len(names)], reason=reason)
    return result


def auroc_estimates(
    truth: np.ndarray, scores: np.ndarray, group: np.ndarray, level: str, bootstrap: Bootstrap
) -> ByClass:
    """AUROC of each class against all others, and both averages over the classes that occur.

    Args:
        truth: bool (rows, 12): of a step one class, of a window's set any number.
        scores: (rows, 12).
        group: (rows,).
        level: sequence or set, for the keys.
        bootstrap: see `evaluator.bootstrap_settings`.
    """
    support = truth.sum(axis=0)
    usable = [i for i in range(len(CLASSES)) if 0 < support[i] < len(truth)]
    functions = [auroc_statistic(truth[:, i], scores[:, i]) for i in usable]
    values = [auroc(truth[:, i], scores[:, i]) for i in usable]
    key = f"auroc_{level}"
    missing = Estimate(None, n=len(truth), reason="one class only: it does not occur, or nothing else does")
    result = {(name, key): replace(missing, positives=int(n)) for name, n in zip(CLASSES, support, strict=True)}
    if not usable:
        return result | {(name, key): missing for name in AVERAGES}

    def statistic(counts: np.ndarray) -> np.ndarray:
        each = np.stack([function(counts) for function in functions], axis=1)
        weights = (counts @ truth[:, usable].astype(float)) * ~np.isnan(each)
        return np.concatenate([each, averages(each, weights)], axis=1)

    both = averages(np.array(values), support[usable].astype(float)).tolist()
    estimates = bootstrap_estimates(
        [*values, *both], statistic, group, n=len(truth), undefined="with one class", bootstrap=bootstrap
    )
    for name, estimate in zip([*(CLASSES[i] for i in usable), *AVERAGES], estimates, strict=True):
        positives = int(support[CLASSES.index(name)]) if name in CLASSES else int(support.sum())
        result[name, key] = replace(estimate, positives=positives)
    return result


def level_scores(table: pd.DataFrame, level: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which classes occur in the reference, bool (rows, 12), their scores (rows, 12), and the groups (rows,).

    At sequence level a row is a step, at set level a window, whose scores are the highest of its steps: the paper does
    not say how a set's score is formed; the highest is the natural one.
    """
    codes, scores, group = codes_of(table["target"]), scores_of(table), table["group"].to_numpy()
    if level == "sequence":
        return codes[:, None] == np.arange(len(CLASSES)), scores, group
    _, first, unit = np.unique(table["id"].to_numpy(), return_index=True, return_inverse=True)
    occurs = np.zeros((len(first), len(CLASSES)), bool)
    occurs[unit, codes] = True
    highest = np.full((len(first), len(CLASSES)), -np.inf)
    np.maximum.at(highest, unit, scores)
    return occurs, highest, group[first]


def step_cells(rows: pd.DataFrame, answer: np.ndarray, level: str) -> Cells:
    """Counts of some answers (codes) to the labelled steps of a prediction table."""
    return cells(codes_of(rows["target"]), answer, rows["id"].to_numpy(), rows["group"].to_numpy(), level)


def step_f1(rows: pd.DataFrame, bootstrap: Bootstrap, answer: pd.Series | None = None) -> Estimate:
    """F1 of labelled steps, average by support: of the model, or of other answers (names, in the order of the rows)."""
    codes = answers(rows) if answer is None else codes_of(answer)
    return rate_estimates(step_cells(rows, codes, "sequence"), "sequence", bootstrap)["weighted", "f1_sequence"]


def codes_of(names: pd.Series) -> np.ndarray:
    """Class names as codes."""
    return names.map({name: i for i, name in enumerate(CLASSES)}).to_numpy(int)


def model_metrics(table: pd.DataFrame, bootstrap: Bootstrap, areas: bool) -> ByClass:
    """All metrics of a prediction table's known steps, at both levels. `areas`: with AUROC, which takes longer."""
    rows = known_steps(table)
    if rows.empty:
        return {}
    metrics: ByClass = {}
    for level in LEVELS:
        metrics |= rate_estimates(step_cells(rows, answers(rows), level), level, bootstrap)
    for level in LEVELS if areas else []:
        metrics |= auroc_estimates(*level_scores(rows, level), level, bootstrap)
    return metrics


def without(estimates: ByClass, classes: dict[str, str]) -> ByClass:
    """The same estimates, those of some classes undefined, for a reason."""
    return {
        key: Estimate(None, n=e.n, positives=e.positives, reason=classes[key[0]]) if key[0] in classes else e
        for key, e in estimates.items()
    }


def chance(table: pd.DataFrame) -> float:
    """The support-weighted F1 of answers drawn with the classes' own frequencies p: the sum of p squared.

    Such answers have for each class a PPV and a sensitivity of p, so an F1 of p.
    """
    share = known_steps(table)["target"].value_counts(normalize=True).to_numpy()
    return float((share**2).sum())


# --- labels of whole recordings ---


def recordings(table: pd.DataFrame, labels: LabelSection) -> tuple[pd.DataFrame, list[str]]:
    """One row per labelled recording: record, group, label, answer, p_<label>…; and the labels among which it chose.

    The mean probability over all steps of a recording is summed over the classes of each label. The choice is among
    the labels of `labels.record`, or the twelve classes where some recording is labelled with one that is not there.
    """
    rows = table[table["record_label"].notna()]
    words = record_words(labels)
    chosen = list(labels.record) if set(rows["record_label"]) <= set(labels.record) else list(CLASSES)
    rows = rows[rows["record_label"].isin(chosen)]
    if rows.empty:
        return pd.DataFrame(columns=["record", "group", "label", "answer"]), chosen
    means = rows.groupby("record", sort=False)[SCORES].mean().fillna(0)
    about = rows.groupby("record", sort=False)[["group", "record_label"]].first()
    sums = means.to_numpy() @ membership(labels)[[words.index(w) for w in chosen]].T
    answers = pd.DataFrame({"record": means.index, "group": about["group"].to_numpy()})
    answers["label"] = about["record_label"].to_numpy()
    answers["answer"] = np.array(chosen, dtype=object)[sums.argmax(axis=1)]
    return pd.concat([answers, pd.DataFrame(sums, columns=[f"p_{w}" for w in chosen])], axis=1), chosen


def recording_metrics(table: pd.DataFrame, labels: LabelSection, bootstrap: Bootstrap) -> ByClass:
    """F1 of each label of whole recordings, and their mean: for the challenge's labels that of N, A and O."""
    rows, words = recordings(table, labels)
    if rows.empty:
        return {}
    challenge = set(CHALLENGE) <= set(words)
    scored = CHALLENGE if challenge else [w for w in words if (rows["label"] == w).any()]
    positions = [words.index(w) for w in scored]

    def mean_f1(confusion: np.ndarray) -> np.ndarray:
        each = class_f1(confusion)[..., positions]
        return np.where(np.isnan(each).all(axis=-1), np.nan, np.nan_to_num(each).mean(axis=-1))

    measures: dict[tuple[str, str], Any] = {
        (word, "f1_record"): (lambda confusion, i=i: class_f1(confusion)[..., i]) for i, word in enumerate(words)
    }
    measures["challenge" if challenge else "recordings", "f1"] = mean_f1
    return confusion_estimates(
        measures,
        rows["label"].to_numpy(),
        rows["answer"].to_numpy(),
        words,
        rows["group"].to_numpy(),
        bootstrap=bootstrap,
    )


# --- what the trainer may monitor ---


def measure(targets: np.ndarray, outputs: np.ndarray, labels: LabelSection | None = None) -> dict[str, float]:
    """`val_f1`: macro F1 of the steps over the classes that occur; without step labels, of the recordings' labels."""
    codes, p = targets[:, :-1].astype(int), softmax(outputs)
    known = codes >= 0
    if known.any():
        k = len(CLASSES)
        matrix = confusion_matrix(codes[known], p.argmax(axis=-1)[known], range(k))
        there = matrix.sum(axis=1) > 0
        return {"val_f1": float(np.nan_to_num(class_f1(matrix))[there].mean())}
    label = targets[:, -1].astype(int)
    if labels is None or not (label >= 0).any():
        return {"val_f1": float("nan")}
    here = (codes != CODES[ABSENT]) & (label >= 0)[:, None]
    mean = (p * here[..., None]).sum(axis=1) / np.maximum(here.sum(axis=1), 1)[:, None]
    words = sorted(set(label[label >= 0].tolist()))
    answer = np.array(words)[(mean @ membership(labels)[words].T).argmax(axis=1)]
    rows = label >= 0
    return {"val_f1": float(np.nan_to_num(class_f1(confusion_matrix(label[rows], answer[rows], words))).mean())}


def choose_points(predictions: pd.DataFrame, config: Any) -> list[dict[str, Any]]:
    """None: the answer is the most probable class (Hannun 2019), so there is no threshold to choose."""
    return []
