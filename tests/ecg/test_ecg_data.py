"""Adapters and signals: WFDB, the challenge's layout, tables, joined sources, and everything that may be wrong."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.ecg import signals
from pipelines.ecg.annotations import write_rhythms
from pipelines.ecg.architecture import Architecture
from pipelines.ecg.config import CLASSES
from pipelines.ecg.data import SOURCES, prepare, prepare_settings
from pipelines.ecg.evaluation import _warnings
from pipelines.ecg.labels import NOTES, RATE, STEP, Episode, unpack
from pipelines.ecg.learner import EcgLearner
from pipelines.ecg.metrics import prediction_table
from pipelines.ecg.study import STUDY
from pipelines.ecg.wfdb_files import write_record
from pipelines.shared.data.assemble import training_data
from pipelines.shared.errors import BadFile, ConfigError, DataError, UnusableRecord


def sine(seconds=30, seed=0):
    rng = np.random.default_rng(seed)
    return np.round(300 * np.sin(np.arange(seconds * RATE) / 9) + 30 * rng.standard_normal(seconds * RATE))


def wfdb_record(folder, name, found=(("SINUS", 0),), seconds=30, seed=0, end=None):
    """One record with an .atr; `found`: (rhythm, first sample)."""
    folder.mkdir(exist_ok=True, parents=True)
    write_record(folder / name, sine(seconds, seed), "MLII", 200.0, [])
    starts = [s for _, s in found] + [end or seconds * RATE]
    course = [Episode(a, b, r) for (r, a), b in zip(found, starts[1:], strict=False)]
    write_rhythms(folder / name, "atr", course, NOTES | {"odd": "(ODD", "(P": "(P"}, RATE)


def source(name, root, *more):
    return SOURCES[name](compose("ecg", f"data={name}", f"data.root={root}", *more))


def prepared(config, found):
    settings = prepare_settings(config)
    return [prepare(row, found.root, settings) for row in found.records.to_dict("records")]


# --- real samples ---


def test_mitdb_is_read_at_200_hz_with_its_rhythms(real_sample):
    import wfdb

    root = real_sample("mitdb")
    config = compose("ecg", "data=mitdb", f"data.root={root}")
    found = source("mitdb", root)
    assert found.records["record"].unique().tolist() == ["119", "201"]
    assert set(found.records["group"]) == {"119", "201+202"}
    rows = found.records[found.records["record"] == "201"].sort_values("start")
    labels = [name for text in rows["rhythms"] for name in unpack(text) if name != "."]
    assert len(labels) == 650_000 * 200 // 360 // 256
    notes = wfdb.rdann(str(root / "201"), "atr")
    changes = [(s / 360, n.rstrip("\0")) for s, n in zip(notes.sample, notes.aux_note, strict=True) if n]
    classes = {"(AFIB": "AF", "(NOD": "JUNCTIONAL", "(N": "SINUS", "(T": "TRIGEMINY", "(SVTA": "SVT", "(VT": "VT"}
    for k, label in enumerate(labels):
        begun = [n for t, n in changes if t <= (k + 0.5) * 1.28]  # rounding an onset: has it begun by the middle?
        close = min(abs(t - (k + 0.5) * 1.28) for t, _ in changes) < 0.02
        assert close or label == (classes[begun[-1]] if begun else "?"), k
    array, facts = prepared(config, found)[0]
    assert array.shape == (5888,)
    assert array.dtype == np.float32
    assert facts["lead"] == "MLII"
    assert abs(array.mean()) < 1e-5
    # A slow part of the signal is the same at both rates.
    raw = wfdb.rdrecord(str(root / "119"), channels=[0], sampto=30 * 360).p_signal[:, 0]
    expected = np.interp(np.arange(5888) / 200, np.arange(len(raw)) / 360, raw)
    assert np.corrcoef(array, expected)[0, 1] > 0.99


def test_stretches_fit_together_at_any_place(real_sample):
    recording = signals.open_recording(real_sample("mitdb") / "119.hea", ["MLII"])
    whole = signals.read_stretch(recording, 0, 40_000)
    for start, stop in ((0, 5888), (5888, 11776), (777, 9001), (25_601, 40_000)):
        assert np.allclose(signals.read_stretch(recording, start, stop), whole[start:stop], atol=1e-9)


def test_resampling_does_not_fold_high_frequencies(tmp_path):
    time = np.arange(30 * 1000) / 1000
    np.save(tmp_path / "fast.npy", np.sin(2 * np.pi * 5 * time) + np.sin(2 * np.pi * 190 * time))
    recording = signals.open_recording(tmp_path / "fast.npy", [], 1000.0)
    got = signals.read_stretch(recording, 400, 5600)
    assert np.abs(got - np.sin(2 * np.pi * 5 * np.arange(400, 5600) / 200)).max() < 0.02, "190 Hz would come back as 10"


def test_the_challenges_records_and_labels(real_sample):
    found = source("cinc2017", real_sample("cinc2017"))
    by_record = found.records.drop_duplicates("record")
    assert by_record["record_label"].value_counts().to_dict() == {"N": 35, "A": 35, "O": 35, "~": 35}
    assert found.records["split"].isna().all()
    names = {name for text in found.records["rhythms"] for name in unpack(text)}
    assert names <= {"-", "."}
    per_record = found.records.groupby("record")["rhythms"].agg(lambda t: sum(x.count("-") for x in map(unpack, t)))
    assert per_record.max() <= 47


@pytest.mark.slow
def test_validation_records_are_found_in_the_training_part(real_sample, tmp_path):
    sample = real_sample("cinc2017")
    lines = (sample / "REFERENCE-v3.csv").read_text().splitlines()
    chosen = [line for code in "NAO~" for line in [x for x in lines if x.endswith(code)][:8]]
    again = [line for code in "NAO~" for line in [x for x in chosen if x.endswith(code)][:2]]
    for folder, part in (("training2017", chosen), ("validation", again)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "REFERENCE-v3.csv").write_text("recording,label\n" + "\n".join(part) + "\n")
        for name in (line.split(",")[0] for line in part):
            for kind in ("mat", "hea"):
                shutil.copy(sample / f"{name}.{kind}", tmp_path / folder)
    for leakage, left in (("drop", 24), ("report", 32)):
        config = compose(
            "ecg", "data=cinc2017", f"data.root={tmp_path}", f"split.leakage={leakage}", f"cache.dir={tmp_path / 'c'}"
        )
        data = training_data(STUDY, config)
        rest = data.records[data.records["split"] != "test"]
        assert rest["record"].nunique() == left
        assert data.records.loc[data.records["split"] == "test", "record"].nunique() == 8
        leaks = data.flow["gate_findings"]["leaks"]
        assert len(leaks) == 8
        assert any("several sides" in w for w in data.flow["warnings"]) == (left == 32)
    with pytest.raises(DataError, match="8 components on several sides"):
        training_data(STUDY, config.model_copy(update={"split": config.split.model_copy(update={"leakage": "error"})}))


def test_several_sources_join_each_by_its_own_rule(real_sample):
    also = f"[{{name: mitdb, root: {real_sample('mitdb')}}}, {{name: irhythm, root: {real_sample('irhythm')}}}]"
    config = compose("ecg", "data=cinc2017", f"data.root={real_sample('cinc2017')}", f"data.also={also}")
    joined = SOURCES["cinc2017"](config)
    records = joined.records
    assert records["source"].value_counts().to_dict() == {"cinc2017": 156, "mitdb": 124, "irhythm": 24}
    assert records["id"].is_unique
    assert not records["path"].str.startswith("/").any()
    assert set(records.loc[records["source"] == "cinc2017", "record_code"]) == {0, 1, 2, 3}
    assert set(records.loc[records["source"] != "cinc2017", "record_code"]) == {-1}
    assert set(joined.readers["id"]) <= set(records["id"])
    settings = prepare_settings(config)
    for name in ("cinc2017", "mitdb", "irhythm"):
        row = records[records["source"] == name].iloc[0].to_dict()
        assert prepare(row, joined.root, settings)[0].shape == (5888,)


# --- made up ---


def test_unmapped_rhythms_are_masked_and_counted_and_unknown_ones_refused(tmp_path):
    wfdb_record(tmp_path, "r1", [("SINUS", 0), ("(P", 2560), ("AF", 5120)])
    found = source("wfdb", tmp_path)
    assert found.records["rhythms"].tolist() == ["SINUS:10 ?:10 AF:3"]
    assert any("(P 13 s" in note for note in found.notes)
    wfdb_record(tmp_path, "r2", [("SINUS", 0), ("odd", 2560)])
    with pytest.raises(DataError) as failure:
        source("wfdb", tmp_path)
    assert "r2.atr: unknown rhythm (ODD at 12.8 s" in str(failure.value)
    assert "(AFIB AF" in str(failure.value)
    assert "(P masked" in str(failure.value)


def test_a_rhythm_beyond_the_end_is_refused(tmp_path):
    wfdb_record(tmp_path, "r1", [("SINUS", 0), ("AF", 9000)], end=9500)
    with pytest.raises(DataError, match=r"r1.atr: beyond the end of the recording: \(AFIB at 45.0 s"):
        source("wfdb", tmp_path)


def test_long_records_are_windows_that_end_with_a_full_one(tmp_path):
    wfdb_record(tmp_path, "long", [("SINUS", 0), ("AF", 30 * STEP)], seconds=64)  # 50 steps
    found = source("wfdb", tmp_path)
    assert found.records["start"].tolist() == [0, 23, 27]
    assert found.records["rhythms"].tolist() == ["SINUS:23", "SINUS:7 AF:16", ".:19 AF:4"]
    assert found.records["group"].nunique() == 1
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}")
    for array, _ in prepared(config, found):
        assert np.count_nonzero(array) == 5888


def test_a_short_record_is_padded_and_its_padding_has_no_label(tmp_path):
    wfdb_record(tmp_path, "short", seconds=10)
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}")
    found = source("wfdb", tmp_path)
    assert found.records["rhythms"].tolist() == ["SINUS:7"]
    assert EcgLearner(config).targets(found.records)[0].tolist() == [CLASSES.index("SINUS")] * 7 + [-3] * 16 + [-1]
    array, _ = prepared(config, found)[0]
    assert not array[7 * STEP :].any()
    assert any("10" not in note and "1.0 s at the ends" in note for note in found.notes)
    table = prediction_table(found.records, np.full((1, 23, 12), 1 / 12))
    assert table["step"].tolist() == list(range(7))


def test_patients_of_several_records(tmp_path):
    for name in ("a", "b", "c"):
        wfdb_record(tmp_path, name)
    assert source("wfdb", tmp_path, "data.same_patient=[[a,c]]").records["group"].tolist() == ["a+c", "b", "a+c"]
    (tmp_path / "who.csv").write_text("record,patient\na,7\nb,7\nc,8\n")
    named = source("wfdb", tmp_path, f"data.patients={tmp_path / 'who.csv'}")
    assert named.records["group"].tolist() == ["7", "7", "8"]


def reasons(config, found):
    settings, said = prepare_settings(config), {}
    for row in found.records.to_dict("records"):
        try:
            prepare(row, found.root, settings)
        except BadFile as reason:
            said[row["record"]] = (type(reason), str(reason))
    return said


def test_bad_signals_have_their_reasons(tmp_path):
    for name in ("good", "cut", "bare", "tiny", "flat", "gaps", "rate"):
        wfdb_record(tmp_path, name, seconds=1 if name == "tiny" else 30)
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[:5000])
    (tmp_path / "bare.hea").unlink()
    write_record(tmp_path / "flat", np.full(6000, 12), "MLII", 200.0, [])
    write_record(tmp_path / "gaps", np.where(np.arange(6000) == 3000, -32768, sine()), "MLII", 200.0, [])
    header = (tmp_path / "rate.hea").read_text()
    (tmp_path / "rate.hea").write_text(header.replace("rate 1 200 6000", "rate 1 2 6000"))
    config = compose("ecg", "data=wfdb", f"data.root={tmp_path}")
    said = reasons(config, SOURCES["wfdb"](config))
    assert "good" not in said
    assert "promises 6,000 samples" in said["cut"][1]
    assert said["bare"][1] == "its header bare.hea is missing"
    assert "shorter than one step" in said["tiny"][1]
    assert said["flat"][0] is UnusableRecord
    assert "gaps" not in said, "one sample of a whole window"
    assert "2 Hz cannot be right" in said["rate"][1]


def test_a_lead_is_chosen_by_name(tmp_path):
    import wfdb

    two = np.column_stack([sine(seed=1), sine(seed=2)]).astype(np.int16)
    wfdb.wrsamp(
        "two", fs=200, units=["mV"] * 2, sig_name=["V1", "II"], d_signal=two, fmt=["16"] * 2, adc_gain=[200.0] * 2,
        baseline=[0, 0], write_dir=str(tmp_path),
    )  # fmt: skip
    opened = signals.open_recording(tmp_path / "two.hea", ["MLII", "ii", "V1"])
    assert opened.lead == "II"
    assert np.allclose(opened.read(0, 50) * 200, two[:50, 1])
    with pytest.raises(BadFile, match=r"none of data\.leads"):
        signals.open_recording(tmp_path / "two.hea", ["aVR"])


@pytest.mark.slow
def test_two_databases_of_one_kind_do_not_mix(tmp_path):
    for folder in ("one", "two", "three"):
        for name in ("a", "b"):
            wfdb_record(tmp_path / folder, name, seed=ord(name) + len(folder))
    also = f"[{{name: wfdb, root: {tmp_path / 'two'}}}, {{name: wfdb, root: {tmp_path / 'three'}}}]"
    joined = source("wfdb", tmp_path / "one", f"data.also={also}").records
    assert joined["id"].tolist() == ["a", "b", "wfdb1/a", "wfdb1/b", "wfdb2/a", "wfdb2/b"]
    assert joined["group"].is_unique
    with pytest.raises(DataError, match="in use already"):
        source("wfdb", tmp_path / "one", f"data.also=[{{name: wfdb, root: {tmp_path / 'one'}}}]")


def test_clipped_windows_are_told_in_the_report():
    records = pd.DataFrame({"clipped": [0.0, 0.1, 0.3]})
    evidence = SimpleNamespace(networks=[], records=records)
    assert _warnings(evidence, pd.DataFrame()) == [
        "2 windows are clipped: more than 2 % of their samples are at a limit."
    ]


def test_classes_that_training_never_saw_are_named():
    taught = [name for name in CLASSES if name != "NOISE"]
    facts = {"architecture": asdict(Architecture(8, 0.0, 0.0, 1.0, ["N", "A", "O", "VT"], taught))}
    evidence = SimpleNamespace(networks=[facts], records=pd.DataFrame({"id": []}), config=compose("ecg"))
    test = pd.DataFrame({"target": ["AF", "EAR", "NOISE", None], "record_label": None})
    (said,) = _warnings(evidence, test)
    assert "never saw: NOISE (never answered); AVB, BIGEMINY, EAR, IVR, JUNCTIONAL, SVT, TRIGEMINY, WENCKEBACH" in said
    assert "only as part of a sum" in said
    assert said.endswith("Test has steps of EAR, NOISE: they count as errors.")


def test_clipping_is_measured():
    signal = np.sin(np.arange(6000) / 10)
    assert signals.clipped_share(signal) == 0
    assert signals.clipped_share(np.clip(signal, -0.8, 0.8)) > 0.3


def test_the_same_signal_has_the_same_fingerprint_whatever_its_gain(tmp_path):
    for name, gain in (("a", 200.0), ("b", 50.0)):
        write_record(tmp_path / name, sine(), "MLII", gain, [])
    write_record(tmp_path / "c", sine(seed=5), "MLII", 200.0, [])
    marks = [
        signals.quality(signals.open_recording(tmp_path / f"{n}.hea", []), 0, 5888).fingerprint for n in ("a", "b", "c")
    ]
    assert marks[0] == marks[1] != marks[2]


def test_the_challenges_rate_is_checked(tmp_path):
    wfdb_record(tmp_path, "A00001")
    (tmp_path / "A00001.dat").rename(tmp_path / "A00001.mat")
    header = (tmp_path / "A00001.hea").read_text()
    (tmp_path / "A00001.hea").write_text(header.replace("A00001.dat", "A00001.mat"))
    (tmp_path / "REFERENCE-v3.csv").write_text("A00001,N\n")
    config = compose("ecg", "data=cinc2017", f"data.root={tmp_path}")
    said = reasons(config, SOURCES["cinc2017"](config))
    assert said["A00001"][1] == "its header says 200 Hz; recordings of this set have 300 Hz"
    (tmp_path / "REFERENCE-v3.csv").write_text("A00001,N\nA00002,X\nA00003,A\nA00001,O\n")
    with pytest.raises(DataError) as failure:
        SOURCES["cinc2017"](config)
    for part in ("line 2: label 'X'", "A00003: no such recording", "two labels, N and O"):
        assert part in str(failure.value)


def test_tables_of_ones_own(tmp_path):
    time = np.arange(6000) / 200
    pd.DataFrame({"time": time, "II": sine()}).to_csv(tmp_path / "a.csv", index=False)
    np.save(tmp_path / "b.npy", sine(seed=2))
    wfdb_record(tmp_path, "c", [("AF", 0)])
    (tmp_path / "t.csv").write_text("file,who,rhythm\na.csv,1,normal\nb.npy,2,VT\nc.hea,3,\n")
    config = compose(
        "ecg", "data=table", f"data.table={tmp_path / 't.csv'}", "data.columns.path=file", "data.columns.group=who",
        "++data.targets={rhythm: rhythm}", "++data.values={rhythm: {normal: N}}", "data.sampling_rate=200",
    )  # fmt: skip
    found = SOURCES["table"](config)
    assert found.records["record_label"].tolist() == ["N", "VT", None]
    assert found.records["rhythms"].tolist() == ["-:23", "-:23", "AF:23"]
    assert len(prepared(config, found)) == 3
    (tmp_path / "t.csv").write_text("file,who,rhythm\na.csv,1,fine\n")
    with pytest.raises(DataError, match="rhythm=fine"):
        SOURCES["table"](config)


def test_csv_and_npy_say_what_they_lack(tmp_path):
    pd.DataFrame({"II": sine()}).to_csv(tmp_path / "a.csv", index=False)
    np.save(tmp_path / "b.npy", sine())
    uneven = np.arange(6000) / 200
    uneven[3000:] += 5
    pd.DataFrame({"time": uneven, "II": sine()}).to_csv(tmp_path / "c.csv", index=False)
    np.save(tmp_path / "d.npy", np.zeros((2, 6000)))
    for name, part in (
        ("a.csv", "no sampling rate"), ("b.npy", "no sampling rate"), ("c.csv", "does not rise evenly"),
        ("e.csv", "cannot be read"), ("f.wav", "no kind of signal file"),
    ):  # fmt: skip
        with pytest.raises(BadFile, match=part):
            signals.open_recording(tmp_path / name, [])
    with pytest.raises(BadFile, match=r"an array \(samples,\)"):
        signals.open_recording(tmp_path / "d.npy", [], 200.0)


def test_mistakes_of_the_configuration_are_named():
    with pytest.raises(ConfigError, match="no such class: FLUTTER"):
        compose("ecg", "labels.irhythm.AFL=FLUTTER")
    with pytest.raises(ConfigError, match="leaves nothing of a window"):
        compose("ecg", "predict.overlap=12")
    with pytest.raises(ConfigError, match=r"data\.also\.0\.name=aptos2019"):
        compose("ecg", "data.also=[{name: aptos2019, root: x}]")
