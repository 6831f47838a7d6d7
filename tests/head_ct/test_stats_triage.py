"""The queue against queueing theory, and the trial against what it must be at its ends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ranksums

from pipelines.head_ct.triage_statistics import Room, queue_order, reading_room, serve
from pipelines.shared.errors import StatisticsError

# --- what queueing theory says ---


def erlang_c(servers: int, offered: float) -> float:
    """The chance that a job must wait in M/M/c (Erlang 1917), from the offered load in servers (below `servers`)."""
    blocking = 1.0
    for k in range(1, servers + 1):
        blocking = offered * blocking / (k + offered * blocking)
    return servers * blocking / (servers - offered * (1 - blocking))


def mean_wait(servers: int, rate: float, service: float) -> float:
    """Mean waiting time before service in M/M/c, first come first served."""
    offered = rate * service
    return erlang_c(servers, offered) * service / (servers - offered)


def cobham_waits(servers: int, rates: Sequence[float], service: float) -> list[float]:
    """Mean waits of priority classes in M/M/c without interruption, the first class before the second and so on.

    Cobham, Operations Research 1954;2:70-76, equation for several channels with one mean service time.
    """
    total = float(sum(rates)) * service
    base = erlang_c(servers, total) * service / servers
    waits, below = [], 0.0
    for rate in rates:
        above = below + rate * service / servers
        waits.append(base / ((1 - below) * (1 - above)))
        below = above
    return waits


# --- what the simulation gives ---


def waits(servers, rate, service, jobs, priority=None, seed=0):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, jobs))
    takes = rng.exponential(service, jobs)
    rank = np.zeros(jobs) if priority is None else rng.choice(len(priority), jobs, p=priority)
    return serve(arrival, takes, rank, servers) - arrival, rank


def test_erlang_c_is_the_published_one():
    # M/M/1: the chance to wait is the load. Two servers at 1.5 erlang: 9/14.
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.5) == pytest.approx(9 / 14)
    # 10 agents, 8 erlang: 0.4092 (tables of Erlang C).
    assert erlang_c(10, 8) == pytest.approx(0.4092, abs=1e-4)


@pytest.mark.slow
def test_one_server_waits_as_theory_says():
    found, _ = waits(1, 0.6, 1.0, 400_000)
    assert mean_wait(1, 0.6, 1.0) == pytest.approx(0.6 / 0.4)
    assert found.mean() == pytest.approx(1.5, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("servers", [2, 5])
def test_several_servers_wait_as_theory_says(servers):
    rate = 0.75 * servers / 2.0
    found, _ = waits(servers, rate, 2.0, 300_000, seed=servers)
    assert found.mean() == pytest.approx(mean_wait(servers, rate, 2.0), rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 3])
def test_priorities_wait_as_cobham_says(servers):
    share, rate = [0.2, 0.3, 0.5], 0.8 * servers
    found, rank = waits(servers, rate, 1.0, 400_000, share, seed=servers)
    theory = cobham_waits(servers, [s * rate for s in share], 1.0)
    for k, expected in enumerate(theory):
        assert found[rank == k].mean() == pytest.approx(expected, rel=0.08)
    # What one class gains another loses: with equal service the mean over all is that of first come, first served.
    mean = sum(s * w for s, w in zip(share, theory, strict=True))
    assert mean == pytest.approx(mean_wait(servers, rate, 1.0))


def brute_force(arrival, service, priority, servers):
    """The same by looking at every moment at which something happens."""
    n = len(arrival)
    begin, free = [None] * n, [0.0] * servers
    while any(b is None for b in begin):
        k = int(np.argmin(free))
        open_ = [i for i in range(n) if begin[i] is None]
        now = max(free[k], min(arrival[i] for i in open_))
        ready = [i for i in open_ if arrival[i] <= now]
        job = min(ready, key=lambda i: (priority[i], arrival[i], i))
        begin[job] = now
        free[k] = now + service[job]
    return np.array(begin)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 4),
)
def test_serve_is_what_a_brute_force_says(jobs, servers):
    arrival, service, priority = (np.array(c, float) for c in zip(*jobs, strict=True))
    assert serve(arrival, service, priority, servers) == pytest.approx(brute_force(arrival, service, priority, servers))


def test_queue_positions_and_rank_sum():
    y = np.array([0, 1, 0, 1, 0, 0])
    found = queue_order(y, np.array([0.1, 0.9, 0.2, 0.8, 0.3, 0.0]))
    assert found.by_score.tolist() == [5, 1, 4, 2, 3, 6]
    assert sorted(found.random) == [1, 2, 3, 4, 5, 6]
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 180)
    score = truth * 0.5 + rng.normal(size=180)
    order = queue_order(truth, score, 1)
    expected = ranksums(order.by_score[truth == 1], order.by_score[truth == 0]).pvalue
    assert order.p_by_score == pytest.approx(expected, rel=0.05)
    assert order.p_random > 0.01
    assert queue_order(np.ones(3), np.arange(3)).p_by_score is None


def test_a_perfect_score_saves_time_and_a_blind_one_does_not():
    rng = np.random.default_rng(0)
    y = (np.arange(200) % 2).astype(float)
    room = Room(readers=2, load=0.9, prevalence=0.1, cases=300)
    perfect = reading_room(y, y, np.arange(200), 0.5, room, repetitions=10, resamples=30)
    blind = reading_room(y, rng.random(200), np.arange(200), 0.9, room, repetitions=10, resamples=30)
    saved = perfect.estimates["triage.saved"]
    assert saved.low > 0
    assert perfect.estimates["alarm.saved"].value == pytest.approx(saved.value)
    assert blind.estimates["triage.saved"].low < 0 < blind.estimates["triage.saved"].high
    assert perfect.alarms == pytest.approx(0.1, abs=0.02)
    assert perfect.monte_carlo["triage.positive"] > 0
    # Non-critical studies pay for it: work is conserved.
    assert perfect.estimates["triage.negative"].value > perfect.estimates["first_come.negative"].value


def test_repetitions_shrink_the_monte_carlo_error_and_not_the_interval():
    rng = np.random.default_rng(1)
    y = (np.arange(60) % 2).astype(float)
    score = y + rng.normal(size=60)
    room = Room(readers=1, load=0.8, cases=100)
    few = reading_room(y, score, np.arange(60), None, room, repetitions=20, resamples=40)
    many = reading_room(y, score, np.arange(60), None, room, repetitions=120, resamples=40)
    key = "triage.positive"
    assert many.monte_carlo[key] < 0.6 * few.monte_carlo[key]
    assert "alarm.positive" not in few.estimates


def test_it_is_a_pure_function_and_scoring_time_delays():
    y, score, group = np.array([0, 1] * 20), np.linspace(0, 1, 40), np.arange(40)
    room = Room(readers=1, load=0.5, cases=50)
    a = reading_room(y, score, group, 0.5, room, repetitions=3, resamples=20)
    b = reading_room(y, score, group, 0.5, room, repetitions=3, resamples=20)
    assert a.estimates == b.estimates
    late = reading_room(
        y, score, group, 0.5, Room(readers=1, load=0.5, cases=50, scoring=600.0), repetitions=3, resamples=20
    )
    assert late.estimates["triage.positive"].value > a.estimates["triage.positive"].value + 300
    assert late.estimates["first_come.positive"].value == a.estimates["first_come.positive"].value


def test_times_from_the_data_are_used():
    y, score = np.array([0.0, 1.0] * 10), np.arange(20.0)
    room = Room(readers=1, arrivals=[0.0, 1000.0, 2000.0], reading_times=[10.0])
    found = reading_room(y, score, np.arange(20), None, room, repetitions=5, resamples=20)
    assert found.estimates["first_come.positive"].value == pytest.approx(10.0)


def test_what_cannot_be_simulated_is_said():
    with pytest.raises(StatisticsError, match="one class"):
        reading_room([1, 1], [0.1, 0.2], [0, 1], 0.5, Room())
    with pytest.raises(ValueError, match="load"):
        reading_room([0, 1], [0.1, 0.2], [0, 1], 0.5, Room(load=1.2))
