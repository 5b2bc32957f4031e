"""Where a check reads; a source that cannot be opened is a value, so that the check can say what it leaves unproved."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import Engine

from ingest.ledger.tally import Progress
from tidewatch.clickhouse import ClickHouse
from tidewatch.errors import SettingsError, TidewatchError
from tidewatch.kafka.admin import KafkaAdmin
from tidewatch.kafka.reading import LogReader
from tidewatch.settings import Settings
from tidewatch.sql import open_store

_T = TypeVar("_T")


@dataclass(frozen=True)
class Sources:
    """Each is open, or the reason why it is not."""

    admin: KafkaAdmin | TidewatchError
    reader: LogReader
    clickhouse: ClickHouse | TidewatchError
    store: Engine | TidewatchError
    progress: Progress

    @classmethod
    def open(cls, settings: Settings, *, progress: Progress | None = None) -> Self:
        """Raises SettingsError alone."""
        return cls(
            admin=_tried(lambda: KafkaAdmin(settings.kafka, client_id="tidewatch-ledger")),
            reader=LogReader(settings.kafka),
            clickhouse=_tried(lambda: ClickHouse(settings.clickhouse)),
            store=_tried(lambda: open_store(settings.store, existing=True)),
            progress=progress or _ignore,
        )

    def close(self) -> None:
        self.reader.close()
        for source in (self.admin, self.clickhouse):
            if not isinstance(source, TidewatchError):
                source.close()
        if isinstance(self.store, Engine):
            self.store.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 — progress of a command


def _ignore(_: str) -> None:
    pass


def _tried(make: Callable[[], _T]) -> _T | TidewatchError:
    try:
        return make()
    except SettingsError:
        raise
    except TidewatchError as error:
        return error
