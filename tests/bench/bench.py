"""Speed as ratios within one run: `make bench`. A table on the screen, outputs/bench.json beside it.

Every bench_<what>.py beside this file has a function `rows()`, and says in `MINUTES` how long it takes on two quiet
cores. Training rows set the pipeline (prepared cache, default augmentation, trainer) against a bare loop: same network,
batch, precision and memory format on tensors that are resident, random and scaled already, both in turn in one process.
`make bench ARGS="skin serve"` runs some of them, into outputs/bench-serve-skin.json; those of `ASKED` (a GPU's, and one
that installs what it compares with) run only if they are named.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
from pathlib import Path

import torch
from measure import REPOSITORY, Row

from pipelines.shared.log import start_log

ASKED = {"gpu", "tiatoolbox"}


def main(chosen: list[str]) -> int:
    """Measure, print the table, write the JSON; what fails is named, and the others go on.

    Returns:
        The exit status: 1 if a bench failed, 2 if there is none of that name.
    """
    start_log(None, quiet=True)
    names = sorted(file.stem.removeprefix("bench_") for file in Path(__file__).parent.glob("bench_*.py"))
    if unknown := set(chosen) - set(names):
        print(f"There is no bench {', '.join(sorted(unknown))}.\nThere are: {', '.join(names)}.", file=sys.stderr)
        return 2
    benches = {n: importlib.import_module(f"bench_{n}") for n in names if n in chosen or not (chosen or n in ASKED)}
    minutes = sum(bench.MINUTES for bench in benches.values())
    print(f"{', '.join(benches)}: about {minutes:g} minutes on two quiet cores", file=sys.stderr)
    file = REPOSITORY / "outputs" / f"{'-'.join(['bench', *(benches if chosen else ())])}.json"
    file.parent.mkdir(exist_ok=True)
    began, rows, failed = time.perf_counter(), list[Row](), list[str]()
    for name, bench in benches.items():
        print(f"{name} …", file=sys.stderr)
        try:
            for row in bench.rows():
                print(f"  {row['what']}  {row['ratio']:.2f}", file=sys.stderr)
                rows.append(row | {"bench": name})
                file.write_text(json.dumps(rows, indent=2))  # after each: what was measured is kept
        except Exception:
            traceback.print_exc()
            failed.append(name)
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    print(f"\nOn {torch.get_num_threads()} CPU threads{gpu}, torch {torch.__version__}. Ratio above 1: ours is faster.")
    width = max((len(row["what"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['bench']:<12} {row['what']:<{width}}  {row['ratio']:8.2f}  {row['ours']:<18} {row['reference']}")
    print(*sorted({row["note"] for row in rows if "note" in row}), sep="\n")
    print(f"{file.relative_to(REPOSITORY) if rows else 'no rows'}; {(time.perf_counter() - began) / 60:.1f} minutes")
    if failed:
        print(f"Failed: {', '.join(failed)}; what happened is above.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
