"""Planted faults: red on each, silent on the same series without it."""

from __future__ import annotations

import math
from datetime import date
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from detector_world import DAY, HOUR, MONDAY, alarms, between, shape, traffic, unjudged, verdict, watch

from controlplane.detectors.base import Interval, Judgement, NotJudged, Verdict
from controlplane.detectors.row_counts import RowCounts
from controlplane.detectors.small_counts import count_band
from controlplane.detectors.wallclock import WallClock
from tidewatch.errors import UsageError

NOON = 4 * 168 + 2 * 24 + 12  # a Wednesday's noon, after four weeks
LARGE, SMALL = traffic(5_000), traffic(6, seed=2)


def test_clean_traffic_raises_no_alarm_once_it_is_known() -> None:
    for values in (LARGE, SMALL, traffic(60, seed=3), traffic(400_000, seed=4)):
        said = watch(values)
        assert alarms(said, 15 * 24) == []
        assert unjudged(said, 8 * 24, len(values) - 1) == []


def test_says_too_little_history_before_it_knows_enough() -> None:
    said = watch(LARGE[:72])
    assert all(isinstance(judged, NotJudged) for judged in said.values())
    assert said[60] == NotJudged("too little history: 2.5 days")


def test_drop_to_zero() -> None:
    said = watch(LARGE, between(NOON, NOON + 2, lambda _: 0.0))
    assert [verdict(said[hour]) for hour in range(NOON, NOON + 3)] == [Verdict.ZERO] * 3
    judged = said[NOON]
    assert isinstance(judged, Judgement)
    assert judged.missing == judged.expected_low > 4_000
    assert judged.why.startswith("0 rows, ")
    assert alarms(said, NOON + 3) == []


def test_half_the_rows() -> None:
    said = watch(LARGE, between(NOON, NOON, lambda rows: rows // 2))
    assert verdict(said[NOON]) is Verdict.LOW
    judged = said[NOON]
    assert isinstance(judged, Judgement)
    assert judged.observed is not None
    assert judged.missing == pytest.approx(judged.expected_low - judged.observed)
    assert alarms(said, 8 * 24) == [NOON]


def test_surge() -> None:
    said = watch(LARGE, between(NOON, NOON + 1, lambda rows: rows * 3))
    assert [verdict(said[hour]) for hour in (NOON, NOON + 1)] == [Verdict.HIGH] * 2
    judged = said[NOON]
    assert isinstance(judged, Judgement)
    assert judged.missing == 0


def test_surge_by_night_that_would_be_usual_by_day() -> None:
    night = NOON + 14
    said = watch(LARGE, between(night, night, lambda _: LARGE[NOON]))
    assert verdict(said[night]) is Verdict.HIGH
    said = watch(LARGE, between(night, night, lambda rows: rows * 1.6))
    assert verdict(said[night]) is Verdict.NORMAL, "a surge has to matter in the fortnight, too"
    said = watch(LARGE, between(night, night, lambda rows: rows // 1.8))
    assert verdict(said[night]) is Verdict.LOW, "a loss need not"


def test_slow_leak_is_not_followed_by_the_level() -> None:
    said = watch(LARGE, lambda hour, rows: rows if hour < NOON else math.floor(rows * max(0.3, 0.98 ** (hour - NOON))))
    first = alarms(said, NOON)[0]
    assert verdict(said[first]) is Verdict.LOW
    assert first - NOON <= 36, "noticed before half is gone"


def test_an_outage_is_still_caught_on_its_second_and_third_day() -> None:
    for change in (lambda _: 0.0, lambda rows: rows // 3):
        said = watch(LARGE, between(NOON, NOON + 71, change))
        assert len(alarms(said, NOON, NOON + 71)) >= 66
        assert len(alarms(said, NOON + 72)) <= 2, "and is no yardstick afterwards"


def test_a_second_outage_within_the_month_is_caught_too() -> None:
    outages = (NOON - 168, NOON)
    said = watch(LARGE, lambda hour, rows: rows // 3 if any(o <= hour < o + 12 for o in outages) else rows)
    assert alarms(said, NOON, NOON + 11) == list(range(NOON, NOON + 12))


def test_weekend_level_on_a_weekday_is_low() -> None:
    said = watch(LARGE, between(NOON, NOON, lambda rows: rows * 0.5))
    assert verdict(said[NOON]) is Verdict.LOW


def test_a_lasting_shift_becomes_the_new_level() -> None:
    said = watch(LARGE, between(NOON, 10**6, lambda rows: rows * 2))
    assert alarms(said, NOON, NOON + 7) == list(range(NOON, NOON + 8))
    assert alarms(said, NOON + 8 * 24) == []


def test_small_counts() -> None:
    night = NOON + 14
    said = watch(SMALL, between(night, night, lambda _: 0.0))
    assert verdict(said[night]) is Verdict.NORMAL, "a night's zero is chance where two are expected"
    said = watch(SMALL, between(NOON, NOON, lambda _: 40.0))
    assert verdict(said[NOON]) is Verdict.HIGH
    medium = traffic(60, seed=3)
    said = watch(medium, between(NOON, NOON, lambda _: 0.0))
    assert verdict(said[NOON]) is Verdict.ZERO


def test_small_counts_are_held_against_a_count_model() -> None:
    detector = RowCounts(HOUR)
    low, high = detector._noise(math.sqrt(6), 0.5)
    assert (low**2, high**2) == pytest.approx(count_band(6, 1, 1e-5))
    assert detector._noise(100.0, 0.5) == (98.0, 102.0), "and large ones against spreads of the root"
    values = [float(rows) for rows in np.random.default_rng(8).poisson(6, 6 * 168)]
    assert alarms(watch(values), 15 * 24) == []


def test_nightly_import_keeps_its_hour() -> None:
    values = [10_000.0 + (7 * hour) % 90 if hour % 24 == 3 else 0.0 for hour in range(6 * 168)]
    three = NOON - 9
    assert alarms(watch(values), 8 * 24) == []
    assert verdict(watch(values, between(three, three, lambda _: 0.0))[three]) is Verdict.ZERO
    assert verdict(watch(values, between(three, three, lambda rows: rows / 2))[three]) is Verdict.LOW
    moved = watch(values, between(three, three + 1, lambda rows: 10_200.0 - rows))
    assert [verdict(moved[hour]) for hour in (three, three + 1)] == [Verdict.LOW, Verdict.HIGH]


def test_daylight_shift() -> None:
    """People's nine o'clock moves by an hour in UTC, on 29 March 2026; a detector on the wall clock does not notice."""
    berlin = WallClock(ZoneInfo("Europe/Berlin"))
    start = MONDAY + 7 * 7 * DAY
    shift = (5 * 7 - 1) * 24 + 1

    def local(hour: int) -> float:
        steep = 1.0 if 9 <= (hour + 1 + (hour >= shift)) % 24 < 18 else 0.1
        return math.floor(10_000 * steep + (hour * 37) % 100)

    values = [local(hour) for hour in range(8 * 168)]
    assert alarms(watch(values, wallclock=berlin, start=start), 8 * 24) == []
    assert alarms(watch(values, start=start), shift, shift + 48) != [], "in UTC it is a fault, so the test can fail"
    half = watch(values, between(shift + 30, shift + 30, lambda rows: rows / 2), wallclock=berlin, start=start)
    assert verdict(half[shift + 30]) is Verdict.LOW


def test_the_hour_that_happens_twice() -> None:
    berlin = WallClock(ZoneInfo("Europe/Berlin"))
    start = MONDAY + 38 * 7 * DAY  # five weeks before 25 October
    for step in (HOUR, HOUR // 4):
        detector = RowCounts(step, berlin)
        said = [detector.observe(start + i * step, 5_000.0 + (i * 37) % 100) for i in range(7 * 7 * DAY // step)]
        assert not any(isinstance(judged, Judgement) and judged.anomalous for judged in said)


def test_holiday() -> None:
    holiday = NOON - 12
    like_sunday = between(holiday, holiday + 23, lambda rows: rows * 0.5)
    known = WallClock(holidays=frozenset({date(2026, 2, 4)}))
    assert alarms(watch(LARGE, like_sunday, wallclock=known), 8 * 24) == []
    assert alarms(watch(LARGE, like_sunday)) != [], "an unknown holiday is a fault"
    dead = watch(LARGE, between(holiday, holiday + 23, lambda _: 0.0), wallclock=known)
    assert verdict(dead[NOON]) is Verdict.ZERO
    assert dead[NOON + 24] == watch(LARGE, like_sunday, wallclock=known)[NOON + 24], "a holiday teaches nothing"
    usual = watch(LARGE, wallclock=known)
    assert alarms(usual, 8 * 24) == [], "a holiday may also be an ordinary day"


def test_unfinished_bucket_is_neither_judged_nor_learned() -> None:
    detector = RowCounts(HOUR)
    watch(LARGE[:NOON], detector=detector)
    at = MONDAY + NOON * HOUR
    assert detector.observe(at, 17.0, settled=0.3) == NotJudged("unfinished: 30% of its rows have arrived")
    assert verdict(detector.observe(at, LARGE[NOON])) is Verdict.NORMAL


def test_the_tested_point_is_no_part_of_its_own_band() -> None:
    detector = RowCounts(HOUR)
    watch(LARGE[:NOON], detector=detector)
    at = MONDAY + NOON * HOUR
    bands = {
        (judged.expected_low, judged.expected_high)
        for value in (0.0, 1.0, 5_000.0, 1e9)
        if isinstance(judged := detector.judge(at, value), Judgement) and judged.verdict is not Verdict.ZERO
    }
    assert len(bands) == 1
    before = detector.judge(at, 5_000.0)
    observed = detector.observe(at, 5_000.0)
    assert observed == before, "judging changes nothing, and observing judges before it learns"


def test_known_incidents_and_replays_teach_nothing_and_are_not_judged() -> None:
    replay = Interval(MONDAY + (NOON - 168) * HOUR, MONDAY + (NOON - 120) * HOUR, "replay 7")
    tripled = between(NOON - 168, NOON - 121, lambda rows: rows * 3)
    said = watch(LARGE, tripled, excluded=[replay])
    assert said[NOON - 168] == NotJudged("excluded: replay 7")
    assert alarms(said, 8 * 24) == []
    calm = watch(LARGE, excluded=[replay])
    assert said[NOON] == calm[NOON], "what was in the interval makes no difference"


def test_an_incident_that_is_confirmed_later_is_forgotten() -> None:
    first, last = 7 * 24, 8 * 24 - 1
    incident = Interval(MONDAY + first * HOUR, MONDAY + (last + 1) * HOUR)
    detector, blind = RowCounts(HOUR), RowCounts(HOUR)
    watch(LARGE[: 8 * 24 + 12], between(first, last, lambda rows: rows * 4), detector=detector)
    watch(LARGE[: 8 * 24 + 12], excluded=[incident], detector=blind)
    at, value = MONDAY + 8 * DAY + 12 * HOUR, LARGE[8 * 24 + 12]
    taught = detector.judge(at, value)
    detector.forget(incident)
    mine, theirs = detector.judge(at, value), blind.judge(at, value)
    assert isinstance(taught, Judgement)
    assert isinstance(theirs, Judgement)
    assert taught.expected_high > 2 * theirs.expected_high
    assert isinstance(mine, Judgement)
    assert isinstance(theirs, Judgement)
    assert mine.expected_low == pytest.approx(theirs.expected_low, rel=0.25)
    assert mine.expected_high == pytest.approx(theirs.expected_high, rel=0.25)


def test_missing_readings_are_not_zeros() -> None:
    said = watch(LARGE, between(NOON - 24, NOON - 1, lambda _: None))
    assert said[NOON - 1] == NotJudged("not measured")
    assert alarms(said, 8 * 24) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_count_is_neither_judged_nor_learned(value: float) -> None:
    said = watch(LARGE, between(NOON, NOON, lambda _: value))
    assert isinstance(said[NOON], NotJudged)
    assert alarms(said, 8 * 24) == []


def test_old_buckets_are_not_learned_twice() -> None:
    detector = RowCounts(HOUR)
    watch(LARGE[:NOON], detector=detector)
    assert detector.observe(MONDAY, 5.0) == NotJudged("older than the last bucket that was learned")


def test_daily_and_minute_buckets() -> None:
    daily = RowCounts(DAY)
    said = [daily.observe(MONDAY + d * DAY, 80_000.0 * shape(24 * d + 12) + (d * 997) % 1_000) for d in range(60)]
    assert not any(isinstance(judged, Judgement) and judged.anomalous for judged in said[40:])
    assert verdict(daily.judge(MONDAY + 60 * DAY, 30_000.0)) is Verdict.LOW
    quarter = RowCounts(900)
    for i in range(14 * 96):
        quarter.observe(MONDAY + i * 900, math.floor(1_000 * shape(i / 4)) + (i * 31) % 40)
    assert verdict(quarter.judge(MONDAY + 14 * DAY + 12 * HOUR, 500.0)) is Verdict.LOW


def test_a_bucket_divides_the_day() -> None:
    with pytest.raises(UsageError, match="do not fill a day"):
        RowCounts(7 * 60 + 1)
