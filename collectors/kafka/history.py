"""What was read of late, as arrays: 100,000 committed partitions over twenty readings are 20 MB."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

from collectors.kafka.offsets import UNKNOWN, Offsets
from collectors.kafka.status import Seconds, Window

READINGS = 20
# Each pause that ends makes the memory of a longer one fade: after seven it counts half.
_FADE = 0.9

GroupTopic = tuple[str, str]


class _Ring:
    """The last readings of one topic's partitions, one row each."""

    def __init__(self, width: int) -> None:
        self.rows = np.full((READINGS, width), UNKNOWN, np.int64)

    def put(self, slot: int, values: Offsets | None) -> None:
        if values is None:
            self.rows[slot] = UNKNOWN
            return
        if len(values) > self.rows.shape[1]:
            self.rows = _widened(self.rows, len(values), UNKNOWN)
        self.rows[slot, : len(values)] = values
        self.rows[slot, len(values) :] = UNKNOWN


def _widened(rows: Offsets, width: int, fill: float) -> Offsets:
    wider = np.full((*rows.shape[:-1], width), fill, rows.dtype)
    wider[..., : rows.shape[-1]] = rows
    return wider


@dataclass
class _Track:
    """One group on one topic: its commits, and since when each partition has been as it is."""

    commits: _Ring
    last: Offsets
    committed_at: Seconds
    behind_since: Seconds
    pause: Seconds
    watched_since: Seconds
    hidden_at: Offsets
    hidden: Offsets

    @classmethod
    def begin(cls, width: int, now: float) -> _Track:
        return cls(
            _Ring(width),
            last=np.full(width, UNKNOWN, np.int64),
            committed_at=np.full(width, now),
            behind_since=np.full(width, np.nan),
            pause=np.zeros(width),
            watched_since=np.full(width, now),
            hidden_at=np.full(width, UNKNOWN, np.int64),
            hidden=np.zeros(width, np.int64),
        )

    def widen(self, width: int, now: float) -> None:
        if width > len(self.last):
            for name, fill in (("last", UNKNOWN), ("hidden_at", UNKNOWN), ("hidden", 0), ("pause", 0.0)):
                setattr(self, name, _widened(getattr(self, name), width, fill))
            for name, since in (("committed_at", now), ("watched_since", now), ("behind_since", np.nan)):
                setattr(self, name, _widened(getattr(self, name), width, since))

    def see(self, slot: int, now: float, commits: Offsets, ends: Offsets) -> None:
        self.widen(len(commits), now)
        self.commits.put(slot, commits)
        known = commits != UNKNOWN
        moved = known & (self.last != UNKNOWN) & (commits != self.last)
        lasted = now - self.committed_at[moved]
        self.pause[moved] = np.maximum(lasted, self.pause[moved] * _FADE)
        self.committed_at[moved] = now
        first = known & (self.last == UNKNOWN)
        self.committed_at[first] = self.watched_since[first] = now
        self.last = np.where(known, commits, self.last)
        waiting = (ends > commits + self.hidden_now(commits)) & (commits >= 0)
        began = waiting & np.isnan(self.behind_since)
        self.behind_since[began] = now
        self.behind_since[known & (ends != UNKNOWN) & ~waiting] = np.nan

    def miss(self, slot: int) -> None:
        self.commits.put(slot, None)

    def hidden_now(self, commits: Offsets) -> Offsets:
        """What a look at the records found after exactly this commit."""
        return np.where(self.hidden_at == commits, self.hidden, 0)


class History:
    """Written by one thread, once a cycle."""

    def __init__(self) -> None:
        self._times = np.full(READINGS, np.nan)
        self._count = 0
        self._ends: dict[str, _Ring] = {}
        self._ids: dict[str, str] = {}
        self._tracks: dict[GroupTopic, _Track] = {}

    def see(
        self,
        now: float,
        ends: Mapping[str, Offsets],
        commits: Mapping[str, Mapping[str, Offsets]],
        topic_ids: Mapping[str, str],
        unread: Container[str] = (),
    ) -> None:
        """What is not named this time is forgotten, but for groups in `unread`; a recreated topic begins anew."""
        slot = self._count % READINGS
        self._count += 1
        self._times[slot] = now
        for topic in [t for t in self._ends if t not in ends or self._ids.get(t) != topic_ids.get(t)]:
            del self._ends[topic]
            for key in [key for key in self._tracks if key[1] == topic]:
                del self._tracks[key]
        self._ids = dict(topic_ids)
        for topic, values in ends.items():
            if topic not in self._ends:
                self._ends[topic] = _Ring(len(values))
            self._ends[topic].put(slot, values)
        named = {(g, t) for g, topics in commits.items() for t in topics if t in ends}
        for key in [key for key in self._tracks if key not in named]:
            if key[0] in unread:
                self._tracks[key].miss(slot)
            else:
                del self._tracks[key]
        for group, topic in named:
            self._see_group(slot, now, (group, topic), commits[group][topic], ends[topic])

    def _see_group(self, slot: int, now: float, key: GroupTopic, commits: Offsets, ends: Offsets) -> None:
        if key not in self._tracks:
            self._tracks[key] = _Track.begin(len(commits), now)
        self._tracks[key].see(slot, now, commits, matched(ends, len(commits)))

    def window(self, group: str, topic: str) -> Window | None:
        """The readings of this group on this topic, the oldest first; None when it was not seen."""
        track, ring = self._tracks.get((group, topic)), self._ends.get(topic)
        if track is None or ring is None:
            return None
        order = self._order()
        width = len(track.last)
        commits = track.commits.rows[order]
        return Window(
            times=self._times[order],
            commits=commits,
            ends=matched(ring.rows[order], width),
            hidden=track.hidden_now(commits[-1]),
            committed_at=track.committed_at,
            behind_since=track.behind_since,
            pause=track.pause,
            watched_since=track.watched_since,
        )

    def ends(self, topic: str) -> tuple[Seconds, Offsets] | None:
        """Times and ends of a topic, the oldest reading first."""
        order = self._order()
        ring = self._ends.get(topic)
        return None if ring is None else (self._times[order], ring.rows[order])

    def hide(self, group: str, topic: str, partition: int, commit: int, hidden: int) -> None:
        """After this commit, `hidden` of the offsets hold nothing for a consumer."""
        track = self._tracks.get((group, topic))
        if track is not None and partition < len(track.last):
            track.hidden_at[partition] = commit
            track.hidden[partition] = hidden

    def _order(self) -> list[int]:
        filled = min(self._count, READINGS)
        return [(self._count - filled + i) % READINGS for i in range(filled)]


def matched(ends: Offsets, width: int) -> Offsets:
    """The same ends for `width` partitions: those that the metadata did not name are UNKNOWN."""
    have = ends.shape[-1]
    if have < width:
        return _widened(ends, width, UNKNOWN)
    return ends[..., :width]
