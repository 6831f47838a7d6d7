"""Figures: valid PNG files of a sensible size, the same bytes for the same data, and the right things drawn."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from pipelines.shared.judging import figures
from pipelines.shared.judging.figures import Curve, Point, Subgroup, Tile, style
from pipelines.shared.judging.figures.discrimination import _zoom


@dataclass(frozen=True)
class Estimate:
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Bins:
    predicted: list[float] = field(default_factory=list)
    observed: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    count: list[int] = field(default_factory=list)


GOOD, ALL = Estimate(0.9, 0.8, 0.95), Subgroup("all", Estimate(0.7, 0.6, 0.8), 12)
UNDEFINED = Estimate(None, reason="only one class among 12 cases")
CURVE = Curve("model", [0, 0.05, 0.1, 1], [0, 0.8, 0.96, 1], [0, 0.7, 0.9, 1], [0.1, 0.9, 1, 1])
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (40, 60, 3), dtype=np.uint8)
MASK = np.zeros((40, 60), bool)
MASK[10:20, 20:30] = True


def history(networks: int = 1, epochs: int = 5) -> pd.DataFrame:
    rows = [
        (f"n{k}", e, 1 / (1 + e), 1.1 / (1 + e), 0.5 + 0.05 * e - 0.01 * k, 1e-3 / (1 + e))
        for k in range(networks)
        for e in range(epochs)
    ]
    return pd.DataFrame(rows, columns=["network", "epoch", "train_loss", "val_loss", "auroc", "learning_rate"])


def no_scores() -> np.ndarray:
    return np.empty(0)


# name -> (function, arguments after the path, keywords)
CASES: dict[str, tuple[Callable[..., Path], tuple[Any, ...], dict[str, Any]]] = {
    "roc": (figures.roc, ([CURVE], [Point("point", GOOD, GOOD)], [Point("reader", 0.8, np.float32(0.9))]), {}),
    "roc nothing": (figures.roc, ([],), {}),
    "roc undefined point": (figures.roc, ([CURVE], [Point("p", UNDEFINED, 0.5), Point("q", None, float("nan"))]), {}),
    "roc empty curve": (figures.roc, ([Curve("empty", [], [])],), {}),
    "roc eight curves": (figures.roc, ([replace(CURVE, label=f"c{i}") for i in range(8)],), {}),
    "precision-recall": (figures.precision_recall, ([Curve("m", [1, 0.5, 0], [0.2, 0.8, 1])], 0.2), {}),
    "precision-recall nothing": (figures.precision_recall, ([],), {}),
    "precision-recall one point": (figures.precision_recall, ([Curve("m", [1], [0.2])],), {}),
    "operating curve": (figures.operating_curve, ([np.inf, 0.7, 0.2], [0, 0.5, 1], [1, 0.8, 0], [("p", 0.4)]), {}),
    "operating curve nothing": (figures.operating_curve, ([], [], []), {}),
    "operating curve one point": (figures.operating_curve, ([0.5], [1], [0]), {}),
    "scores": (figures.score_distribution, ({"no": [0.1, 0.2], "yes": [0.8]}, {"p": 0.5, "never": np.inf}), {}),
    "scores nothing": (figures.score_distribution, ({},), {}),
    "scores empty class": (figures.score_distribution, ({"no": [0.1], "yes": no_scores()},), {}),
    "scores logits": (figures.score_distribution, ({"no": [-3.0, 2.0], "yes": [7.0]},), {}),
    "scores all equal": (figures.score_distribution, ({"no": [3.0, 3.0]},), {}),
    "confusion": (figures.confusion, ([[5, 1], [0, 3]], ["no", "yes"]), {}),
    "confusion nothing": (figures.confusion, (np.zeros((0, 0)), []), {}),
    "confusion one class": (figures.confusion, ([[3]], ["only"]), {}),
    "confusion empty row": (figures.confusion, ([[0, 0], [1, 2]], ["a rather long class name, all told", "b"]), {}),
    "confusion many": (figures.confusion, (np.eye(20, dtype=int), [f"rhythm {i}" for i in range(20)]), {}),
    "reliability": (figures.reliability, (Bins([0.1, 0.9], [0.2, 0.8], [0.1, 0.7], [0.3, 0.9], [5, 9]), "title"), {}),
    "reliability nothing": (figures.reliability, (Bins(),), {}),
    "reliability empty bin": (figures.reliability, (Bins([0.1, np.nan], [0.2] * 2, [0.1] * 2, [0.3] * 2, [5, 0]),), {}),
    "history": (figures.history, (history(3), "auroc"), {}),
    "history one epoch": (figures.history, (history(1, 1), "auroc"), {"monitor_label": "Validation AUROC"}),
    "history of penalties": (
        figures.history,
        (history(1).assign(learning_rate=np.nan, penalty=[10.0, 1, 0.1, 0.01, 0.001]), "auroc"),
        {},
    ),
    "history nothing": (figures.history, (history(0), "auroc"), {}),
    "history undefined": (figures.history, (history(2).assign(auroc=np.nan), "auroc"), {}),
    "subsample": (figures.subsample_curve, ([60, 60, 120], [GOOD, GOOD, UNDEFINED]), {}),
    "subsample nothing": (figures.subsample_curve, ([], []), {}),
    "subsample one point": (figures.subsample_curve, ([60], [Estimate(0.5)]), {}),
    "forest": (figures.forest, ([Subgroup("a", GOOD, 10, "G"), Subgroup("b", UNDEFINED, 2, "G")], ALL), {}),
    "forest nothing": (figures.forest, ([],), {}),
    "forest one row": (figures.forest, ([Subgroup("a", Estimate(0.5), 0)],), {}),
    "forest all undefined": (figures.forest, ([Subgroup("a", None, 0)], Subgroup("all", UNDEFINED, 0)), {}),
    "gallery": (figures.gallery, ([Tile(IMAGE, "a", "b", np.ones((5, 5)), MASK), Tile(IMAGE, "c")],), {}),
    "gallery nothing": (figures.gallery, ([],), {}),
    "gallery flat maps": (figures.gallery, ([Tile(IMAGE, "a", "", np.zeros((40, 60)), np.ones((40, 60)))],), {}),
    "embedding": (figures.embedding, ([[0, 0], [1, 2], [3, 1]], ["a", "b", "a"], ["a", "b"]), {}),
    "embedding nothing": (figures.embedding, ([], [], []), {}),
    "flow": (figures.flow, ([("found", "9"), ("used", "8")], [(0, "bad", "1")], [("train", "6"), ("test", "2")]), {}),
    "flow nothing": (figures.flow, ([],), {}),
    "flow only splits": (figures.flow, ([], [], [("train", "6")]), {}),
    "flow one step": (figures.flow, ([("found", "9\nimages")],), {}),
}


def draw(name: str, path: Path, **more: Any) -> np.ndarray:
    function, arguments, keywords = CASES[name]
    assert function(path, *arguments, **keywords, **more) == path
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def slow_but(quick: set[str], names: list[str]) -> list[Any]:
    """All names as parameters, those that are not quick marked as slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


ONE_OF_EACH = [name for name in CASES if " " not in name or name == "operating curve"]
WITHOUT_DATA = [name for name in CASES if name.endswith(" nothing")]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", slow_but({*ONE_OF_EACH, *WITHOUT_DATA}, list(CASES)))
def test_figure_is_a_png_of_sensible_size(name: str, tmp_path: Path) -> None:
    pixels = draw(name, tmp_path / "new folder" / "figure.png")
    height, width, _ = pixels.shape
    assert width == 960
    assert 100 <= height <= 2000
    assert len(np.unique(pixels[..., 1])) > 3, "nothing was drawn"
    border = np.concatenate([pixels[-1], pixels[:, -1]])
    if not name.startswith("gallery"):  # its images reach the border
        assert (border > 200).all(), "something is cut off at the border"


@pytest.mark.parametrize("name", slow_but({"roc", "forest", "gallery"}, ONE_OF_EACH))
def test_same_data_same_bytes_whatever_the_users_style(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "a.png")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "pink", "lines.linewidth": 9, "figure.dpi": 50}):
        draw(name, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert b"tEXt" not in (tmp_path / "a.png").read_bytes(), "a date or version in the file"


def test_drawing_leaves_the_users_style_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw("roc", tmp_path / "a.png")
    assert dict(mpl.rcParams) == before


def test_every_figure_function_is_among_the_cases() -> None:
    modules = [importlib.import_module(f"{figures.__name__}.{m.name}") for m in pkgutil.iter_modules(figures.__path__)]
    public = {
        name
        for module in modules
        for name, value in vars(module).items()
        if module is not style and inspect.isfunction(value) and value.__module__ == module.__name__
        if not name.startswith("_")
    }
    drawn = {function.__name__ for function, _, _ in CASES.values()}
    assert public == drawn == {name for name in figures.__all__ if name.islower()}


@pytest.mark.parametrize("name", ["roc", "gallery", "flow"])
def test_note_is_added_below_and_changes_nothing_else(name: str, tmp_path: Path) -> None:
    plain, noted = draw(name, tmp_path / "a.png"), draw(name, tmp_path / "b.png", note="synthetic data")
    height = len(plain)
    np.testing.assert_array_equal(noted[:height], plain)
    assert len(noted) == height + 30
    assert (noted[height:] < 150).any()


# ---- what is drawn where: the figure just before it becomes pixels ----


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Figure]:
    """Call a figure function and get its matplotlib figure, drawn."""
    kept: list[Figure] = []
    original = style._pixels

    def keep(figure: Figure) -> np.ndarray:
        kept.append(figure)
        return original(figure)

    def call(function: Callable[..., Path], *arguments: Any, **keywords: Any) -> Figure:
        function(tmp_path / "figure.png", *arguments, **keywords)
        return kept[-1]

    monkeypatch.setattr(style, "_pixels", keep)
    return call


def texts(axes: Any) -> list[str]:
    return [t.get_text() for t in axes.texts]


def legend(figure: Figure) -> list[str]:
    return [t.get_text() for t in figure.legends[0].get_texts()]


def lines(axes: Any, label: str) -> Any:
    return next(line for line in axes.lines if line.get_label() == label)


def test_roc_draws_one_minus_specificity_and_turns_the_arms_round(drawn: Callable[..., Figure]) -> None:
    point = Point("point", Estimate(0.9, 0.85, 0.97), Estimate(0.8, 0.7, 0.82))
    figure = drawn(
        figures.roc, [CURVE], [point], [Point("g1", 0.7, 0.95), Point("g2", None, 0.9)], readers_label="graders"
    )
    axes = figure.axes[0]
    np.testing.assert_allclose(lines(axes, "point").get_xydata(), [[0.2, 0.9]])
    np.testing.assert_allclose(lines(axes, "graders (n = 1)").get_xydata(), [[0.05, 0.7]])
    horizontal, vertical = (c.get_segments()[0] for c in axes.containers[0][2])
    np.testing.assert_allclose(horizontal, [[0.18, 0.9], [0.3, 0.9]])
    np.testing.assert_allclose(vertical, [[0.2, 0.85], [0.2, 0.97]])
    assert legend(figure) == ["model", "graders (n = 1)", "point"]


@pytest.mark.parametrize(
    ("sensitivity", "side"),
    [(0.5, None), (0.86, 0.3), (0.92, 0.2), (0.99, 0.1)],
)
def test_roc_enlarges_only_good_curves(sensitivity: float, side: float | None) -> None:
    curve = Curve("c", [0, 0.1, 0.2, 0.3, 1], [0, sensitivity, sensitivity, sensitivity, 1])
    assert _zoom([curve], []) == side
    assert _zoom([], []) is None
    assert _zoom([curve, Curve("bad", [0, 1], [0, 1])], []) is None


def test_roc_enlarges_so_that_the_points_are_seen() -> None:
    curve = Curve("c", [0, 0.05, 1], [0, 0.99, 1])
    assert _zoom([curve], [Point("p", 0.95, 0.95)]) == 0.1
    assert _zoom([curve], [Point("p", 0.95, 0.85)]) == 0.2
    assert _zoom([curve], [Point("p", 0.2, 0.85)]) == 0.3  # too far away for any


@pytest.mark.parametrize("reverse", [False, True])
def test_precision_holds_from_the_next_lower_recall(drawn: Callable[..., Figure], reverse: bool) -> None:
    recall, precision = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.8, 0.2])
    order = slice(None, None, -1) if reverse else slice(None)
    figure = drawn(figures.precision_recall, [Curve("m", recall[order], precision[order])], 0.2)
    line = lines(figure.axes[0], "m")
    assert line.get_drawstyle() == "steps-pre"
    np.testing.assert_array_equal(line.get_xdata(), recall)
    np.testing.assert_array_equal(line.get_ydata(), precision)
    assert legend(figure)[-1] == "chance: prevalence 0.200"


def test_confusion_shows_row_percentages_and_counts(drawn: Callable[..., Figure]) -> None:
    figure = drawn(figures.confusion, [[30, 10, 0], [0, 0, 0], [1, 2, 1]], ["a", "b", "c"])
    assert texts(figure.axes[0]) == ["75 %\n30", "25 %\n10", "0", "0", "0", "0", "25 %\n1", "50 %\n2", "25 %\n1"]
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a\n(n = 40)", "b\n(n = 0)", "c\n(n = 4)"]
    np.testing.assert_allclose(axes.images[0].get_array()[0], [0.75, 0.25, 0])


def test_confusion_refuses_another_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of 3 classes .* not \(2, 2\)"):
        figures.confusion(tmp_path / "a.png", [[1, 0], [0, 1]], ["a", "b", "c"])


def test_reliability_leaves_out_empty_bins(drawn: Callable[..., Figure]) -> None:
    bins = Bins([0.1, np.nan, 0.9], [0.2, np.nan, 0.8], [0.1, np.nan, 0.7], [0.3, np.nan, 0.9], [5, 0, 9])
    figure = drawn(figures.reliability, bins)
    np.testing.assert_allclose(figure.axes[0].containers[0][0].get_xydata(), [[0.1, 0.2], [0.9, 0.8]])
    bars = figure.axes[1].collections[0].get_segments()
    np.testing.assert_allclose([bar[1] for bar in bars], [[0.1, 5], [0.9, 9]])


@pytest.mark.parametrize(("higher", "best"), [(True, [2, 1]), (False, [1, 0])])
def test_history_marks_the_first_best_epoch_and_no_nan(
    drawn: Callable[..., Figure], higher: bool, best: list[int]
) -> None:
    table = history(2, 4)
    table["auroc"] = [0.6, 0.5, 0.9, 0.9, 0.1, 0.8, np.nan, 0.7]
    table = table.sample(frac=1, random_state=0)  # the order of rows must not matter
    figure = drawn(figures.history, table, "auroc", higher_is_better=higher)
    marked = [line.get_xdata()[0] for line in figure.axes[1].lines if line.get_marker() == "s"]
    assert marked == best
    for line in figure.axes[0].lines:
        assert (np.diff(line.get_xdata()) > 0).all()


def test_history_of_a_head_alone_speaks_of_penalties(drawn: Callable[..., Figure]) -> None:
    table = history(1).assign(learning_rate=np.nan, penalty=[10.0, 1, 0.1, 0.01, 0.001])
    figure = drawn(figures.history, table, "auroc")
    *_, last = figure.axes
    assert last.get_ylabel() == "Penalty"
    assert "Epoch" not in last.get_xlabel()
    assert list(last.lines[0].get_ydata()) == table["penalty"].tolist()
    assert any("best penalty" in text.get_text() for text in figure.legends[0].get_texts())


def test_history_names_missing_columns(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks kappa; it has network, epoch"):
        figures.history(tmp_path / "a.png", history(), "kappa")


def test_forest_shows_headings_numbers_and_reasons(drawn: Callable[..., Figure]) -> None:
    rows = [
        Subgroup("young", Estimate(0.8, 0.7, 0.9), 10, "Age"),
        Subgroup("old", UNDEFINED, 2000, "Age"),
        Subgroup("alone", Estimate(0.6), 3),
    ]
    names, axes, numbers = drawn(figures.forest, rows, Subgroup("All", Estimate(0.75, 0.7, 0.8), 2013)).axes
    assert [t.get_text().strip() for t in names.texts] == ["Age", "young", "old", "alone", "All"]
    shown = [t.get_text() for t in numbers.texts]
    assert shown[2:] == ["10", "0.800 (0.700 to 0.900)", "2,000", "–", "3", "0.600", "2,013", "0.750 (0.700 to 0.800)"]
    assert " ".join(texts(axes)[0].split()) == UNDEFINED.reason
    points = [c[0].get_xdata()[0] for c in axes.containers]
    assert points == [0.8, 0.6, 0.75]
    heights = [t.get_position()[1] for t in names.texts]
    assert heights == sorted(heights)


def test_subsample_curve_joins_the_means(drawn: Callable[..., Figure]) -> None:
    estimates = [Estimate(0.6), Estimate(0.8), UNDEFINED, Estimate(0.9)]
    axes = drawn(figures.subsample_curve, [100, 100, 200, 400], estimates).axes[0]
    np.testing.assert_allclose(axes.lines[-1].get_xydata(), [[100, 0.7], [400, 0.9]])
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["100", "400"]


def test_score_histograms_are_shares_of_their_class(drawn: Callable[..., Figure]) -> None:
    figure = drawn(figures.score_distribution, {"no": [0.01, 0.01, 0.5, 0.99], "yes": [1.0]}, {"p": 0.5})
    heights = [axes.patches[0].get_data().values for axes in figure.axes]
    assert [h.sum() for h in heights] == [100, 100]
    assert heights[0][0] == 50
    assert legend(figure) == ["p: threshold 0.5"]


def test_operating_curve_leaves_out_infinite_thresholds(drawn: Callable[..., Figure]) -> None:
    figure = drawn(figures.operating_curve, [np.inf, 0.7, 0.2], [0, 0.5, 1], [1, 0.8, 0], [("p", 0.4)])
    axes = figure.axes[0]
    np.testing.assert_array_equal(lines(axes, "Sensitivity").get_xydata(), [[0.7, 0.5], [0.2, 1]])
    np.testing.assert_array_equal(lines(axes, "Specificity").get_xydata(), [[0.7, 0.8], [0.2, 0]])
    assert legend(figure) == ["Sensitivity", "Specificity", "p: threshold 0.4"]


def test_gallery_puts_map_and_outline_over_the_image(drawn: Callable[..., Figure]) -> None:
    overlay = np.array([[0.0, 2.0], [-5.0, 1.0]])
    figure = drawn(figures.gallery, [Tile(IMAGE, "title", "subtitle", overlay, MASK)])
    left, right = figure.axes
    np.testing.assert_array_equal(left.images[0].get_array(), IMAGE)
    grey, heat = right.images
    assert grey.get_extent() == heat.get_extent() == [-0.5, 59.5, 39.5, -0.5]
    np.testing.assert_allclose(heat.get_array(), [[0, 1], [0, 0.5]])
    outline = right.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose([outline.min(axis=0), outline.max(axis=0)], [[19.5, 9.5], [29.5, 19.5]])
    assert [t.get_text() for t in figure.texts] == ["title", "subtitle"]


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_gallery_tiles_do_not_overlap(drawn: Callable[..., Figure], columns: int) -> None:
    tall = np.zeros((90, 30, 3), np.uint8)
    tiles = [
        Tile(tall if i % 2 else IMAGE, "a long title " * 4, "a long subtitle " * 5, np.ones((2, 2))) for i in range(5)
    ]
    figure = drawn(figures.gallery, tiles, columns)
    boxes = [axes.get_window_extent() for axes in figure.axes] + [t.get_window_extent() for t in figure.texts]
    for i, a in enumerate(boxes):
        assert a.x0 >= 0
        assert a.x1 <= figure.bbox.x1
        assert a.y0 >= 0
        for b in boxes[i + 1 :]:
            width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
            assert width < 1 or height < 1, f"{a} overlaps {b}"


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))],
)
def test_gallery_refuses_other_images(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="the image of 'x' is"):
        figures.gallery(tmp_path / "a.png", [Tile(image, "x")])


def test_flow_texts_stay_in_their_boxes_and_boxes_apart(drawn: Callable[..., Figure]) -> None:
    long = "images with a readable file, a reference standard and at least three graders"
    figure = drawn(
        figures.flow,
        [(long, "1,240 images, 640 patients"), (long, "1,180 images")],
        [(0, long, "4 images"), (0, "unreadable", "1 image"), (1, long, "2 images")],
        [("Training", "826 images\n427 patients"), (long, "118 images\n61 patients"), ("Test", "236")],
    )
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if patch.get_facecolor() != (0, 0, 0, 0)]
    boxes = [b for b in boxes if b.width > 50]  # without arrow heads
    labels = [t.get_window_extent() for t in axes.texts if t.get_text()]
    assert len(labels) == 2 * 8
    assert len(boxes) == 8
    for label in labels:
        assert any(b.x0 <= label.x0 and label.x1 <= b.x1 and b.y0 <= label.y0 and label.y1 <= b.y1 for b in boxes)
    for group in (boxes, labels):
        for i, a in enumerate(group):
            for b in group[i + 1 :]:
                assert min(a.x1, b.x1) <= max(a.x0, b.x0) or min(a.y1, b.y1) <= max(a.y0, b.y0) + 1


def test_flow_refuses_an_exclusion_after_no_step(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"after steps \[2\], but there are 1 steps"):
        figures.flow(tmp_path / "a.png", [("found", "3")], [(2, "bad", "1")])


def test_text_from_data_is_not_read_as_mathematics(drawn: Callable[..., Figure]) -> None:
    figure = drawn(figures.roc, [replace(CURVE, label="costs $5 and $x_1$ <b>")])
    assert legend(figure) == ["costs $5 and $x_1$ <b>"]
    assert not figure.legends[0].get_texts()[0].get_parse_math()
