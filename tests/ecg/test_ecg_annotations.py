"""WFDB annotation files: their clock, episodes that are closed, and files that are damaged or say nothing."""

from __future__ import annotations

import numpy as np
import pytest
import wfdb
from conftest import compose
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ecg.annotations import read_rhythms, wfdb_labels
from pipelines.ecg.data import SOURCES
from pipelines.ecg.labels import STEP, unpack
from pipelines.ecg.study import STUDY
from pipelines.ecg.wfdb_files import write_record
from pipelines.shared.data.assemble import check_labels, training_data
from pipelines.shared.errors import BadFile, DataError

CLASSES = {"(N": "SINUS", "(AFIB": "AF", "(VT": "VT", "(P": None}
STEPS = 39  # of a minute's 46 whole ones and of every recording here
SECONDS = 50


def annotate(folder, name, notes, at, extension="atr", symbols=None, fs=None):
    """An annotation file as wfdb writes it; `at` in ticks."""
    symbols = symbols or ["+"] * len(notes)
    wfdb.wrann(name, extension, np.array(at), symbols, aux_note=notes, fs=fs, write_dir=str(folder))


def recording(folder, name, notes=("(N",), at=(0,), **more):
    """A recording of 50 s at 200 Hz with its annotations; `at` in ticks."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(sum(map(ord, name)))
    write_record(folder / name, rng.integers(-300, 300, SECONDS * 200), "MLII", 200.0, [])
    annotate(folder, name, list(notes), at, **more)


def source(name, root, *more):
    return SOURCES[name](compose("ecg", f"data={name}", f"data.root={root}", *more))


def labels(found, record):
    """The labels of a recording's steps, from all its windows."""
    rows = found.records[found.records["record"] == record].sort_values("start")
    return [label for text in rows["rhythms"] for label in unpack(text) if label != "."]


def word(kind, value):
    return int(kind << 10 | value).to_bytes(2, "little")


def note(text, kind=28, passed=0):
    """An annotation with a note, in the bytes of the format."""
    content = text.encode("latin-1")
    return word(kind, passed) + word(63, len(content)) + content + b"\0" * (len(content) % 2)


END = b"\0\0"


def written(folder, content, name="r"):
    write_record(folder / name, np.zeros(SECONDS * 200), "MLII", 200.0, [])
    (folder / f"{name}.atr").write_bytes(content)
    return folder / name


# --- what is read ---


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 70_000), st.sampled_from(["", "(N", "(AFIB", ")", "(VT"])), max_size=30))
@settings(max_examples=50, deadline=None)
def test_what_wfdb_writes_is_read_as_wfdb_reads_it(tmp_path_factory, entries):
    folder = tmp_path_factory.mktemp("annotations")
    entries = [(0, "(N"), *sorted(entries, key=lambda entry: entry[0])]
    write_record(folder / "r", np.zeros(400), "MLII", 200.0, [])
    annotate(folder, "r", [n for _, n in entries], [t for t, _ in entries])
    expected = wfdb.rdann(str(folder / "r"), "atr")
    rhythm = [(s / 200, n) for s, n in zip(expected.sample, expected.aux_note, strict=True) if n]
    found = read_rhythms(folder / "r", "atr")
    assert list(zip(found.seconds, found.notes, strict=True)) == rhythm
    assert found.annotations == len(entries)


@pytest.mark.parametrize("record", ["119", "201"])
def test_a_real_file_is_read_as_wfdb_reads_it(real_sample, record):
    stem = real_sample("mitdb") / record
    expected = wfdb.rdann(str(stem), "atr")
    rhythm = [(s / 360, n.rstrip("\0")) for s, n in zip(expected.sample, expected.aux_note, strict=True) if n]
    found = read_rhythms(stem, "atr")
    assert list(zip(found.seconds, found.notes, strict=True)) == rhythm
    assert found.annotations == len(expected.sample)


def test_a_rhythm_that_is_closed_ends_there(tmp_path):
    recording(tmp_path, "r", ["(AFIB", ")", "(N", "AFIB)"], [0, 10 * STEP, 20 * STEP, 30 * STEP])
    found = wfdb_labels(tmp_path / "r", "atr", STEPS, CLASSES)
    assert found.steps == ["AF"] * 10 + ["?"] * 10 + ["SINUS"] * 10 + ["?"] * 9
    assert found.uncovered == 19


def test_one_rhythm_closed_where_the_next_begins_in_either_order(tmp_path):
    for notes in (["(AFIB", ")", "(N"], ["(AFIB", "(N", ")"]):
        recording(tmp_path, "r", notes, [0, 10 * STEP, 10 * STEP])
        assert wfdb_labels(tmp_path / "r", "atr", STEPS, CLASSES).steps == ["AF"] * 10 + ["SINUS"] * 29
    recording(tmp_path, "r", ["(AFIB", ")", "(N", ")"], [0, 5 * STEP, 10 * STEP, 10 * STEP])
    assert wfdb_labels(tmp_path / "r", "atr", STEPS, CLASSES).steps == ["AF"] * 5 + ["?"] * 34, "an empty episode"


@pytest.mark.slow
def test_closed_episodes_and_the_files_own_clock_in_every_source(tmp_path):
    notes, at = ["(AFIB", ")", "(N", ")"], [int(1000 * 1.28 * k) for k in (0, 10, 20, 30)]
    recording(tmp_path / "one", "201", notes, at, fs=1000)
    recording(tmp_path / "two", "b")
    annotate(tmp_path / "one", "201", notes, at, extension="reva", fs=1000)
    (tmp_path / "one" / "own.csv").write_text("file\n201.hea\n")
    expected = ["AF"] * 10 + ["?"] * 10 + ["SINUS"] * 10 + ["?"] * 9
    for name in ("wfdb", "mitdb"):
        found = source(name, tmp_path / "one")
        assert labels(found, "201") == expected
        read = "".join(f"{text} " for text in found.readers["rhythms"])
        assert [label for label in unpack(read) if label != "."] == expected
        assert any("24 s before the first rhythm or after the end of one" in n for n in found.notes)
        also = source("wfdb", tmp_path / "two", f"data.also=[{{name: {name}, root: {tmp_path / 'one'}}}]")
        assert labels(also, f"{name}{'1' if name == 'wfdb' else ''}/201") == expected
    config = compose("ecg", "data=table", f"data.table={tmp_path / 'one' / 'own.csv'}", "data.columns.path=file")
    assert labels(SOURCES["table"](config), "201.hea") == expected


def test_the_time_resolution_counts_wherever_it_stands(tmp_path):
    resolution = note("## time resolution: 1000", kind=22)
    stem = written(tmp_path, note("(N") + resolution + note("(AFIB", passed=1000) + END)
    assert read_rhythms(stem, "atr").seconds.tolist() == [0, 1]
    for text in ("0", "-5", "fast", "nan", "1e400", ""):
        stem = written(tmp_path, note(f"## time resolution: {text}", kind=22) + note("(N") + END)
        with pytest.raises(BadFile, match="its time resolution is"):
            read_rhythms(stem, "atr")
    stem = written(tmp_path, resolution + note("## time resolution: 250", kind=22) + note("(N") + END)
    with pytest.raises(BadFile, match="several time resolutions"):
        read_rhythms(stem, "atr")


def test_without_a_resolution_of_their_own_times_count_in_the_headers_frames(tmp_path):
    recording(tmp_path, "r", ["(N", "(AFIB"], [0, 10 * STEP // 2])
    header = (tmp_path / "r.hea").read_text()
    (tmp_path / "r.hea").write_text(header.replace("r 1 200 10000", "r 1 100 5000").replace("dat 16 ", "dat 16x2 "))
    found = source("wfdb", tmp_path)
    assert labels(found, "r") == ["SINUS"] * 10 + ["AF"] * 29


def test_comments_do_not_keep_the_reader(tmp_path):
    comments = note("## digitised from tape", kind=22) + note("## time resolution: 200", kind=22) * 2
    stem = written(tmp_path, comments + note("## annotation type definitions", kind=22) + note("(N") + END)
    assert read_rhythms(stem, "atr").notes == ["(N"]


def test_changes_of_the_st_segment_are_no_rhythm(tmp_path):
    changes = note("(ST0+", kind=18, passed=100) + note("ST0+)", kind=18, passed=100) + note("(T0-", kind=19)
    stem = written(tmp_path, note("(AFIB") + changes + END)
    assert wfdb_labels(stem, "atr", STEPS, CLASSES).steps == ["AF"] * STEPS


def test_a_rhythm_change_without_a_bracket_is_not_passed_over(tmp_path):
    stem = written(tmp_path, note("(N") + note("AFIB", passed=100) + END)
    assert wfdb_labels(stem, "atr", STEPS, CLASSES).problems == ["unknown rhythm AFIB at 0.5 s"]


# --- what is wrong ---


def test_times_outside_of_the_recording_are_named(tmp_path):
    back = word(59, 0) + (0xFFFF).to_bytes(2, "little") + (0x10000 - 600).to_bytes(2, "little")
    far = word(59, 0) + (0x7FFF).to_bytes(2, "little") + b"\xff\xff"
    for content, said in (
        (back + note("(AFIB") + END, ["before the recording's beginning: (AFIB at -3.0 s"]),
        (note("(N") + far * 9 + note("(VT") + END, ["beyond the end of the recording: (VT at 96,636,764.1 s"]),
        (note("(N", passed=900) + back + note("(VT") + END, ["not in the order of time: (VT at 1.5 s"]),
    ):
        found = wfdb_labels(written(tmp_path, content), "atr", STEPS, CLASSES)
        assert found.problems == said
        assert found.steps == ["?"] * STEPS
    (tmp_path / "r.atr").write_bytes(note("(N") + far + note("(VT") + END)
    with pytest.raises(DataError, match=r"r\.atr: beyond the end of the recording: \(VT"):
        source("wfdb", tmp_path)


def test_thousands_of_problems_are_a_few_lines(tmp_path):
    stem = written(tmp_path, note("(\x07\x1b") * 3000 + END)
    found = wfdb_labels(stem, "atr", STEPS, CLASSES).problems
    assert len(found) == 6
    assert found[-1].endswith("and 2,995 more")
    assert all(text.isprintable() for text in found)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A recording, and the bytes of its annotation file."""
    folder = tmp_path_factory.mktemp("sound")
    recording(folder, "r", ["(AFIB", ")", "(N"], [0, 10 * STEP, 20 * STEP], fs=1000)
    return folder / "r", (folder / "r.atr").read_bytes()


@pytest.mark.slow
@given(st.binary(max_size=6), st.integers(0, 70), st.integers(1, 80))
@settings(max_examples=500, deadline=None)
def test_a_damaged_file_gives_problems_or_one_label_per_step(sound, noise, place, length):
    stem, content = sound
    stem.with_suffix(".atr").write_bytes((content[:place] + noise + content[place + len(noise) :])[:length])
    found = wfdb_labels(stem, "atr", STEPS, CLASSES)
    assert len(found.steps) == STEPS
    assert set(found.steps) <= {"AF", "SINUS", "VT", "?"}


def test_a_file_that_was_cut_off_is_not_read_to_where_it_ends(tmp_path):
    whole = note("(AFIB") + note("(N", passed=1000) + END
    for content, said in (
        (whole[:-2], "its end mark is missing"),
        (whole[:-5], "its last word is half"),
        (note("(AFIB") + word(59, 0), "its end mark is missing"),
        (whole + word(28, 5), "more follows after its end mark"),
        (word(63, 2) + b"(N" + END, "its end mark is missing"),
    ):
        with pytest.raises(BadFile, match=said):
            read_rhythms(written(tmp_path, content), "atr")
    assert len(read_rhythms(written(tmp_path, whole + bytes(100)), "atr").notes) == 2, "padded with zeros"


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", END, note("## time resolution: 200", kind=22) + END])
def test_a_file_without_any_annotation_is_named(tmp_path, content):
    for name in ("a", "b", "c"):
        recording(tmp_path, name)
    (tmp_path / "b.atr").write_bytes(content)
    with pytest.raises(DataError, match=r"1 problems?\.\n  b\.atr: it holds no annotation"):
        source("wfdb", tmp_path)
    annotate(tmp_path, "b", ["(N"], [0])
    (tmp_path / "c.reva").write_bytes(content)
    with pytest.raises(DataError, match=r"c\.reva: it holds no annotation"):
        source("wfdb", tmp_path)
    (tmp_path / "own.csv").write_text("file\na.hea\nb.hea\n")
    (tmp_path / "b.atr").write_bytes(content)
    config = compose("ecg", "data=table", f"data.table={tmp_path / 'own.csv'}", "data.columns.path=file")
    with pytest.raises(DataError, match=r"b\.atr: it holds no annotation"):
        SOURCES["table"](config)


@pytest.mark.parametrize("mode", ["train", "verify", "evaluate"])
def test_a_database_without_any_rhythm_is_refused_in_every_mode(tmp_path, mode):
    beats = list(range(100, 8000, 160))
    recording(tmp_path, "a", [""] * len(beats), beats, symbols=["N"] * len(beats))
    recording(tmp_path, "b", ["(P"])
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}").model_copy(update={"mode": mode})
    with pytest.raises(DataError, match="carries a rhythm of the twelve classes") as failure:
        SOURCES["wfdb"](config)
    assert "1 recording with annotations of beats but of no rhythm: masked: a." in str(failure.value)
    assert "masked: (P 50 s." in str(failure.value)
    (tmp_path / "own.csv").write_text("file\na.hea\nb.hea\n")
    own = compose("ecg", "data=table", f"data.table={tmp_path / 'own.csv'}", "data.columns.path=file")
    with pytest.raises(DataError, match="carries a rhythm of the twelve classes"):
        SOURCES["table"](own.model_copy(update={"mode": mode}))


def test_beats_alone_among_rhythms_are_masked_and_told(tmp_path):
    recording(tmp_path, "a", [""], [100], symbols=["N"])
    recording(tmp_path, "b")
    found = source("wfdb", tmp_path)
    assert set(labels(found, "a")) == {"?"}
    assert "1 recording with annotations of beats but of no rhythm: masked: a." in found.notes


def test_recordings_that_are_labelled_wrongly_are_left_out_and_named_where_that_is_wanted(tmp_path):
    for name in ("a", "b", "c", "d"):
        recording(tmp_path, name)
        annotate(tmp_path, name, ["(AFIB"], [0], extension="reva")
    (tmp_path / "b.atr").write_bytes(b"")
    annotate(tmp_path, "c", ["(ODD"], [0], extension="reva")
    found = source("wfdb", tmp_path, "data.on_bad_row=skip")
    assert set(found.records["record"]) == {"a", "d"}
    assert set(found.readers["id"]) == set(found.records["id"])
    assert found.left_out == ["b.atr: it holds no annotation", "c.reva: unknown rhythm (ODD at 0.0 s"]
    with pytest.raises(DataError, match=r"2 problems[\s\S]*data\.on_bad_row=skip"):
        source("wfdb", tmp_path)
    (tmp_path / "own.csv").write_text("file,rhythm\na.hea,N\nb.hea,\nd.hea,fine\n")
    config = compose(
        "ecg", "data=table", f"data.table={tmp_path / 'own.csv'}", "data.columns.path=file",
        "++data.targets={rhythm: rhythm}", "data.on_bad_row=skip",
    )  # fmt: skip
    own = SOURCES["table"](config)
    assert own.records["record"].unique().tolist() == ["a.hea"]
    assert len(own.left_out) == 2
    assert own.left_out[1] == "b.atr: it holds no annotation"


@pytest.mark.slow
def test_a_part_without_any_label_is_refused_before_training(tmp_path):
    for k in range(9):
        recording(tmp_path, f"r{k}", ["(N"] if k < 3 else ["(P"])
    lines = [f"r{k}.hea,{('train', 'val', 'test')[k // 3]}" for k in range(9)]
    (tmp_path / "own.csv").write_text("file,part\n" + "\n".join(lines) + "\n")
    config = compose(
        "ecg", "data=table", f"data.table={tmp_path / 'own.csv'}", "data.columns.path=file", "data.columns.split=part",
        f"cache.dir={tmp_path / 'cache'}",
    )  # fmt: skip
    with pytest.raises(DataError, match=r"None of the 6 records of table in val has a label"):
        check_labels(STUDY, training_data(STUDY, config))
