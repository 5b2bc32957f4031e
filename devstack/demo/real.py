"""Streams of real events from the directory that TIDEWATCH_DATA names; its README says whose they are.

Open Bandit impressions and clicks, UCI orders, Wikipedia edits, GitHub's timeline, the examples of the Segment spec,
naughty strings. Nothing of it is copied; times are moved so that the last event is now.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import groupby
from pathlib import Path

from devstack.demo.events import Event, Stream, shifted, timestamp
from tidewatch.errors import SettingsError

_NEEDED = ("clicks", "orders/uci_by_day", "app_events", "dirty/naughty_strings/blns.json")


def streams(data: Path, now: datetime) -> list[Stream]:
    """Raises SettingsError when `data` lacks a folder."""
    for part in _NEEDED:
        if not (data / part).exists():
            raise SettingsError(
                f"TIDEWATCH_DATA={data} has no {part}",
                fix="point it at the data directory, or unset it to use generated events",
            )
    found = [
        Stream("clicks", "shop", "/api/v1/clicks/", 500, partial(_clicks, path, now))
        for path in sorted((data / "clicks").glob("*.csv.gz"))
    ]
    found.append(Stream("orders", "shop", "/api/v1/orders/", 1, partial(_orders, data / "orders/uci_by_day", now)))
    for project, path, read in (
        ("wiki", data / "app_events/wikipedia_edits_2015-09-12.jsonl.gz", _edits),
        ("github", data / "app_events/gharchive_2021-07-21.jsonl.gz", _github),
        ("segment", data / "app_events/segment_spec_examples.jsonl", _segment),
        ("naughty", data / "dirty/naughty_strings/blns.json", _naughty),
    ):
        found.append(Stream("app_events", project, "/v1/events/batch", 250, partial(read, path, now)))
    return found


def broken_bodies(data: Path) -> Iterator[bytes]:
    """The examples of the Segment spec that are not strict JSON."""
    with (data / "app_events/segment_spec_examples.jsonl").open(encoding="utf-8") as file:
        for example in map(json.loads, file):
            if not example["valid_json"]:
                yield example["event"].encode()


def _clicks(path: Path, now: datetime) -> Iterator[Event]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    campaign = path.name.removesuffix(".csv.gz")
    # Open Bandit logs one row an impression, with click = 1 where it was clicked.
    events = (
        {
            "event": kind,
            "occurred_at": row["timestamp"],
            "item_id": int(row["item_id"]),
            "position": int(row["position"]),
            "campaign": campaign,
            "user_id": row["user_feature_0"],
            "propensity": float(row["propensity_score"]),
        }
        for row in rows
        for kind in (["impression", "click"] if row["click"] == "1" else ["impression"])
    )
    yield from shifted(events, "occurred_at", datetime.fromisoformat(rows[-1]["timestamp"]), now)


def _orders(folder: Path, now: datetime) -> Iterator[Event]:
    paths = sorted(folder.glob("*.csv.gz"))
    last = max(_ordered_at(row["InvoiceDate"]) for row in _rows(paths[-1]))
    events = (order for path in paths for order in _orders_of_a_day(path))
    yield from shifted(events, "ordered_at", last, now)


def _orders_of_a_day(path: Path) -> Iterator[Event]:
    for invoice, lines in groupby(_rows(path), key=lambda row: row["InvoiceNo"]):
        rows = list(lines)
        total = sum(Decimal(row["UnitPrice"]) * int(row["Quantity"]) for row in rows)
        order: Event = {
            "invoice_no": invoice,
            "ordered_at": timestamp(_ordered_at(rows[0]["InvoiceDate"])),
            "country": rows[0]["Country"],
            "total": str(Decimal(total).quantize(Decimal("0.01"))),
            "units": sum(int(row["Quantity"]) for row in rows),
            "lines": len(rows),
            "skus": [row["StockCode"] for row in rows],
        }
        if rows[0]["CustomerID"]:
            order["customer_id"] = rows[0]["CustomerID"].removesuffix(".0")
        yield order


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _ordered_at(text: str) -> datetime:
    # The set gives no zone; the shop was British.
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _edits(path: Path, now: datetime) -> Iterator[Event]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        edits = [json.loads(line) for line in file]
    events = (
        {
            "event": "edit",
            "occurred_at": edit.pop("time"),
            "user_id": edit.pop("user"),
            "app": edit.pop("channel"),
            **({"country": edit["countryIsoCode"]} if edit["countryIsoCode"] else {}),
            "properties": {name: value for name, value in edit.items() if value is not None},
        }
        for edit in edits
    )
    yield from shifted(events, "occurred_at", datetime.fromisoformat(edits[-1]["time"]), now)


def _github(path: Path, now: datetime) -> Iterator[Event]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        timeline = [json.loads(line) for line in file]
    events = (
        {
            "event": entry["type"],
            "occurred_at": entry["created_at"],
            "user_id": entry["actor"]["login"],
            "app": "github",
            "properties": {"repo": entry["repo"], "payload": entry["payload"]},
        }
        for entry in timeline
    )
    yield from shifted(events, "occurred_at", datetime.fromisoformat(timeline[-1]["created_at"]), now)


def _segment(path: Path, now: datetime) -> Iterator[Event]:
    with path.open(encoding="utf-8") as file:
        examples = [json.loads(line) for line in file]
    for event in (example["event"] for example in examples if example["valid_json"]):
        # Many examples of the spec show a fragment. A fragment has no user, and is sent as it is: it is invalid here.
        sent: Event = {
            "event": str(event.get("event") or event.get("type") or "fragment"),
            "occurred_at": timestamp(now),
            "app": "segment",
            "properties": event,
        }
        if user := event.get("userId") or event.get("anonymousId"):
            sent["user_id"] = user
        yield sent


def _naughty(path: Path, now: datetime) -> Iterator[Event]:
    strings: list[str] = json.loads(path.read_text(encoding="utf-8"))
    for string in strings:
        yield {
            "event": "naughty",
            "occurred_at": timestamp(now),
            "app": "dirty",
            "user_id": string,
            "properties": {"text": string},
        }
