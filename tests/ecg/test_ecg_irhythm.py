"""The published test set: the cardiologists' table against a computation of its own, and files that are wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from conftest import compose

from pipelines.ecg.config import CLASSES
from pipelines.ecg.data import irhythm
from pipelines.ecg.readers import kappa_estimate, pairs, reader_metrics, readings_of
from pipelines.shared.errors import DataError
from pipelines.shared.stats.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(100, 0, 0.95)
ALSO_CALLED = {"NSR": "SINUS", "AFIB": "AF", "AFL": "AF", "AVB_TYPE2": "AVB", "SUDDEN_BRADY": "AVB"}


def labels_by_hand(file):
    """The label rule written down a second time: for every step, the episode that has begun last."""
    found = json.loads(file.read_text())["episodes"]
    steps = found[-1]["offset"] // 256
    labels = []
    for k in range(steps):
        now = None
        for episode in found:
            whole, rest = divmod(episode["onset"] - 1, 256)
            if whole + (1 if rest >= 128 else 0) <= k:
                now = episode["rhythm_name"]
        labels.append(ALSO_CALLED.get(now, now))
    return labels


def by_hand(folder):
    """F1 per class and their support-weighted mean at both levels, and Fleiss' kappa, in plain loops."""
    readings = []
    for committee in sorted(folder.glob("*_grp*.episodes.json")):
        record = committee.name.split("_grp")[0]
        truth = labels_by_hand(committee)
        for file in sorted(folder.glob(f"{record}_rev*.episodes.json")):
            readings.append((record, truth, labels_by_hand(file)))
    result = {}
    for level in ("sequence", "set"):
        f1, support = {}, {}
        for name in CLASSES:
            tp = fp = fn = 0
            for _, truth, read in readings:
                if level == "set":
                    there, said = [name in truth], [name in read]
                else:
                    there, said = [t == name for t in truth], [r == name for r in read]
                tp += sum(a and b for a, b in zip(there, said, strict=True))
                fp += sum(b and not a for a, b in zip(there, said, strict=True))
                fn += sum(a and not b for a, b in zip(there, said, strict=True))
            support[name] = tp + fn
            f1[name] = 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None
            result[name, level] = f1[name]
        result["weighted", level] = sum((f1[c] or 0) * support[c] for c in CLASSES) / sum(support.values())
        present = [c for c in CLASSES if support[c]]
        result["macro", level] = sum(f1[c] for c in present) / len(present)
    by_record = {}
    for record, _, read in readings:
        by_record.setdefault(record, []).append(read)
    agreement, totals, ratings = [], dict.fromkeys(CLASSES, 0), 0
    for reads in by_record.values():
        for step in zip(*reads, strict=True):
            n = len(step)
            agreement.append(
                sum(a == b for i, a in enumerate(step) for j, b in enumerate(step) if i != j) / (n * (n - 1))
            )
            for name in step:
                totals[name] += 1
                ratings += 1
    expected = sum((t / ratings) ** 2 for t in totals.values())
    result["kappa"] = (sum(agreement) / len(agreement) - expected) / (1 - expected)
    return result


def test_the_cardiologists_table_equals_a_computation_by_hand(real_sample):
    folder = real_sample("irhythm")
    config = compose("ecg", "mode=readers", "data=irhythm", f"data.root={folder}")
    source = irhythm(config)
    assert len(source.records) == 24
    assert source.records["group"].nunique() == 24
    found = readings_of(source.records, source.readers)
    metrics, expected = reader_metrics(found, BOOTSTRAP), by_hand(folder)
    for (name, what), estimate in metrics.items():
        if what.startswith("f1_"):
            wanted = expected[name, what.removeprefix("f1_")]
            assert estimate.value == (None if wanted is None else pytest.approx(wanted, abs=1e-12)), (name, what)
    assert kappa_estimate(found, BOOTSTRAP).value == pytest.approx(expected["kappa"], abs=1e-12)
    assert set(found.reader) == {str(i) for i in range(1, 10)}
    assert len(found.truth) == 24 * 23 * 6
    assert pairs(found)["steps"].sum() == 24 * 23 * 15


@pytest.fixture
def folder(tmp_path):
    """Two sound records with two readers each."""
    for record in ("aa_0001", "bb_0002"):
        np.random.default_rng(0).integers(-200, 200, 6000).astype("<i2").tofile(tmp_path / f"{record}.ecg")
        for who, rhythm in (("grp0", "AFIB"), ("rev0", "NSR"), ("rev1", "AFIB")):
            write(tmp_path, record, who, [(1, 3000, rhythm), (3001, 6000, "NSR")])
    return tmp_path


def write(folder, record, who, found, **more):
    entries = [{"onset": a, "offset": b, "rhythm_name": name} for a, b, name in found]
    (folder / f"{record}_{who}.episodes.json").write_text(json.dumps({"episodes": entries, **more}))


def problems(folder):
    with pytest.raises(DataError) as failure:
        irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    return str(failure.value)


def test_sound_files_are_read(folder):
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    assert source.records["rhythms"].tolist() == ["AF:12 SINUS:11"] * 2
    assert source.readers["rhythms"].tolist() == ["SINUS:23", "AF:12 SINUS:11"] * 2


def test_labels_are_cut_to_the_last_whole_step(folder):
    write(folder, "aa_0001", "grp0", [(1, 2600, "SVT")])
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    assert source.records["rhythms"].iloc[0] == "SVT:10 ?:13"


def test_records_of_folders_below_are_read_links_too(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("second disk")
    shutil.copytree(folder, disk, dirs_exist_ok=True)
    flat = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    (folder / "more [2]").symlink_to(disk, target_is_directory=True)
    both = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    assert set(both.records["id"]) == {*flat.records["id"], *(f"more [2]/{i}" for i in flat.records["id"])}
    assert all((folder / path).is_file() for path in both.records["path"])
    assert set(both.records["group"]) == {"aa", "bb"}, "a patient is the same one in every folder"


def test_everything_wrong_is_said_at_once(folder):
    write(folder, "aa_0001", "grp0", [(1, 3000, "AFIB"), (2900, 6001, "TORSADES")])
    write(folder, "bb_0002", "rev0", [(0, 6000, "NSR")])
    (folder / "bb_0002_rev1.episodes.json").write_text("{")
    (folder / "cc_0001.ecg").write_bytes(b"\0" * 12000)
    said = problems(folder)
    for part in (
        "unknown rhythm name TORSADES", "ends beyond the record's 6000 samples", "overlaps the episode before it",
        "bb_0002_rev0.episodes.json: NSR from 0 to 6000 is no episode", "bb_0002_rev1.episodes.json: cannot be read",
        "cc_0001: no cc_0001_grp", "name the rhythm in labels.irhythm. Known: AF, AFIB",
    ):  # fmt: skip
        assert part in said
    assert "6 problems" in said


def test_a_reader_who_read_twice_counts_twice_and_is_noted(folder):
    write(folder, "aa_0001", "rev0", [(1, 6000, "NSR")], reviewer_id=3)
    write(folder, "aa_0001", "rev1", [(1, 6000, "AFIB")], reviewer_id=3)
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    mine = source.readers[source.readers["id"] == "aa_0001"]
    assert mine["rhythms"].tolist() == ["SINUS:23", "AF:23"]
    assert mine["reader"].is_unique
    assert any("has read that record already" in note for note in source.notes)


def test_the_order_of_episodes_in_the_file_does_not_matter(folder):
    write(folder, "aa_0001", "grp0", [(3001, 6000, "NSR"), (1, 3000, "AFIB")])
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    assert source.records["rhythms"].iloc[0] == "AF:12 SINUS:11"


def test_what_lies_between_two_episodes_is_labelled_by_nobody(folder):
    write(folder, "aa_0001", "grp0", [(1, 2560, "AFIB"), (3841, 6000, "NSR")])
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}"))
    assert source.records["rhythms"].iloc[0] == "AF:10 ?:5 SINUS:8"


@pytest.mark.parametrize("onset", ["1e400", "-1e400", "NaN", "9" * 5000, "null", "[1]", '"x"'])
def test_numbers_beyond_reason_are_problems(folder, onset):
    text = f'{{"reviewer_id": 1, "episodes": [{{"onset": {onset}, "offset": 6000, "rhythm_name": "NSR"}}]}}'
    (folder / "aa_0001_grp0.episodes.json").write_text(text)
    assert "aa_0001_grp0.episodes.json: cannot be read as episodes" in problems(folder)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe{", b"[" * 100_000, b"[]", b"null", b'{"episodes": 5}', b'"episodes"']
)
def test_json_that_is_no_list_of_episodes_is_a_problem(folder, content):
    (folder / "aa_0001_grp0.episodes.json").write_bytes(content)
    assert "aa_0001_grp0.episodes.json: cannot be read as episodes" in problems(folder)


def test_an_offset_beyond_reason_takes_no_memory(folder):
    write(folder, "aa_0001", "grp0", [(1, 10**15, "NSR")])
    assert "ends beyond the record's 6000 samples" in problems(folder)


def test_records_that_are_labelled_wrongly_are_left_out_and_named_where_that_is_wanted(folder):
    (folder / "aa_0001_rev1.episodes.json").write_text("{")
    (folder / "cc_0001.ecg").write_bytes(b"\0" * 12000)
    source = irhythm(compose("ecg", "data=irhythm", f"data.root={folder}", "data.on_bad_row=skip"))
    assert source.records["id"].tolist() == ["bb_0002"]
    assert set(source.readers["id"]) == {"bb_0002"}
    assert [text.split(":")[0] for text in source.left_out] == ["aa_0001_rev1.episodes.json", "cc_0001"]


def test_a_truncated_signal_is_said(folder):
    content = (folder / "aa_0001.ecg").read_bytes()
    (folder / "aa_0001.ecg").write_bytes(content[:8000])
    assert "ends beyond the record's 4000 samples" in problems(folder)


def test_the_folder_is_asked_for_by_its_card():
    with pytest.raises(DataError, match=r"data\.root"):
        irhythm(compose("ecg", "data=irhythm"))
