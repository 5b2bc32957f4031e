"""Requests to many brokers at once, keeping the answers of those that answered.

kafka-python's own calls ask one broker after the other and fail as a whole when one of them does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NamedTuple

import kafka.errors as foreign
from kafka.errors import KafkaError as ForeignError

from tidewatch.errors import KafkaError
from tidewatch.kafka.admin import open_client
from tidewatch.settings import Kafka

SILENT = "does not answer"
# A connection takes this many requests at once; kafka-python refuses more.
PIPELINE = 64
_FRUITLESS_ROUNDS = 2
_BROKERS_TRIED = 2


class Ask(NamedTuple):
    """`node` None: any broker."""

    node: int | None
    request: Any


class Failure(NamedTuple):
    """`why` reads the same however often it is tried again."""

    why: str
    silent: bool = False
    unsupported: bool = False
    """The broker is too old for the request."""


class Wire:
    """One client, connected at the first use; for one thread at a time (a second one waits)."""

    def __init__(self, settings: Kafka, client_id: str, timeout_seconds: float = 5.0) -> None:
        self._settings = settings
        self._client_id = client_id
        self._timeout = timeout_seconds
        self._client: Any = None
        self._lock = Lock()
        self._fruitless = 0

    def ask(self, asks: Sequence[Ask]) -> list[Any]:
        """The response, or a Failure, of each, in their order. Raises KafkaUnavailable when no broker can be found."""
        if not asks:
            return []
        with self._lock:
            client = self._connected()
            answers: list[Any] = client._manager.run(self._all, client._manager, asks)  # noqa: SLF001 — see above
            self._notice(answers)
            return answers

    def ask_any(self, request: Any) -> Any:
        """The answer of any broker; one that hangs is given up for another."""
        answer: Any = None
        for _ in range(_BROKERS_TRIED):
            answer = self.ask([Ask(None, request)])[0]
            if not isinstance(answer, Failure) or not answer.silent:
                break
        return answer

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _connected(self) -> Any:
        if self._client is None:
            network = {
                "max_in_flight_requests_per_connection": PIPELINE,
                "reconnect_backoff_max_ms": 1000,
                "socket_connection_setup_timeout_ms": int(self._timeout * 1000),
                "socket_connection_setup_timeout_max_ms": int(self._timeout * 1000),
            }
            self._client = open_client(self._settings, self._client_id, self._timeout, **network)
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            with suppress(ForeignError, OSError):
                self._client.close()
            self._client = None

    def _notice(self, answers: Sequence[Any]) -> None:
        """A cluster that moved as a whole is found again from the bootstrap addresses."""
        silent = all(isinstance(answer, Failure) and answer.silent for answer in answers)
        self._fruitless = self._fruitless + 1 if silent else 0
        if self._fruitless >= _FRUITLESS_ROUNDS:
            self._disconnect()
            self._fruitless = 0

    async def _all(self, manager: Any, asks: Sequence[Ask]) -> list[Any]:
        if any(ask.node is not None and manager.cluster.broker_metadata(ask.node) is None for ask in asks):
            # kafka-python forgets a broker that leaves the cluster, and would not look for five minutes.
            with suppress(ForeignError, OSError):
                await manager.cluster.refresh_metadata()
        futures = [self._send(manager, ask) for ask in asks]
        return [future if isinstance(future, Failure) else await _outcome(future) for future in futures]

    def _send(self, manager: Any, ask: Ask) -> Any:
        try:
            return manager.send(ask.request, node_id=ask.node, request_timeout_ms=self._timeout * 1000)
        except (ForeignError, OSError) as error:
            return failure(error)


async def _outcome(future: Any) -> Any:
    try:
        return await future
    except (ForeignError, OSError) as error:
        return failure(error)


_AWAY = (
    foreign.KafkaConnectionError,
    foreign.NodeNotReadyError,
    foreign.RequestTimedOutError,
    foreign.KafkaTimeoutError,
    foreign.UnknownBrokerIdError,
    foreign.Cancelled,
    OSError,
)


def failure(error: Exception) -> Failure:
    if isinstance(error, _AWAY):
        return Failure(SILENT, silent=True)
    unsupported = isinstance(error, foreign.IncompatibleBrokerVersion | foreign.UnsupportedVersionError)
    return Failure(str(error) or type(error).__name__, unsupported=unsupported)


def reason(code: int) -> str:
    """An error code of the protocol in words."""
    kind = foreign.for_code(code)
    text = getattr(kind, "message", "") or kind.__name__
    return f"{text.lower().replace('_', ' ')} (Kafka error {code})"


def required(answer: Any, doing: str) -> Any:
    """The answer; raises KafkaError for a Failure: without this one nothing can be measured."""
    if isinstance(answer, Failure):
        raise KafkaError(f"{doing}: broker {answer.why}", fix="check the brokers' logs for the same time")
    return answer
