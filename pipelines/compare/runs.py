"""Run folders, read and checked: all that is wrong with all of them is said at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.shared.errors import RunError, listed
from pipelines.shared.run_folder import RunFolder, read_json, read_table, read_yaml
from pipelines.shared.stats.estimate import Estimate

SCHEMA = 1
JOB = re.compile(r"(\d+)-[0-9a-f]{8}")
# No difference between runs: how one is called, where it lies, how fast it ran, what else is told of its answers.
PLACE = ("mode", "run", "run_dir", "input", "cache", "trainer.device", "trainer.workers", "trainer.checkpoint_seconds",
         "track", "conformal")  # fmt: skip
# Keys that came later: a run that lacks them is one in which they are off.
LATER = ("recalibrate", "calibration", "trial")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its files.
        name: short and unique among the runs compared.
        study: whose run it is.
        keys: its configuration, dotted, without what only says where it ran.
        metrics: metrics.json.
        records: its record table.
        test: its prediction table of test, rows in the order of id (and step).
        classes: what its networks answer, in order; None where no network is named.
    """

    folder: RunFolder
    name: str
    study: str
    keys: dict[str, Any]
    metrics: dict[str, Any]
    records: pd.DataFrame
    test: pd.DataFrame
    classes: list[str] | None

    @property
    def headline(self) -> str:
        """The key of its headline metric."""
        return str(self.metrics["headline"])

    @property
    def synthetic(self) -> bool:
        """Whether its data were made by a phantom."""
        return bool(self.metrics["source"]["synthetic"])

    @property
    def result(self) -> Estimate:
        """Its headline metric."""
        return Estimate.from_dict(self.metrics["metrics"][self.headline])

    def estimate(self, key: str) -> Estimate | None:
        """A metric of its metrics.json; None where it has none of this name."""
        entry = self.metrics["metrics"].get(key)
        return None if entry is None else Estimate.from_dict(entry)

    @cached_property
    def training_groups(self) -> int:
        """Groups (patients) that it was trained on; over folds, all that are not in one's own test part."""
        splits = self.metrics["splits"]
        return int(splits.get("train", splits["test"])["groups"])


def read_runs(folders: Sequence[Path], skip_unfinished: bool = False) -> tuple[list[Run], list[str]]:
    """All runs of run folders and sweeps.

    Args:
        folders: run folders, or parents of a sweep's jobs.
        skip_unfinished: leave jobs out that failed or are not finished, and name them.

    Returns:
        The runs, and what was left out.

    Raises:
        RunError: naming all that is wrong: no run, a file that is missing, an older schema, a sweep's failed jobs.
    """
    problems: list[str] = []
    left_out: list[str] = []
    candidates: list[tuple[Path, str]] = []
    for folder in folders:
        jobs, gaps = _jobs(folder)
        (left_out if skip_unfinished else problems).extend(gaps)
        if jobs:
            candidates += [(job, f"{folder.name}/{job.name}") for job in jobs]
        elif not gaps:
            candidates.append((folder, folder.name))
    names = _unique([name for _, name in candidates], [path for path, _ in candidates])
    runs = []
    for (path, _), name in zip(candidates, names, strict=True):
        mistakes = _problems(path)
        if mistakes:
            is_job = JOB.fullmatch(path.name) is not None
            (left_out if skip_unfinished and is_job else problems).append(f"{path}: {'; '.join(mistakes)}")
        else:
            runs.append(_read(path, name))
    twice = {str(r.folder.path.resolve()) for r in runs}
    if len(twice) < len(runs):
        problems.append("a run was given twice")
    if problems:
        raise RunError(
            f"{len(problems)} problems with the folders given:\n{listed(problems, len(problems))}",
            "Give finished run folders or sweeps; --skip-unfinished leaves a sweep's failed jobs out and names them.",
        )
    return runs, left_out


def _jobs(folder: Path) -> tuple[list[Path], list[str]]:
    """The job folders of a sweep in their order, and the numbers of those that left none."""
    if not folder.is_dir() or (folder / "config.yaml").exists():
        return [], []
    jobs = {int(m[1]): p for p in folder.iterdir() if p.is_dir() and (m := JOB.fullmatch(p.name))}
    if not jobs:
        return [], []
    lost = [n for n in range(max(jobs) + 1) if n not in jobs]
    return [jobs[n] for n in sorted(jobs)], [f"{folder}: job {n} of the sweep left no folder" for n in lost]


def _unique(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """Names as given, longer where two are the same."""
    return [
        name if list(names).count(name) == 1 else str(Path(*path.parts[-3:]))
        for name, path in zip(names, paths, strict=True)
    ]


def _problems(path: Path) -> list[str]:
    """What is wrong with one run folder."""
    if not path.is_dir():
        return ["there is no such folder"]
    if not (path / "config.yaml").exists():
        return ["no run folder: it holds no config.yaml"]
    needed = ["metrics.json", "flow.json", "records.parquet", "predictions/test.parquet"]
    missing = [name for name in needed if not (path / name).exists()]
    if missing:
        return [f"{', '.join(missing)} missing: it failed or is not finished (mode=resume goes on with it)"]
    problems = []
    for name in ("metrics.json", "flow.json"):
        try:
            content = read_json(path / name, ["source"])
        except RunError as failure:
            problems.append(failure.problem)
            continue
        if name == "metrics.json" and content.get("schema") != SCHEMA:
            problems.append(
                f"metrics.json has schema {content.get('schema')}, this version reads {SCHEMA}: "
                "mode=report with this version writes it anew"
            )
        elif name == "metrics.json" and (reason := _damage(content)):
            problems.append(f"metrics.json lacks keys of its schema ({reason}): mode=report writes it anew")
    return problems


def _damage(metrics: dict[str, Any]) -> str | None:
    """What of a metrics.json cannot be read, of that which is read here; None: nothing."""
    try:
        estimates = {key: Estimate.from_dict(fields) for key, fields in metrics["metrics"].items()}
        estimates[metrics["headline"]]
        parts = metrics["splits"]
        int(parts.get("train", parts["test"])["groups"])
        for section, key in (
            ("reference", "chance"),
            ("reference", "oracle"),
            ("source", "name"),
            ("source", "synthetic"),
        ):
            metrics[section][key]
        metrics["study"]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as failure:
        return f"{type(failure).__name__}: {failure}"
    return None


def _read(path: Path, name: str) -> Run:
    folder = RunFolder(path)
    records = read_table(folder.records, ["id", "group", "split", "fingerprint"])
    test = read_table(folder.predictions("test"), ["id", "group"])
    config, metrics, flow = read_yaml(folder.config), read_json(folder.metrics), read_json(folder.flow)
    order = [c for c in ("id", "record", "step") if c in test]
    networks = [read_json(p / "model.json") for p in folder.networks()]
    classes = [n.get("classes") for n in networks or flow.get("networks", [])]
    return Run(
        folder=folder,
        name=name,
        study=str(metrics["study"]),
        keys={k: v for k, v in dotted(config).items() if not (_below(k, PLACE) or (_below(k, LATER) and not v))},
        metrics=metrics,
        records=records,
        test=test.sort_values(order, kind="stable").reset_index(drop=True),
        classes=classes[0] if classes else None,
    )


def dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one level of dotted keys; an empty section is a value of its own."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= dotted(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def _below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def differing_keys(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The configuration keys in which runs differ, each with every run's value (None: it has no such key)."""
    keys = sorted({key for run in runs for key in run.keys})
    table = {key: [run.keys.get(key) for run in runs] for key in keys}
    return {key: values for key, values in table.items() if any(v != values[0] for v in values)}
