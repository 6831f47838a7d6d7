"""Binary tasks: yes-or-no questions that a prediction table answers, and how well it answers them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.shared.stats.auc import RocCurve, auroc_estimate, average_precision_estimate, roc_curve
from pipelines.shared.stats.bootstrap import Bootstrap
from pipelines.shared.stats.calibration import calibration_estimates
from pipelines.shared.stats.estimate import Estimate
from pipelines.shared.untaught import undefined


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
