"""Accept → queryable, measured from outside: send an event, note the 202, ask ClickHouse until it is there."""

from __future__ import annotations

import asyncio
import time

import httpx

from devstack.demo.events import timestamp
from devstack.demo.journal import Journal
from tidewatch.clickhouse import ClickHouse
from tidewatch.clock import SystemClock

_EVERY_SECONDS = 0.4
_POLL_SECONDS = 0.02


class Probe:
    """`seconds` are the delays found so far."""

    def __init__(self, client: httpx.AsyncClient, clickhouse: ClickHouse, key: str, journal: Journal) -> None:
        self._client = client
        self._clickhouse = clickhouse
        self._key = key
        self._journal = journal
        self.seconds: list[float] = []

    async def run(self, until: asyncio.Event) -> None:
        while not until.is_set():
            await self.once()
            await asyncio.sleep(_EVERY_SECONDS)

    async def once(self) -> None:
        event = {
            "event": "probe",
            "occurred_at": timestamp(SystemClock().now()),
            "app": "tidewatch",
            "user_id": "probe",
        }
        self._journal.sent["app_events"] += 1
        response = await self._client.post("/v1/events", json=event, headers={"Authorization": f"Bearer {self._key}"})
        accepted = time.monotonic()
        event_id = response.raise_for_status().json()["event_id"]
        self._journal.accept("app_events", event_id)
        query = "SELECT count() FROM raw_app_events WHERE _project = 'probe' AND _event_id = {id:String}"
        await asyncio.to_thread(self._wait_for, query, event_id)
        self.seconds.append(time.monotonic() - accepted)

    def _wait_for(self, query: str, event_id: str) -> None:
        while not self._clickhouse.scalar(query, {"id": event_id}):
            time.sleep(_POLL_SECONDS)

    def quantile(self, share: float) -> float:
        """Nearest rank; NaN before the first measurement."""
        if not self.seconds:
            return float("nan")
        return sorted(self.seconds)[min(len(self.seconds) - 1, int(share * len(self.seconds)))]
