"""What stands between the specs and what is live: changes that only add, and changes that are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tidewatch.kafka.admin import NewTopic


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    """Idempotent, so that an apply which was cut short can run again."""


@dataclass(frozen=True, slots=True)
class CreateTopic:
    topic: NewTopic


@dataclass(frozen=True, slots=True)
class AddPartitions:
    topic: str
    total: int


@dataclass(frozen=True, slots=True)
class SetConfigs:
    topic: str
    configs: Mapping[str, str]


Step = Statement | CreateTopic | AddPartitions | SetConfigs


@dataclass(frozen=True, slots=True)
class Additive:
    """`target` is `table NAME`, `view NAME`, `topic NAME` or `database NAME`."""

    pipeline: str
    target: str
    what: str
    steps: tuple[Step, ...]
    note: str = ""
    """What the operator should know, such as that a new view begins with now."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A change that would lose or rewrite something; `manual` says how to make it by hand."""

    pipeline: str
    target: str
    what: str
    reason: str
    manual: str


Change = Additive | Refused
