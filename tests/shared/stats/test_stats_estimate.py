import json
import math

import numpy as np
import pytest

from pipelines.shared.stats.estimate import Comparison, Estimate

KEYS = ["value", "low", "high", "method", "n", "groups", "positives", "reason"]


def test_dict_has_the_contracts_keys_and_plain_numbers():
    estimate = Estimate(np.float32(0.5), np.float64(0.25), np.float64(0.75), "m", np.int64(9), np.uint8(3), np.int32(4))
    fields = estimate.to_dict()
    assert list(fields) == KEYS
    assert [type(fields[k]) for k in KEYS] == [float, float, float, str, int, int, int, type(None)]
    assert Estimate.from_dict(json.loads(json.dumps(fields, allow_nan=False))) == estimate


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan"), None])
def test_what_is_not_finite_becomes_none_with_a_reason(value):
    fields = Estimate(value, 0.1, 0.2).to_dict()
    assert (fields["value"], fields["low"], fields["high"]) == (None, None, None)
    assert fields["reason"]
    assert Estimate(value, reason="one class").reason == "one class"


def test_half_an_interval_is_none():
    estimate = Estimate(0.5, 0.1, math.nan, reason="why")
    assert (estimate.value, estimate.low, estimate.high, estimate.reason) == (0.5, None, None, "why")


def test_format():
    assert str(Estimate(0.9123, 0.8841, 0.9364)) == "0.912 (0.884 to 0.936)"
    assert Estimate(0.9123, 0.8841, 0.9364).format(1) == "0.9 (0.9 to 0.9)"
    assert str(Estimate(-0.0001, -0.2, 0.0)) == "0.000 (-0.200 to 0.000)"
    assert str(Estimate(None, reason="one class")) == "undefined: one class"
    assert str(Estimate(0.5, reason="one group")) == "0.500 (no interval: one group)"
    assert str(Estimate(0.5)) == "0.500"


def test_comparison_adds_p_and_z_to_the_difference():
    fields = Comparison(Estimate(0.1, 0.0, 0.2), p_value=np.float64(0.04), z=math.nan).to_dict()
    assert list(fields) == [*KEYS, "p_value", "z"]
    assert fields["p_value"] == 0.04
    assert type(fields["p_value"]) is float
    assert fields["z"] is None
