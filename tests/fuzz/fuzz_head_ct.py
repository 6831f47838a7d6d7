"""CT series from files in any folders, and radiology reports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from enhanced import write_enhanced
from fuzzing import Format
from test_head_ct_reports import REPORTS

from pipelines.head_ct import volumes
from pipelines.head_ct.labeller import STATUSES, critical_counts, label_reports
from pipelines.head_ct.phantom.anatomy import CRITICAL
from pipelines.head_ct.phantom.dictation import Noise, dictate
from pipelines.head_ct.pseudonyms import Names
from pipelines.head_ct.series import Kernels, choose, scan
from pipelines.head_ct.stacks import Stack
from pipelines.head_ct.writing import Header, write_slices
from pipelines.shared.errors import BadFile
from pipelines.shared.files import walk

NAMES = Names("salt")
KERNELS = Kernels(["H3\\d.*", "STANDARD"], ["H[67]\\d.*", "BONE"])
GRID = volumes.Grid(12, 12.0, 32, 240.0)
HEADER = Header("P1", "Doe^Jane", "ACC-99", "1.2.3", "1.2.3.4", (8.0, 8.0), thickness=10.0)
SLICES = 9


def make_ct(folder: Path) -> None:
    """A series of a file per slice in every transfer syntax, and one in a single enhanced file."""
    y, x = np.mgrid[:32, :32] - 15.5
    head = np.where(np.hypot(x, y) < 12, 40.0, -1000.0)
    hu = np.stack([head + i for i in range(SLICES)])
    positions = [(-124.0, -124.0, 10.0 * i) for i in range(SLICES)]
    names = [f"s{i:02d}" for i in range(SLICES)]
    for syntax in ("explicit", "implicit", "big_endian", "rle", "jpeg2000", "jpegls"):
        write_slices(folder / syntax, replace(HEADER, syntax=syntax), list(hu), positions, names)
    write_enhanced(folder / "enhanced" / "all.dcm", HEADER, hu, positions)


def read_ct(folder: Path) -> None:
    """Scan, choose, load onto the grid. Every file is used or has its reason."""
    slices, faults = scan(folder, NAMES)
    studies, left = choose(slices, faults, KERNELS, 5.0)
    used: set[str] = set()
    for study in studies:
        if study.stack is None:
            assert study.reason
            continue
        used |= set(study.stack.files)
        stack = Stack.from_json(json.loads(json.dumps(study.stack.to_json())))
        try:
            volume, facts = volumes.onto_grid(stack, folder, GRID)
        except BadFile:
            continue
        assert volume.dtype == np.int16
        assert volume.shape == (GRID.slices, GRID.size, GRID.size)
        json.dumps(facts["warnings"])
    said = {f.file for f in left}
    for file in map(str, walk(folder)):
        assert file in used | said, f"{file} is neither used nor has it a reason"
    for fault in left:
        assert fault.reason
        assert "\n" not in fault.reason
        assert "Doe" not in fault.reason, "a reason names the patient"


def make_reports(folder: Path) -> None:
    """The phantom's dictations, and reports as people type them."""
    texts = {f"typed{i:02d}": text for i, (text, _) in enumerate(REPORTS.values())}
    for number in range(12):
        rng = np.random.default_rng(number)
        findings = [(str(rng.choice(CRITICAL)), float(rng.random())) for _ in range(number % 3)]
        texts[f"dictated{number:02d}"], _ = dictate(rng, findings, Noise(0.2), 60)
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "report.txt").write_text(text, encoding="utf-8")


def read_report(folder: Path) -> None:
    """The mentions of a report, inside of its text."""
    text = (folder / "report.txt").read_bytes().decode("utf-8", "replace")
    mentions = label_reports(pd.DataFrame({"id": ["a"], "text": [text]}))
    assert critical_counts(mentions, ["a"])[0] >= 0
    assert set(mentions["status"]) <= set(STATUSES)
    assert (mentions["start"] >= 0).all()
    assert (mentions["start"] < mentions["end"]).all()
    assert (mentions["end"] <= len(text)).all()


FORMATS = [Format("ct", make_ct, read_ct), Format("reports", make_reports, read_report)]
