"""Rows of predictions.csv: each is its own slide's, whatever happens to the others."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import compose

from pipelines.camelyon import heatmap, predicting
from pipelines.camelyon.heatmap import Heatmap
from pipelines.camelyon.predicting import SlideScorer, table_of
from pipelines.camelyon.tissue import Tissue
from pipelines.shared.cli.finished import with_finished_run
from pipelines.shared.cli.inputs import score_in_parts
from pipelines.shared.errors import BadFile, RunError
from pipelines.shared.judging.calls import calls
from pipelines.shared.run_folder import RunFolder

POINTS = [
    {"task": "tumor", "name": "specific", "score": "p_tumor", "threshold": 0.5},
    {"task": "tumor", "name": "sensitive", "score": "p_tumor", "threshold": 0.2},
]
SLIDES = {"a.tif": 0.1, "b.tif": 0.9, "c.tif": 0.3, "d.tif": 0.6, "病理/切片.tif": 0.7, "caf\udce9.tif": 0.25}


class ToySlide:
    """A slide that cannot be opened if its name is among the bad ones."""

    bad: frozenset[str] = frozenset()

    def __init__(self, path, mpp):
        self.name = str(path.relative_to("/"))
        if self.name in self.bad:
            raise BadFile("is no slide")

    def warned(self, mpp):
        return ["it is odd"] if self.name == "c.tif" else []

    def close(self):
        pass


def finished(sets=(), **ranges):
    """What a finished run says of its slides."""
    return SimpleNamespace(training_ranges=ranges, operating_points=POINTS, prediction_sets=list(sets))


class ToyScorer(SlideScorer):
    """One that needs no network."""

    def __init__(self, folder):
        self.config, self.folder = compose("camelyon"), folder
        self.finished = finished()


@pytest.fixture
def scorer(monkeypatch, tmp_path):
    def score(self, slide, name):
        p = SLIDES[slide.name]
        return {"p_tumor": p, "p_maximum": p / 2, "detections": 3, "tissue_mm2": 1.5, "mpp": 0.5}

    monkeypatch.setattr(predicting, "Slide", ToySlide)
    monkeypatch.setattr(SlideScorer, "score", score)
    return ToyScorer(tmp_path)


def predicted(scorer, folder, files, seen=None):
    def score(part):
        (seen if seen is not None else []).extend(part)
        return table_of([scorer.row(Path("/"), file) for file in part], scorer.finished)

    world = SimpleNamespace(main=True, size=1, rank=0)
    return score_in_parts(RunFolder(folder), files, score, world, size=1)


@pytest.mark.slow
def test_a_slide_unlike_the_training_set_has_a_warning_behind_its_own(scorer, tmp_path, monkeypatch):
    before = predicted(scorer, tmp_path / "before", list(SLIDES))
    scorer.finished = finished(mpp=(0.2, 0.3))
    monkeypatch.setattr(SlideScorer, "measures", lambda self, slide: {"mpp": 0.25 if slide.name == "b.tif" else 0.5})
    after = predicted(scorer, tmp_path / "after", list(SLIDES))
    assert after["warnings"][1] is None
    assert after["warnings"][2] == "it is odd; unlike the training set: mpp 0.5 (0.2 to 0.3 there)"
    pd.testing.assert_frame_equal(before.drop(columns="warnings"), after.drop(columns="warnings"))


def test_nothing_is_written_of_a_slide_that_cannot_be_measured(scorer, tmp_path, monkeypatch):
    whole, scored = SlideScorer.score, []

    def score(self, slide, name):
        scored.append(slide.name)
        return whole(self, slide, name)

    def measures(self, slide):
        if slide.name == "b.tif":
            raise BadFile("level 2 cannot be read")
        return {"mpp": 0.25}

    scorer.finished = finished(mpp=(0.2, 0.3))
    monkeypatch.setattr(SlideScorer, "score", score)
    monkeypatch.setattr(SlideScorer, "measures", measures)
    table = predicted(scorer, tmp_path / "run", list(SLIDES)).set_index("file")
    assert table.loc["b.tif", "reason"] == "level 2 cannot be read"
    assert scored == [name for name in SLIDES if name != "b.tif"]
    assert table["p_tumor"].notna().sum() == len(scored)


@pytest.mark.parametrize("broken", [1, 2])
def test_of_a_slide_that_cannot_be_read_to_its_end_nothing_is_left(monkeypatch, tmp_path, broken):
    """Behind the heatmap two pictures are read: the slide under the heatmap, and under its tissue's outline."""

    class Broken(ToySlide):
        properties = SimpleNamespace(width=64, height=64, mpp=(0.25, 0.25))
        reads = 0

        def at(self, mpp):
            return 16, 16

        def read(self, *_):
            self.reads += 1
            if self.reads == broken:
                raise BadFile("level 0 cannot be read")
            return np.zeros((16, 16, 3), np.uint8)

    tissue = Tissue(np.ones((4, 4), bool), (16.0, 16.0))
    probable = Heatmap(np.full((4, 4), 0.9, np.float32), 16.0, 0.25)
    monkeypatch.setattr(predicting, "Slide", Broken)
    monkeypatch.setattr(predicting, "find_tissue", lambda *_: tissue)
    monkeypatch.setattr(heatmap, "score_slide", lambda *_: probable)
    scorer = ToyScorer(tmp_path / "run")
    scorer.world, scorer.network = SimpleNamespace(device=SimpleNamespace(type="cpu")), None
    row = scorer.row(Path("/"), "a.tif")
    assert row["reason"] == "level 0 cannot be read"
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.slow
def test_a_row_does_not_depend_on_which_other_slides_fail(scorer, monkeypatch, tmp_path):
    alone = {file: predicted(scorer, tmp_path / f"alone-{i}", [file]) for i, file in enumerate(SLIDES)}
    for number, bad in enumerate(itertools.chain.from_iterable(itertools.combinations(SLIDES, k) for k in range(7))):
        monkeypatch.setattr(ToySlide, "bad", frozenset(bad))
        files = list(SLIDES)[:: -1 if number % 2 else 1]
        table = predicted(scorer, tmp_path / f"run-{number}", files)
        assert len(table) == len(files)
        for i, file in enumerate(files):
            row = table.iloc[i : i + 1].reset_index(drop=True)
            if file in bad:
                assert row["reason"][0] == "is no slide"
                assert row.drop(columns=["file", "reason"]).isna().all(axis=None)
            else:
                pd.testing.assert_frame_equal(row, alone[file], check_dtype=False)
    assert alone["c.tif"].iloc[0].to_dict() == {
        "file": "c.tif", "reason": None, "warnings": "it is odd", "p_tumor": 0.3, "p_maximum": 0.15,
        "tumor@specific": 0, "tumor@sensitive": 1, "detections": 3, "tissue_mm2": 1.5, "mpp": 0.5,
    }  # fmt: skip


def test_calls_keep_the_index_and_are_empty_without_a_score():
    scores = pd.DataFrame({"p_tumor": [0.3, np.nan, 0.7]}, index=[7, 2, 5])
    found = calls(scores, POINTS)
    assert found.index.tolist() == [7, 2, 5]
    assert found["tumor@specific"].astype(object).where(found["tumor@specific"].notna(), None).tolist() == [0, None, 1]
    assert calls(scores, []).index.tolist() == [7, 2, 5]


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (MemoryError(), "memory"),
        (RuntimeError("odd"), "odd"),
        (ValueError("odder"), "odder"),
        (OSError(5, "Input/output error"), "output"),
    ],
)
def test_whatever_a_slide_raises_is_its_reason(scorer, monkeypatch, tmp_path, failure, word):
    whole = SlideScorer.score

    def score(self, slide, name):
        if slide.name == "b.tif":
            raise failure
        return whole(self, slide, name)

    monkeypatch.setattr(SlideScorer, "score", score)
    table = predicted(scorer, tmp_path / "run", list(SLIDES)).set_index("file")
    assert word in table.loc["b.tif", "reason"]
    assert table["reason"].notna().sum() == 1


def test_what_concerns_all_slides_ends_the_run_and_what_was_scored_is_kept(scorer, monkeypatch, tmp_path):
    whole, full = SlideScorer.score, True

    def score(self, slide, name):
        if slide.name == "c.tif" and full:
            raise RunError("No space left.", "Free some.")
        return whole(self, slide, name)

    monkeypatch.setattr(SlideScorer, "score", score)
    with pytest.raises(RunError, match="No space"):
        predicted(scorer, tmp_path / "run", list(SLIDES))
    full, seen = False, []
    table = predicted(scorer, tmp_path / "run", list(SLIDES), seen)
    assert seen == list(SLIDES)[2:], "a slide that was scored is not scored again"
    assert table["reason"].isna().all()


@pytest.mark.slow
def test_the_scale_of_slides_is_said_at_prediction_and_never_that_of_the_runs_own(tmp_path):
    trained = compose("camelyon", "data=table", "data.mpp=0.25")
    RunFolder(tmp_path).write_config(trained.model_dump())
    words = ["mode=predict", f"run={tmp_path}", "input=x"]
    for given, expected in (([], None), (["data.mpp=0.5"], 0.5)):
        now = compose("camelyon", *words, *given)
        merged = with_finished_run("camelyon", now, [w.partition("=")[0] for w in [*words, *given]])
        assert merged.data.name == "table"
        assert merged.slide_mpp == expected


def test_a_slide_has_a_set_beside_its_calls(scorer, tmp_path):
    scorer.finished = finished(
        [
            {"name": "set_90", "task": "tumor", "classes": ["no", "yes"], "scores": ["p_tumor"],
             "thresholds": [0.5, 0.2]},
            {"name": "set_90", "task": "few", "classes": ["no", "yes"], "scores": ["p_tumor"], "thresholds": [0, 0]},
        ]
    )  # fmt: skip
    bad = ToySlide.bad
    ToySlide.bad = frozenset(["d.tif"])
    try:
        table = predicted(scorer, tmp_path, list(SLIDES)).set_index("file")
    finally:
        ToySlide.bad = bad
    said = table["tumor@set_90"]
    assert [said["a.tif"], said["b.tif"], said["c.tif"]] == ["no", "yes", "no|yes"]
    assert pd.isna(said["d.tif"])
    assert "few@set_90" not in table
