"""What a lane runs on ClickHouse: one statement for events of a pipeline, another for dead letters."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ingest.loader.rows import Frame, frame_events, frame_letters
from ingest.schema import letters
from ingest.schema.ddl import View, aggregate_view
from ingest.schema.extract import STRUCTURE, insert_sql, poison_sql
from ingest.schema.settings import Value, insert_settings, query_settings
from tidewatch.clickhouse import ClickHouse
from tidewatch.spec import Spec

MAX_SECONDS = 45
"""Of one statement on the server: max_execution_time."""


@dataclass(frozen=True, slots=True)
class Statement:
    topic: str
    table: str
    insert: str
    """Up to and without FORMAT; takes the parameters `topic_id` and `deadline`, and those of `parameters`."""
    find_bad: str | None
    """None: no record of this topic is ever bad."""
    structure: tuple[str, ...]
    frame: Frame
    parameters: Mapping[str, str] = field(default_factory=dict)
    views: tuple[View, ...] = ()

    @property
    def judge(self) -> str:
        """Changes when another record may be judged bad; six hex digits."""
        return hashlib.sha256(f"{self.insert}\n{self.find_bad}".encode()).hexdigest()[:6]


def of_events(spec: Spec, database: str) -> Statement:
    views = tuple(aggregate_view(spec, aggregate) for aggregate in spec.aggregates)
    insert, find_bad = insert_sql(spec, database), poison_sql(spec)
    return Statement(spec.topic.name, spec.table.name, insert, find_bad, STRUCTURE, frame_events, views=views)


def of_letters(spec: Spec, database: str) -> Statement:
    """Letters are loaded like events, into one table, and are never bad themselves."""
    topic = spec.dead_letters.topic
    insert = letters.letters_insert_sql(database)
    return Statement(topic, letters.TABLE, insert, None, letters.STRUCTURE, frame_letters, {"topic": topic})


@dataclass(frozen=True, slots=True)
class Options:
    """Settings for the server's statements, as far as it knows them."""

    insert: Mapping[str, Value]
    query: Mapping[str, Value]


def options(clickhouse: ClickHouse) -> Options:
    limits: dict[str, Value] = {"max_execution_time": MAX_SECONDS}
    return Options(insert_settings(clickhouse) | limits, query_settings(clickhouse) | limits)
