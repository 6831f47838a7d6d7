"""Tasks: questions that a prediction table answers (yes or no, which of several classes), and how well. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pipelines.shared.judging.prediction_sets import NO, YES, SetTask
from pipelines.shared.stats.agreement import confusion_estimates
from pipelines.shared.stats.auc import RocCurve, auroc_estimate, average_precision_estimate, roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.calibration import calibration_estimates
from pipelines.shared.stats.confusion import (
    Measure,
    accuracy,
    balanced_accuracy,
    class_f1,
    class_precision,
    class_sensitivity,
    confusion_matrix,
    macro_f1,
    of_class,
)
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.untaught import most_probable, undefined, undefined_classes

BY_CLASS: Mapping[str, Measure] = {"sensitivity": class_sensitivity, "precision": class_precision, "f1": class_f1}


def known(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows in which a column has a value."""
    return table[table[column].notna()]


@dataclass(frozen=True)
class BinaryTask:
    """A yes-or-no question.

    Attributes:
        name: in the keys of metrics, `<split>.<name>.auroc`.
        title: for people.
        target: column of the reference: 0, 1, or NaN where unknown.
        score: column of the score; the higher, the more likely 1.
    """

    name: str
    title: str
    target: str
    score: str

    @classmethod
    def by_name(cls, titles: Mapping[str, str]) -> dict[str, BinaryTask]:
        """Tasks whose target is the column of their name, and whose score is `p_<name>`.

        Args:
            titles: name -> title.
        """
        return {name: cls(name, title, target=name, score=f"p_{name}") for name, title in titles.items()}

    @property
    def set_task(self) -> SetTask:
        """The question as one for prediction sets: no, yes, both or neither. Its score is a probability."""
        return SetTask(self.name, self.title, {YES: self.score}, lambda table: table[self.target].map({0: NO, 1: YES}))

    @property
    def inline(self) -> str:
        """The title within a sentence."""
        return self.title[:1].lower() + self.title[1:]

    def known(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows whose reference is known and whose score is not null, as it is where nothing taught it."""
        rows = known(table, self.target)
        return known(rows, self.score) if self.has_score(table) else rows

    def has_score(self, table: pd.DataFrame) -> bool:
        """Whether the network answers the question at all."""
        return self.score in table

    def has_both_classes(self, table: pd.DataFrame) -> bool:
        """Whether the network answers the question, with positives and negatives among the known rows."""
        return self.has_score(table) and self.known(table)[self.target].nunique() == 2

    def arrays(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Reference, score and group of the known rows, (n,) each."""
        rows = self.known(table)
        return rows[self.target].to_numpy(), rows[self.score].to_numpy(), rows["group"].to_numpy()

    def auroc(self, table: pd.DataFrame, bootstrap: Bootstrap) -> Estimate:
        """Area under the ROC curve; groups are resampled."""
        return auroc_estimate(*self.arrays(table), bootstrap=bootstrap)

    def roc(self, table: pd.DataFrame) -> RocCurve | None:
        """The ROC curve; None where there is none, as a class is missing."""
        return roc_curve(*self.arrays(table)[:2]) if self.has_both_classes(table) else None

    def metrics(
        self,
        table: pd.DataFrame,
        split: str,
        bootstrap: Bootstrap,
        *,
        average_precision: bool = False,
        calibration: bool = False,
        untaught: str | None = None,
    ) -> dict[str, Estimate]:
        """AUROC and, if asked for, average precision and calibration, as `<split>.<name>.<metric>`.

        All are null where training never taught the score, with the reason (`untaught`).
        """
        y, score, group = self.arrays(table)
        estimates = {"auroc": auroc_estimate(y, score, group, bootstrap=bootstrap)}
        if average_precision:
            estimates["average_precision"] = average_precision_estimate(y, score, group, bootstrap=bootstrap)
        if calibration:
            estimates |= calibration_estimates(y, score, group, bootstrap=bootstrap)
        return undefined({f"{split}.{self.name}.{metric}": e for metric, e in estimates.items()}, untaught)

    def oracle(self, table: pd.DataFrame, records: pd.DataFrame, column: str, bootstrap: Bootstrap) -> Estimate | None:
        """AUROC of a phantom's latent truth, judged by the same imperfect reference as the model.

        Args:
            table: predictions.
            records: record table.
            column: the latent truth in it; data of people have none.
            bootstrap: resamples, seed and level.
        """
        if column not in records:
            return None
        y, _, group = self.arrays(table)
        latent = records.set_index("id")[column].reindex(self.known(table)["id"]).to_numpy()
        return auroc_estimate(y, latent, group, bootstrap=bootstrap)


@dataclass(frozen=True)
class MulticlassTask:
    """Which of several classes?

    Attributes:
        name: in the keys of metrics, `<split>.<name>.macro_f1`.
        target: column of the reference: a class, or null where unknown.
        classes: all of them, in the order of tables and figures.
        prefix: the column of a class's score is `<prefix><class>`; all null where training lacks the class.
        titles: class -> for people.
    """

    name: str
    target: str
    classes: Sequence[str]
    prefix: str = "p_"
    titles: Mapping[str, str] = field(default_factory=dict)

    def title(self, name: str) -> str:
        """A class, for people."""
        return self.titles.get(name, name)

    def known(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows whose reference is known."""
        return known(table, self.target)

    def scores(self, table: pd.DataFrame) -> np.ndarray:
        """The scores of all rows, (rows, classes)."""
        return table[[f"{self.prefix}{name}" for name in self.classes]].to_numpy()

    def answers(self, table: pd.DataFrame) -> np.ndarray:
        """The most probable class of every row, (rows,) names; never one that training lacks."""
        answers: np.ndarray = np.array(self.classes, dtype=object)[most_probable(self.scores(table))]
        return answers

    def confusion(self, table: pd.DataFrame) -> np.ndarray:
        """The confusion matrix (k, k) of the known rows, in the order of `classes`."""
        rows = self.known(table)
        return confusion_matrix(rows[self.target].to_numpy(), self.answers(rows), self.classes)

    def one_vs_rest(self, table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whether a known row is of a class, its score for it, and its group, (n,) each."""
        rows = self.known(table)
        return (rows[self.target] == name).to_numpy(), rows[f"{self.prefix}{name}"].to_numpy(), rows["group"].to_numpy()

    def auroc(self, table: pd.DataFrame, name: str, bootstrap: Bootstrap) -> Estimate:
        """Area under the ROC curve of a class against the rest; groups are resampled."""
        return auroc_estimate(*self.one_vs_rest(table, name), bootstrap=bootstrap)

    def aurocs(self, table: pd.DataFrame, split: str, bootstrap: Bootstrap) -> dict[str, Estimate]:
        """`<split>.<name>.auroc[<class>]`, each class against the rest."""
        return {f"{split}.{self.name}.auroc[{name}]": self.auroc(table, name, bootstrap) for name in self.classes}

    def metrics(
        self, table: pd.DataFrame, split: str, bootstrap: Bootstrap, *, untaught: Mapping[str, str] | None = None
    ) -> dict[str, Estimate]:
        """`<split>.<name>.<metric>`: accuracy, balanced accuracy, macro-F1, and of each class (`sensitivity[<class>]`)
        sensitivity, precision, F1 and AUROC against the rest; null for a class that training lacks (`untaught`: why).
        """
        rows = self.known(table)
        measures: dict[str, Measure] = {
            "accuracy": accuracy,
            "balanced_accuracy": balanced_accuracy,
            "macro_f1": macro_f1,
            **{
                f"{what}[{name}]": of_class(measure, position)
                for what, measure in BY_CLASS.items()
                for position, name in enumerate(self.classes)
            },
        }
        estimates = self._of_answers(rows, self.answers(rows), measures, bootstrap)
        named = {f"{split}.{self.name}.{metric}": e for metric, e in estimates.items()}
        return undefined_classes(named | self.aurocs(table, split, bootstrap), untaught or {})

    def oracle(self, table: pd.DataFrame, records: pd.DataFrame, column: str, bootstrap: Bootstrap) -> Estimate | None:
        """Macro-F1 of a phantom's latent truth, judged by the same imperfect reference as the model.

        Args:
            table: predictions.
            records: record table.
            column: the true class in it; data of people have none.
            bootstrap: resamples, seed and level.
        """
        if column not in records:
            return None
        rows = self.known(table)
        latent = records.set_index("id")[column].reindex(rows["id"]).to_numpy()
        return self._of_answers(rows, latent, {"macro_f1": macro_f1}, bootstrap)["macro_f1"]

    def _of_answers(
        self, rows: pd.DataFrame, answers: np.ndarray, measures: Mapping[str, Measure], bootstrap: Bootstrap
    ) -> dict[str, Estimate]:
        truth, group = rows[self.target].to_numpy(), rows["group"].to_numpy()
        return confusion_estimates(measures, truth, answers, self.classes, group, bootstrap=bootstrap)
