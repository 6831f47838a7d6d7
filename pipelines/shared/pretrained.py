"""Finished runs that come with the package: `run=pretrained` or `run=pretrained:<name>`. Imports nothing heavy.

They lie in pipelines/<study>/pretrained/<name>/, each a run folder without its records, made by `pipelines.publish`.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.shared.errors import RunError, nearest

WORD = "pretrained"
NOTICE = "LICENCE.txt"  # marks a run that was published; shown whenever it is used
PACKAGE = Path(__file__).resolve().parents[1]


def is_pretrained(run: str | None) -> bool:
    """Whether `run` names a run of the package and no folder."""
    return run is not None and run.partition(":")[0] == WORD


def place_of(study: str, name: str) -> Path:
    """Where a published run of a study belongs."""
    return PACKAGE / study / WORD / name


def pretrained_runs() -> dict[str, list[str]]:
    """The names of the runs that come with the package, by study; only studies that have one."""
    found: dict[str, list[str]] = {}
    for file in sorted(PACKAGE.glob(f"*/{WORD}/*/{NOTICE}")):
        found.setdefault(file.parents[2].name, []).append(file.parent.name)
    return found


def pretrained_run(study: str, run: str) -> Path:
    """The folder that `pretrained` or `pretrained:<name>` names.

    Raises:
        RunError: the study has none, none of this name, or several and none was named.
    """
    every = pretrained_runs()
    there, name = every.get(study, []), run.partition(":")[2]
    if not there:
        others = "; ".join(f"{other}: {', '.join(names)}" for other, names in every.items())
        raise RunError(
            f"run={run}: no finished run of {study} comes with the package.",
            "Train one and give its folder: run=<run folder>."
            + (f" There are runs of other studies ({others})." if others else ""),
        )
    if not name and len(there) > 1:
        shown = " or ".join(f"run={WORD}:{one}" for one in there)
        raise RunError(f"run={run}: {len(there)} runs of {study} come with the package.", f"Say which: {shown}.")
    if name and name not in there:
        raise RunError(f"run={run}: no run of {study} with this name comes with the package.", nearest(name, there))
    return place_of(study, name or there[0])


def notice_of(run: Path) -> str | None:
    """The licence of a published run, as it is shown; None for any other run."""
    file = run / NOTICE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None
