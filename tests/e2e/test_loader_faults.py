"""ClickHouse and Kafka fail, really, and nothing is lost or doubled."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from loader_fixtures import balanced, own_clickhouse, own_kafka, proxied, rig
from loader_rig import Rig, sending
from recount import recount

from devstack.clickhouse import ClickHouseFront
from devstack.kafka import KafkaCluster
from devstack.proxy import TcpProxy
from ingest.ledger.ranges import read_ranges
from tidewatch.kafka.admin import Partition

__all__ = ["own_clickhouse", "own_kafka", "proxied", "rig"]


def waiting_for(rig: Rig, loader: Any, trouble: str) -> None:
    rig.wait(lambda: any(trouble in problem for problem in rig.ready(loader)[1]), why=f"readyz tells of {trouble}")


def test_clickhouse_is_killed_and_comes_back(
    kafka: Any, own_clickhouse: ClickHouseFront, fresh: str, tmp_path: Path
) -> None:
    with Rig(kafka.bootstrap, own_clickhouse.url, fresh, tmp_path) as rig:
        loader = rig.loader(batch_rows=5_000, batch_seconds=0.1)
        load = sending(rig, 60_000)
        for _ in range(2):
            before = rig.stored()
            rig.wait(lambda before=before: rig.stored() > before or rig.stored() >= 60_000, why="rows come")
            own_clickhouse.kill()
            rig.send(1_000)
            waiting_for(rig, loader, "unavailable")
            own_clickhouse.start()
        load.join()
        balanced(rig)
        rig.wait(lambda: rig.ready(loader)[0] == 200, why="ready again")


def test_clickhouse_is_slow_and_cut_off_in_the_middle_of_inserts(proxied: tuple[Rig, TcpProxy]) -> None:
    rig, proxy = proxied
    rig.loader(batch_rows=5_000, batch_seconds=0.1)
    load = sending(rig, 60_000, bad=lambda n: n == 31_313)
    rig.wait(lambda: rig.stored() > 0, why="rows come")
    proxy.delay(0.5)
    rig.send(2_000)
    for cut in (100_000, 700_000, 1_300_000):
        proxy.cut_after(cut)
        rig.send(1_000)
        proxy.tripped.wait(60)
        proxy.heal()
    load.join()
    balanced(rig)


def test_clickhouse_answers_nothing_and_the_insert_was_taken(proxied: tuple[Rig, TcpProxy]) -> None:
    rig, proxy = proxied
    loader = rig.loader(batch_rows=5_000)
    rig.send(5_000)
    rig.wait(lambda: rig.stored() >= 5_000, why="rows come")
    proxy.blackhole()
    rig.send(5_000)
    time.sleep(2)
    proxy.cut()
    waiting_for(rig, loader, "unavailable")
    proxy.heal()
    balanced(rig)


def test_too_many_parts(rig: Rig) -> None:
    loader = rig.loader(batch_rows=500, batch_seconds=0.05)
    rig.clickhouse.command("SYSTEM STOP MERGES raw_clicks")
    rig.clickhouse.command(
        "ALTER TABLE raw_clicks MODIFY SETTING parts_to_throw_insert = 3, parts_to_delay_insert = 2, max_delay_to_insert = 1"
    )
    load = sending(rig, 5_000)
    waiting_for(rig, loader, "throttled")
    rig.clickhouse.command("ALTER TABLE raw_clicks RESET SETTING parts_to_throw_insert, parts_to_delay_insert")
    rig.clickhouse.command("SYSTEM START MERGES raw_clicks")
    load.join()
    balanced(rig)


def test_a_view_fails_after_the_rows_were_written(rig: Rig) -> None:
    rig.clickhouse.command("CREATE TABLE switch (off UInt8) ENGINE = Memory")
    rig.clickhouse.command("CREATE TABLE sink (n UInt8) ENGINE = Null")
    loader = rig.loader(batch_rows=2_000)
    rig.send(2_000)
    rig.wait(lambda: rig.stored() >= 2_000, why="rows come")
    rig.clickhouse.command("INSERT INTO switch VALUES (1)")
    rig.clickhouse.command(
        "CREATE MATERIALIZED VIEW zz_broken TO sink AS"
        " SELECT toUInt8(throwIf((SELECT max(off) FROM switch) = 1, 'a view of the test')) AS n FROM raw_clicks"
    )
    rig.send(4_000, bad=lambda n: n == 1_234)
    waiting_for(rig, loader, "view")
    rig.clickhouse.command("TRUNCATE TABLE switch")
    balanced(rig)


def test_kafka_is_restarted(own_kafka: KafkaCluster, clickhouse: Any, fresh: str, tmp_path: Path) -> None:
    with Rig(own_kafka.bootstrap, clickhouse.url, fresh, tmp_path) as rig:
        rig.loader(batch_rows=2_000, batch_seconds=0.1)
        rig.send(20_000)
        rig.wait(lambda: rig.stored() > 0, why="rows come")
        own_kafka.kill()
        time.sleep(2)
        own_kafka.start()
        rig.send(20_000, bad=lambda n: n == 5)
        balanced(rig)


def test_retention_removed_part_of_a_recorded_range(rig: Rig, kafka: Any) -> None:
    """A loader dies with its intent committed and nothing inserted; then the log loses the beginning of that block."""
    rig.clickhouse.command("RENAME TABLE raw_clicks TO hidden")
    rig.clickhouse.command(
        "CREATE TABLE raw_clicks AS hidden ENGINE = MergeTree ORDER BY _offset PARTITION BY toDate(_received_at)"
        " SETTINGS non_replicated_deduplication_window = 1000, parts_to_throw_insert = 1"
    )
    rig.clickhouse.command(
        "INSERT INTO raw_clicks (_offset, _received_at) VALUES (-1, now64(6)), (-2, now64(6) - 86400)"
    )
    loader = rig.loader(deadline_seconds=5)
    rig.send(3_000)
    waiting_for(rig, loader, "throttled")
    loader.kill()
    rig.clickhouse.command("DROP TABLE raw_clicks SYNC")
    rig.clickhouse.command("RENAME TABLE hidden TO raw_clicks")
    ends = rig.ends()
    rig.admin.delete_records({Partition(rig.topic, p): end // 2 for p, end in ends.items()})
    rig.sent -= sum(end // 2 for end in ends.values())
    loader.start()
    balanced(rig)
    assert recount(rig.bootstrap, rig.clickhouse, rig.spec) == []
    loader.stop()
    records = read_ranges(rig.clickhouse, rig.admin.topic(rig.topic).topic_id)
    assert sum(record.expired for record in records) == sum(end // 2 for end in ends.values())


def test_a_topic_that_was_made_again_is_loaded_from_its_beginning(rig: Rig) -> None:
    loader = rig.loader()
    rig.send(2_000)
    rig.settled()
    loader.stop()
    rig.remake_topic()
    rig.send(1_500)
    loader.start()
    rig.wait(lambda: rig.stored() == 3_500, why="the second topic is loaded beside the first")
    assert recount(rig.bootstrap, rig.clickhouse, rig.spec) == []


def test_lost_offsets_halt_the_lane_rather_than_double_the_rows(rig: Rig) -> None:
    loader = rig.loader()
    rig.send(2_000)
    rig.settled()
    loader.stop()
    rig.wait(rig.forget_offsets, 30, "the group's offsets are deleted")
    rig.send(500)
    loader.start()
    rig.wait(lambda: any("halted" in problem for problem in rig.ready(loader)[1]), why="the lane halts")
    assert rig.metric(loader, "tidewatch_loader_halted", topic=rig.topic) == 1
    assert rig.stored() == 2_000


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_clickhouse_killed_twenty_times(
    kafka: Any, own_clickhouse: ClickHouseFront, fresh: str, tmp_path: Path
) -> None:
    with Rig(kafka.bootstrap, own_clickhouse.url, fresh, tmp_path) as rig:
        rig.loader(batch_rows=20_000, batch_seconds=0.1)
        load = sending(rig, 1_000_000, bad=lambda n: n % 99_991 == 3)
        for _ in range(20):
            before = rig.stored()
            rig.wait(lambda before=before: rig.stored() > before or rig.stored() >= rig.sent > 0, why="rows come")
            own_clickhouse.kill()
            time.sleep(1)
            own_clickhouse.start()
            rig.send(1_000)
        load.join()
        balanced(rig)
