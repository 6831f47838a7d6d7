"""Learning curves: the law's parameters come back, and its interval holds what is true as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from made_runs import make_run

from pipelines.compare.command import main
from pipelines.compare.curves import EXPONENTS, fit_law, gain_estimate, learning_curves, resampled_means
from pipelines.compare.runs import read_runs

SIZES = np.array([45.0, 90, 180, 360])


@pytest.mark.parametrize("b", [EXPONENTS[40], EXPONENTS[70], EXPONENTS[95]])
def test_known_parameters_come_back(b):
    a, c = 0.8, 0.93
    law = fit_law(SIZES, (c - a * SIZES**-b)[None])
    assert (law.a[0], law.b[0], law.c[0]) == pytest.approx((a, b, c))
    assert law.at(720.0)[0] == pytest.approx(c - a * 720**-b)


def test_an_exponent_between_those_of_the_grid_is_close():
    law = fit_law(SIZES, (0.9 - 0.7 * SIZES**-0.47)[None])
    assert law.b[0] == pytest.approx(0.47, rel=0.07)
    assert law.at(720.0)[0] == pytest.approx(0.9 - 0.7 * 720**-0.47, abs=1e-4)


def test_the_law_keeps_to_what_is_possible():
    falling = fit_law(SIZES, np.array([[0.9, 0.88, 0.86, 0.84]]))
    assert falling.a[0] == 0
    assert falling.at(720.0)[0] == pytest.approx(0.87)
    steep = fit_law(SIZES, np.array([[0.2, 0.5, 0.8, 0.99]]))
    assert steep.c[0] <= 1
    assert steep.at(720.0)[0] <= 1
    rng = np.random.default_rng(0)
    many = fit_law(SIZES, rng.random((50, 4)))
    one_by_one = [fit_law(SIZES, row[None]).c[0] for row in np.random.default_rng(0).random((50, 4))]
    assert many.c == pytest.approx(one_by_one)


def test_no_other_law_of_the_grid_fits_better():
    """Against a dense search over c for every exponent."""
    values = np.array([0.70, 0.78, 0.80, 0.86])
    law = fit_law(SIZES, values[None])
    ours = ((values - law.c[0] + law.a[0] * SIZES ** -law.b[0]) ** 2).sum()
    for b in EXPONENTS[::10]:
        x = SIZES**-b
        c = np.linspace(0.7, 1, 301)
        a = np.maximum(((c[:, None] - values) @ x) / (x @ x), 0)
        assert ours <= ((values - c[:, None] + a[:, None] * x) ** 2).sum(axis=1).min() + 1e-9


def simulated(rng, truth, groups, seeds, resamples):
    """Models of four sizes on the same test patients: patients are hard or easy for all of them, training has luck."""
    single, drawn = np.zeros((len(SIZES), seeds)), np.zeros((seeds, resamples, len(SIZES)))
    for s in range(seeds):
        difficulty = np.where(rng.random((groups, 4)) < 0.7, rng.random((groups, 1)), rng.random((groups, 4)))
        right = (difficulty < truth + rng.normal(0, 0.01, 4)).astype(float)
        counts = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
        single[:, s], drawn[s] = right.mean(axis=0), counts @ right / groups
    return single, drawn


@pytest.mark.slow
@pytest.mark.parametrize(("a", "b", "c"), [(1.0, 0.5, 0.9), (0.8, 0.3, 0.95)])
def test_the_interval_of_the_gain_covers(a, b, c):
    """95 % intervals over three seeds hold the true gain in at least 90 % of 100 simulated sweeps."""
    rng = np.random.default_rng(1)
    truth = c - a * SIZES**-b
    gain = a * (360**-b - 720**-b)
    held, widths = 0, []
    for _ in range(100):
        single, drawn = simulated(rng, truth, 150, 3, 150)
        law = fit_law(SIZES, single.mean(axis=1)[None])
        found = gain_estimate(law, fit_law(SIZES, resampled_means(single, drawn, 0)), 360.0, 0.95)
        held += found.low <= gain <= found.high
        widths.append(found.high - found.low)
    assert held >= 0.9 * 100
    assert np.mean(widths) < 0.05  # not by saying nothing


def sweep_of(folder, sizes, seeds, key="data.train_size"):
    for n, (size, seed) in enumerate((s, k) for s in sizes for k in seeds):
        make_run(folder / f"{n}-0123abcd", skill=2 - 8 / size, noise=n, seed=seed, first=100 * seed, keys={key: size})
    return folder


@pytest.mark.slow
def test_a_sweep_becomes_a_curve_with_its_sentence(tmp_path, capsys):
    sweep = sweep_of(tmp_path / "sweep", (10, 20, 40, 80), (0, 1))
    main([str(sweep), "--resamples", "200", "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "Doubling to 160 training groups (patients) is expected to add" in said
    assert "95 % interval" in said
    assert (tmp_path / "out" / "learning_curves.csv").exists()
    assert (tmp_path / "out" / "figures" / "learning_curve_0.png").exists()


def test_what_is_no_curve_says_why(tmp_path):
    three, _ = read_runs([sweep_of(tmp_path / "three", (10, 20, 40), (0,))])
    assert "at least 4 are needed" in learning_curves(three, 100, 0, 0.95)[1][0]
    gap, _ = read_runs([sweep_of(tmp_path / "gap", (10, 20, 40, 80), (0, 1))])
    assert "a run is missing for size 80 with seed 1" in learning_curves(gap[:-1], 100, 0, 0.95)[1][0]
    one, _ = read_runs([sweep_of(tmp_path / "one", (10, 20, 40, 80), (0,))])
    (curve,), refused = learning_curves(one, 100, 0, 0.95)
    assert not refused
    assert "one seed only" in curve.sentence()


def test_label_quality_is_a_curve_too(tmp_path):
    runs, _ = read_runs([sweep_of(tmp_path / "s", (1, 2, 3, 5), (0, 1), "data.grades_per_image")])
    (curve,), _ = learning_curves(runs, 100, 0, 0.95)
    assert curve.key == "data.grades_per_image"
    assert curve.sizes.tolist() == [1, 2, 3, 5]
    assert "10 grades per training image" in curve.sentence()
