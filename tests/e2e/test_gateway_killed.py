"""The gateway is killed under load: everything that it answered 202 is in Kafka, once by event id."""

from __future__ import annotations

import asyncio
import random
import sys
from collections import Counter
from pathlib import Path

import httpx

from devstack.kafka import KafkaCluster
from tidewatch.record import decode_envelope

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from gateway_process import GatewayProcess

CLICK = {"event": "click", "occurred_at": "2026-01-31T12:00:00Z", "item_id": 7, "position": 3, "campaign": "men"}
KILLS = 5


class Sender:
    """Sends batches and single events, and writes down the ids of those that were answered 202."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self.answered: list[str] = []
        self.offered = 0
        self.over = asyncio.Event()

    async def run(self, batch: int) -> None:
        async with httpx.AsyncClient(base_url=self._gateway.url, headers=self._gateway.headers, timeout=30) as client:
            while not self.over.is_set():
                self.offered += batch
                try:
                    body = CLICK if batch == 1 else [CLICK] * batch
                    answer = await client.post(self._gateway.path("clicks"), json=body)
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
                    continue
                assert answer.status_code in {202, 503}, answer.text
                if answer.status_code == 202:
                    found = answer.json()
                    results = found.get("results", [found])
                    self.answered += [result["event_id"] for result in results]


async def _load_and_kill(gateway: GatewayProcess, luck: random.Random) -> Sender:
    sender = Sender(gateway)
    tasks = [asyncio.create_task(sender.run(batch)) for batch in (1, 1, 1, 50, 50, 200)]
    for _ in range(KILLS):
        await asyncio.sleep(luck.uniform(0.3, 1.0))
        gateway.child.kill()
        await asyncio.to_thread(gateway.start)
    await asyncio.sleep(0.5)
    sender.over.set()
    await asyncio.gather(*tasks)
    return sender


def test_what_was_answered_is_in_kafka_once(kafka: KafkaCluster, tmp_path: Path, fresh: str) -> None:
    gateway = GatewayProcess(tmp_path, kafka.bootstrap, fresh).make_topics()
    with gateway:
        sender = asyncio.run(_load_and_kill(gateway, random.Random(20260131)))
    found = Counter(decode_envelope(h["tw"]).event_id for _, h in gateway.records(gateway.specs["clicks"].topic.name))
    answered = set(sender.answered)
    assert len(answered) == len(sender.answered) > 1000
    assert answered <= found.keys(), f"{len(answered - found.keys())} answered events are lost"
    assert max(found.values()) == 1
    # What was sent and never answered may be there or not; nothing else is.
    assert len(found) <= sender.offered
