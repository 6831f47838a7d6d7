"""The comparison's command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipelines.shared.errors import ConfigError, nearest
from pipelines.shared.job import exit_on_mistake


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; exits with a status."""
    exit_on_mistake(lambda: compare(_parser().parse_args(arguments)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.compare",
        description="Finished runs side by side: headline metrics, paired differences where the same test records were "
        "scored, seeds, differing keys, learning curves. Leaves a page and CSV files.",
    )
    parser.add_argument("folders", nargs="+", metavar="folder", help="a run, or the parent folder of a sweep's runs")
    parser.add_argument("--against", metavar="RUN", help="compare all runs with this one only, not each with each")
    parser.add_argument("--skip-unfinished", action="store_true", help="leave a sweep's failed jobs out, and say so")
    parser.add_argument("--resamples", type=int, default=2000, help="of the clustered bootstrap (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples (default 0)")
    parser.add_argument("--level", type=float, default=0.95, help="of the intervals (default 0.95)")
    parser.add_argument("--out", help="folder for the results (default outputs/compare/<time>)")
    return parser


def compare(options: argparse.Namespace) -> Path:
    """Read, compare and write. Returns the path of the page."""
    if options.resamples < 100:
        raise ConfigError(f"--resamples={options.resamples} is too small.", "Give at least 100.")
    if not 0.5 <= options.level < 1:
        raise ConfigError(f"--level={options.level} is out of range.", "Give a number from 0.5 to below 1.")
    if options.seed < 0:
        raise ConfigError(f"--seed={options.seed} is negative.", "Give 0 or more.")
    out = Path(options.out or Path("outputs", "compare", datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))).expanduser()
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out={out} exists and is not empty.", "Choose another folder.")

    from pipelines.compare.curves import learning_curves
    from pipelines.compare.page import write
    from pipelines.compare.pairs import paired_differences
    from pipelines.compare.runs import read_runs

    runs, left_out = read_runs([Path(f).expanduser() for f in options.folders], options.skip_unfinished)
    if not runs:
        raise ConfigError("No finished run is left to compare.", "Finish one (mode=resume run=<folder>).")
    against = None
    if options.against is not None:
        wanted = Path(options.against).expanduser()
        against = next(
            (r for r in runs if r.name == options.against or r.folder.path.resolve() == wanted.resolve()), None
        )
        if against is None:
            raise ConfigError(
                f"--against={options.against} is none of the runs compared.",
                nearest(options.against, [r.name for r in runs]),
            )
    settings = options.resamples, options.seed, options.level
    pairs, refusals = paired_differences(runs, against, *settings)
    curves, no_curves = learning_curves(runs, *settings)
    page = write(out, runs, pairs, refusals, curves, [*left_out, *no_curves])
    for run in runs:
        print(f"{run.name}  {run.headline}  {run.result}")
    for line in (*left_out, *no_curves, *sorted({f"not compared: {r.reason}" for r in refusals})):
        print(line)
    for curve in curves:
        print(curve.sentence())
    print(page)
    return page
