"""`mode=predict` on a folder as it comes: every file a row or counted, each good one the row that it gets alone."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import cutting
import numpy as np
import pandas as pd
import pytest
from conftest import phantom_root

from pipelines.shared.files import output_name

pytestmark = pytest.mark.slow
Parts = dict[str, bytes]  # the files of one record: name -> content


def originals(study: str, run: Path) -> list[Parts]:
    """The files of three records of a finished run's phantom, each as a record has them in a folder."""
    root = phantom_root(run)
    if study == "head_ct":  # a study is a folder of slices
        studies = sorted((root / "dicom").iterdir())[:3]
        return [{f"{s.name}-{f.name}": f.read_bytes() for f in sorted(s.rglob("*.dcm"))} for s in studies]
    paths = sorted(pd.read_parquet(run / "records.parquet")["path"])
    paths = [p for p in paths if Path(p).suffix == Path(paths[0]).suffix]
    chosen = [root / paths[i] for i in (0, len(paths) // 2, -1)]
    return [{f.name: f.read_bytes() for f in sorted(c.parent.glob(f"{c.stem}.*")) if f.is_file()} for c in chosen]


def renamed(parts: Parts, old: str, new: str) -> Parts:
    """A record under another name, which headers of signals repeat."""
    return {
        name.replace(old, new): content.replace(old.encode(), new.encode()) if name.endswith(".hea") else content
        for name, content in parts.items()
    }


def put(folder: Path, parts: Parts) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in parts.items():
        (folder / name).write_bytes(content)


@dataclass
class Batch:
    """A folder in which every second record is bad, and what a finished run said of it."""

    study: str
    run: Path
    root: Path  # the folder
    out: Path  # of the prediction
    table: pd.DataFrame  # predictions.csv
    closing: str  # the last line that was said of it
    good: list[str]  # main files of good records, below root
    bad: list[str]


def predicted(study: str, run: Path, source: Path, out: Path) -> tuple[pd.DataFrame, str]:
    done = cutting.answer(study, "mode=predict", f"run={run}", f"input={source}", f"run_dir={out}")
    assert done.returncode == 0, done.stderr
    lines = (out / "run.log").read_text().splitlines()
    closing = next(line for line in reversed(lines) if " scored" in line)
    return pd.read_csv(out / "predictions.csv", dtype={"file": str}), closing


@pytest.fixture(scope="module")
def batch(smoke_run, tmp_path_factory):
    study, run, _ = smoke_run
    place = tmp_path_factory.mktemp(f"batch-{study}")
    root, disk = place / "in", place / "second disk"
    records = originals(study, run)
    stems = [next(iter(parts)).partition(".")[0] for parts in records]
    suffix = next(s for s in (".hea", *(Path(n).suffix for n in records[0])) if any(n.endswith(s) for n in records[0]))
    largest = max(records[0], key=lambda name: len(records[0][name]))
    truncated = records[0] | {largest: records[0][largest][: len(records[0][largest]) // 2]}
    if study == "head_ct":  # half of a slice is a fault of its study, which has its own tests
        truncated = {"half.dcm": records[0][largest][:100]}
        good = [f"{folder}/" for folder in ("a", "b", "linked")]
    else:
        truncated = renamed(truncated, stems[0], "0")
        good = [f"{folder}/{stems[0]}{suffix}" for folder in ("a", "b", "linked")]
    put(root / "a", truncated)
    put(root / "a", records[0])
    put(root / "b", {f"0{suffix}": b""})
    put(root / "b", renamed(records[1], stems[1], stems[0]))  # of the same name as another folder's
    put(root / "c", {f"0{suffix}": np.random.default_rng(0).bytes(3000)})
    put(disk, renamed(records[2], stems[2], stems[0]))
    (root / "linked").symlink_to(disk, target_is_directory=True)
    (root / "notes").mkdir()
    (root / "notes" / "circle").symlink_to(root, target_is_directory=True)
    (root / f"gone{suffix}").symlink_to(place / "nowhere")
    for name in (f"._{stems[0]}{suffix}", ".DS_Store", "Thumbs.db", "__MACOSX/a"):
        put((root / "a" / name).parent, {Path(name).name: b"left by a system"})
    put(root / "notes", {"notes.txt": b"to whom it may concern", "film.heif2": b"new", "LICENSE": b"free"})
    table, closing = predicted(study, run, root, place / "out")
    bad = [f"a/0{suffix}", f"b/0{suffix}", f"c/0{suffix}", f"gone{suffix}"]
    return Batch(study, run, root, place / "out", table, closing, good, bad)


def test_every_second_file_is_bad_and_each_good_one_has_the_row_that_it_gets_without_them(batch, tmp_path):
    key, but = ("study", ["file", "seconds"]) if batch.study == "head_ct" else ("file", [])
    scored = batch.table[batch.table["reason"].isna()]
    assert len(scored) == len(batch.good)
    alone = {f.name: f.read_bytes() for f in (batch.root / "linked").iterdir()}  # the last, behind all that are bad
    put(tmp_path / "in" / "linked", alone)
    without, _ = predicted(batch.study, batch.run, tmp_path / "in", tmp_path / "out")
    among = scored[scored[key].isin(without[key])]
    assert len(among) == len(without) == 1
    pd.testing.assert_frame_equal(
        among.drop(columns=but).set_index(key).sort_index(), without.drop(columns=but).set_index(key).sort_index(),
        check_dtype=False, rtol=1e-4, atol=1e-6,
    )  # fmt: skip
    if key == "file":
        assert sorted(scored["file"]) == sorted(batch.good)
        failed = batch.table[batch.table["reason"].notna()]
        assert sorted(failed["file"]) == sorted(batch.bad)
        assert failed[[c for c in failed if c.startswith("p_") or "@" in c]].isna().all(axis=None)


def test_every_file_is_a_row_or_is_counted_and_litter_is_neither(batch):
    if batch.study == "head_ct":  # says it of each file, under hashed names
        there = {Path(here, f).resolve() for here, _, files in os.walk(batch.root, followlinks=False) for f in files}
        there |= {f.resolve() for f in (batch.root / "linked").iterdir() if f.is_file()}
        litter = sum(f.name == "Thumbs.db" or f.name.startswith(".") or "__MACOSX" in f.parts for f in there)
        files = pd.read_csv(batch.out / "files.csv")
        assert len(files) == len(there) - litter
        assert files["reason"].notna().sum() == (files["what"] != "used").sum()
        assert f"{len(files)} files, all in files.csv" in batch.closing
        return
    assert batch.table["file"].is_unique
    assert len(batch.table) == len(batch.good) + len(batch.bad)
    assert f"{len(batch.good)} of {len(batch.table)} files scored" in batch.closing
    assert "1 .heif2, 1 .txt, 1 without suffix" in batch.closing


def test_what_is_written_of_a_file_is_named_by_its_whole_path(batch):
    good = [output_name(name) for name in batch.good]
    if batch.study == "head_ct":  # whose outputs bear the hashed names of studies
        good = batch.table.loc[batch.table["reason"].isna(), "study"].tolist()
    folders = {f.parent for f in batch.out.rglob("*") if f.is_file()} - {batch.out, batch.out / "parts"}
    assert bool(folders) == (batch.study in ("camelyon", "ecg", "head_ct"))
    for folder in folders:
        names = sorted(f.name for f in folder.iterdir() if f.is_file())
        owners = [[g for g in good if name.startswith(g)] for name in names]
        assert all(len(owner) == 1 for owner in owners), names
        assert {owner[0] for owner in owners} == set(good), names


def test_a_prediction_begun_again_says_the_same(batch, tmp_path):
    shutil.copytree(batch.out, tmp_path / "out")
    (tmp_path / "out" / "predictions.csv").unlink()
    parts = sorted((tmp_path / "out" / "parts").glob("*.parquet"))
    assert parts
    parts[-1].write_bytes(parts[-1].read_bytes()[:-9])  # the power went while it was written
    done = cutting.answer(batch.study, "mode=resume", f"run={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    but = ["seconds"] if batch.study == "head_ct" else []
    again = pd.read_csv(tmp_path / "out" / "predictions.csv", dtype={"file": str})
    pd.testing.assert_frame_equal(again.drop(columns=but), batch.table.drop(columns=but), rtol=1e-4, atol=1e-6)
