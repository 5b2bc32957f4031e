"""What the warehouse holds, asked by offset arithmetic: counts by chunk of offsets, and offsets only where needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ingest.ledger.report import Incarnation, Stretch
from ingest.schema.sql import ident
from tidewatch.clickhouse import ClickHouse

LETTERS = "dead_letters"
CHUNK = 1 << 16

# Rows of a table, and letters that came from its topic, as one list of offsets. A letter is named by where it stands
# in the dead-letter topic, so that one that stands in the warehouse twice is one letter.
_ROWS = """
SELECT _partition AS p, _offset AS o, 0 AS letter, (toInt32(-1), toInt64(-1)) AS place FROM {table}
WHERE _topic_id = {{topic_id:String}} AND {where}
"""
_LETTERS = """
SELECT assumeNotNull(origin_partition) AS p, assumeNotNull(origin_offset) AS o, 1 AS letter,
    (_partition, _offset) AS place
FROM dead_letters
WHERE origin_topic_id = {{topic_id:String}} AND isNotNull(origin_partition) AND isNotNull(origin_offset) AND {where}
GROUP BY p, o, letter, place
"""
_COUNTS = """
SELECT p, {bucket} AS bucket, countIf(letter = 0) AS rows, countIf(letter = 1) AS letters, uniqExact(o) AS offsets
FROM ({source}) GROUP BY p, bucket
"""
_ROWS_AT = """
SELECT o, count() FROM ({source}) GROUP BY o
"""
_LETTERS_AT = """
SELECT o, groupUniqArray(place) FROM ({source}) GROUP BY o
"""
_STRAY = """
SELECT p, o, countIf(letter = 0) AS rows, countIf(letter = 1) AS letters FROM ({source})
GROUP BY p, o ORDER BY p, o LIMIT 100000
"""
_AHEAD = """
SELECT p, uniqExact(o), max(o) FROM ({source}) GROUP BY p
"""
_INCARNATIONS = """
SELECT _topic_id, count(), uniqExact(_partition, _offset), toString(min({time})), toString(max({time}))
FROM {table} WHERE _topic_id != {{topic_id:String}} {where} GROUP BY _topic_id ORDER BY min({time})
"""
_GATEWAY_LETTERS = """
SELECT uniqExact(_partition, _offset) FROM dead_letters
WHERE _topic_id = {{topic_id:String}} AND stage = 'gateway' AND {where}
"""
# Of each event id one number; two places of one id show as the least and the greatest being different.
_IDS = """
SELECT cityHash64(project, id) AS h, bitShiftLeft(toInt64(p), 44) + o AS at, {within} AS within FROM (
    SELECT _project AS project, _event_id AS id, _partition AS p, _offset AS o FROM {table}
    WHERE _topic_id = {{topic_id:String}} {received}
    UNION ALL
    SELECT project, event_id AS id, assumeNotNull(origin_partition) AS p, assumeNotNull(origin_offset) AS o
    FROM dead_letters WHERE origin_topic_id = {{topic_id:String}} AND isNotNull(origin_offset)
) WHERE id != ''
"""
_REPEATED = """
SELECT h FROM ({ids}) WHERE h % {{passes:UInt32}} = {{turn:UInt32}}
GROUP BY h HAVING min(at) != max(at) AND max(within) LIMIT {{limit:UInt32}}
"""
_PLACES = """
SELECT project, id, groupUniqArray((p, o)) FROM (
    SELECT _project AS project, _event_id AS id, _partition AS p, _offset AS o FROM {table}
    WHERE _topic_id = {{topic_id:String}} AND cityHash64(_project, _event_id) IN {{hashes:Array(UInt64)}} {received}
    UNION ALL
    SELECT project, event_id AS id, assumeNotNull(origin_partition) AS p, assumeNotNull(origin_offset) AS o
    FROM dead_letters WHERE origin_topic_id = {{topic_id:String}} AND isNotNull(origin_offset)
        AND cityHash64(project, event_id) IN {{hashes:Array(UInt64)}}
) GROUP BY project, id HAVING length(groupUniqArray((p, o))) > 1 ORDER BY project, id
"""
_INSIDE = "o >= {firsts:Array(Int64)}[p + 1] AND o < {stops:Array(Int64)}[p + 1]"
_IDS_AT_ONCE = 8_000_000
LISTED = 10_000


class Repeated(NamedTuple):
    """One event id, and the (partition, offset) at which it stands."""

    project: str
    event_id: str
    places: list[tuple[int, int]]


class Ahead(NamedTuple):
    """What is held beyond the loader's position."""

    offsets: int
    last: int


class Counts(NamedTuple):
    rows: int
    letters: int
    offsets: int
    """Distinct ones, of rows and letters together."""

    @property
    def single(self) -> bool:
        """Whether no offset has more than one row or letter."""
        return self.rows + self.letters == self.offsets

    def fill(self, span: int) -> bool:
        """Whether each of `span` offsets has exactly one row or letter."""
        return self.single and self.offsets == span


NOTHING = Counts(0, 0, 0)
Place = tuple[int, int]
"""(partition, offset) of a letter in the dead-letter topic."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the warehouse, or the dead-letter topic, holds of some offsets: how many rows, which letters."""

    rows: dict[int, int]
    letters: dict[int, set[Place]] = field(default_factory=dict)

    @property
    def offsets(self) -> set[int]:
        return self.rows.keys() | self.letters.keys()


class Warehouse:
    """Keeps the text of its queries in `asked`, for the report."""

    def __init__(self, clickhouse: ClickHouse) -> None:
        self._clickhouse = clickhouse
        self.asked: dict[str, None] = {}

    def chunks(
        self, table: str, topic_id: str, stretches: Sequence[Stretch], *, letters: bool
    ) -> dict[tuple[int, int], Counts]:
        """{(partition, number of the chunk): counts} of the offsets that the stretches cover."""
        if not stretches:
            return {}
        covered = [stretch for stretch in stretches if stretch.stop > stretch.first]
        firsts, stops = _by_partition(covered)
        where = (
            "{o} BETWEEN {{low:Int64}} AND {{high:Int64}} AND {p} BETWEEN 0 AND {{most:Int32}}"
            " AND {o} >= {{firsts:Array(Int64)}}[{p} + 1] AND {o} < {{stops:Array(Int64)}}[{p} + 1]"
        )
        parameters = {
            "topic_id": topic_id,
            "low": min((s.first for s in covered), default=0),
            "high": max((s.stop for s in covered), default=0),
            "most": len(firsts) - 1,
            "firsts": firsts,
            "stops": stops,
        }
        source = _source(table, where, letters=letters)
        rows = self._ask(_COUNTS.format(bucket=f"intDiv(o, {CHUNK})", source=source), parameters)
        return {(row[0], row[1]): Counts(*row[2:]) for row in rows}

    def buckets(
        self, table: str, topic_id: str, partition: int, starts: Sequence[int], stop: int, *, letters: bool
    ) -> dict[int, Counts]:
        """Counts by bucket; a bucket goes from its start to the next one's, the last to `stop`."""
        where = "{p} = {{partition:Int32}} AND {o} >= {{first:Int64}} AND {o} < {{stop:Int64}}"
        parameters = {
            "topic_id": topic_id,
            "partition": partition,
            "first": starts[0],
            "stop": stop,
            "starts": list(starts),
        }
        source = _source(table, where, letters=letters)
        rows = self._ask(_COUNTS.format(bucket="roundDown(o, {starts:Array(Int64)})", source=source), parameters)
        return {row[1]: Counts(*row[2:]) for row in rows}

    def positions(self, table: str, topic_id: str, partition: int, first: int, stop: int, *, letters: bool) -> Held:
        """What is held of `first <= offset < stop`."""
        where = "{p} = {{partition:Int32}} AND {o} >= {{first:Int64}} AND {o} < {{stop:Int64}}"
        parameters = {"topic_id": topic_id, "partition": partition, "first": first, "stop": stop}
        rows = dict(self._ask(_ROWS_AT.format(source=_rows(table, where)), parameters))
        if not letters:
            return Held(rows)
        found = self._ask(_LETTERS_AT.format(source=_letters(where)), parameters)
        return Held(rows, {row[0]: {(place[0], place[1]) for place in row[1]} for row in found})

    def beyond(
        self, table: str, topic_id: str, ends: Sequence[int], *, letters: bool
    ) -> list[tuple[int, int, int, int]]:
        """(partition, offset, rows, letters) where no partition, or no partition's log, reaches so far."""
        where = (
            "({p} < 0 OR {p} >= {{partitions:Int32}}"
            " OR ({o} >= {{lowest:Int64}} AND {o} >= {{ends:Array(Int64)}}[{p} + 1]))"
        )
        parameters = {
            "topic_id": topic_id,
            "partitions": len(ends),
            "lowest": min(ends, default=0),
            "ends": list(ends),
        }
        rows = self._ask(_STRAY.format(source=_source(table, where, letters=letters)), parameters)
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def ahead(self, table: str, topic_id: str, stretches: Sequence[Stretch], *, letters: bool) -> dict[int, Ahead]:
        """By partition, what is held from the stretch's `committed` on, within the log; without one, of all offsets."""
        where = (
            "{p} BETWEEN 0 AND {{most:Int32}} AND {o} >= {{lowest:Int64}}"
            " AND {o} >= {{starts:Array(Int64)}}[{p} + 1] AND {o} < {{ends:Array(Int64)}}[{p} + 1]"
        )
        starts = [stretch.committed or 0 for stretch in stretches]
        parameters = {
            "topic_id": topic_id,
            "most": len(stretches) - 1,
            "lowest": min(starts, default=0),
            "starts": starts,
            "ends": [stretch.end for stretch in stretches],
        }
        rows = self._ask(_AHEAD.format(source=_source(table, where, letters=letters)), parameters)
        return {row[0]: Ahead(row[1], row[2]) for row in rows}

    def incarnations(self, table: str, topic_id: str) -> list[Incarnation]:
        """Rows of other topic ids."""
        query = _INCARNATIONS.format(table=ident(table), where="", time="_received_at")
        return [Incarnation(*row) for row in self._ask(query, {"topic_id": topic_id})]

    def gateway_letters(self, topic_id: str, stretches: Sequence[Stretch]) -> int:
        """Letters that the gateway wrote, at these places of the dead-letter topic."""
        firsts, stops = _by_partition(stretches)
        inside = (
            _INSIDE.replace("o >=", "_offset >=").replace("o <", "_offset <").replace("[p + 1]", "[_partition + 1]")
        )
        query = _GATEWAY_LETTERS.format(where=inside)
        return int(self._ask(query, {"topic_id": topic_id, "firsts": firsts, "stops": stops})[0][0])

    def repeated_ids(
        self, table: str, topic_id: str, stretches: Sequence[Stretch], *, since: datetime | None, rows: int
    ) -> list[Repeated]:
        """Event ids at two offsets, one of them within the stretches; at most LISTED of them.

        `since` bounds how far back the other one is looked for; `rows` says how many there are, at the most.
        """
        firsts, stops = _by_partition(stretches)
        received = "AND _received_at >= {since:DateTime64(6, 'UTC')}" if since is not None else ""
        within = _INSIDE if since is not None else "1"
        ids = _IDS.format(table=ident(table), within=within, received=received)
        passes = max(1, -(-rows // _IDS_AT_ONCE))
        common = {"topic_id": topic_id, "firsts": firsts, "stops": stops} | ({"since": since} if since else {})
        hashes: list[int] = []
        for turn in range(passes):
            limits = {"passes": passes, "turn": turn, "limit": LISTED + 1 - len(hashes)}
            hashes += [row[0] for row in self._ask(_REPEATED.format(ids=ids), common | limits)]
        if not hashes:
            return []
        query = _PLACES.format(table=ident(table), received=received)
        found = self._ask(query, common | {"hashes": hashes})
        return [Repeated(row[0], row[1], sorted((place[0], place[1]) for place in row[2])) for row in found]

    def _ask(self, query: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
        text = " ".join(query.split())
        self.asked[text] = None
        return self._clickhouse.query(text, parameters)


def _by_partition(stretches: Iterable[Stretch]) -> tuple[list[int], list[int]]:
    """Bounds as arrays over the partition number; a partition outside of the window covers nothing."""
    bounds: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    bounds |= {stretch.partition: (stretch.first, stretch.stop) for stretch in stretches}
    numbers = range(max(bounds, default=-1) + 1)
    return [bounds[number][0] for number in numbers], [bounds[number][1] for number in numbers]


def _source(table: str, where: str, *, letters: bool) -> str:
    rows = _rows(table, where)
    return f"{rows} UNION ALL {_letters(where)}" if letters else rows


def _rows(table: str, where: str) -> str:
    return _ROWS.format(table=ident(table), where=where.format(p="_partition", o="_offset"))


def _letters(where: str) -> str:
    partition, offset = "assumeNotNull(origin_partition)", "assumeNotNull(origin_offset)"
    return _LETTERS.format(where=where.format(p=partition, o=offset))
