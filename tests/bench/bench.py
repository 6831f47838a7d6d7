"""Speed as ratios within one run: `make bench`. A table on the screen, outputs/bench.json beside it.

Every bench_<what>.py beside this file has a function `rows()`. Training rows set the pipeline (prepared cache, default
augmentation, trainer) against a bare loop: same network, batch, precision and memory format on tensors that are
resident, random and scaled already, both in turn in one process. `make bench ARGS=skin` runs one of them; that of a
GPU only `make bench ARGS=gpu` runs.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch
from measure import REPOSITORY, Row

from pipelines.shared.log import start_log


def main(chosen: list[str]) -> None:
    """Measure, print the table, write the JSON."""
    start_log(None, quiet=True)
    names = sorted(file.stem for file in Path(__file__).parent.glob("bench_*.py"))
    rows: list[Row] = []
    for name in names:
        short = name.removeprefix("bench_")
        if short in chosen or (not chosen and short != "gpu"):
            print(f"{name} …", file=sys.stderr)
            found = [row | {"bench": name.removeprefix("bench_")} for row in importlib.import_module(name).rows()]
            print(*(f"  {row['what']}  {row['ratio']:.2f}" for row in found), sep="\n", file=sys.stderr)
            rows += found
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    print(f"\nOn {torch.get_num_threads()} CPU threads{gpu}, torch {torch.__version__}. Ratio above 1: ours is faster.")
    width = max((len(row["what"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['bench']:<12} {row['what']:<{width}}  {row['ratio']:8.2f}  {row['ours']:<18} {row['reference']}")
    print(*sorted({row["note"] for row in rows if "note" in row}), sep="\n")
    file = REPOSITORY / "outputs" / "bench.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(rows, indent=2))
    print(file.relative_to(REPOSITORY))


if __name__ == "__main__":
    main(sys.argv[1:])
