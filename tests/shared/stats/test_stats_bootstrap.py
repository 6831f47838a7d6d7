import numpy as np
import pytest

from pipelines.shared.errors import StatisticsError
from pipelines.shared.stats import bootstrap
from pipelines.shared.stats.bootstrap import (
    Bootstrap,
    bootstrap_estimate,
    bootstrap_estimates,
    bootstrap_values,
    cluster_blocks,
    cluster_counts,
    divide,
    group_codes,
    percentile_interval,
    ratio_statistic,
)

pytestmark = pytest.mark.filterwarnings("error")

OPTIONS = Bootstrap(200, 0, 0.95)


@pytest.fixture
def group():
    return np.random.default_rng(5).choice([f"patient {i}" for i in range(30)], 100)


class NoTruth:
    """Like pandas' NA: comparing it gives something that is neither true nor false."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["b", "a", "b"], [1, 0, 1]),
        (np.array(["b", "a", "b"]), [1, 0, 1]),
        (np.array(["b", "a", "b"], dtype=object), [1, 0, 1]),
        ([30, 4, 30, 7], [2, 0, 2, 1]),
        ([("x", 2), ("x", 1), ("x", 2)], [1, 0, 1]),
        ([1, "1", 1], [0, 1, 0]),
        (["1", 1, "1"], [1, 0, 1]),
        (["only"], [0]),
    ],
)
def test_group_codes_follow_the_order_of_the_keys(keys, expected):
    codes, groups = group_codes(keys)
    assert codes.tolist() == expected
    assert groups == len(set(expected))


@pytest.mark.parametrize(
    "keys",
    [["a", None], [1.0, float("nan")], np.array([1.0, np.nan]), ["a", NoTruth()], np.array(["2020", "NaT"], "M8")],
)
def test_missing_group_keys_are_an_error(keys):
    with pytest.raises(StatisticsError, match="1 of 2 keys are missing"):
        group_codes(keys)


def test_no_rows_and_one_group_are_errors():
    with pytest.raises(StatisticsError, match="no rows"):
        group_codes([])
    with pytest.raises(StatisticsError, match="one group only"):
        cluster_counts(["a", "a"], 10, 0)
    with pytest.raises(ValueError, match="resamples"):
        cluster_counts(["a", "b"], 0, 0)


def test_counts_draw_whole_groups_as_many_as_there_are(group):
    counts = cluster_counts(group, 500, seed=1)
    assert counts.shape == (500, 100)
    assert counts.dtype == np.uint8
    codes, groups = group_codes(group)
    first_rows = np.unique(codes, return_index=True)[1]
    of_groups = counts[:, first_rows]
    np.testing.assert_array_equal(counts, of_groups[:, codes])
    assert (of_groups.sum(axis=1) == groups).all()
    # multinomial: mean 1, variance 1 - 1 / groups, every group alike (15,000 draws: five standard errors)
    assert of_groups.var() == pytest.approx(1 - 1 / groups, abs=0.05)
    assert np.abs(of_groups.mean(axis=0) - 1).max() < 5 / np.sqrt(500)
    assert len(np.unique(of_groups, axis=0)) == 500


def test_counts_do_not_depend_on_blocks_row_order_or_kind_of_key(group, monkeypatch):
    counts = cluster_counts(group, 50, seed=3)
    order = np.random.default_rng(0).permutation(len(group))
    np.testing.assert_array_equal(cluster_counts(group[order], 50, seed=3), counts[:, order])
    np.testing.assert_array_equal(cluster_counts(list(group), 50, seed=3), counts)
    np.testing.assert_array_equal(cluster_counts(group_codes(group)[0], 50, seed=3), counts)
    np.testing.assert_array_equal(cluster_counts(group, 20, seed=3), counts[:20])
    assert (cluster_counts(group, 50, seed=4) != counts).any()
    monkeypatch.setattr(bootstrap, "BLOCK_ELEMENTS", 700)
    blocks = list(cluster_blocks(group, 50, seed=3))
    assert [len(b) for b in blocks] == [7] * 7 + [1]
    np.testing.assert_array_equal(np.concatenate(blocks), counts)


def test_one_row_per_group_draws_rows():
    counts = cluster_counts(np.arange(40), 300, seed=0)
    assert (counts.sum(axis=1) == 40).all()


def test_percentile_interval():
    values = np.array([np.nan, 3.0, 1.0, 2.0, 5.0, 4.0])
    assert percentile_interval(values, 0.5) == (2.0, 4.0)
    assert percentile_interval(values, 0.95) == pytest.approx((1.1, 4.9))
    with pytest.raises(StatisticsError):
        percentile_interval(np.full(3, np.nan))
    with pytest.raises(ValueError, match="level"):
        percentile_interval(values, 95)


def test_ratio_statistic_equals_a_loop_over_drawn_rows(group):
    rng = np.random.default_rng(0)
    top, bottom = rng.normal(size=100), rng.integers(0, 3, 100)
    counts = cluster_counts(group, 50, seed=0)
    expected = []
    for row in counts:
        drawn = np.repeat(np.arange(100), row)
        expected.append(top[drawn].sum() / bottom[drawn].sum())
    np.testing.assert_allclose(bootstrap_values(ratio_statistic(top, bottom), group, 50, 0), expected, atol=1e-12)


def test_ratio_and_divide_give_nan_for_zero_denominators():
    counts = np.array([[1, 0], [0, 2]], dtype=np.uint8)
    np.testing.assert_array_equal(ratio_statistic(np.array([1, 1]), np.array([0, 2]))(counts), [np.nan, 0.5])
    np.testing.assert_array_equal(divide(np.array([1, 0]), np.array([2, 0])), [0.5, np.nan])


def test_estimate_reports_counts_and_method(group):
    values = np.random.default_rng(1).normal(size=100)
    statistic = ratio_statistic(values, np.ones(100))
    estimate = bootstrap_estimate(values.mean(), statistic, group, n=100, positives=7, bootstrap=OPTIONS)
    expected = np.quantile(bootstrap_values(statistic, group, 200, 0), [0.025, 0.975])
    assert (estimate.low, estimate.high) == pytest.approx(tuple(expected), abs=1e-15)
    assert (estimate.n, estimate.groups, estimate.positives) == (100, len(set(group)), 7)
    assert estimate.method == "clustered percentile bootstrap, 95 %, 200 resamples"
    assert estimate.reason is None


def test_undefined_resamples_are_counted_left_out_or_too_many():
    group = np.arange(20)
    marked = np.arange(20) < 4  # (1 - 4 / 20)^20 = 1 % of the resamples draw none of them
    counts = cluster_counts(group, 2000, 0)
    undefined = int((counts[:, marked].sum(axis=1) == 0).sum())
    assert 0 < undefined < 100
    options = {"n": 20, "bootstrap": Bootstrap(2000, 0, 0.95), "undefined": "without a mark"}
    estimate = bootstrap_estimate(1.5, ratio_statistic(group, marked), group, **options)
    assert f"{undefined} of 2000 resamples without a mark, left out" in estimate.method
    assert estimate.low is not None
    one = bootstrap_estimate(1.5, ratio_statistic(group, group == 0), group, **options)
    assert (one.value, one.low, one.high, one.method) == (1.5, None, None, None)
    assert "resamples without a mark, too many for an interval" in one.reason


def test_several_values_share_their_resamples(group):
    x = np.random.default_rng(2).normal(size=(100, 2))
    columns = np.column_stack([x, np.ones(100)])

    def means(counts):
        sums = counts @ columns
        return sums[:, :2] / sums[:, 2:]

    both = bootstrap_estimates([1.0, 2.0], means, group, n=100, bootstrap=OPTIONS)
    for k in range(2):
        alone = bootstrap_estimate(k + 1.0, lambda counts, k=k: means(counts)[:, k], group, n=100, bootstrap=OPTIONS)
        assert both[k] == alone


def test_trouble_with_groups_leaves_the_value_without_interval():
    statistic = ratio_statistic(np.ones(3), np.ones(3))
    for keys, reason in [
        (["a", "a", "a"], "one group only"),
        (["a", "b"], "lengths differ: rows 3, group 2"),
        (["a", "b", None], "1 of 3 keys are missing"),
    ]:
        estimate = bootstrap_estimate(1.0, statistic, keys, n=3, bootstrap=OPTIONS)
        assert (estimate.value, estimate.low) == (1.0, None)
        assert reason in estimate.reason


def test_an_interval_without_width_is_pointed_out():
    estimate = bootstrap_estimate(1.0, ratio_statistic(np.ones(3), np.ones(3)), [1, 2, 3], n=3, bootstrap=OPTIONS)
    assert (estimate.low, estimate.high) == (1.0, 1.0)
    assert estimate.method.endswith("all resamples alike")


@pytest.mark.slow
def test_clustered_intervals_cover_where_row_intervals_do_not():
    """Every row is there three times, as are three nearly equal pictures of a patient."""
    rng = np.random.default_rng(2026)
    covered = {"clustered": 0, "rows": 0}
    trials, patients, truth = 600, 60, 0.3
    group = np.repeat(np.arange(patients), 3)
    for trial in range(trials):
        values = np.repeat(rng.normal(truth, 1.0, patients), 3)
        statistic = ratio_statistic(values, np.ones(len(values)))
        for name, keys in [("clustered", group), ("rows", np.arange(len(group)))]:
            low, high = percentile_interval(bootstrap_values(statistic, keys, 400, trial))
            covered[name] += low <= truth <= high
    # binomial standard error at 95 %: 0.9 %; rows: 1.96 / sqrt(3) standard errors cover 74 %
    assert 0.915 < covered["clustered"] / trials < 0.975
    assert 0.68 < covered["rows"] / trials < 0.80
