"""Whether a service is ready, asked at an address: `http://…/readyz`, or `tcp://host:port` where accepting is all."""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from devstack.ports import LOOPBACK, answers

ASK_SECONDS = 2.0


def ready(address: str) -> bool:
    where = urlsplit(address)
    if where.scheme == "tcp":
        return answers(where.port or 0, where.hostname or LOOPBACK)
    try:
        return httpx.get(address, timeout=ASK_SECONDS).is_success
    except httpx.TransportError:
        return False
