"""What a comparison leaves: a page, and the same numbers as CSV."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pipelines
from pipelines.compare.curves import FACTOR, Curve
from pipelines.compare.drawing import learning_curve
from pipelines.compare.pairs import Pair, Refusal
from pipelines.compare.runs import Run, differing_keys
from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Subgroup
from pipelines.shared.judging.report import (
    Alignment,
    Headline,
    HeadlineFigure,
    Picture,
    Report,
    Section,
    Table,
    Text,
    render,
)
from pipelines.shared.run_folder import write_csv

SHOWN = 200  # pairs on the page; the CSV has them all


def write(
    out: Path, runs: Sequence[Run], pairs: Sequence[Pair], refusals: Sequence[Refusal], curves: Sequence[Curve],
    notes: Sequence[str],
) -> Path:  # fmt: skip
    """Write report.html, figures/ and the CSV files; returns the page's path."""
    write_csv(out / "runs.csv", runs_table(runs))
    write_csv(out / "differences.csv", pairs_table(pairs, refusals))
    seeds = seeds_table(runs)
    write_csv(out / "seeds.csv", seeds)
    keys = pd.DataFrame(
        {
            "key": list(differing_keys(runs)),
            **{run.name: [values[i] for values in differing_keys(runs).values()] for i, run in enumerate(runs)},
        }
    )
    write_csv(out / "keys.csv", keys)
    synthetic = all(run.synthetic for run in runs)
    some = any(run.synthetic for run in runs)
    sections = [_runs_section(out, runs)]
    if len(runs) > 1:
        sections.append(_pairs_section(out, pairs, refusals, "synthetic data" if some else ""))
    if len(seeds):
        sections.append(_seeds_section(seeds))
    if curves:
        write_csv(out / "learning_curves.csv", curves_table(curves))
        sections += [_curve_section(out, curve, i) for i, curve in enumerate(curves)]
    if len(runs) > 1:
        sections.append(_keys_section(runs))
    studies = Counter(run.study for run in runs)
    counted = ", ".join(f"{n} of {study}" for study, n in studies.items())
    significant = sum(1 for p in pairs if p.adjusted is not None and p.adjusted < 0.05)
    sentence = f"{len(runs)} runs ({counted})."
    if pairs:
        sentence += (
            f" {len(pairs)} pairs scored the same test records; {significant} of them differ with p below 0.05 after "
            "correction for their number."
        )
    cards = [HeadlineFigure("Runs", len(runs)), HeadlineFigure("Pairs compared", len(pairs))]
    cards += [HeadlineFigure("Gain from twice the data", c.gain, f"{c.metric}, by {c.key}") for c in curves[:2]]
    warnings = list(notes)
    if some and not synthetic:
        warnings.append("Some of these runs are of synthetic data: " + ", ".join(r.name for r in runs if r.synthetic))
    report = Report("Runs compared", "compare", synthetic, Headline(sentence, cards, warnings), sections,
                    footer=f"imaging-pipelines {pipelines.__version__}")  # fmt: skip
    return render(report, out)


# --- tables ---


def runs_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per run: its headline metric with interval, and what it is a run of."""
    rows = []
    for run in runs:
        estimate = run.result
        rows.append(
            {
                "run": run.name, "study": run.study, "source": run.metrics["source"]["name"],
                "synthetic": run.synthetic, "seed": run.keys.get("seed"), "training_groups": run.training_groups,
                "metric": run.headline, "value": estimate.value, "low": estimate.low, "high": estimate.high,
                "reason": estimate.reason, "n": estimate.n, "groups": estimate.groups,
                "chance": run.metrics["reference"]["chance"], "oracle": run.metrics["reference"]["oracle"],
                "folder": str(run.folder.path),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def pairs_table(pairs: Sequence[Pair], refusals: Sequence[Refusal]) -> pd.DataFrame:
    """One row per pair: the first minus the second, or why they are not compared."""
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        difference = pair.comparison.difference
        rows.append(
            {
                "first": pair.first.name, "second": pair.second.name, "metric": pair.metric,
                "difference": difference.value, "low": difference.low, "high": difference.high,
                "p": pair.comparison.p_value, "p_holm": pair.adjusted, "method": difference.method,
                "reason": difference.reason, "n": difference.n, "groups": difference.groups,
            }
        )  # fmt: skip
    rows += [{"first": r.first.name, "second": r.second.name, "reason": f"not compared: {r.reason}"} for r in refusals]
    columns = [
        "first",
        "second",
        "metric",
        "difference",
        "low",
        "high",
        "p",
        "p_holm",
        "method",
        "reason",
        "n",
        "groups",
    ]
    return pd.DataFrame(rows, columns=columns)


def seeds_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Mean and standard deviation over runs that differ in nothing but the seed."""
    families: dict[str, list[Run]] = {}
    for run in runs:
        rest = sorted((k, repr(v)) for k, v in run.keys.items() if k != "seed")
        families.setdefault(repr((run.study, run.headline, run.metrics["source"]["name"], rest)), []).append(run)
    rows = []
    for family in families.values():
        values = [run.result.value for run in family if run.result.value is not None]
        if len({run.keys.get("seed") for run in family}) < 2 or len(values) < 2:
            continue
        fellows = [run for run in runs if run.study == family[0].study]
        configuration = {k: family[0].keys.get(k) for k in differing_keys(fellows) if k != "seed"}
        same = len({frozenset(run.test["id"]) for run in family}) == 1
        rows.append(
            {
                "study": family[0].study, "metric": family[0].headline,
                "configuration": ", ".join(f"{k}={v}" for k, v in configuration.items()),
                "seeds": len(values), "mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)),
                "lowest": min(values), "highest": max(values),
                "test_records": "the same" if same else "of each seed's own split",
                "runs": ", ".join(run.name for run in family),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def curves_table(curves: Sequence[Curve]) -> pd.DataFrame:
    """One row per curve and size, then one for what the law expects of more data."""
    rows: list[dict[str, Any]] = []
    for curve in curves:
        about = {"study": curve.study, "key": curve.key, "metric": curve.metric, "seeds": len(curve.seeds)}
        for size, point, singles in zip(curve.sizes, curve.points, curve.single, strict=True):
            rows.append(
                about | {"size": size, "value": point.value, "low": point.low, "high": point.high,
                         "single": " ".join(f"{v:.6f}" for v in singles)}
            )  # fmt: skip
        law = curve.law
        rows.append(
            about | {"size": FACTOR * curve.sizes[-1], "gain": curve.gain.value, "gain_low": curve.gain.low,
                     "gain_high": curve.gain.high, "a": law.a[0], "b": law.b[0], "c": law.c[0]}
        )  # fmt: skip
    return pd.DataFrame(rows)


# --- sections ---


def _runs_section(out: Path, runs: Sequence[Run]) -> Section:
    rows: list[list[Any]] = []
    bars = []
    for run in runs:
        estimate = run.result
        reference = run.metrics["reference"]
        fellows = [r for r in runs if r.study == run.study]
        own = ", ".join(f"{k}={_shown(run.keys.get(k))}" for k in differing_keys(fellows))
        data = f"{run.study}, {run.metrics['source']['name']}"
        rows.append(
            [run.name, estimate, own if len(own) <= 80 else f"{own[:77]}…", run.headline.removeprefix("test."), data,
             run.training_groups, reference["chance"], reference["oracle"]]
        )  # fmt: skip
        bars.append(Subgroup(run.name, estimate, estimate.n or len(run.test), run.study))
    bars.sort(key=lambda s: s.group)
    note = "synthetic data" if any(r.synthetic for r in runs) else ""
    figures.forest(out / "figures" / "runs.png", bars, metric="Metric", note=note)
    columns = ["Run", "Test", "Differs in", "Metric", "Study, data", "Training groups", "Chance", "Oracle"]
    align: list[Alignment] = ["left", "right", "left", "left", "left", "right", "right", "right"]
    picture = Picture(
        "figures/runs.png",
        "The same; n counts the rows that each metric rests on. Studies have metrics of their own.",
        "Forest plot of runs.",
    )
    caption = "Each run's own headline metric and interval."
    return Section("Headline metrics", [Table(columns, rows, caption, align), picture])


def _pairs_section(out: Path, pairs: Sequence[Pair], refusals: Sequence[Refusal], note: str) -> Section:
    blocks: list[Any] = [
        Text(
            "Two runs are compared where they scored the same test records. AUROCs: DeLong's test, or its clustered "
            "form where a group has several records; all else: both runs on the same resamples of groups. p-values "
            "are two-sided; Holm's correction is for the number of pairs in this table. It does not know "
            "which runs were looked at before."
        )
    ]
    if pairs:
        rows: list[list[Any]] = [
            [
                p.first.name,
                p.second.name,
                p.comparison.difference,
                _p(p.comparison.p_value),
                _p(p.adjusted),
                p.metric.removeprefix("test."),
            ]
            for p in sorted(pairs, key=lambda p: (p.adjusted is None, p.adjusted or 0))[:SHOWN]
        ]
        columns = ["First", "Second", "First minus second", "p", "p, corrected", "Metric"]
        caption = "Paired differences, the smallest p first."
        if len(pairs) > SHOWN:
            caption += f" The first {SHOWN} of {len(pairs)}; differences.csv has all."
        align: list[Alignment] = ["left", "left", "right", "right", "right", "left"]
        blocks.append(Table(columns, rows, caption, align))
        if len(pairs) <= 30:
            bars = [
                Subgroup(f"{p.first.name} − {p.second.name}", p.comparison.difference, p.comparison.difference.n or 0)
                for p in pairs
            ]
            figures.forest(out / "figures" / "differences.png", bars, metric="Difference", note=note)
            blocks.append(Picture("figures/differences.png", "Paired differences.", "Forest plot of differences."))
    else:
        blocks.append(Text("No two of these runs scored the same test records.", "note"))
    if refusals:
        reasons = Counter(r.reason for r in refusals)
        example = {r.reason: f"{r.first.name}, {r.second.name}" for r in reversed(refusals)}
        rows = [[reason, count, example[reason]] for reason, count in reasons.most_common(50)]
        blocks.append(
            Table(["Not compared because", "Pairs", "Such as"], rows, "Runs of one study that were not compared.",
                  ["left", "right", "left"])
        )  # fmt: skip
    return Section("Paired differences", blocks)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seeds_section(seeds: pd.DataFrame) -> Section:
    rows: list[list[Any]] = [
        [r["study"], f"{r['mean']:.3f}", f"{r['sd']:.3f}", str(r["seeds"]), f"{r['lowest']:.3f} to {r['highest']:.3f}",
         r["metric"].removeprefix("test."), r["configuration"] or "one", r["test_records"]]
        for r in seeds.to_dict("records")
    ]  # fmt: skip
    columns = ["Study", "Mean", "SD", "Seeds", "Range", "Metric", "Configuration", "Test records"]
    align: list[Alignment] = ["left", "right", "right", "right", "right", "left", "left", "left"]
    note = (
        "Where each seed has a split of its own, the standard deviation holds the choice of test records beside the "
        "chance in training."
    )
    table = Table(columns, rows, "Runs that differ in the seed alone.", align)
    return Section("Across seeds", [table, Text(note, "note")])


def _curve_section(out: Path, curve: Curve, number: int) -> Section:
    path = out / "figures" / f"learning_curve_{number}.png"
    learning_curve(path, curve, "synthetic data" if curve.synthetic else "")
    rows: list[list[Any]] = [
        [f"{size:g}", point, *[f"{v:.3f}" for v in singles]]
        for size, point, singles in zip(curve.sizes, curve.points, curve.single, strict=True)
    ]
    law = curve.law
    text = (
        f"The law fitted to the means: {curve.metric} = {law.c[0]:.3f} − {law.a[0]:.3g} n^(−{law.b[0]:.2f}). It is "
        "refitted on every resample of seeds and test groups; the same groups for all sizes of a seed. It cannot fall, "
        "so the expected gain is never negative. Beyond twice the data nothing is said."
    )
    columns = [curve.unit.capitalize(), "Mean", *[f"Seed {k}" for k in curve.seeds]]
    return Section(
        f"Learning curve: {curve.study}, {curve.key}",
        [
            Text(f"**{curve.sentence()}**"),
            Picture(
                f"figures/{path.name}",
                f"{curve.metric} against {curve.unit}. Band: 95 % of the refitted laws; dashed: beyond the data.",
                "Learning curve with its power law.",
            ),
            Table(columns, rows, f"{curve.metric} by {curve.unit}.", ["right"] * len(columns)),
            Text(text, "note"),
        ],
    )


def _keys_section(runs: Sequence[Run]) -> Section:
    blocks: list[Any] = []
    for study in dict.fromkeys(run.study for run in runs):
        group = [run for run in runs if run.study == study]
        differing = differing_keys(group)
        if len(group) < 2:
            continue
        if not differing:
            blocks.append(Text(f"The runs of {study} have the same configuration."))
            continue
        if len(group) <= 6:
            rows: list[list[Any]] = [[key, *[_shown(v) for v in values]] for key, values in differing.items()]
            blocks.append(Table(["Key", *[r.name for r in group]], rows, f"Keys in which the runs of {study} differ."))
        else:
            rows = [
                [key, ", ".join(f"{v} ({n})" for v, n in Counter(map(_shown, values)).items())]
                for key, values in differing.items()
            ]
            caption = (
                f"Keys in which the runs of {study} differ, with how many runs have each value (keys.csv: each run's)."
            )
            blocks.append(Table(["Key", "Values"], rows, caption))
    return Section("Configurations", blocks or [Text("No two runs are of one study.")])


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
