"""What runs of all studies gave, for refactorings: the same numbers before and after, bit for bit.

    python tests/conformance/snapshot.py before.json   run every study (trainer=smoke), note what it gave
    python tests/conformance/snapshot.py after.json    the same, in the changed checkout
    python tests/conformance/snapshot.py before.json after.json   what differs; exit status 1 if anything does

`--default retinopathy,ecg` takes their default configuration instead of the smoke run. metrics.json counts without
its seconds, tables by their values, weights by their tensors. Equal only on the same hardware and number of threads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parents[2]
STUDIES = sorted(f.parent.name for f in (REPOSITORY / "pipelines").glob("*/study.py") if f.parent.name != "shared")


def contents(run: Path) -> dict[str, object]:
    """A run folder's results: metrics by key, tables and weights by hash."""
    metrics = json.loads((run / "metrics.json").read_text())
    metrics.pop("seconds")
    found: dict[str, object] = {"metrics.json": metrics}
    for file in sorted((run / "predictions").glob("*.parquet")):
        table = pd.read_parquet(file)
        values = table.to_csv(index=False, float_format="%.17g")
        found[f"predictions/{file.name}"] = hashlib.sha256(values.encode()).hexdigest()
    for file in sorted(run.glob("models/*/weights.safetensors")):
        tensors = load_file(file)
        digest = hashlib.sha256()
        for name in sorted(tensors):
            digest.update(name.encode() + tensors[name].tobytes())
        found[str(file.relative_to(run))] = digest.hexdigest()
    return found


def snapshot(studies: list[str], default: list[str]) -> dict[str, object]:
    """Run the studies in this checkout."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for study in studies:
            run = Path(folder) / study
            smoke = [] if study in default else ["trainer=smoke"]
            command = [sys.executable, "-m", f"pipelines.{study}", *smoke, f"run_dir={run}"]
            print(" ".join(command[1:]), flush=True)
            subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
            found[study] = contents(run)
    return found


def differences(before: object, after: object, where: str = "") -> list[str]:
    """The keys at which two snapshots differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after}, key=str)
        return [line for k in keys for line in differences(before.get(k), after.get(k), f"{where}/{k}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [line for i, (b, a) in pairs for line in differences(b, a, f"{where}[{i}]")]
    return [] if before == after else [f"{where}: {before!r} -> {after!r}"]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--studies", default=",".join(STUDIES))
    parser.add_argument("--default", default="")
    arguments = parser.parse_args()
    if len(arguments.files) == 1:
        found = snapshot(arguments.studies.split(","), arguments.default.split(","))
        arguments.files[0].write_text(json.dumps(found, indent=1))
        return
    before, after = (json.loads(file.read_text()) for file in arguments.files[:2])
    lines = [line for s in before if s in after for line in differences(before[s], after[s], s)]
    print("\n".join(lines) or f"equal: {', '.join(s for s in before if s in after)}")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
