"""The settled share: how much of a bucket has arrived by now."""

from __future__ import annotations

import numpy as np
import pytest

from controlplane.detectors.arrival import LONGEST, ArrivalDelays
from controlplane.detectors.base import NotJudged

HOUR = 3_600.0


def learned(delays: list[float]) -> ArrivalDelays:
    known = ArrivalDelays()
    known.learn(delays)
    return known


def mobile() -> ArrivalDelays:
    """Most within seconds, some after an hour, a few the next day."""
    return learned([2.0] * 900 + [HOUR] * 90 + [20 * HOUR] * 10)


def test_says_nothing_of_few_rows() -> None:
    few = learned([1.0] * 10)
    why = NotJudged("arrival delays of only 10 rows are known")
    assert few.quantile(0.5) == few.settled_share(0, HOUR, HOUR) == few.settled_at(0, HOUR) == why


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 2.0), (0.9, 2.0), (0.95, HOUR), (0.99, HOUR), (0.995, 20 * HOUR)])
def test_quantiles_are_right_on_the_late_side(share: float, seconds: float) -> None:
    found = mobile().quantile(share)
    assert isinstance(found, float)
    assert seconds <= found <= 1.06 * seconds


def test_a_bucket_settles_as_time_passes() -> None:
    delays = mobile()
    shares = [delays.settled_share(0, HOUR, now) for now in np.arange(0, 26 * HOUR, HOUR / 4)]
    assert all(isinstance(share, float) for share in shares)
    assert shares == sorted(shares, key=float)  # type: ignore[arg-type]
    assert delays.settled_share(0, HOUR, 0) == 0
    assert delays.settled_share(0, HOUR, HOUR / 2) == pytest.approx(0.45, abs=0.02)
    assert delays.settled_share(0, HOUR, HOUR + 5) == pytest.approx(0.9, abs=0.01)
    assert delays.settled_share(0, HOUR, 2 * HOUR * 1.06) == pytest.approx(0.99, abs=0.001)
    assert delays.settled_share(0, HOUR, 25 * HOUR) == 1.0


def test_when_a_bucket_will_have_settled() -> None:
    at = mobile().settled_at(0, HOUR, 0.98)
    assert isinstance(at, float)
    share = mobile().settled_share(0, HOUR, at)
    before = mobile().settled_share(0, HOUR, at - 2)
    assert isinstance(share, float)
    assert isinstance(before, float)
    assert before < 0.98 <= share
    assert 1.7 * HOUR < at < 2.1 * HOUR


def test_rows_weigh_and_fade_and_clocks_may_run_ahead() -> None:
    known = ArrivalDelays(half_life=1_000)
    known.learn([1.0, -30.0], [5_000.0, 5_000.0])
    known.learn([HOUR], [10_000.0])
    late = known.quantile(0.1)
    assert isinstance(late, float)
    assert late >= HOUR, "what was usual ten half-lives ago is gone"


def test_rows_later_than_the_histogram_are_never_counted_as_arrived() -> None:
    known = learned([1.0] * 980 + [2 * LONGEST] * 20)
    assert known.settled_share(0, HOUR, 10 * LONGEST) == pytest.approx(0.98)
