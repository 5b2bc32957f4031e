"""Requests that no gateway should take, and that none may fail on."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import httpx

from devstack.demo.journal import Journal
from tidewatch.errors import TidewatchError

_CLICK = b'{"event":"click","occurred_at":"2026-01-01T00:00:00Z","item_id":1,"position":1,"campaign":"c"}'


class Request(NamedTuple):
    name: str
    body: bytes
    headers: dict[str, str]


def requests(broken: Iterable[bytes]) -> Iterator[Request]:
    """`broken` are bodies that were meant to be JSON."""
    for index, body in enumerate(broken):
        yield Request(f"broken example {index}", body, {})
    yield Request("truncated", _CLICK[:-9], {})
    yield Request("not UTF-8", _CLICK.replace(b'"c"', b'"\xff\xfe"'), {})
    yield Request("NaN", _CLICK.replace(b'"item_id":1', b'"item_id":NaN'), {})
    yield Request("a lone surrogate", _CLICK.replace(b'"c"', b'"\\ud800"'), {})
    yield Request("1,000 levels deep", b"[" * 1000 + b"]" * 1000, {})
    yield Request("beyond 64 bits", _CLICK.replace(b'"item_id":1', b'"item_id":' + b"9" * 30), {})
    yield Request("an empty batch", b"[]", {})
    yield Request("nothing at all", b"", {})
    yield Request("a number", b"17", {})
    yield Request("two megabytes", b'{"event":"' + b"x" * 2_000_000 + b'"}', {})
    yield Request("XML", b"<click/>", {"Content-Type": "application/xml"})
    yield Request("no gzip", _CLICK, {"Content-Encoding": "gzip"})
    yield Request("a gzip bomb", gzip.compress(b" " * 50_000_000), {"Content-Encoding": "gzip"})
    yield Request("a wrong key", _CLICK, {"Authorization": "Bearer tw_shop_0000000000000000"})


async def send(client: httpx.AsyncClient, path: str, key: str, broken: Iterable[bytes], journal: Journal) -> int:
    """Send each; raise TidewatchError when one is accepted or makes the gateway fail. Returns how many were sent."""
    count = 0
    for request in requests(broken):
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"} | request.headers
        response = await client.post(path, content=request.body, headers=headers)
        count += 1
        if response.status_code < 400 or response.status_code >= 500:
            raise TidewatchError(
                f"{request.name} was answered {response.status_code}",
                where=path,
                fix="the gateway should refuse it; see its log",
            )
        problem = response.json()
        # A well-formed request whose only event is invalid is refused with a reason for that event.
        reason = problem["results"][0]["reason"] if "results" in problem else problem.get("reason", problem["title"])
        journal.refused_requests[response.status_code, reason] += 1
    return count
