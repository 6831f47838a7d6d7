"""Damaged files of every format through the readers: `make fuzz ARGS="--count 10000 --seed 0 --formats png,dicom"`.

Prints a table of what was accepted, refused in words, and a fault; every fault with the command that reproduces it.
The folder with the damaged file and the traceback are kept below outputs/fuzz/.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from formats import FORMATS
from fuzzing import CONTEXT, MEMORY, SECONDS, Case, Format, Outcome, Worker, samples_of
from rich.console import Console
from rich.table import Table

from pipelines.shared.errors import nearest
from pipelines.shared.screen import progress_bar

OUT = Path("outputs", "fuzz")


def main(arguments: list[str]) -> int:
    """Run what was asked for; the exit status is 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="tests/fuzz/fuzz.py", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="damaged files over all formats (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other damages (default 0)")
    parser.add_argument("--formats", help=f"some of: {','.join(FORMATS)}")
    parser.add_argument("--case", type=int, help="this one alone, of one format; what it does is shown in full")
    parser.add_argument("--first", type=int, default=0, help="number of the first case of each format (default 0)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of a processor per file (default {SECONDS})")
    options = parser.parse_args(arguments)
    CONTEXT.set_forkserver_preload(["formats"])
    names = options.formats.split(",") if options.formats else list(FORMATS)
    for name in names:
        if name not in FORMATS:
            parser.error(f"--formats: no format is called '{name}'. {nearest(name, FORMATS)}")
    samples = OUT / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    chosen = [FORMATS[name] for name in names]
    for format_ in chosen:
        samples_of(format_, samples)
    if options.case is not None:
        return _one(chosen[0], Case(names[0], options.seed, options.case), samples, options.seconds)
    each = -(-options.count // len(names))
    counts, faults, seconds = _all(chosen, samples, options, each)
    _show(names, counts, seconds)
    for fault in faults:
        print(f"\n{_title(fault)}\n  {_command(fault.case)}")
    return int(bool(faults))


def _all(
    chosen: list[Format], samples: Path, options: argparse.Namespace, each: int
) -> tuple[Counter[tuple[str, str]], list[Outcome], Counter[str]]:
    """How often each kind of outcome was met per format, the faults, and the seconds that each format took."""
    counts: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    faults: list[Outcome] = []
    with Worker(chosen, samples.absolute(), options.seconds, MEMORY) as worker, progress_bar() as bar:
        task = bar.add_task("Reading damaged files", total=each * len(chosen), note="")
        for format_ in chosen:
            begun = time.monotonic()
            for number in range(options.first, options.first + each):
                outcome = worker.run(Case(format_.name, options.seed, number))
                counts[format_.name, outcome.kind] += 1
                if outcome.kind == "fault":
                    faults.append(outcome)
                    _keep(outcome, format_, samples)
                bar.update(task, advance=1, note=f"{format_.name}, {len(faults)} faults")
            seconds[format_.name] = round(time.monotonic() - begun)
    return counts, faults, seconds


def _one(format_: Format, case: Case, samples: Path, seconds: float) -> int:
    with Worker([format_], samples.absolute(), seconds, MEMORY) as worker:
        outcome = worker.run(case)
    print(f"{_keep(outcome, format_, samples)}\n{outcome.kind}\n{outcome.words}")
    return int(outcome.kind == "fault")


def _keep(outcome: Outcome, format_: Format, samples: Path) -> Path:
    """Build the case once more, where it stays. Returns the damaged file."""
    case = outcome.case
    folder = OUT / f"{case.format}-{case.seed}-{case.number}"
    shutil.rmtree(folder, ignore_errors=True)
    file = case.build(samples / case.format, format_.files, folder)
    (OUT / f"{folder.name}.txt").write_text(f"{_command(case)}\n{file}\n\n{outcome.words}\n", errors="replace")
    return file


def _command(case: Case) -> str:
    arguments = shlex.quote(f"--formats {case.format} --seed {case.seed} --case {case.number}")
    return f"make fuzz ARGS={arguments}"


def _title(outcome: Outcome) -> str:
    """The last line of what went wrong, and the last place in the project where it did."""
    lines = [line.strip() for line in outcome.words.splitlines() if line.strip()]
    places = [line for line in lines if line.startswith("File ") and "pipelines/" in line]
    return f"{outcome.case.format} {outcome.case.number}: {lines[-1][:200] if lines else ''}" + (
        f"\n  {places[-1]}" if places else ""
    )


def _show(names: list[str], counts: Counter[tuple[str, str]], seconds: Counter[str]) -> None:
    table = Table("Format", "Files", "Accepted", "Refused in words", "Faults", "Seconds")
    kinds = ("accepted", "refused", "fault")
    for name in names:
        row = [counts[name, kind] for kind in kinds]
        table.add_row(name, *(f"{n:,}" for n in (sum(row), *row, seconds[name])))
    total = [sum(counts[name, kind] for name in names) for kind in kinds]
    table.add_section()
    table.add_row("all", *(f"{n:,}" for n in (sum(total), *total, sum(seconds.values()))))
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
