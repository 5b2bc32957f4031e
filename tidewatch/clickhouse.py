"""ClickHouse over HTTP, typed, with our errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self
from urllib.parse import urlsplit

import clickhouse_connect
import urllib3
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError as ForeignError
from clickhouse_connect.driver.external import ExternalData

from tidewatch.errors import ClickHouseError, ClickHouseUnavailable, SettingsError
from tidewatch.settings import ClickHouse as ClickHouseSettings

Parameters = Mapping[str, Any]
Options = Mapping[str, Any]

_CODE = re.compile(r"(?:Code: |error code )(\d+)")
# Unknown table, unknown database, wrong password.
_FIXES = {
    60: "run `tidewatch spec apply`, or check that TIDEWATCH_CLICKHOUSE__DATABASE names the right one",
    81: "run `tidewatch spec apply`, or check that TIDEWATCH_CLICKHOUSE__DATABASE names the right one",
    516: "check TIDEWATCH_CLICKHOUSE__USER and TIDEWATCH_CLICKHOUSE__PASSWORD",
}
# Network, timeouts and a server that is going or coming: the statement may be repeated under its token.
_AWAY_CODES = frozenset({159, 160, 198, 209, 210, 279, 236, 394})


class ClickHouse:
    """One session-less client; safe to share between threads.

    Every method raises ClickHouseUnavailable when there was no answer (the statement may have run), and
    ClickHouseError with the server's code when it refused.
    """

    def __init__(
        self, settings: ClickHouseSettings, *, database: str | None = None, timeout_seconds: float | None = None
    ) -> None:
        """`database` replaces the one of the settings."""
        host, port, secure = _address(settings.url)
        self.settings = settings
        self.database = database or settings.database
        timeout = timeout_seconds or settings.timeout_seconds
        with _translated("connecting"):
            self._client: Client = clickhouse_connect.get_client(
                host=host,
                port=port,
                secure=secure,
                username=settings.user,
                password=settings.password.get_secret_value(),
                database=self.database,
                autogenerate_session_id=False,
                send_receive_timeout=timeout,
                connect_timeout=min(10, timeout),
                query_retries=0,
                tz_mode="aware",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    @property
    def version(self) -> tuple[int, int]:
        """(year, month) of the server's release."""
        year, month, *_ = str(self._client.server_version).split(".")
        return int(year), int(month)

    def query(
        self, sql: str, parameters: Parameters | None = None, settings: Options | None = None
    ) -> list[tuple[Any, ...]]:
        """Rows of a SELECT. Parameters are `{name:Type}` in the text, bound by the server."""
        with _translated("querying"):
            rows: Sequence[Sequence[Any]] = self._client.query(
                sql, parameters=_params(parameters), settings=dict(settings or {})
            ).result_rows
            return [tuple(row) for row in rows]

    def dicts(
        self, sql: str, parameters: Parameters | None = None, settings: Options | None = None
    ) -> list[dict[str, Any]]:
        """Rows of a SELECT by column name."""
        with _translated("querying"):
            return list(
                self._client.query(sql, parameters=_params(parameters), settings=dict(settings or {})).named_results()
            )

    def scalar(self, sql: str, parameters: Parameters | None = None) -> Any:
        """The first column of the only row."""
        return self.query(sql, parameters)[0][0]

    def command(self, sql: str, parameters: Parameters | None = None, settings: Options | None = None) -> None:
        """A statement that returns no rows."""
        with _translated("running a statement"):
            self._client.command(sql, parameters=_params(parameters), settings=dict(settings or {}))

    def insert_body(
        self,
        sql: str,
        body: bytes,
        *,
        parameters: Parameters | None = None,
        settings: Options | None = None,
        query_id: str = "",
    ) -> None:
        """Run `INSERT … FORMAT F` with `body` as its data. Raises ValueError for an empty body: it would insert nothing."""
        if not body:
            raise ValueError("an insert needs a body")
        options = dict(settings or {})
        if query_id:
            options["query_id"] = query_id
        with _translated("inserting"):
            self._client.command(sql, parameters=_params(parameters), data=body, settings=options)

    def query_over(
        self,
        sql: str,
        body: bytes,
        structure: Sequence[str],
        *,
        name: str = "batch",
        fmt: str = "ArrowStream",
        parameters: Parameters | None = None,
        settings: Options | None = None,
    ) -> list[tuple[Any, ...]]:
        """A read-only SELECT over `body`, which the statement sees as the table `name`; `structure` is `column Type` each."""
        data = ExternalData(file_name=name, fmt=fmt, structure=list(structure), data=body)
        with _translated("querying over a body"):
            result = self._client.query(
                sql, parameters=_params(parameters), settings=dict(settings or {}), external_data=data
            )
            return [tuple(row) for row in result.result_rows]


def _address(text: str) -> tuple[str, int, bool]:
    """(host, port, whether by TLS). An URL that is none is not shown: people write passwords into them."""
    try:
        url = urlsplit(text)
        if url.scheme in ("http", "https") and url.hostname:
            secure = url.scheme == "https"
            return url.hostname, url.port or (8443 if secure else 8123), secure
    except ValueError:
        pass  # its message quotes the URL
    raise SettingsError("TIDEWATCH_CLICKHOUSE__URL is no URL", fix="write http://host:8123 or https://host:8443")


def _params(parameters: Parameters | None) -> dict[str, Any] | None:
    return dict(parameters) if parameters else None


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except ForeignError as error:
        code = getattr(error, "code", None) or _code_in(str(error))
        if code in _AWAY_CODES or (not code and _is_transport(error)):
            raise _away(doing, error, code) from error
        fix = _FIXES.get(code, "the server's message says what it refused; `clickhouse-client` shows the same")
        raise ClickHouseError(f"ClickHouse refused while {doing}: {_short(error)}", fix=fix, code=code) from error
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise _away(doing, error, 0) from error


def _away(doing: str, error: Exception, code: int) -> ClickHouseUnavailable:
    fix = "check that ClickHouse runs and TIDEWATCH_CLICKHOUSE__URL names it"
    why = _short(error if code else _root(error))
    return ClickHouseUnavailable(f"ClickHouse did not answer while {doing}: {why}", fix=fix, code=code)


def _code_in(text: str) -> int:
    match = _CODE.search(text)
    return int(match[1]) if match else 0


def _is_transport(error: BaseException) -> bool:
    """clickhouse-connect wraps failures of the connection in its own errors, without a code."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (urllib3.exceptions.HTTPError, OSError)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _root(error: BaseException) -> BaseException:
    """What the network said: the wrappers around it fill a screen with addresses of objects."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 600 else text[:600] + "…"
