"""The demonstration from start to proof."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from devstack.demo import foreign, generated, malformed, real
from devstack.demo.events import Stream, timestamp
from devstack.demo.journal import Journal
from devstack.demo.probe import Probe
from devstack.demo.progress import Progress
from devstack.demo.sender import Sender
from devstack.demo.verify import Kept, verify, wait_until_loaded
from devstack.stack import Stack
from ingest.gateway import keys
from ingest.ledger.check import check
from ingest.ledger.report import Report, Verdict
from ingest.ledger.sources import Sources
from ingest.ledger.window import Window
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import SystemClock
from tidewatch.settings import Kafka, Settings, load_settings
from tidewatch.spec import Spec, load_all

_LOAD_SECONDS = 90.0
_PROBE_PROJECT = "probe"
# Bounded, so that the probes measure the pipeline and not a queue in front of it.
_CONCURRENCY = {"orders": 32}
_LETTERS = """
SELECT pipeline, stage, error, field, count() AS n
FROM dead_letters GROUP BY ALL ORDER BY n DESC, pipeline, error, field
"""


@dataclass
class Outcome:
    """Everything that the summary tells."""

    journal: Journal
    foreign: Mapping[str, foreign.Written]
    probe: Probe
    malformed: int
    sending_seconds: float
    loaded_in_time: bool
    verdict: Kept
    ledger: Report
    letters: list[tuple[Any, ...]]
    """(pipeline, stage, error, field, letters)"""

    @property
    def proved(self) -> bool:
        return self.loaded_in_time and self.verdict.all and self.ledger.verdict is Verdict.BALANCED and not self.pending

    @property
    def pending(self) -> int:
        return sum(pipeline.terms.pending + pipeline.terms.letters_pending for pipeline in self.ledger.pipelines)


@dataclass
class Demo:
    """`data` is the directory of real events; without it `seed` decides what is sent."""

    stack: Stack
    data: Path | None
    seed: int
    progress: Progress

    def run(self) -> Outcome:
        now = SystemClock().now()
        settings = load_settings(self.stack.environment)
        specs = {name: spec for name, spec in load_all(settings.pipelines).items() if spec.source.kind != "internal"}
        with Journal(self.stack.directory / "journal.jsonl") as journal, ClickHouse(settings.clickhouse) as clickhouse:
            return asyncio.run(self._run(now, settings, specs, journal, clickhouse))

    async def _run(
        self, now: datetime, settings: Settings, specs: Mapping[str, Spec], journal: Journal, clickhouse: ClickHouse
    ) -> Outcome:
        streams = real.streams(self.data, now) if self.data else generated.streams(self.seed, now)
        broken = list(real.broken_bodies(self.data) if self.data else generated.broken_bodies())
        secrets = _create_keys(settings.gateway.keys_file, [*(stream.project for stream in streams), _PROBE_PROJECT])
        async with httpx.AsyncClient(base_url=self.stack.gateway_url, timeout=30) as client:
            await _until_known(client, secrets[_PROBE_PROJECT])
            sender = Sender(client, secrets, journal, self.progress.advance)
            probe = Probe(client, clickhouse, secrets[_PROBE_PROJECT], journal)
            done = asyncio.Event()
            probing = asyncio.create_task(probe.run(done))
            started = time.monotonic()
            await asyncio.gather(*(self._send(sender, stream) for stream in streams))
            seconds = time.monotonic() - started
            refused = await malformed.send(client, specs["clicks"].source.path or "", secrets["shop"], broken, journal)
            written = await asyncio.to_thread(self._write_foreign, settings.kafka, specs, now)
            done.set()
            await probing
        found = partial(
            Outcome, journal=journal, foreign=written, probe=probe, malformed=refused, sending_seconds=seconds
        )
        return await asyncio.to_thread(self._prove, settings, specs, clickhouse, found)

    async def _send(self, sender: Sender, stream: Stream) -> None:
        await sender.send(stream, concurrency=_CONCURRENCY.get(stream.pipeline, 2))

    def _write_foreign(self, kafka: Kafka, specs: Mapping[str, Spec], now: datetime) -> dict[str, foreign.Written]:
        self.progress.say("a foreign producer writes straight into Kafka, some of it broken")
        return {"clicks": foreign.write(kafka, specs["clicks"].topic.name, timestamp(now))}

    def _prove(
        self, settings: Settings, specs: Mapping[str, Spec], clickhouse: ClickHouse, found: partial[Outcome]
    ) -> Outcome:
        """`found` is what the sending told so far."""
        journal: Journal = found.keywords["journal"]
        written: Mapping[str, foreign.Written] = found.keywords["foreign"]
        self.progress.say("waiting until everything accepted is in ClickHouse")
        records = sum(len(places.good) + len(places.bad) for places in written.values())
        loaded = wait_until_loaded(clickhouse, specs, journal, records, seconds=_LOAD_SECONDS)
        self.progress.say("comparing the log, the warehouse and the sender's journal")
        return found(
            loaded_in_time=loaded,
            verdict=verify(clickhouse, specs, journal, written),
            ledger=_ledger(settings, specs),
            letters=clickhouse.query(_LETTERS),
        )


def _ledger(settings: Settings, specs: Mapping[str, Spec]) -> Report:
    with Sources.open(settings) as sources:
        return check(Window(None, None), specs.values(), sources, SystemClock().now())


def _create_keys(path: Path, projects: list[str]) -> dict[str, str]:
    return {project: keys.create(path, project, note="demo")[0] for project in dict.fromkeys(projects)}


async def _until_known(client: httpx.AsyncClient, key: str) -> None:
    """The gateway notices new keys by itself, a moment later."""
    for _ in range(100):
        response = await client.post("/v1/events", content=b"x", headers={"Authorization": f"Bearer {key}"})
        if response.status_code != 401:
            return
        await asyncio.sleep(0.1)
