"""Every format that the project reads, with small sound samples of it and its reader."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
for place in (*(HERE.parent / name for name in ("conformance", "camelyon", "compare", "head_ct", ".", "..")), HERE):
    if str(place.resolve()) not in sys.path:
        sys.path.insert(0, str(place.resolve()))

import fuzz_ecg  # noqa: E402
import fuzz_head_ct  # noqa: E402
import fuzz_pictures  # noqa: E402
import fuzz_runs  # noqa: E402
import fuzz_slides  # noqa: E402
import fuzz_tables  # noqa: E402
from fuzzing import Format  # noqa: E402

FORMATS: dict[str, Format] = {
    f.name: f
    for module in (fuzz_pictures, fuzz_ecg, fuzz_head_ct, fuzz_tables, fuzz_slides, fuzz_runs)
    for f in module.FORMATS
}
