"""Streams that a seed decides, for machines without the real data.

Sizes, rates and shapes follow the real ones: three campaigns of impressions clicked by one in two hundred, orders with
a long tail of totals, two in a hundred of them credit notes and a quarter anonymous, edits by few busy and many rare
users on channels of very different size, a share of events with a country, and strings that break naive code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial
from itertools import accumulate

from devstack.demo.events import Event, Stream, spread, timestamp

_CAMPAIGNS = ("bts_men", "bts_women", "random_men")
_COUNTRIES = (
    ("United Kingdom", 91),
    ("Germany", 2),
    ("France", 2),
    ("EIRE", 1),
    ("Spain", 1),
    ("Netherlands", 1),
    ("Japan", 1),
)
_CHANNELS = tuple(
    (f"#{language}.wikipedia", 1000 // rank)
    for rank, language in enumerate(("en", "vi", "de", "fr", "ru", "it", "es", "zh", "ja", "pl"), 1)
)
_NAUGHTY = (
    "",
    "null",
    "true",
    "1e400",
    "\u0000",
    "\u202e",
    "Ω≈ç√∫",
    "田中さん",
    "👩‍👩‍👧",
    "'; DROP TABLE raw_app_events; --",
    "${jndi:ldap://x}",
    "\\",
    '"',
    "\t\n",
    "ﷺ" * 50,
)


def streams(seed: int, now: datetime) -> list[Stream]:
    found = [
        Stream("clicks", "shop", "/api/v1/clicks/", 500, partial(_clicks, seed, campaign, now))
        for campaign in _CAMPAIGNS
    ]
    found.append(Stream("orders", "shop", "/api/v1/orders/", 1, partial(_orders, seed, now)))
    found.append(Stream("app_events", "wiki", "/v1/events/batch", 250, partial(_edits, seed, now)))
    found.append(Stream("app_events", "naughty", "/v1/events/batch", 250, partial(_naughty, now)))
    return found


def broken_bodies() -> Iterator[bytes]:
    yield b'{\n  "event": "a"\n  "app": "b"\n}'
    yield b"{All: true, Salesforce: false,}"
    yield b'{"userId": "123" || "anonymousId": "768", "properties":}'


def _clicks(seed: int, campaign: str, now: datetime) -> Iterator[Event]:
    chance = random.Random(f"{seed}/{campaign}")  # noqa: S311 — a seeded demonstration, not a secret
    for time in spread(now, timedelta(days=7), 10_000):
        event: Event = {
            "event": "impression",
            "occurred_at": timestamp(time),
            "item_id": chance.randrange(46),
            "position": chance.randint(1, 3),
            "campaign": campaign,
            "user_id": f"{chance.getrandbits(128):032x}",
            "propensity": round(chance.uniform(0.001, 0.1), 6),
        }
        yield event
        if chance.random() < 0.005:
            yield event | {"event": "click"}


def _orders(seed: int, now: datetime) -> Iterator[Event]:
    chance = random.Random(f"{seed}/orders")  # noqa: S311
    names, weights = zip(*_COUNTRIES, strict=True)
    for number, time in enumerate(spread(now, timedelta(days=200), 12_800), 536_365):
        credit = chance.random() < 0.02
        skus = [
            f"{chance.randrange(20_000, 25_000)}{chance.choice(['', '', 'A', 'B'])}"
            for _ in range(min(500, int(chance.lognormvariate(2.5, 1)) + 1))
        ]
        total = chance.lognormvariate(5.6, 1) * (-0.2 if credit else 1)
        order: Event = {
            "invoice_no": f"{'C' if credit else ''}{number}",
            "ordered_at": timestamp(time),
            "country": chance.choices(names, weights)[0],
            "total": f"{total:.2f}",
            "units": round(total / 2),
            "lines": len(skus),
            "skus": skus,
        }
        if chance.random() < 0.75:
            order["customer_id"] = str(chance.randrange(12_346, 18_288))
        yield order


def _edits(seed: int, now: datetime) -> Iterator[Event]:
    chance = random.Random(f"{seed}/edits")  # noqa: S311
    channels, weights = zip(*_CHANNELS, strict=True)
    # Zipf over users: the busiest makes a tenth of the edits.
    users = list(accumulate(1 / rank for rank in range(1, 8000)))
    for time in spread(now, timedelta(days=1), 39_000):
        robot = chance.random() < 0.4
        delta = round(chance.gauss(0, 1) * 10 ** chance.uniform(0, 4))
        event: Event = {
            "event": "edit",
            "occurred_at": timestamp(time),
            "user_id": f"user-{chance.choices(range(len(users)), cum_weights=users)[0]}",
            "app": chance.choices(channels, weights)[0],
            "properties": {
                "page": f"Page {chance.randrange(30_000)}",
                "isRobot": robot,
                "delta": delta,
                "namespace": "Main",
            },
        }
        if chance.random() < 0.1:
            event["country"] = chance.choice(["US", "VN", "DE", "FR", "RU"])
        yield event


def _naughty(now: datetime) -> Iterator[Event]:
    for text in _NAUGHTY:
        yield {
            "event": "naughty",
            "occurred_at": timestamp(now),
            "app": "dirty",
            "user_id": text,
            "properties": {"text": text},
        }
