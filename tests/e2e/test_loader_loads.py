"""The loader on a real broker and a real ClickHouse engine, when nothing fails but the records."""

from __future__ import annotations

from itertools import pairwise

from loader_fixtures import balanced, rig
from loader_rig import Rig

from ingest.ledger.ranges import read_ranges
from tidewatch.record import Letter

__all__ = ["rig"]


def test_every_record_becomes_a_row_and_every_range_is_recorded(rig: Rig) -> None:
    loader = rig.loader()
    rig.send(20_000)
    balanced(rig)
    loader.stop()
    topic_id = rig.admin.topic(rig.topic).topic_id
    records = read_ranges(rig.clickhouse, topic_id)
    assert sum(record.loaded for record in records) == 20_000
    assert all(record.dead == record.expired == 0 for record in records)
    for p in range(rig.partitions):
        chain = [r for r in records if r.partition == p]
        assert chain[0].first == 0
        assert all(then.first == before.last + 1 for before, then in pairwise(chain))


def test_one_bad_record_of_many_becomes_a_letter_that_says_why(rig: Rig) -> None:
    rig.loader()
    rig.send(100_000, bad=lambda n: n == 77_777)
    balanced(rig)
    rows = rig.clickhouse.query("SELECT pipeline, stage, error, value, event_id, headers FROM dead_letters")
    assert len(rows) == 1
    pipeline, stage, error, value, event_id, headers = rows[0]
    assert (pipeline, stage, error) == ("clicks", "loader", "invalid_json")
    assert value == '{"event":"no'
    assert event_id == f"e-{rig.fresh}-77777"
    assert headers[Letter.TOPIC] == rig.topic
    assert headers[Letter.FIRST_FAILED_AT].endswith("Z")


def test_every_tenth_bad_record_becomes_a_letter_and_its_neighbours_stay(rig: Rig) -> None:
    rig.loader(min_bad=10_000_000)
    rig.send(30_000, bad=lambda n: n % 10 == 0)
    balanced(rig)
    assert rig.clickhouse.scalar("SELECT count() FROM dead_letters") == 3000


def test_a_small_topic_may_be_all_bad(rig: Rig) -> None:
    rig.loader()
    rig.send(3, bad=lambda _: True)
    balanced(rig)
    assert rig.clickhouse.scalar("SELECT count() FROM dead_letters") == 3


def test_when_all_is_bad_the_circuit_opens_until_an_operator_decides(rig: Rig) -> None:
    loader = rig.loader()
    rig.send(20_000, bad=lambda _: True)
    rig.wait(lambda: any("mostly_bad" in p for p in rig.ready(loader)[1]), why="the circuit is open")
    assert rig.ready(loader)[0] == 503
    assert rig.metric(loader, "tidewatch_loader_circuit_open", topic=rig.topic, trouble="mostly_bad") == 1
    assert rig.ends(rig.spec.dead_letters.topic)[0] < 1100
    loader.signal(rig.PARDON)
    balanced(rig)
    assert rig.clickhouse.scalar("SELECT count() FROM dead_letters") == 20_000
    rig.wait(lambda: rig.ready(loader)[0] == 200, why="the loader is ready again")
