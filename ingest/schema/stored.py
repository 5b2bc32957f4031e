"""A stored row as the event that it was, for comparing what came back with what was sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ingest.schema.columns import keeps_raw, keeps_unknown
from tidewatch.spec import Spec


def stored_event(spec: Spec, row: Mapping[str, Any]) -> dict[str, Any]:
    """The event's fields as Python values; absent ones are left out, and so are explicit nulls of known fields.

    `row` has every column of the raw table. Times come as aware datetimes, decimals as Decimal, UUIDs as UUID;
    `json` fields and unknown keys come from their exact text.
    """
    event: dict[str, Any] = {}
    exact: dict[str, Any] = json.loads(row["_raw"]) if keeps_raw(spec) and row["_raw"] else {}
    for field in spec.schema_.fields:
        name = field.name
        if field.type == "json":
            if row[f"_json_{name}"]:
                event[name] = exact[name] if exact else json.loads(row[f"_json_{name}"])
        elif field.kind.item:
            if field.required or row[f"_has_{name}"]:
                event[name] = list(row[name])
        elif row[name] is not None:
            event[name] = row[name]
    if keeps_unknown(spec):
        event |= {key: exact[key] if exact else json.loads(text) for key, text in row["_extra"].items()}
    return event
