"""Statistics on numpy arrays: what a diagnostic study reports, and how sure it may be.

Conventions: `y` is 0/1 of shape (n,), `score` a float of shape (n,), higher meaning more positive, `group` the (n,)
keys of what was sampled (patients), and a case is called positive if `score >= threshold`.

Which interval is used when:

- Everything (AUROC, average precision, kappa, F1, Brier, calibration slope …): the percentile interval of the
  clustered bootstrap, which draws whole groups with replacement (`bootstrap`). Rows of one patient are not
  independent; drawing rows would give intervals that are too narrow. Only the expected calibration error, which
  resampling biases upwards, has a conservative interval of its own (`calibration.ece_estimate`).
- Sensitivity, specificity, predictive values, any proportion: both the clustered bootstrap and the exact binomial
  interval of Clopper and Pearson (`proportions`). The exact one holds for small counts and for 0 % or 100 %, where
  the bootstrap's has no width, but takes rows as independent. Readers and bins of a reliability curve have the exact
  one only.
- Two models on the same cases: DeLong's test where every group has one row, else its clustered form by Obuchowski
  (`delong.compare_aurocs` chooses), or the paired clustered bootstrap (`auc.auroc_difference`).
- A model and several readers, who are a sample too: Obuchowski and Rockette's, with a t distribution (`mrmc`).
- Which classes a probability cannot rule out: no interval but a set, by conformal prediction (`conformal`).

Low-level functions raise `StatisticsError` on input for which the statistic is undefined (one class, NaN, no rows).
Functions named `…_estimate` or `…_estimates` return an `Estimate` whose value, or only interval, is then None with the
reason. Programming mistakes (a level of 95 instead of 0.95) raise `ValueError`.
"""
