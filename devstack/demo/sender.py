"""Send streams over HTTP as a client would, and write down every answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import httpx

from devstack.demo.events import Event, Stream
from devstack.demo.journal import Journal
from tidewatch.errors import TidewatchError

_PATIENCE_SECONDS = 60.0
Progress = Callable[[str, int], None]


class Sender:
    """`keys` holds an API key a project; `progress` is told (stream, events answered)."""

    def __init__(
        self, client: httpx.AsyncClient, keys: Mapping[str, str], journal: Journal, progress: Progress
    ) -> None:
        self._client = client
        self._keys = keys
        self._journal = journal
        self._progress = progress

    async def send(self, stream: Stream, *, concurrency: int = 8) -> None:
        """Requests leave in the order of the events, `concurrency` of them under way at once."""
        requests = _requests(stream)
        # Workers share the iterator: whoever is free takes the next request.
        await asyncio.gather(*(self._work(stream, requests) for _ in range(concurrency)))

    async def _work(self, stream: Stream, requests: Iterator[list[Event]]) -> None:
        for events in requests:
            await self._post(stream, events)
            self._progress(f"{stream.pipeline}/{stream.project}", len(events))

    async def _post(self, stream: Stream, events: list[Event]) -> None:
        """A batch may be answered in part: what was not taken is sent again, and nothing else."""
        self._journal.sent[stream.pipeline] += len(events)
        left = events
        while left:
            body = json.dumps(left[0] if stream.batch == 1 else left, ensure_ascii=False)
            response = await self._patiently(
                stream.path, body.encode("utf-8", "surrogatepass"), self._keys[stream.project]
            )
            results = _results(stream, response, response.json())
            for result in results:
                if result["status"] != "unavailable":
                    self._note(stream.pipeline, result)
            again = [event for event, result in zip(left, results, strict=True) if result["status"] == "unavailable"]
            if again and len(again) == len(left):
                raise TidewatchError(
                    "Kafka stayed away for a minute", where=stream.path, fix="see `tidewatch dev logs kafka-0`"
                )
            left = again

    async def _patiently(self, path: str, body: bytes, key: str) -> httpx.Response:
        """Wait as long as a 429 or 503 asks for, within a minute. A 503 that took a part is an answer."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        deadline = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while True:
            response = await self._client.post(path, content=body, headers=headers)
            wait = float(response.headers.get("Retry-After", "1"))
            taken = response.status_code == 503 and any(
                result["status"] != "unavailable" for result in response.json().get("results", ())
            )
            late = asyncio.get_running_loop().time() + wait > deadline
            if response.status_code not in (429, 503) or taken or late:
                return response
            self._journal.retried += 1
            await asyncio.sleep(wait)

    def _note(self, pipeline: str, result: Mapping[str, Any]) -> None:
        match result["status"]:
            case "accepted":
                self._journal.accept(pipeline, result["event_id"])
            case "dead_lettered":
                self._journal.dead_letter(pipeline, result["event_id"])
            case "rejected":
                self._journal.reject(pipeline, result.get("field", ""), result["reason"])
            case other:
                raise TidewatchError(
                    f"the gateway answered {other!r} for an event", fix="see its log: `tidewatch dev logs gateway`"
                )


def _requests(stream: Stream) -> Iterator[list[Event]]:
    events = stream.events()
    while batch := list(islice(events, stream.batch)):
        yield batch


def _results(stream: Stream, response: httpx.Response, answer: Any) -> list[Mapping[str, Any]]:
    """One result an event, whichever form the answer has."""
    if "results" in answer:
        results: list[Mapping[str, Any]] = answer["results"]
        return results
    if response.status_code == 202:
        event_id = next(answer[name] for name in ("event_id", "order_id") if name in answer)
        return [{"status": answer.get("status", "accepted"), "event_id": event_id}]
    if stream.batch == 1 and "reason" in answer:
        return [{"status": "rejected", "field": answer.get("field", ""), "reason": answer["reason"]}]
    raise TidewatchError(
        f"the gateway answered {response.status_code} {answer.get('title', '')}",
        where=stream.path,
        fix=str(answer.get("detail", answer)),
    )
