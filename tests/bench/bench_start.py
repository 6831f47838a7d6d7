"""From a command to its answer: one picture predicted, and a report made again, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from measure import REPOSITORY, Row, command_seconds

MINUTES = 2
# What an answer cannot do without, imported alone.
PREDICT = "import cv2, hydra.main, pandas, pyarrow, pydantic, scipy.fft, timm, torch"
REPORT = "import cv2, hydra.main, matplotlib.figure, pandas, pyarrow, pydantic, scipy.stats"
STARTED = "import pipelines.shared.cli.app, pipelines.shared.cli.modes, pipelines.skin.evaluation, hydra.main"


def rows() -> list[Row]:
    """All rows."""
    with tempfile.TemporaryDirectory() as place:
        run = Path(place, "run")
        study = [sys.executable, "-m", "pipelines.skin"]
        train = [*study, "trainer=smoke", "statistics.resamples=100", "explain.scored=0", f"run_dir={run}"]
        subprocess.run(train, cwd=REPOSITORY, check=True, capture_output=True)
        picture = next(f for f in sorted((REPOSITORY / ".cache").glob("phantom-skin-*/**/*.jpg")))
        anew = ["sh", "-c", f'exec "$0" "$@" run_dir={place}/$$']  # each in a run folder of its own
        cases = [
            ("predict one picture", [*anew, *study, "mode=predict", f"run={run}", f"input={picture}"], PREDICT, 4.5),
            ("mode=report until it evaluates", [sys.executable, "-c", STARTED], REPORT, 2.0),
        ]  # fmt: skip
        found = []
        for what, command, libraries, target in cases:
            ours, theirs = command_seconds(command), command_seconds([sys.executable, "-c", libraries])
            reference = f"its libraries alone {theirs:.2f} s; to reach {target:g} s on two quiet cores"
            found.append({"what": what, "ratio": theirs / ours, "ours": f"{ours:.2f} s", "reference": reference})
        return found
