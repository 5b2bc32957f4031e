"""What holds for every series, not only for those that we thought of."""

from __future__ import annotations

import math

import numpy as np
import pytest
from detector_world import HOUR, MONDAY, traffic, watch
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.detectors.base import Judgement, NotJudged
from controlplane.detectors.memory import Memory
from controlplane.detectors.row_counts import RowCounts
from controlplane.detectors.small_counts import LARGE, chance_of_zero, count_band
from controlplane.detectors.surprises import Surprises

WEIRD = st.one_of(
    st.just(0.0),
    st.integers(0, 20).map(float),
    st.floats(0, 1e15),
    st.floats(1e-12, 1e-3),
    st.none(),
    st.sampled_from([math.nan, math.inf, -1.0]),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(WEIRD, min_size=150, max_size=260), st.sampled_from([HOUR, 86_400, 6 * HOUR]))
def test_no_input_breaks_it_and_every_band_is_a_band(values: list[float | None], step: int) -> None:
    detector = RowCounts(step)
    for i, value in enumerate(values):
        judged = detector.observe(MONDAY + i * step, value)
        if isinstance(judged, NotJudged):
            continue
        assert value is not None
        assert 0 <= judged.expected_low <= judged.expected_high < math.inf
        assert judged.missing == max(0.0, judged.expected_low - value)
        if not judged.anomalous:
            assert judged.expected_low <= value <= judged.expected_high


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(0, 1_000))
def test_large_counts_scale(factor: int, seed: int) -> None:
    values = traffic(20_000, hours=3 * 168, seed=seed)
    plain, scaled = watch(values), watch([value * factor for value in values])
    for hour in range(10 * 24, 3 * 168, 7):
        one, other = plain[hour], scaled[hour]
        assert isinstance(one, Judgement)
        assert isinstance(other, Judgement)
        assert one.verdict is other.verdict
        assert other.expected_low == pytest.approx(one.expected_low * factor, rel=0.01)
        assert other.expected_high == pytest.approx(one.expected_high * factor, rel=0.01)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.floats(0.5, 1e6), st.integers(0, 1_000))
def test_the_band_contains_the_median_of_what_was_alike(mean: float, seed: int) -> None:
    values = traffic(mean, hours=3 * 168, seed=seed)
    said = watch(values)
    for hour in range(14 * 24, 3 * 168, 5):
        judged = said[hour]
        assert isinstance(judged, Judgement)
        alike = values[hour % 24 : hour : 24][-7:]
        same_weekday = values[hour % 168 : hour : 168]
        assert judged.expected_low <= max(np.median(alike), np.median(same_weekday))
        assert judged.expected_high >= min(np.median(alike), np.median(same_weekday))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 1_000), st.integers(200, 400))
def test_the_future_changes_nothing(seed: int, until: int) -> None:
    values = traffic(300, hours=450, seed=seed)
    other = [*values[:until], *(9_999.0 for _ in values[until:])]
    one, two = watch(values), watch(other)
    assert all(one[hour] == two[hour] for hour in range(until))


@settings(derandomize=True)
@given(st.floats(0.01, LARGE - 1), st.floats(1, 25))
def test_the_count_model_is_a_distribution_with_its_tails_outside(mean: float, dispersion: float) -> None:
    low, high = count_band(mean, dispersion, 1e-4)
    assert 0 <= low <= mean + 1
    assert high >= mean - 1
    assert 0 <= chance_of_zero(mean, dispersion) <= 1
    assert (low == 0) == (chance_of_zero(mean, dispersion) >= 1e-4)


def test_the_count_model_against_a_table_of_poisson() -> None:
    # P(X ≤ 2) = 0.0028 and P(X > 22) = 0.0003 at mean 10.
    assert count_band(10, 1, 0.0028) == (3, 20)
    assert count_band(0, 1, 1e-4) == (0, 0)
    assert chance_of_zero(3, 1) == pytest.approx(math.exp(-3))
    assert chance_of_zero(3, 4) == pytest.approx(4.0**-1)


def test_surprises_are_events_and_are_forgotten() -> None:
    side = Surprises(apart=6, keep=100)
    for bucket in range(10, 30):
        side.add(bucket, float(bucket))
    side.add(50, 5.0)
    assert [side.usual(60, times) for times in (1, 2, 3)] == [29.0, 5.0, 0.0], (
        "twenty hours of one outage are one event"
    )
    assert side.usual(135, 1) == 5.0
    side.forget(45, 55)
    assert side.usual(60, 2) == 0.0


@settings(derandomize=True)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_memory_returns_what_was_put_and_holes_for_the_rest(distances: list[int]) -> None:
    memory, put, bucket = Memory(25), {}, 0
    for distance in distances:
        bucket += distance
        memory.put(bucket, float(bucket))
        put[bucket] = float(bucket)
    lags = np.arange(1, 60)
    expected = [put[bucket + 1 - lag] for lag in lags if bucket + 1 - lag in put and lag <= 25]
    assert memory.at(bucket + 1, lags).tolist() == expected
