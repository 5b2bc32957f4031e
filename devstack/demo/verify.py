"""Hold what the sender was told against what the warehouse has, without trusting any part in between."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from devstack.demo.foreign import Written
from devstack.demo.journal import Journal
from tidewatch.clickhouse import ClickHouse
from tidewatch.spec import Spec


@dataclass(frozen=True)
class Kept:
    """Event ids a pipeline; all of them empty means that every answer was kept."""

    missing: Mapping[str, list[str]]
    doubled: Mapping[str, list[str]]
    unannounced: Mapping[str, list[str]]
    """In the warehouse, from our gateway, and never answered."""
    foreign: list[str]
    """What is wrong with the records of the foreign producer."""

    @property
    def all(self) -> bool:
        return not (
            any(self.missing.values()) or any(self.doubled.values()) or any(self.unannounced.values()) or self.foreign
        )


def wait_until_loaded(
    clickhouse: ClickHouse, specs: Mapping[str, Spec], journal: Journal, foreign: int, *, seconds: float
) -> bool:
    """Poll until as many rows and letters stand in the warehouse as were accepted; False when time ran out."""
    wanted = journal.total(journal.accepted) + journal.total(journal.dead_lettered) + foreign
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = sum(int(clickhouse.scalar(f"SELECT count() FROM {spec.table.name}")) for spec in specs.values())  # noqa: S608 — a spec's own table
        if rows + int(clickhouse.scalar("SELECT count() FROM dead_letters")) >= wanted:
            return True
        time.sleep(0.2)
    return False


def verify(clickhouse: ClickHouse, specs: Mapping[str, Spec], journal: Journal, foreign: Mapping[str, Written]) -> Kept:
    missing, doubled, unannounced = {}, {}, {}
    wrong: list[str] = []
    for name, spec in specs.items():
        landed = _landed(clickhouse, spec)
        answered = Counter(journal.accepted.get(name, []) + journal.dead_lettered.get(name, []))
        missing[name] = sorted((answered - landed).elements())
        doubled[name] = sorted((landed - Counter(landed.keys())).keys())
        unannounced[name] = sorted((landed - answered).keys() - set(doubled[name]))
        if name in foreign:
            wrong += _foreign(clickhouse, spec, foreign[name])
    return Kept(missing, doubled, unannounced, wrong)


def _landed(clickhouse: ClickHouse, spec: Spec) -> Counter[str]:
    """Event ids of our own gateway's events, in the raw table and among the letters. Foreign ones have no project."""
    rows = clickhouse.query(f"SELECT _event_id FROM {spec.table.name} WHERE _project != ''")  # noqa: S608
    letters = clickhouse.query(
        "SELECT event_id FROM dead_letters WHERE pipeline = {p:String} AND project != ''", {"p": spec.name}
    )
    return Counter(row[0] for row in (*rows, *letters))


def _foreign(clickhouse: ClickHouse, spec: Spec, written: Written) -> list[str]:
    rows = Counter(clickhouse.query(f"SELECT _partition, _offset FROM {spec.table.name} WHERE _project = ''"))  # noqa: S608
    letters = Counter(
        clickhouse.query(
            "SELECT assumeNotNull(origin_partition), assumeNotNull(origin_offset) FROM dead_letters"
            " WHERE pipeline = {p:String} AND project = '' AND origin_offset IS NOT NULL",
            {"p": spec.name},
        )
    )
    problems = []
    if rows != Counter(written.good):
        problems.append(f"{spec.name}: of {len(written.good)} good foreign records {sum(rows.values())} were loaded")
    if letters != Counter(written.bad):
        problems.append(
            f"{spec.name}: of {len(written.bad)} bad foreign records {sum(letters.values())} were dead-lettered"
        )
    return problems
