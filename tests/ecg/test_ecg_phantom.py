"""The phantom: a function of its settings, and rhythms with the mechanics that their names promise."""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import compose, phantom_settings

from pipelines.ecg.annotations import read_rhythms
from pipelines.ecg.config import CLASSES
from pipelines.ecg.data import phantom
from pipelines.ecg.labels import NOTES, unpack
from pipelines.ecg.phantom.beats import draw_heart
from pipelines.ecg.phantom.dataset import (
    READERS,
    SAMPLES,
    SECONDS,
    draw_course,
    make_phantom,
    read_course,
)
from pipelines.ecg.rhythms import MISTAKEN, NEIGHBOURS, RHYTHMS, _fibrillation, _flutter
from pipelines.shared.errors import ConfigError

SMALL = phantom_settings("ecg", patients=12)


def contents(root):
    return {
        str(f.relative_to(root)): hashlib.sha256(f.read_bytes()).hexdigest() for f in root.rglob("*") if f.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantom") / "one"
    make_phantom(root, SMALL, workers=1)
    return root


@pytest.mark.slow
def test_it_is_a_function_of_its_settings_whatever_the_workers(made, tmp_path):
    make_phantom(tmp_path / "two", SMALL, workers=2)
    assert contents(made) == contents(tmp_path / "two")


@pytest.mark.slow
def test_noise_changes_the_signals_only(made, tmp_path):
    make_phantom(tmp_path / "quiet", phantom_settings("ecg", patients=12, noise=0.5), workers=1)
    before, after = contents(made), contents(tmp_path / "quiet")
    changed = {name for name in before if before[name] != after[name]}
    assert {name.rpartition(".")[2] for name in changed} == {"dat", "hea", "txt"}  # the header holds a checksum


def test_files_are_those_of_a_wfdb_database_and_say_that_they_are_synthetic(made):
    names = (made / "RECORDS").read_text().split()
    assert len(names) >= 12
    for name in names:
        for kind in ("hea", "dat", "atr", *READERS):
            assert (made / f"{name}.{kind}").is_file()
        assert "synthetic" in (made / f"{name}.hea").read_text()
        found = read_rhythms(made / name, "atr")
        assert found.seconds[0] == 0
        assert set(found.notes) <= set(NOTES.values())
    assert "synthetic" in (made / "SYNTHETIC.txt").read_text()
    main = pd.read_csv(made / "truth" / "truth.csv")["main"]
    assert set(main) == set(CLASSES)


@pytest.mark.slow
def test_it_is_read_through_the_adapter_of_any_wfdb_database(tmp_path):
    source = phantom(compose("ecg", "data.phantom.patients=48", f"cache.dir={tmp_path}"))
    records = source.records
    assert source.synthetic
    assert records["group"].nunique() == 48
    assert (records["rhythms"].map(lambda t: len(unpack(t))) == 23).all()
    assert set(source.readers["reader"]) == set(READERS)
    assert len(source.readers) == 6 * len(records)
    same = [
        np.mean([a == b for a, b in zip(unpack(t), unpack(r), strict=True)])
        for t, r in zip(records["truth"], records["rhythms"], strict=True)
    ]
    assert 0.85 < np.mean(same) < 1, "the committee is good but not perfect"


# --- the mechanics, from the waves themselves ---


def waves_of(rhythm, seed, subtlety=0.0):
    """Times of QRS (narrow or wide) and of P waves of 30 s of a rhythm."""
    rng = np.random.default_rng(seed)
    heart = draw_heart(rng, subtlety)
    waves = RHYTHMS[rhythm](rng, heart, 0.0, float(SECONDS), subtlety)
    narrow = sorted(t for t, a, w in waves if w == heart.qrs_width and a == heart.r)
    wide = sorted(t for t, a, w in waves if w == heart.wide_width and a == heart.wide)
    p = sorted(t for t, a, w in waves if w == heart.p_width)
    return np.array(narrow), np.array(wide), np.array(p), heart, waves


SEEDS = range(8)


@pytest.mark.parametrize("seed", SEEDS)
def test_sinus_and_ectopic_atrial_rhythm_differ_in_their_p_wave_only(seed):
    for name, height in (("SINUS", lambda h: h.p), ("EAR", lambda h: h.p * h.ectopic)):
        narrow, _, p, heart, waves = waves_of(name, seed)
        assert len(p) == len(narrow), "a P wave before every QRS"
        assert 45 < 60 * len(narrow) / SECONDS < 110
        assert {a for _, a, w in waves if w == heart.p_width} == {height(heart)}
        assert ((narrow - p > 0.05) & (narrow - p < 0.2)).all()
        if name == "EAR":
            assert heart.ectopic < 0, "without subtlety it is inverted"


@pytest.mark.parametrize("seed", SEEDS)
def test_fibrillation_is_irregular_without_p_waves_and_supraventricular_tachycardia_regular(seed):
    rng = np.random.default_rng(seed)
    heart = draw_heart(rng, 0.0)
    waves = _fibrillation(rng, heart, 0.0, 30.0, 0.0)
    rr = np.diff(sorted(t for t, a, w in waves if w == heart.qrs_width and a == heart.r))
    assert rr.std() / rr.mean() > 0.1
    assert not any(w == heart.p_width for _, _, w in waves)
    narrow, wide, _, _, _ = waves_of("SVT", seed)
    rr = np.diff(narrow)
    assert rr.std() / rr.mean() < 0.03
    assert 60 / rr.mean() > 135
    assert len(wide) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_flutter_is_conducted_in_whole_numbers(seed):
    rng = np.random.default_rng(seed)
    heart = draw_heart(rng, 0.0)
    waves = _flutter(rng, heart, 0.0, 30.0, 0.0)
    teeth = Counter(w for _, a, w in waves if a < 0 and 0.22 * 0.17 < w < 0.22 * 0.25)
    tooth = teeth.most_common(1)[0][0]  # there are more flutter waves than waves of any beat
    period = np.median(np.diff(sorted(t for t, _, w in waves if w == tooth)))
    ratio = np.diff(sorted(t for t, a, w in waves if w == heart.qrs_width and a == heart.r)) / period
    assert 240 < 60 / period < 340
    assert np.abs(ratio - ratio.round()).max() < 0.15
    assert set(ratio.round()) <= {2, 3, 4}


@pytest.mark.parametrize("seed", SEEDS)
def test_ventricular_rhythms_are_wide_and_differ_in_rate(seed):
    for name, low, high in (("VT", 115, 215), ("IVR", 35, 105)):
        narrow, wide, _, _, _ = waves_of(name, seed)
        assert len(narrow) == 0
        assert low < 60 / np.diff(wide).mean() < high


@pytest.mark.parametrize("seed", SEEDS)
def test_geminy_alternates_with_a_compensatory_pause(seed):
    for name, normal in (("BIGEMINY", 1), ("TRIGEMINY", 2)):
        narrow, wide, p, _, _ = waves_of(name, seed)
        kinds = [k for _, k in sorted([(t, "N") for t in narrow] + [(t, "V") for t in wide])]
        pattern = "".join(kinds)
        assert ("N" * normal + "V") * 6 in pattern
        assert "VV" not in pattern
        assert len(p) == len(narrow), "the premature beat has no P wave"
        first = wide[2]
        before, after = narrow[narrow < first].max(), narrow[narrow > first].min()
        if normal == 2:  # the pause makes up for the early beat: two sinus cycles
            cycle = narrow[narrow < first][-1] - narrow[narrow < first][-2]
            assert after - before == pytest.approx(2 * cycle, rel=0.15)
        assert first - before < after - first


@pytest.mark.parametrize("seed", SEEDS)
def test_wenckebach_lengthens_pr_and_drops_a_beat(seed):
    narrow, _, p, _, _ = waves_of("WENCKEBACH", seed)
    pr = [min((n - t for n in narrow if 0 < n - t < 0.6), default=None) for t in p]
    dropped = [i for i, x in enumerate(pr) if x is None or (i + 1 < len(p) and p[i] + x > p[i + 1])]
    assert len(dropped) >= 3
    run = pr[dropped[0] + 1 : dropped[1]]
    assert all(b > a for a, b in pairwise(run)), "longer from beat to beat"
    growth = np.diff(run)
    assert all(b < a for a, b in pairwise(growth)), "by ever less"


@pytest.mark.parametrize("seed", range(12))
def test_block_has_more_p_waves_than_beats_and_a_constant_pr_unless_it_is_complete(seed):
    narrow, wide, p, heart, _ = waves_of("AVB", seed)
    assert len(p) > 1.15 * (len(narrow) + len(wide))
    near = np.abs(narrow[:, None] - heart.pr - p[None, :]).min(axis=1) if len(narrow) else np.array([1.0])
    conducted = (near < 1e-9).mean()
    assert conducted == 1 or conducted < 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_junctional_beats_are_regular_and_their_p_waves_backward_or_hidden(seed):
    narrow, _, p, heart, waves = waves_of("JUNCTIONAL", seed)
    rr = np.diff(narrow)
    assert rr.std() / rr.mean() < 0.02
    assert heart.retrograde < 0
    assert {a for _, a, w in waves if w == heart.p_width} <= {heart.p * heart.retrograde}
    assert len(p) in (0, len(narrow))


# --- the people ---


def test_a_course_is_without_gaps_and_holds_its_main_rhythm():
    rng = np.random.default_rng(0)
    for main in CLASSES * 10:
        course = draw_course(rng, main)
        assert course[0].start == 0
        assert course[-1].end == SAMPLES
        assert all(a.end == b.start for a, b in pairwise(course))
        assert main in {e.rhythm for e in course}
        assert {e.rhythm for e in course} - {main} <= set(NEIGHBOURS[main])


def test_a_perfect_reader_reads_the_truth_and_a_clumsy_one_errs_as_often_as_said():
    rng = np.random.default_rng(1)
    courses = [draw_course(rng, "EAR") for _ in range(300)]
    assert all(read_course(rng, c, 0.0, 0.0) == c for c in courses)
    whole = [c for c in courses if len(c) == 1]
    wrong = np.mean([read_course(rng, c, 0.2, 0.0)[0].rhythm != "EAR" for c in whole])
    expected = 0.2 * MISTAKEN["EAR"][1]
    assert wrong == pytest.approx(expected, abs=3 * np.sqrt(expected * (1 - expected) / len(whole)))


def test_what_cannot_be_made_is_refused():
    for key in ("patients=3", "subtlety=2.0"):
        with pytest.raises(ConfigError, match=rf"data\.phantom\.{key}"):
            compose("ecg", f"data.phantom.{key}")
