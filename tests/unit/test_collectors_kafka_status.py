"""Statuses judged from what was read, beside a plain reading of Burrow's rules where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from collectors.kafka.history import READINGS, History
from collectors.kafka.offsets import NEVER, UNKNOWN
from collectors.kafka.status import Rules, Status, judge, stuck_seconds

EVERY = 15.0
Pair = tuple[int, int]


class Watch:
    """A group on a topic of one partition, read every fifteen seconds."""

    def __init__(self) -> None:
        self.history = History()
        self.now = 1000.0

    def read(self, readings: Iterable[Pair]) -> Watch:
        """(commit, end) at each reading."""
        for commit, end in readings:
            self.now += EVERY
            arrays = {"t": np.array([end])}, {"g": {"t": np.array([commit])}}
            self.history.see(self.now, *arrays, {"t": "id"})
        return self

    def status(self, *, members: bool | None = True) -> Status:
        window = self.history.window("g", "t")
        assert window is not None
        return Status(int(judge(window, members=members, rules=Rules())[0]))

    def stuck(self) -> float:
        window = self.history.window("g", "t")
        assert window is not None
        return float(stuck_seconds(window)[0])


def burrow(commits: Sequence[tuple[float, int, int]], now: float, end: int, *, full: int = 10) -> str:
    """Burrow's rules as FIELD notes have them: commits are (time, offset, lag), the window holds the last ten."""
    window = list(commits)[-10:]
    times, offsets, lags = zip(*window, strict=True)
    if len(window) < full or end - offsets[-1] <= 0:
        return "OK"
    if now - times[-1] > times[-1] - times[0] and end > offsets[-1]:
        return "STOP"
    if any(later < earlier for earlier, later in pairwise(offsets)) and offsets[-1] < max(offsets):
        return "REWIND"
    if min(lags) <= 0:
        return "OK"
    if len(set(offsets)) == 1:
        return "STALL"
    if all(later >= earlier for earlier, later in pairwise(lags)):
        return "WARN"
    return "OK"


def test_caught_up_is_ok_however_long_ago_the_last_commit_was() -> None:
    assert Watch().read([(5, 5)] * 100).status() is Status.OK


def test_the_first_record_after_a_quiet_night_is_no_alarm_and_a_minute_later_it_is() -> None:
    watch = Watch().read([(5, 5)] * 1000).read([(5, 6)])
    assert watch.status() is Status.OK
    assert watch.read([(5, 6)] * 4).status() is Status.OK
    assert watch.read([(5, 7)]).status() is Status.STALL
    assert watch.stuck() == pytest.approx(75)
    assert watch.read([(7, 7)]).status() is Status.OK


def test_records_that_wait_without_a_commit() -> None:
    watch = Watch().read([(5, 5), (5, 9), *[(5, 12)] * 6])
    assert watch.status(members=True) is Status.STALL
    assert watch.status(members=None) is Status.STALL
    assert watch.status(members=False) is Status.STOP


def test_behind_from_the_start_is_not_known_before_it_was_watched_for_a_minute() -> None:
    watch = Watch().read([(5, 50)])
    assert watch.status() is Status.UNKNOWN
    assert watch.read([(9, 50)]).status() is Status.OK, "it was seen to move"
    assert Watch().read([(5, 50)] * 6).status() is Status.STALL


def test_one_that_commits_every_five_minutes_is_given_its_pauses() -> None:
    produced = 0
    watch = Watch()
    for _ in range(5):
        committed = produced
        for _ in range(20):
            produced += 10
            watch.read([(committed, produced)])
    assert watch.stuck() == pytest.approx(285)
    assert watch.status() is not Status.STALL
    for _ in range(60):
        produced += 10
        watch.read([(committed, produced)])
    assert watch.status() is Status.STALL, "three of its longest pauses are too long"


def test_burrow_alarms_when_a_fast_committer_takes_a_breath_and_we_do_not() -> None:
    fast = [(100 + i / 10, i * 10, 5) for i in range(10)]
    assert burrow(fast, now=103, end=120) == "STOP"
    watch = Watch().read([(i * 10, i * 10 + 5) for i in range(20)]).read([(190, 220)])
    assert watch.status() is Status.OK


def test_burrow_alarms_on_a_single_commit_and_we_do_not() -> None:
    assert burrow([(100, 5, 1)], now=100.001, end=6, full=1) == "STOP"
    assert Watch().read([(NEVER, 5)] * 5).read([(5, 6)]).status() is Status.OK


def test_one_dip_hides_a_slow_growth_from_burrow_and_not_from_us() -> None:
    commits = [1000 + 95 * i for i in range(READINGS)]
    growing = [(commit, commit + 10 + 5 * i) for i, commit in enumerate(commits)]
    # The producer pauses for a moment, the consumer has everything, and the backlog of the pause follows.
    dipped = [(commit, commit) if i == 15 else (commit, end) for i, (commit, end) in enumerate(growing)]
    for readings, expected in ((growing, "WARN"), (dipped, "OK")):
        seen = [(i * EVERY, commit, end - commit) for i, (commit, end) in enumerate(readings)]
        assert burrow(seen, now=READINGS * EVERY, end=readings[-1][1]) == expected
        assert Watch().read(readings).status() is Status.WARN


def test_a_sawtooth_is_no_growth_and_neither_is_noise() -> None:
    sawtooth = [(1000 * (i // 4), 250 * i + 250) for i in range(40)]
    assert Watch().read(sawtooth).status() is Status.OK
    rng = np.random.default_rng(7)
    history, width = History(), 20_000
    for i in range(READINGS):
        ends = np.full(width, 10_000 + 100 * i)
        history.see(i * EVERY, {"t": ends}, {"g": {"t": ends - rng.integers(1, 90, width)}}, {"t": "id"})
    window = history.window("g", "t")
    assert window is not None
    assert (judge(window, members=True, rules=Rules()) == Status.WARN).sum() == 0


def test_a_commit_that_went_back_is_told_until_it_is_regained() -> None:
    watch = Watch().read([(50, 60)] * 3).read([(20, 60)])
    assert watch.status() is Status.REWIND
    assert watch.read([(50, 60)]).status() is Status.OK
    assert burrow([(i, o, 60 - o) for i, o in enumerate([50] * 9 + [20])], now=10, end=60) == "REWIND"


def test_never_beyond_the_end_and_not_measured_are_states_of_their_own() -> None:
    assert Watch().read([(NEVER, 5)]).status() is Status.NEVER
    assert Watch().read([(9, 5)]).status() is Status.AHEAD
    assert Watch().read([(3, UNKNOWN)]).status() is Status.UNMEASURED
    assert Watch().read([(UNKNOWN, 5)]).status() is Status.UNMEASURED


def test_what_was_not_measured_is_neither_progress_nor_a_stall() -> None:
    watch = Watch().read([(5, 9)] * 3).read([(UNKNOWN, UNKNOWN)] * 3)
    assert watch.status() is Status.UNMEASURED
    assert watch.read([(5, 9)]).status() is Status.STALL, "the same commit as before the gap: it did not move"
    moved = Watch().read([(5, 9)] * 3).read([(UNKNOWN, UNKNOWN)] * 3).read([(8, 9)])
    assert moved.status() is Status.OK


def test_a_group_that_could_not_be_read_keeps_its_history_and_one_that_is_gone_does_not() -> None:
    watch = Watch().read([(5, 9)] * 3)
    watch.history.see(watch.now + EVERY, {"t": np.array([9])}, {}, {"t": "id"}, unread={"g"})
    watch.now += EVERY
    assert watch.read([(5, 9)] * 2).status() is Status.STALL
    watch.history.see(watch.now + EVERY, {"t": np.array([9])}, {}, {"t": "id"})
    assert watch.history.window("g", "t") is None


def test_a_recreated_topic_begins_anew() -> None:
    watch = Watch().read([(500, 500)] * 5)
    watch.history.see(watch.now + EVERY, {"t": np.array([3])}, {"g": {"t": np.array([1])}}, {"t": "another id"})
    assert watch.status() is Status.UNKNOWN, "no rewind: these are other records"


def test_partitions_that_are_added_widen_the_history() -> None:
    watch = Watch().read([(5, 9)] * 8)
    ends, commits = {"t": np.array([9, 4])}, {"g": {"t": np.array([5, 4])}}
    watch.history.see(watch.now + EVERY, ends, commits, {"t": "id"})
    window = watch.history.window("g", "t")
    assert window is not None
    assert judge(window, members=True, rules=Rules()).tolist() == [Status.STALL, Status.OK]


def test_markers_that_hold_no_record_are_no_lag() -> None:
    watch = Watch().read([(5, 6)])
    watch.history.hide("g", "t", 0, commit=5, hidden=1)
    assert watch.read([(5, 6)] * 20).status() is Status.OK
    assert watch.read([(5, 7)] * 8).status() is Status.STALL, "a record came after the marker"
