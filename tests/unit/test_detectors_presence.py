"""Zero, silence, and less than the spec demands."""

from __future__ import annotations

import math

import numpy as np
import pytest

from controlplane.detectors.base import Interval, Judgement, NotJudged, Verdict
from controlplane.detectors.presence import Absence, minimum, zero
from controlplane.detectors.tuning import Tuning

HOUR, DAY = 3_600, 86_400
BUSY = np.sqrt(np.full(20, 60.0, dtype=np.float32))


def test_the_minimum_of_the_spec_needs_no_history() -> None:
    judged = minimum(0, 1_000)
    assert isinstance(judged, Judgement)
    assert judged.why == "0 rows loaded, 1,000+ expected"
    assert (judged.verdict, judged.missing, judged.expected_low) == (Verdict.BELOW_MINIMUM, 1_000, 1_000)
    assert judged.expected_high == math.inf


@pytest.mark.parametrize(
    ("rows", "settled", "verdict"),
    [(999, 1.0, Verdict.BELOW_MINIMUM), (1_000, 1.0, Verdict.NORMAL), (5_000, 0.1, Verdict.NORMAL)],
)
def test_the_minimum_is_met_or_not(rows: float, settled: float, verdict: Verdict) -> None:
    judged = minimum(rows, 1_000, settled=settled)
    assert isinstance(judged, Judgement)
    assert judged.verdict is verdict


def test_the_minimum_waits_for_the_rows_that_are_under_way_and_never_guesses() -> None:
    assert minimum(0, 1_000, settled=0.6) == NotJudged("unfinished: 60% of its rows have arrived")
    assert minimum(None, 1_000) == NotJudged("not measured")


def judge_zero(comparable: np.ndarray[tuple[int], np.dtype[np.float32]], mean: float = 60.0) -> Judgement | None:
    return zero(
        centre=math.sqrt(mean), spread=0.6, dispersion=1.4, comparable=comparable, band=(0.0, 90.0), tuning=Tuning()
    )


def test_zero_is_an_outage_where_there_always_was_something_even_if_the_band_reaches_down() -> None:
    judged = judge_zero(BUSY)
    assert judged is not None
    assert judged.verdict is Verdict.ZERO
    assert judged.missing == judged.expected_low > 10


def test_zero_is_none_where_it_is_usual_or_chance_or_little_is_known() -> None:
    often = BUSY.copy()
    often[:2] = 0
    assert judge_zero(often) is None
    assert judge_zero(BUSY, mean=5.0) is None
    assert judge_zero(BUSY[:5]) is None


def test_zero_of_values_that_are_no_counts() -> None:
    def judge(spread: float) -> Judgement | None:
        return zero(centre=2.0, spread=spread, dispersion=None, comparable=BUSY, band=(0.0, 9.0), tuning=Tuning())

    assert judge(0.5) is not None
    assert judge(0.7) is None


def seen(hours: list[int]) -> Absence:
    absence = Absence(HOUR)
    for hour in hours:
        absence.seen(hour * HOUR)
    return absence


def test_silence_is_absence_and_not_a_zero() -> None:
    absence = seen(list(range(100)))
    assert absence.judge(101 * HOUR) == NotJudged("no reading is due")
    judged = absence.judge(102 * HOUR)
    assert isinstance(judged, Judgement)
    assert (judged.verdict, judged.observed) == (Verdict.ABSENT, None)
    assert judged.why == "no reading for 2 h, where none was ever left out"


def test_a_series_that_sleeps_by_night_may_sleep() -> None:
    days = seen([day * 24 + hour for day in range(14) for hour in range(9, 18)])
    last = 13 * 24 + 17
    assert isinstance(days.judge((last + 1 + 15) * HOUR), NotJudged)
    judged = days.judge((last + 1 + 24) * HOUR)
    assert isinstance(judged, Judgement)
    assert judged.verdict is Verdict.ABSENT


def test_what_was_never_seen_is_not_judged() -> None:
    assert Absence(HOUR).judge(5 * HOUR) == NotJudged("never seen")


def test_known_incidents_neither_alarm_nor_teach() -> None:
    incident = [Interval(100 * HOUR, 130 * HOUR)]
    absence = seen(list(range(100)))
    assert isinstance(absence.judge(120 * HOUR, incident), NotJudged)
    absence.seen(130 * HOUR, incident)
    assert isinstance(absence.judge(134 * HOUR), Judgement), "the incident's pause is no usual pause"
    absence = seen([*range(100), 130])
    assert isinstance(absence.judge(134 * HOUR), NotJudged)
