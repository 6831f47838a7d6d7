"""What all studies share: the statistics against plain loops, and how long the command line takes to answer."""

from __future__ import annotations

import sys

import numpy as np
from measure import Row, command_seconds, seconds

from pipelines.shared.stats.auc import auroc, auroc_estimate
from pipelines.shared.stats.bootstrap import Bootstrap, cluster_counts
from pipelines.shared.stats.delong import delong_covariance

MINUTES = 2


def rows() -> list[Row]:
    """All rows."""
    return [*_statistics(), *_command_line()]


def _statistics() -> list[Row]:
    rng = np.random.default_rng(0)
    n = 10_000
    group, truth = np.arange(n) // 2, rng.integers(0, 2, n)
    score = truth + rng.normal(size=n)
    ours = seconds(lambda: auroc_estimate(truth, score, group, bootstrap=Bootstrap(resamples=2000)))
    counts = cluster_counts(group, 20, 0)
    loop = 100 * seconds(lambda: [auroc(np.repeat(truth, c), np.repeat(score, c)) for c in counts])
    few = slice(0, 1000)

    def plain_delong() -> float:
        positive, negative = score[few][truth[few] == 1], score[few][truth[few] == 0]
        wins = np.array([[float(p > q) + 0.5 * float(p == q) for q in negative] for p in positive])
        a, b = wins.mean(axis=1).var(ddof=1) / len(positive), wins.mean(axis=0).var(ddof=1) / len(negative)
        return float(a + b)

    assert abs(plain_delong() - delong_covariance(truth[few], score[few])[1][0, 0]) < 1e-12
    quick, slow = seconds(lambda: delong_covariance(truth[few], score[few])), seconds(plain_delong)
    return [
        {"what": "AUROC, 2,000 clustered resamples of 10,000 rows", "ratio": loop / ours,
         "ours": f"{ours:.2f} s", "reference": f"loop {loop:.1f} s (20 resamples measured)"},
        {"what": "DeLong variance, 1,000 rows", "ratio": slow / quick,
         "ours": f"{1000 * quick:.2f} ms", "reference": f"loop {1000 * slow:.0f} ms"},
    ]  # fmt: skip


def _command_line() -> list[Row]:
    python = sys.executable
    cases = [
        ("--help", ["-m", "pipelines.retinopathy", "--help"], 0, "import hydra", "import hydra.main, pydantic"),
        ("a mistyped key", ["-m", "pipelines.retinopathy", "epochs=3"], 2, "import hydra",
         "import hydra.main, pydantic"),
        ("import of a study", ["-c", "import pipelines.retinopathy.study"], 0, "its libraries alone",
         "import albumentations, cv2, filelock, matplotlib, pandas, pyarrow, scipy.stats, timm, torch, torchvision"),
    ]  # fmt: skip
    found = []
    for what, command, status, name, reference in cases:
        ours, theirs = command_seconds([python, *command], status), command_seconds([python, "-c", reference])
        found.append(
            {"what": what, "ratio": theirs / ours, "ours": f"{ours:.2f} s", "reference": f"{name} {theirs:.2f} s"}
        )
    return found
