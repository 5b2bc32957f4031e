"""What each part of taking an event costs, in microseconds of CPU, without sockets and with a Kafka that acknowledges
at once: framework, tracing, validation, ids, keys. docs/gateway-costs.md discusses the figures.

    python -m bench.gateway_costs [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop
from fastapi import FastAPI, Request, Response
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from bench._report import median, report
from bench.gateway import PIPELINES, event
from ingest.gateway import keys
from ingest.gateway.app import build_app
from ingest.gateway.ids import EventIds
from ingest.gateway.producer import EventProducer
from ingest.gateway.validation import Validator
from tidewatch.settings import Gateway, Settings, Telemetry
from tidewatch.spec import load_all
from tidewatch.spec.reader import Specs
from tidewatch.telemetry.metrics import Registry
from tidewatch.telemetry.traces import Tracing

SINGLE = json.dumps(event(7), separators=(",", ":")).encode()
BATCH = json.dumps([event(n) for n in range(500)], separators=(",", ":")).encode()
PATH = "/api/v1/clicks/"
Step = Callable[[], None]


class Instant:
    """Acknowledges whatever it was given when it is polled."""

    def __init__(self, _: Any) -> None:
        self._reports: list[Any] = []

    def produce(self, _topic: str, _value: bytes, _key: Any, _p: int, report: Any, *_: Any) -> None:
        self._reports.append(report)

    def poll(self, _: float) -> int:
        reports, self._reports = self._reports, []
        for acknowledge in reports:
            acknowledge(None, None)
        return len(reports)

    def purge(self) -> None:
        self._reports.clear()

    def __len__(self) -> int:
        return len(self._reports)


class Bench:
    def __init__(self, runner: asyncio.Runner, directory: Path, rounds: int) -> None:
        self._runner, self._rounds = runner, rounds
        self._key, _ = keys.create(directory / "keys.yaml", "bench")
        self._directory = directory
        self.figures: dict[str, float] = {}

    def calls(self, name: str, step: Callable[[], Any], count: int) -> None:
        """CPU of a plain call."""
        taken = []
        for _ in range(self._rounds):
            started = time.process_time()
            for _ in range(count):
                step()
            taken.append((time.process_time() - started) / count * 1e6)
        self._note(name, taken)

    def requests(self, name: str, app: Any, body: bytes, count: int, acknowledge: Step = lambda: None) -> None:
        """CPU of a request through an ASGI application, fifty at a time."""
        taken = [self._runner.run(self._drive(app, body, count, acknowledge)) for _ in range(self._rounds)]
        self._note(name, taken)

    def _note(self, name: str, taken: list[float]) -> None:
        self.figures[name] = round(median(taken), 2)
        print(f"{name:44} {self.figures[name]:10.2f} µs", flush=True)

    async def _drive(self, app: Any, body: bytes, count: int, acknowledge: Step) -> float:
        headers = [
            (b"host", b"127.0.0.1"),
            (b"authorization", b"Bearer " + self._key.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(_: Any) -> None:
            return

        def scope() -> dict[str, Any]:
            return {
                "type": "http",
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": PATH,
                "raw_path": PATH.encode(),
                "query_string": b"",
                "root_path": "",
                "headers": headers,
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 80),
            }

        started = time.process_time()
        for _ in range(count // 50):
            tasks = [asyncio.ensure_future(app(scope(), receive, send)) for _ in range(50)]
            await asyncio.sleep(0)
            acknowledge()
            await asyncio.gather(*tasks)
        return (time.process_time() - started) / count * 1e6

    def gateway(self, specs: Specs, ratio: float) -> tuple[Any, Step]:
        settings = Settings(
            gateway=Gateway(keys_file=self._directory / "keys.yaml"), telemetry=Telemetry(sample_ratio=ratio)
        )
        registry = Registry("bench")
        client = Instant(None)
        producer = EventProducer(settings, registry, lambda _: client)  # type: ignore[arg-type,return-value]
        app = build_app(
            settings, specs, registry=registry, producer=producer, tracing=Tracing("bench", settings.telemetry)
        )
        self._runner.run(producer.start(5))
        return app, lambda: client.poll(0) and None


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """A body read and an answer sent."""
    await receive()
    await send({"type": "http.response.start", "status": 202, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"event_id":"0192f3a4-b5c6-7abc-8def-0123456789ab"}'})


def framework(ratio: float | None) -> FastAPI:
    """The same in a FastAPI route, instrumented when there is a sampling ratio."""
    app = FastAPI()

    @app.post(PATH)
    async def take(request: Request) -> Response:
        await request.body()
        return Response(b'{"event_id":"0192f3a4-b5c6-7abc-8def-0123456789ab"}', 202, media_type="application/json")

    if ratio is not None:
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(ratio)), shutdown_on_exit=False)
        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    return app


def measure(bench: Bench) -> None:
    everything = load_all(PIPELINES)
    specs = Specs({name: everything[name] for name in ("clicks", "accounting")})
    bench.requests("framework: bare ASGI", bare, SINGLE, 20_000)
    bench.requests("framework: FastAPI route", framework(None), SINGLE, 5_000)
    bench.requests("tracing: FastAPI + OTel, 1 % sampled", framework(0.01), SINGLE, 2_000)
    bench.requests("tracing: FastAPI + OTel, all sampled", framework(1.0), SINGLE, 2_000)
    for ratio, name in ((0.01, "1 % sampled"), (1.0, "all sampled")):
        app, acknowledge = bench.gateway(specs, ratio)
        bench.requests(f"gateway: single event, {name}", app, SINGLE, 10_000, acknowledge)
        if ratio < 1:
            bench.requests("gateway: batch of 500", app, BATCH, 200, acknowledge)
    tracing = Tracing("bench", Telemetry())
    bench.calls("tracing: decision and context alone", lambda: str(tracing.start(None)), 50_000)
    validator = Validator(specs["clicks"])
    bench.calls("validation: single event", lambda: validator.single(SINGLE), 20_000)
    bench.calls("validation: single event, exact rules", lambda: validator._exactly(SINGLE), 10_000)  # noqa: SLF001
    cut = msgspec.json.Decoder(list[msgspec.Raw]).decode
    bench.calls("validation: cutting a batch of 500", lambda: [bytes(raw) for raw in cut(BATCH)], 500)
    bench.calls("validation: batch of 500", lambda: validator.batch(BATCH), 200)
    one_bad = BATCH.replace(b'"position":1', b'"position":0', 1)
    bench.calls("validation: batch of 500, one bad", lambda: validator.batch(one_bad), 100)
    bench.calls("validation: batch of 500, all bad", lambda: validator.batch(BATCH.replace(b'"item_id":', b'"x":')), 20)
    unknown = BATCH.replace(b'"campaign"', b'"more":1,"campaign"')
    bench.calls("validation: batch of 500, unknown fields", lambda: validator.batch(unknown), 100)
    ids = EventIds()
    bench.calls("ids: uuid4 as text", lambda: str(uuid.uuid4()), 50_000)
    bench.calls("ids: one UUIDv7", ids.one, 50_000)
    bench.calls("ids: 500 UUIDv7", lambda: ids.batch(500), 5_000)
    found = keys.FileApiKeys(bench._directory / "keys.yaml")  # noqa: SLF001
    bench.calls("keys: look-up by SHA-256", lambda: found.find(bench._key), 50_000)  # noqa: SLF001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with (
        tempfile.TemporaryDirectory(prefix="bench-costs-") as name,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        bench = Bench(runner, Path(name), rounds)
        gc.collect()
        gc.freeze()
        measure(bench)
        report("gateway_costs", {"microseconds": bench.figures, "rounds": rounds})


if __name__ == "__main__":
    main()
