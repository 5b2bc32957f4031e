"""Sliding windows: never more than the limit, and a Retry-After that is true."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.gateway import limits as module
from ingest.gateway.limits import Limiter, TooLarge, Window
from tidewatch.clock import ManualClock
from tidewatch.contracts import Limit, parse_limit

A_MOMENT = 1e-6
EVENTS = (Limit("events", 10, 60),)


def take(limiter: Limiter, clock: ManualClock, events: int = 1, limits: tuple[Limit, ...] = EVENTS) -> float:
    return limiter.take("shop", limits, requests=1, events=events, now=clock.monotonic())


def test_waiting_exactly_that_long_succeeds_and_a_moment_less_does_not() -> None:
    limiter, clock = Limiter(), ManualClock()
    clock.advance(12.345)
    assert take(limiter, clock, 10) == 0
    clock.advance(3.21)
    wait = take(limiter, clock)
    assert wait > 0
    clock.advance(wait - A_MOMENT)
    assert take(limiter, clock) > 0
    clock.advance(2 * A_MOMENT)
    assert take(limiter, clock) == 0


@given(
    steps=st.lists(st.tuples(st.floats(0, 30), st.integers(1, 10)), min_size=1, max_size=60),
    seconds=st.sampled_from([1, 7, 60, 3600]),
)
def test_never_more_than_the_limit_in_any_window(steps: list[tuple[float, int]], seconds: int) -> None:
    window, now = Window(Limit("events", 10, seconds)), 0.0
    taken: list[tuple[float, int]] = []
    for pause, count in steps:
        now += pause * seconds / 60
        wait = window.wait(count, now)
        if wait:
            assert window.wait(count, now + wait - A_MOMENT * seconds) > 0
            now += wait + A_MOMENT * seconds
            assert window.wait(count, now) == 0
        window.take(count, now)
        taken.append((now, count))
        assert sum(n for at, n in taken if at > now - seconds) <= 10


def test_what_never_fits_is_said_to_never_fit() -> None:
    with pytest.raises(TooLarge):
        take(Limiter(), ManualClock(), 11)


def test_a_refused_request_takes_nothing() -> None:
    limiter, clock = Limiter(), ManualClock()
    both = (Limit("requests", 5, 60), Limit("events", 10, 60))
    assert take(limiter, clock, 10, both) == 0
    for _ in range(20):
        assert take(limiter, clock, 1, both) > 0
    clock.advance(61)
    for _ in range(5):
        assert take(limiter, clock, 1, both) == 0


def test_the_longest_wait_of_several_limits_counts() -> None:
    limiter, clock = Limiter(), ManualClock()
    both = (Limit("requests", 1, 1), Limit("events", 10, 3600))
    assert take(limiter, clock, 10, both) == 0
    assert take(limiter, clock, 1, both) > 3000


def test_new_limits_take_effect() -> None:
    limiter, clock = Limiter(), ManualClock()
    assert take(limiter, clock, 10) == 0
    assert take(limiter, clock, 1) > 0
    assert take(limiter, clock, 1, (Limit("events", 100, 60),)) == 0


def test_the_number_of_holders_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_HOLDERS", 3)
    limiter = Limiter()
    for number in range(10):
        limiter.take(f"10.0.0.{number}", EVENTS, requests=1, events=1, now=0.0)
    assert len(limiter) == 3


@pytest.mark.parametrize("text", ["events=60000/1m", "requests=100/1s", "events=1/2h"])
def test_limits_are_written_as_they_are_read(text: str) -> None:
    assert str(parse_limit(text)) == text


@pytest.mark.parametrize(
    "text", ["", "events", "events=0/1m", "events=5/0s", "rows=5/1m", "events=5/1d", "events=-5/1m"]
)
def test_other_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no limit"):
        parse_limit(text)


def test_whole_seconds_of_the_header_suffice() -> None:
    limiter, clock = Limiter(), ManualClock()
    clock.advance(0.5)
    take(limiter, clock, 10)
    wait = take(limiter, clock)
    clock.advance(math.ceil(wait))
    assert take(limiter, clock) == 0
