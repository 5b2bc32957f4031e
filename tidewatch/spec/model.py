"""What a pipeline is and what is expected of it: the shape of `pipelines/<name>.yaml`.

Every model refuses unknown keys. Errors get their file and line in `tidewatch.spec.reader`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, model_validator
from pydantic import Field as Option

from tidewatch.spec import types

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
# A column of ours begins with an underscore, so a field of the user's may not.
_NAME = r"^[a-z][a-z0-9_]{0,62}$"
_TOPIC = r"^[a-zA-Z0-9._-]{1,200}$"


def parse_duration(value: Any) -> Any:
    """`90s`, `7d`, `1.5h` → timedelta; anything else is left for pydantic to refuse."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration; write a number and a unit, such as 30s, 15m, 2h or 7d")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def format_duration(value: timedelta) -> str:
    """The shortest exact spelling: `timedelta(days=7)` → `7d`."""
    seconds = value.total_seconds()
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{round(seconds * 1000)}ms"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration, json_schema_input_type=Annotated[str, Option(pattern=_DURATION.pattern)]),
    PlainSerializer(format_duration, return_type=str),
]
FieldTypeName = Annotated[str, Option(description=f"One of {', '.join(types.KNOWN)}.")]


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, populate_by_name=True)


class Source(Model):
    """Where events come from."""

    kind: Literal["http", "outbox", "internal"] = "http"
    """`http`: straight to Kafka. `outbox`: a row in the SQL store first, emitted by the relay. `internal`: our own."""
    path: str | None = Option(None, pattern=r"^/[A-Za-z0-9/_{}.-]*$")
    """The route that takes one event or, when `batch_path` is absent, one event or an array of them."""
    batch_path: str | None = Option(None, pattern=r"^/[A-Za-z0-9/_{}.-]*$")
    """A second route that takes an array of events."""
    on_invalid: Literal["reject", "dead_letter"] = "reject"
    """An invalid event is refused to the client, or accepted and dead-lettered with its reason."""
    unknown_fields: Literal["keep", "refuse"] = "keep"
    """Keep unknown fields in the `_extra` column, or treat them as invalid."""
    id_field: str | None = None
    """`outbox` only: the field of the answer that carries the server-made id; defaults to `event_id`."""

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.kind != "internal" and self.path is None:
            raise ValueError(f"a source of kind {self.kind} needs a path")
        if self.kind == "outbox" and self.batch_path is not None:
            raise ValueError("an outbox source takes one event a request: drop batch_path")
        if self.id_field is not None and self.kind != "outbox":
            raise ValueError("id_field belongs to an outbox source")
        return self


class Topic(Model):
    name: str = Option(pattern=_TOPIC)
    partitions: int = Option(ge=1, le=10_000)
    replication: Literal["auto"] | Annotated[int, Option(ge=1, le=15)] = "auto"
    """`auto`: 3 where there are three brokers or more, else 1."""
    min_insync: Literal["auto"] | Annotated[int, Option(ge=1, le=15)] = "auto"
    """`auto`: one less than the replication, at least 1."""
    retention: Duration = timedelta(days=7)
    key: str | None = None
    """The field whose value chooses the partition; without one, events are spread evenly."""

    def replicas(self, brokers: int) -> int:
        if self.replication == "auto":
            return 3 if brokers >= 3 else 1
        return self.replication

    def insync(self, brokers: int) -> int:
        if self.min_insync == "auto":
            return max(1, self.replicas(brokers) - 1)
        return self.min_insync


class DeadLetters(Model):
    topic: str = Option(pattern=_TOPIC)
    partitions: int = Option(1, ge=1, le=1000)
    retention: Duration = timedelta(days=30)


class Field(Model):
    name: str = Option(pattern=_NAME)
    type: FieldTypeName
    required: bool = False
    sensitive: bool = False
    """Redacted wherever an operator sees samples."""
    description: str = ""
    min: int | float | None = None
    max: int | float | None = None
    max_length: int | None = Option(None, ge=1)
    """Characters of a string, items of an array."""
    values: tuple[str, ...] | None = Option(None, min_length=1)
    """The only strings allowed."""
    pattern: str | None = None
    """A regular expression that the whole string must match."""

    @property
    def kind(self) -> types.FieldType:
        return types.parse(self.type)

    @model_validator(mode="after")
    def _constraints_fit_the_type(self) -> Self:
        kind = types.parse(self.type)
        if (self.min is not None or self.max is not None) and not kind.is_numeric:
            raise ValueError(f"min and max bound numbers, and {self.name} is a {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is greater than max {self.max}")
        if (self.values is not None or self.pattern is not None) and self.type != "string":
            raise ValueError(f"values and pattern constrain strings, and {self.name} is a {self.type}")
        if self.max_length is not None and kind.json not in ("string", "array"):
            raise ValueError(f"max_length bounds strings and arrays, and {self.name} is a {self.type}")
        if self.pattern is not None:
            re.compile(self.pattern)
        return self


class Schema(Model):
    version: int = Option(1, ge=1, le=65_535)
    fields: tuple[Field, ...] = Option(min_length=1)

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [field.name for field in self.fields]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"field {name} is declared twice")
        return self

    def field(self, name: str) -> Field | None:
        return next((field for field in self.fields if field.name == name), None)


class Table(Model):
    name: str = Option(pattern=_NAME)
    order_by: tuple[str, ...] = ()
    """Columns of the sorting key; `_project` and `_received_at` are allowed. Fields named must be required."""
    ttl: Duration | None = None
    dedup_window: int = Option(100_000, ge=100, le=1_000_000)
    """How many inserts back ClickHouse still recognises a repeated one."""


class Aggregate(Model):
    """An incremental view that counts by hour of a time column."""

    name: str = Option(pattern=_NAME)
    time: str = "_received_at"
    by: tuple[str, ...] = ()
    measures: dict[Annotated[str, Option(pattern=_NAME)], str] = Option(min_length=1)
    """Name → `count()`, `countIf(condition)`, `sum(expression)`, `sumIf(…)`, `min(…)`, `max(…)` or `uniq(…)`."""


class Rows(Model):
    """How many rows are expected, at the least."""

    per: Duration
    min: int = Option(ge=0)


class Expect(Model):
    freshness: Duration = timedelta(seconds=60)
    """From accepted to queryable."""
    lag: Duration = timedelta(seconds=60)
    rows: Rows | None = None
    dimensions: tuple[str, ...] = ()
    """Columns by which row counts are watched."""
    unique_event_id: bool = True
    """An event id at two offsets is a finding of the ledger."""


class Objective(Model):
    """`target` is a share of good minutes, over `window`."""

    target: float = Option(0.999, gt=0, lt=1)
    window: Duration = timedelta(days=30)


class Spec(Model):
    name: str = Option(pattern=_NAME)
    description: str = Option(min_length=1)
    owner: str = Option(min_length=1)
    channel: str | None = None
    """Where alerts of this pipeline go; defaults to the owner's channel."""
    runbook: str | None = None
    depends_on: tuple[str, ...] = ()
    """Other pipelines that must be healthy for this one to be."""
    source: Source
    topic: Topic
    dead_letters: DeadLetters
    schema_: Schema = Option(alias="schema")
    table: Table
    aggregates: tuple[Aggregate, ...] = ()
    expect: Expect = Expect()
    objective: Objective = Objective()

    @model_validator(mode="after")
    def _references_resolve(self) -> Self:
        fields = {field.name: field for field in self.schema_.fields}
        ours = {"_project", "_received_at", "_event_id", "_schema", "_loaded_at"}
        if self.topic.key is not None and self.topic.key not in fields:
            raise ValueError(f"topic.key {self.topic.key} is no field of the schema ({', '.join(fields)})")
        for column in self.table.order_by:
            if column not in ours and column not in fields:
                raise ValueError(f"table.order_by names {column}, which is no column")
            if column in fields and not fields[column].required:
                raise ValueError(f"table.order_by names {column}, which is not required: a sorting key holds no NULL")
        for aggregate in self.aggregates:
            for column in (aggregate.time, *aggregate.by):
                if column not in ours and column not in fields:
                    raise ValueError(f"aggregate {aggregate.name} names {column}, which is no column")
        for column in self.expect.dimensions:
            if column not in ours and column not in fields:
                raise ValueError(f"expect.dimensions names {column}, which is no column")
        if self.dead_letters.topic == self.topic.name:
            raise ValueError("dead letters need a topic of their own")
        if self.dead_letters.retention <= self.topic.retention:
            raise ValueError(
                "dead_letters.retention must outlast topic.retention, or letters vanish before their source"
            )
        return self
