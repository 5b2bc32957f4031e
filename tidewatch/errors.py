"""Errors that a user can meet.

    TidewatchError
    ├── SpecError           a pipeline spec is wrong              exit 2
    ├── SettingsError       the environment is wrong              exit 2
    ├── UsageError          a command was called wrongly          exit 2
    ├── Refused             would destroy, or breaks a guard      exit 1
    ├── NotBalanced         a check found a problem               exit 3
    ├── NotProvable         the evidence is gone or unreadable    exit 4
    ├── KafkaError          the broker refused
    │   └── KafkaUnavailable        no answer                     retryable
    ├── ClickHouseError     the server refused (`code`)
    │   └── ClickHouseUnavailable   no answer                     retryable
    └── StoreError          the SQL store refused
        └── StoreUnavailable        no answer                     retryable

Foreign exceptions are translated where they enter: `tidewatch.kafka`, `tidewatch.clickhouse`, `tidewatch.sql`.
"""

from __future__ import annotations

from typing import ClassVar


class TidewatchError(Exception):
    """What happened, where, and how to fix it; `retryable` says whether trying again may help."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, fix: str, where: str = "") -> None:
        self.what = what
        self.fix = fix
        self.where = where
        place = f"{where}: " if where else ""
        super().__init__(f"{place}{what.rstrip('.')}. Fix: {fix}")


class SpecError(TidewatchError):
    exit_code = 2


class SettingsError(TidewatchError):
    exit_code = 2


class UsageError(TidewatchError):
    exit_code = 2


class Refused(TidewatchError):
    """The request was understood and is not carried out, because it would destroy or double something."""


class NotBalanced(TidewatchError):
    exit_code = 3


class NotProvable(TidewatchError):
    exit_code = 4


class KafkaError(TidewatchError):
    pass


class KafkaUnavailable(KafkaError):
    retryable = True


class ClickHouseError(TidewatchError):
    """`code` is ClickHouse's own error code, 0 where it gave none."""

    def __init__(self, what: str, *, fix: str, where: str = "", code: int = 0) -> None:
        self.code = code
        super().__init__(what, fix=fix, where=where)


class ClickHouseUnavailable(ClickHouseError):
    retryable = True


class StoreError(TidewatchError):
    pass


class StoreUnavailable(StoreError):
    retryable = True
