"""Signals as devices and people really write them: clocks, WFDB's forms, gaps, infinite values, tables of one's own."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from conftest import compose
from test_ecg_data import sine, wfdb_record

from pipelines.ecg import signals
from pipelines.ecg.data import SOURCES, prepare, prepare_settings, scaled
from pipelines.ecg.labels import CODES, RATE, STEP
from pipelines.ecg.learner import EcgLearner
from pipelines.ecg.metrics import target_columns
from pipelines.ecg.predicting import label_recording
from pipelines.ecg.recording import Recording
from pipelines.ecg.wfdb_files import LONGEST_LINE, read_header, write_record
from pipelines.shared.errors import BadFile, UnusableRecord

LEADS = ["MLII", "II", "ECG", "V5"]
SETTINGS = {"study": "ecg", "steps": 23, "scale": "window", "leads": LEADS, "sampling_rate": None}


def counting(rate, seconds, hz=5.3):
    """A recording of any length that is never in memory: a sine by its own clock."""
    at = lambda a, b: np.sin(2 * np.pi * hz * np.arange(a, b) / rate)  # noqa: E731
    return Recording(rate, int(seconds * rate), "II", "mV", None, at)


def in_memory(values, rate=200.0):
    return Recording(rate, len(values), "II", "mV", None, lambda a, b: values[a:b])


def put(folder, name, digital, *, head, line="16 200/mV 12 0 0 0 0 II"):
    """A record of one .dat file: `head` is what follows its name in the first line of the header."""
    folder.mkdir(exist_ok=True, parents=True)
    np.asarray(digital).astype("<i2").tofile(folder / f"{name}.dat")
    lines = [line] if isinstance(line, str) else line
    text = "\n".join([f"{name} {head}", *(f"{name}.dat {rest}" for rest in lines)])
    (folder / f"{name}.hea").write_text(text + "\n")
    return folder / f"{name}.hea"


# --- clocks ---


@pytest.mark.parametrize("rate", [62.5, 199.9, 199.96, 200.0, 200.02, 249.89, 249.9, 360.0, 999.5622])
def test_a_day_later_the_time_is_still_that_of_the_files_clock(rate):
    day = counting(rate, 24 * 3600)
    assert abs(day.steps - 24 * 3600 * RATE // STEP) <= 1
    for start in (0, 12 * 3600 * RATE, day.steps * STEP - 6000):
        got = signals.read_stretch(day, start, start + 6000)
        expected = np.sin(2 * np.pi * 5.3 * np.arange(start, start + 6000) / RATE)
        assert np.abs(got - expected)[200:-200].max() < 0.01, "0.3 ms late would be 0.01"


@pytest.mark.parametrize("rate", [199.96, 249.9, 250.0])
def test_any_two_stretches_fit_together(rate):
    rng = np.random.default_rng(1)
    noise = in_memory(rng.standard_normal(60_000), rate)
    whole = signals.read_stretch(noise, 0, 40_000)
    for start, stop in ((0, 5888), (5888, 11_776), (777, 9001), (25_601, 40_000)):
        assert np.allclose(signals.read_stretch(noise, start, stop), whole[start:stop], atol=1e-9)


@pytest.mark.parametrize("rate", [128.0, 199.96, 250.0, 360.0])
def test_a_flat_line_is_flat_at_every_rate_and_level(rate):
    flat = in_memory(np.full(int(60 * rate), 5.123), rate)
    with pytest.raises(UnusableRecord, match="flat line"):
        scaled(signals.read_stretch(flat, 1000, 6888), SETTINGS)


# --- the forms of WFDB ---


def ecg_like(seconds, rate=250, seed=0):
    rng = np.random.default_rng(seed)
    return np.round(200 * np.sin(np.arange(seconds * rate) / 9) + 40 * rng.standard_normal(seconds * rate))


def test_several_samples_per_frame_are_all_read(tmp_path):
    x = ecg_like(60)
    plain = signals.open_recording(put(tmp_path, "plain", x, head="1 250 15000"), LEADS)
    for per_frame, place in itertools.product((2, 4, 5), (0, 1)):
        frames = x.reshape(-1, per_frame)
        slow = np.full((len(frames), 1), 7)
        lines = ["16 200/mV 12 0 0 0 0 RESP", f"16x{per_frame} 200/mV 12 0 0 0 0 II"]
        columns, lines = ([slow, frames], lines) if place else ([frames, slow], lines[::-1])
        head = f"2 {250 / per_frame:g}/360(0) {len(frames)}"
        file = put(tmp_path, f"f{per_frame}{place}", np.hstack(columns), head=head, line=lines)
        opened = signals.open_recording(file, LEADS)
        assert (opened.rate, opened.length, opened.frame_rate) == (250, 15000, 250 / per_frame)
        assert np.array_equal(opened.read(0, 15000), x / 200)
        assert np.array_equal(opened.read(3, 1001), x[3:1001] / 200)
        assert signals.quality(opened, 0, 5888) == signals.quality(plain, 0, 5888)


def test_segments_are_one_recording_whatever_their_layout(tmp_path):
    upright, other = ecg_like(40, seed=1), ecg_like(40, seed=2)
    for name, leads in (("n1", ["V5", "II"]), ("n2", ["II", "V5"]), ("n3", ["V5"])):
        columns = np.stack([upright if lead == "V5" else other for lead in leads], 1)
        lines = [f"16 200/mV 12 0 0 0 0 {lead}" for lead in leads]
        put(tmp_path, name, columns, head=f"{len(leads)} 250 10000", line=lines)
    (tmp_path / "lay.hea").write_text("lay 2 250 0\n~ 0 200/mV 0 0 0 0 0 V5\n~ 0 200/mV 0 0 0 0 0 II\n")
    (tmp_path / "night.hea").write_text("night/4 2 250 22500\nlay 0\nn1 10000\n~ 2500\nn2 10000\n")
    night = signals.open_recording(tmp_path / "night.hea", LEADS)
    assert (night.lead, night.length) == ("II", 22500)
    expected = np.concatenate([other, np.full(2500, np.nan), other]) / 200
    assert np.array_equal(night.read(0, 22500), expected, equal_nan=True)
    assert np.array_equal(night.read(9990, 12510), expected[9990:12510], equal_nan=True)
    # The lead that covers most is taken; where a segment lacks it, there is a gap.
    (tmp_path / "three.hea").write_text("three/3 2 250\nn1 10000\nn3 10000\nn3 9000\n")
    three = signals.open_recording(tmp_path / "three.hea", LEADS)
    assert (three.lead, three.length) == ("V5", 29000)
    assert np.isnan(signals.open_recording(tmp_path / "night.hea", ["II"]).read(10000, 12500)).all()
    assert np.isnan(signals.open_recording(tmp_path / "three.hea", ["II"]).read(10000, 29000)).all()


def test_segments_that_cannot_be_have_their_reason(tmp_path):
    put(tmp_path, "s", ecg_like(40), head="1 250 10000")
    put(tmp_path, "fast", ecg_like(40), head="1 500 10000")
    for text, reason in (
        ("n/2 1 250 20000\ns 10000\nmissing 10000\n", "its header missing.hea is missing"),
        ("n/2 1 250 20000\ns 10000\nfast 10000\n", "its segment fast has 500 frames a second, the record 250"),
        ("n/2 1 250 22000\ns 10000\ns 12000\n", "truncated: segment s has fewer than the 12,000"),
        ("n/2 1 250 25000\ns 10000\ns 10000\n", "promises 25,000 samples, its segments 20,000"),
        ("n/3 1 250 20000\ns 10000\ns 10000\n", "promises 3 segments and describes 2"),
        ("n/1 1 250 500\n~ 500\n", "no segment with a signal"),
        ("n/1 1 250 500\nn 500\n", "its segment n is in segments itself"),
        ("n/1 1 250 500\n../s 500\n", "segment ../s lies in another folder"),
        ("n/2 1 250\ns 10000\n~ 99999999999\n", "days at 250 Hz cannot be right (at most 100)"),
    ):
        (tmp_path / "n.hea").write_text(text)
        with pytest.raises(BadFile) as failure:
            signals.open_recording(tmp_path / "n.hea", LEADS)
        assert reason in str(failure.value)


def test_training_on_a_record_in_segments_leaves_the_gap_out(tmp_path):
    wfdb_record(tmp_path, "a_1", seconds=40)
    wfdb_record(tmp_path, "a_2", seconds=40, seed=1)
    for name in ("a_1", "a_2"):
        (tmp_path / f"{name}.atr").rename(tmp_path / "a.atr")
    (tmp_path / "a.hea").write_text("a/3 1 200 26000\na_1 8000\n~ 10000\na_2 8000\n")
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}")
    found = SOURCES["wfdb"](config)
    facts = []
    for row in found.records.to_dict("records"):
        try:
            facts.append(prepare(row, found.root, prepare_settings(config))[1]["lost_steps"])
        except UnusableRecord as reason:
            facts.append(str(reason))
    assert facts[0] is None
    assert facts[1].split() == [str(step) for step in range(31 - 23, 23)], "from 40 s, in step 31, to the window's end"
    assert facts[2] == "no step is without a gap"
    assert facts[3] == "0 1", "the gap ends in step 70, the second of this window"


@pytest.mark.parametrize("head", ["1 250", "1 250 0", "1 250/500(3)"])
def test_a_header_need_not_say_how_many_samples_there_are(tmp_path, head):
    x = ecg_like(60)
    opened = signals.open_recording(put(tmp_path, "r", x, head=head), LEADS)
    assert opened.length == 15000
    assert np.array_equal(opened.read(14_000, 15_000), x[14_000:] / 200)


def test_what_a_header_leaves_out_is_the_formats_default(tmp_path):
    x = ecg_like(60)
    opened = signals.open_recording(put(tmp_path, "r", x, head="1", line="16"), LEADS)
    assert (opened.rate, opened.unit, opened.lead) == (250, "mV", "signal 0")
    assert np.array_equal(opened.read(0, 15000), x / 200)
    two = put(tmp_path, "two", np.stack([x, -x], 1), head="2 250 15000", line=["16 0", "16 100(5)/uV 12 5"])
    with pytest.raises(BadFile, match=r"none of data\.leads .* among its leads signal 0, signal 1"):
        signals.open_recording(two, LEADS)
    opened = signals.open_recording(two, ["signal 1"])
    assert np.array_equal(opened.read(0, 100), (-x[:100] - 5) / 100)


@pytest.mark.parametrize("name", ["2024.01.15", "患者一", "with-dash"])
def test_records_have_the_names_that_people_give_them(tmp_path, name):
    x = ecg_like(60)
    file = put(tmp_path, name, x, head="1 250 15000", line="16 200/µV/cm² 12 0 0 0 0 lead II, left arm")
    for path in (file, file.with_suffix(".dat"), tmp_path / name):
        opened = signals.open_recording(path, LEADS)
        assert opened.lead == "lead II, left arm"
        assert np.array_equal(opened.read(0, 15000), x / 200)


def test_samples_come_from_where_they_are_in_every_packing(tmp_path):
    import wfdb

    x = np.clip(ecg_like(20), -500, 500).astype(np.int64)
    for kind in ("16", "212", "24", "32", "80", "516"):
        y = np.clip(x, -120, 120) if kind == "80" else x
        wfdb.wrsamp(
            f"k{kind}", fs=250, units=["mV"] * 2, sig_name=["II", "V1"], d_signal=np.stack([y, -y], 1), fmt=[kind] * 2,
            adc_gain=[200.0] * 2, baseline=[0, 0], write_dir=str(tmp_path),
        )  # fmt: skip
        opened = signals.open_recording(tmp_path / f"k{kind}.hea", LEADS)
        assert np.array_equal(opened.read(0, 5000), y / 200), kind
        assert np.array_equal(opened.read(1237, 1999), y[1237:1999] / 200), kind
    differences = np.clip(np.diff(x, prepend=0) // 8, -127, 127)  # format 8: only the first piece knows where it starts
    (tmp_path / "d.dat").write_bytes(differences.astype("i1").tobytes())
    (tmp_path / "d.hea").write_text("d 1 250 5000\nd.dat 8 200/mV 12 0 0 0 0 II\n")
    opened = signals.open_recording(tmp_path / "d.hea", LEADS)
    assert np.array_equal(opened.read(3000, 4000), opened.read(0, 5000)[3000:4000])


def test_a_header_that_is_none_is_answered_at_once_and_with_its_reason(tmp_path):
    x, file = ecg_like(20), tmp_path / "r.hea"
    put(tmp_path, "r", x, head="1 250 5000")
    good = "r 1 250 5000\nr.dat 16 200/mV 12 0 0 0 0 II\n"
    for text, reason in (
        ("", "r.hea is empty"),
        ("r\n", "does not say how many signals"),
        ("r one 250 5000\n", "'one' as its number of signals"),
        ("r 1 fast 5000\n", "'fast' as its sampling rate"),
        ("r 1 0 5000\nr.dat 16\n", "a sampling rate of 0 Hz"),
        ("r 1 250 many\nr.dat 16\n", "'many' as its number of samples"),
        ("r 2 250 5000\nr.dat 16\n", "promises 2 signals and describes 1"),
        ("r 0 250 5000\n", "has no signals"),
        (good.replace("16", "17"), "the format 17, which cannot be"),
        (good.replace("16 200", "16 2,0"), "has the gain 2,0/mV"),
        (good.replace("r.dat", "../r.dat"), "lies in another folder"),
        (good.replace("r.dat", "gone.dat"), "its signal file is missing: gone.dat"),
        (good.replace("5000", "5001"), "truncated: r.hea promises 5,001 samples, 10,000 bytes of r.dat are 5,000"),
        (good.replace("1 250", f"1 250{'/' * 140_000}"), f"a header's have at most {LONGEST_LINE:,}"),
        (f"{good}#{'x' * 5_000_000}\n", "a header has at most 4,000,000"),
        ("\0" * 500, "cannot be read"),
    ):
        file.write_text(text)
        with pytest.raises(BadFile) as failure:
            signals.open_recording(file, LEADS)
        assert reason in str(failure.value), text[:60]
    file.write_text(good + "# <age>: 80\n" + "# " + "a long comment " * 5000)
    assert read_header(file).frames == 5000


# --- missing and infinite samples ---


def prepared(recording_values, rate=250):
    """What training makes of one window."""
    return signals.read_stretch(in_memory(recording_values, float(rate)), 0, 5888)


def test_a_gap_of_a_few_samples_is_bridged_and_a_longer_one_costs_its_own_steps():
    x = ecg_like(40) / 200
    for length, lost in ((1, []), (10, []), (12, []), (15, [10]), (250, [10]), (640, [10, 11, 12])):
        gapped = x.copy()
        begin = int(10.1 * STEP * 250 / RATE)
        gapped[begin : begin + length] = np.nan
        values = prepared(gapped)
        assert np.flatnonzero(signals.lost_steps(values)).tolist() == lost
        far = np.r_[0 : 9 * STEP, 14 * STEP : 5888]
        assert np.allclose(values[far], prepared(x)[far]), "what is not missing is as it was"
        assert np.isfinite(scaled(values, SETTINGS)).all()


def test_training_masks_the_steps_that_are_lost_and_tells_their_place(tmp_path):
    x = sine()
    x[2600:2900] = -32768
    x[5000] = -32768
    wfdb_record(tmp_path, "r")
    write_record(tmp_path / "r", x, "MLII", 200.0, [])
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}")
    found = SOURCES["wfdb"](config)
    array, facts = prepare(found.records.to_dict("records")[0], found.root, prepare_settings(config))
    assert np.isfinite(array).all()
    assert (facts["missing"], facts["lost_steps"], facts["warnings"]) == (301, "10 11", [signals.MISSING])
    records = found.records.assign(lost_steps=facts["lost_steps"])
    codes = EcgLearner(config).targets(records)[0]
    assert np.flatnonzero(codes[:23] == CODES["?"]).tolist() == [10, 11]
    assert target_columns(records)["target"].isna().sum() == 2
    x[:] = -32768
    write_record(tmp_path / "r", x, "MLII", 200.0, [])
    with pytest.raises(UnusableRecord, match="no step is without a gap"):
        prepare(found.records.to_dict("records")[0], found.root, prepare_settings(config))


def always_the_same(windows):
    return np.full((len(windows), 23, 12), 1 / 12)


def test_a_long_recording_loses_only_what_is_lost():
    rng = np.random.default_rng(0)
    x = np.cumsum(rng.standard_normal(600 * 250))
    for lost in (slice(None, None, 5000), slice(7000, 7010)):
        drops = x.copy()
        drops[lost] = np.nan
        got = label_recording(in_memory(drops, 250.0), always_the_same, SETTINGS, 4, 8, "")
        assert not np.isnan(got).any()
    drops[20_000:30_000] = np.nan  # 40 s
    drops[60_000:62_500] = drops[60_000]  # a flat line of 10 s
    drops[100_000:100_500] = drops[100_000]  # a pause of 2 s is none
    got = np.isnan(label_recording(in_memory(drops, 250.0), always_the_same, SETTINGS, 4, 8, "")[:, 0])
    seconds = (np.flatnonzero(got) + 0.5) * STEP / RATE
    assert 40 <= got.sum() * STEP / RATE <= 40 + 10 + 2 * STEP / RATE
    assert ((seconds > 78) & (seconds < 122) | (seconds > 239) & (seconds < 251)).all()


def test_an_infinite_sample_is_a_bad_file_in_every_format_and_mode(tmp_path):
    x = sine(60)
    x[2000] = np.inf
    np.save(tmp_path / "a.npy", x)
    np.save(tmp_path / "b.npy", x.astype(np.float32) * -1)
    pd.DataFrame({"II": x}).to_csv(tmp_path / "c.csv", index=False)
    put(tmp_path, "d", sine(60), head="1 200 12000", line="16 1e-310/mV 12 0 0 0 0 II")
    for name in ("a.npy", "b.npy", "c.csv", "d.hea"):
        settings = SETTINGS | {"sampling_rate": 200.0}
        with pytest.raises(BadFile, match=r"samples are infinite, the first at \d+\.\d\d s") as failure:
            prepare({"path": name, "start": 0}, tmp_path, settings)
        assert not isinstance(failure.value, UnusableRecord)
        with pytest.raises(BadFile, match="samples are infinite"):
            label_recording(signals.open_recording(tmp_path / name, [], 200.0), always_the_same, settings, 4, 8, "")
    np.save(tmp_path / "huge.npy", sine(60) * 1e200)
    with pytest.raises(BadFile, match="are no signal"):
        prepare({"path": "huge.npy"}, tmp_path, SETTINGS | {"sampling_rate": 200.0})


# --- tables and arrays of one's own ---


def table(folder, text, rate=200.0):
    (folder / "s.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return signals.open_recording(folder / "s.csv", LEADS, rate)


ROWS = [f"{v:.4f}" for v in sine(10) / 200]


def test_tables_are_read_as_they_are_meant(tmp_path):
    x, timed = np.array(ROWS, float), [f"{i / 200:.3f},{v}" for i, v in enumerate(ROWS)]
    for text in (
        "II\n" + "\n".join(ROWS),
        "\n\nII\r\n" + "\r\n".join(ROWS) + "\r\n\r\n",
        b"\xef\xbb\xbf" + ("II\n" + "\n".join(ROWS)).encode(),
        "\n".join(ROWS) + "\n",  # no header
        "Time, II ,\n" + "\n".join(f"{row}," for row in timed),  # a comma at every end, the header's too
        "note,time,II\n" + "\n".join(f'"a, b",{row}' for row in timed),
    ):
        opened = table(tmp_path, text)
        assert (opened.rate, opened.length) == (200, 2000)
        assert np.array_equal(opened.read(0, 2000), x)
    gapped = table(
        tmp_path, "time,II\n" + "\n".join(f"{row.split(',')[0]}," if i == 7 else row for i, row in enumerate(timed))
    )
    assert np.flatnonzero(np.isnan(gapped.read(0, 2000))).tolist() == [7]


def test_tables_that_would_be_shifted_are_refused(tmp_path):
    comma = [v.replace(".", ",") for v in ROWS]
    for text, reason in (
        ("II\n" + "\n".join(comma), "row 2 has 2 fields, the first line 1"),
        ("\n".join(comma), "its first line holds 2 numbers and no names"),
        ("time;II\n" + "\n".join(f"{i / 200:.3f};{v}" for i, v in enumerate(comma)), "separated by semicolons"),
        ("time\tII\n" + "\n".join(f"{i / 200:.3f}\t{v}" for i, v in enumerate(ROWS)), "separated by tabs"),
        ("V1,II\n" + "\n".join(f"{v},{v}," for v in ROWS), "row 2 has 3 fields, the first line 2"),
        ("V1,II\n" + "\n".join(ROWS), "row 2 has 1 fields, the first line 2"),
        ("II\n" + "\n".join([*ROWS[:9], "", *ROWS[9:]]), "line 11 is blank"),
        ("II\n" + "\n\n".join(ROWS), "line 3 is blank"),
        ("II\r\r\n" + "\r\r\n".join(ROWS), "is blank"),
        ("II\n" + "\n".join(f'"{v}"' for v in comma), "row 2: II is '"),
        ("V1,II\nmV,mV\n" + "\n".join(f"{v},{v}" for v in ROWS), "row 2: II is 'mV', which is no number"),
        ("II,II\n" + "\n".join(f"{v},{v}" for v in ROWS), "it names a column twice: II"),
        ("", "it is empty"),
        ("II\n" + "\n".join(["x" * 300_000]), "which is no number"),
        (("II\n" + "\n".join(ROWS)).encode("utf-16"), "no"),
    ):
        with pytest.raises(BadFile) as failure:
            table(tmp_path, text)
        assert reason in str(failure.value), text[:40]


def test_an_archive_named_as_an_array_is_refused_in_words(tmp_path):
    np.savez(tmp_path / "a.npz", x=sine())
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"\x93NUMPY\x01\x00\x76\x00{'descr': (((((, 'shape': (1,)}")
    np.save(tmp_path / "c.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, reason in (("a.npy", "an archive of arrays"), ("b.npy", "cannot be read"), ("c.npy", "cannot be read")):
        with pytest.raises(BadFile, match=reason):
            signals.open_recording(tmp_path / name, [], 200.0)


def test_a_table_may_name_records_as_wfdb_does(tmp_path):
    for k in range(3):
        wfdb_record(tmp_path / "records100", f"{k:05d}_lr", [("AF", 0)])
    (tmp_path / "t.csv").write_text("filename_lr,who\n" + "".join(f"records100/{k:05d}_lr,{k}\n" for k in range(3)))
    config = compose(
        "ecg", "data=table", f"data.table={tmp_path / 't.csv'}", "data.columns.path=filename_lr",
        "data.columns.group=who",
    )  # fmt: skip
    found = SOURCES["table"](config)
    assert found.records["id"].tolist() == [f"records100/{k:05d}_lr" for k in range(3)]
    assert found.records["path"].tolist() == [f"records100/{k:05d}_lr.dat" for k in range(3)]
    assert set(found.records["rhythms"]) == {"AF:23"}
    for row in found.records.to_dict("records"):
        assert prepare(row, found.root, prepare_settings(config))[0].shape == (5888,)


# --- folders ---


def test_linked_folders_and_names_with_points_are_found(tmp_path):
    elsewhere = tmp_path / "disk"
    wfdb_record(elsewhere / "deep", "r1")
    wfdb_record(tmp_path / "db", "r2")
    (elsewhere / "deep" / "r1.reva").write_bytes((elsewhere / "deep" / "r1.atr").read_bytes())
    (tmp_path / "db" / "linked").symlink_to(elsewhere)
    (tmp_path / "db" / "._r2.hea").write_bytes(b"\0\5\x16\7")
    put(tmp_path / "db", "2024.01.15", sine(), head="1 200 6000")
    (tmp_path / "db" / "2024.01.15.atr").write_bytes((tmp_path / "db" / "r2.atr").read_bytes())
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path / 'db'}")
    found = SOURCES["wfdb"](config)
    assert sorted(found.records["record"]) == ["2024.01.15", "linked/deep/r1", "r2"]
    assert found.readers["id"].unique().tolist() == ["linked/deep/r1"]
    for row in found.records.to_dict("records"):
        assert prepare(row, found.root, prepare_settings(config))[0].shape == (5888,)
