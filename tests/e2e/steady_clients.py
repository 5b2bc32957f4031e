"""Clients that send all the time, write down what they were answered, and repeat what they were told to repeat."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

from devstack.stack import Stack

Event = dict[str, Any]

BATCH = 20
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 180.0
_numbers = itertools.count(1)


class Journal:
    """What the gateway promised, by pipeline. Written from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.answered: dict[str, list[str]] = {"clicks": [], "orders": []}
        """Event ids that were answered as accepted."""
        self.offered: Counter[str] = Counter()
        """Events sent, each repetition counted."""
        self.refused: Counter[str] = Counter()
        """Requests answered 503."""

    def note(self, pipeline: str, offered: int, promised: list[str], status: int) -> None:
        with self._lock:
            self.offered[pipeline] += offered
            self.answered[pipeline] += promised
            self.refused[pipeline] += status == 503

    def promised(self) -> Counter[str]:
        with self._lock:
            return Counter({pipeline: len(ids) for pipeline, ids in self.answered.items()})


class SteadyClients:
    """Two clients of clicks and one of orders, from the start on until `stop`."""

    def __init__(self, stack: Stack) -> None:
        self.journal = Journal()
        self._url, self._key = stack.gateway_url, stack.api_key
        self._over = threading.Event()
        self._failures: list[Exception] = []
        work = [self._clicks, self._clicks, self._orders]
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    def wait_for_more(self, *, clicks: int, orders: int) -> None:
        """Until so many more were promised from now on."""
        wanted = self.journal.promised() + Counter(clicks=clicks, orders=orders)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.journal.promised() >= wanted:
            self._raise_failure()
            assert time.monotonic() < deadline, (wanted, self.journal.promised(), self.journal.refused)
            time.sleep(0.05)

    def stop(self) -> Journal:
        """What was begun is brought to an end first; a client that failed fails here."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        self._raise_failure()
        assert not any(thread.is_alive() for thread in self._threads)
        return self.journal

    def _raise_failure(self) -> None:
        if self._failures:
            raise self._failures[0]

    def _run(self, work: Callable[[httpx.Client], None]) -> None:
        try:
            with httpx.Client(base_url=self._url, headers={"X-Api-Key": self._key}, timeout=60) as client:
                while not self._over.is_set():
                    work(client)
                    time.sleep(PAUSE_SECONDS)
        except Exception as error:  # the test's own thread raises it again
            self._failures.append(error)

    def _clicks(self, client: httpx.Client) -> None:
        """A batch, and again those of it that were not acknowledged. Ids are the gateway's: to it, they are others."""
        waiting = [click(position) for position in range(1, BATCH + 1)]
        while waiting:
            response = client.post("/api/v1/clicks/", json=waiting)
            results = response.json().get("results") or [{"status": "unavailable"} for _ in waiting]
            ids = [result["event_id"] for result in results if result["status"] == "accepted"]
            self.journal.note("clicks", len(waiting), ids, response.status_code)
            waiting = [
                event for event, result in zip(waiting, results, strict=True) if result["status"] == "unavailable"
            ]
            assert (response.status_code, bool(waiting)) in {(202, False), (503, True)}, response.text
            _wait_as_told(response)

    def _orders(self, client: httpx.Client) -> None:
        """One order, repeated under the same id until it is taken."""
        mine = f"order-{next(_numbers)}"
        status = 503
        while status == 503:
            response = client.post("/api/v1/orders/", json=order(), headers={"Idempotency-Key": mine})
            status = response.status_code
            assert status in {202, 503}, response.text
            ids = [response.json()["order_id"]] if status == 202 else []
            assert ids in ([], [mine])
            self.journal.note("orders", 1, ids, status)
            _wait_as_told(response)


def _wait_as_told(response: httpx.Response) -> None:
    if response.status_code == 503:
        time.sleep(float(response.headers["Retry-After"]))


def click(position: int) -> Event:
    event = "click" if position % 7 == 0 else "impression"
    return {"event": event, "occurred_at": _now(), "item_id": 7, "position": position, "campaign": "men"}


def order() -> Event:
    return {
        "invoice_no": "invoice-of-a-test",
        "ordered_at": _now(),
        "country": "France",
        "total": "9.90",
        "units": 3,
        "lines": 1,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat()
