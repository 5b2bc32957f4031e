"""A gateway in this process, over a Kafka client that is made up; requests are ASGI calls."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from confluent_kafka import KafkaError
from opentelemetry.sdk.trace.export import SpanExporter

from ingest.gateway.app import Gateway, build_app
from ingest.gateway.producer import EventProducer
from tidewatch.clock import ManualClock
from tidewatch.contracts import ApiKey, Limit
from tidewatch.errors import StoreUnavailable
from tidewatch.record import Envelope, decode_envelope
from tidewatch.settings import Gateway as GatewaySettings
from tidewatch.settings import Settings, Telemetry
from tidewatch.spec import Spec, Specs, load_all
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.traces import Tracing

PIPELINES = Path(__file__).parents[2] / "pipelines"
SPECS = load_all(PIPELINES)
CLICK = {
    "event": "click",
    "occurred_at": "2026-01-31T12:00:00.123456+01:00",
    "item_id": 7,
    "position": 3,
    "campaign": "men",
    "user_id": "u-1",
    "propensity": 0.25,
}
APP_EVENT = {"event": "open", "occurred_at": "2026-01-31T12:00:00Z", "user_id": "u-1", "app": "shop"}
ORDER = {
    "invoice_no": "536365",
    "ordered_at": "2026-01-31T12:00:00Z",
    "customer_id": "17850",
    "country": "United Kingdom",
    "total": "139.12",
    "units": 40,
    "lines": 7,
}


@dataclass
class Record:
    topic: str
    value: bytes
    key: bytes | None
    headers: list[tuple[str, bytes]]

    @property
    def envelope(self) -> Envelope:
        return decode_envelope(dict(self.headers)["tw"])


class FakeMessage:
    def __init__(self, value: bytes) -> None:
        self._value = value

    def value(self) -> bytes:
        return self._value


@dataclass
class FakeKafka:
    """confluent-kafka's Producer as far as the gateway uses it. `fails` gives the error of a record, if it has one."""

    config: dict[str, Any]
    fails: Callable[[Record], KafkaError | None] = lambda _: None
    silent: bool = False
    """Reports nothing, like a broker that does not answer."""
    room: int = 1_000_000
    records: list[Record] = field(default_factory=list)
    pending: list[tuple[Record, Any]] = field(default_factory=list)

    def produce(
        self, topic: str, value: bytes, key: bytes | None, _p: int, report: Any, _c: None, _t: int, headers: Any
    ) -> None:
        if len(self.pending) >= self.room:
            raise BufferError("queue full")
        self.pending.append((Record(topic, value, key, list(headers)), report))

    def poll(self, _: float) -> int:
        if self.silent:
            return 0
        reported, self.pending = self.pending, []
        for record, report in reported:
            error = self.fails(record)
            if error is None:
                self.records.append(record)
            report(error, FakeMessage(record.value))
        return len(reported)

    def purge(self) -> None:
        purged, self.pending = self.pending, []
        for record, report in purged:
            report(KafkaError(KafkaError._PURGE_QUEUE), FakeMessage(record.value))

    def __len__(self) -> int:
        return len(self.pending)

    def of(self, topic: str) -> list[Record]:
        return [record for record in self.records if record.topic == topic]


class Keys:
    """`key` is for all pipelines of project shop; `clicks-key` and `limited-key` are for what they are called."""

    def __init__(self, limits: tuple[Limit, ...] = ()) -> None:
        self._keys = {
            "key": ApiKey("1", "shop"),
            "clicks-key": ApiKey("2", "other", frozenset(["clicks"])),
            "limited-key": ApiKey("3", "limited", None, limits),
        }

    def find(self, key: str) -> ApiKey | None:
        return self._keys.get(key)


@dataclass
class FakeOutbox:
    away: bool = False
    rows: dict[str, tuple[str, bytes, bytes, bytes | None]] = field(default_factory=dict)

    async def accept(  # noqa: PLR0917 — as the contract has it
        self, spec: Spec, project: str, event_id: str, raw: bytes, tw: bytes, key: bytes | None
    ) -> None:
        if self.away:
            raise StoreUnavailable("the store did not answer", fix="start it")
        self.rows[event_id] = (project, raw, tw, key)


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class World:
    def __init__(
        self,
        *,
        specs: Specs = SPECS,
        limits: Sequence[Limit] = (),
        sample_ratio: float = 0.0,
        exporter: SpanExporter | None = None,
        **settings: Any,
    ) -> None:
        telemetry = Telemetry(sample_ratio=sample_ratio)
        self.settings = Settings(gateway=GatewaySettings(**settings), telemetry=telemetry)
        self.clock = ManualClock(datetime(2026, 2, 1, tzinfo=UTC))
        self.registry = Registry("gateway")
        self.clients: list[FakeKafka] = []
        self.outbox = FakeOutbox()
        self.tracing = Tracing("gateway", telemetry, exporter)
        producer = EventProducer(self.settings, self.registry, self._make)
        self.app: Gateway = build_app(
            self.settings,
            specs,
            registry=self.registry,
            keys=Keys(tuple(limits)),
            producer=producer,
            tracing=self.tracing,
            outbox=self.outbox,
            clock=self.clock,
        )
        self._runner = asyncio.Runner()

    def _make(self, config: dict[str, Any]) -> Any:
        self.clients.append(FakeKafka(config))
        return self.clients[-1]

    @property
    def kafka(self) -> FakeKafka:
        """The client in use."""
        return self.clients[-1]

    def __enter__(self) -> Self:
        assert self.run(self.app.services.producer.start(5))
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.app.services.producer.close(0))
        self.tracing.close()
        self._runner.close()

    def run(self, work: Any) -> Any:
        return self._runner.run(work)

    def post(self, path: str, body: Any, *, key: str | None = "key", chunks: int = 1, **headers: str) -> Answer:
        """`body` is bytes, or is encoded as JSON; header names are given with underscores."""
        return self.run(self.request("POST", path, body, key=key, chunks=chunks, **headers))

    def get(self, path: str) -> Answer:
        return self.run(self.request("GET", path, b"", key=None))

    async def request(
        self, method: str, path: str, body: Any, *, key: str | None = "key", chunks: int = 1, **headers: str
    ) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(n.encode(), v.encode("latin-1")) for n, v in given.items()],
            "client": ("192.0.2.1", 4242),
            "server": ("127.0.0.1", 80),
        }
        size = -(-len(data) // chunks) or 1
        parts = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
        messages: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not parts:
                return {"type": "http.disconnect"}
            part = parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(parts)}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start = next(m for m in messages if m["type"] == "http.response.start")
        answered = b"".join(m.get("body", b"") for m in messages if m["type"] == "http.response.body")
        return Answer(start["status"], {n.decode(): v.decode() for n, v in start["headers"]}, answered)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.prometheus.get_sample_value(name, labels) or 0.0
