"""Bodies of requests → events to send, and a reason for each that is not.

Most bodies are valid, and one pass over all of their events shows it. Where that pass has any doubt each event is
looked at alone, and the exact rules decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import UNSET

from ingest.gateway.compiled import CompiledSpec
from ingest.gateway.parsing import parse
from ingest.gateway.problems import Rejection
from ingest.gateway.rules import rules
from ingest.gateway.slices import is_array, split
from tidewatch.record import EVENT_ID
from tidewatch.spec import Spec

# Kafka's own limit for a batch of records is 1 MB by default; headers and neighbours need room too.
MAX_EVENT_BYTES = 512 * 1024
# The key is a copy of one of the event's fields, so both together may be twice as much, which Kafka would never take.
MAX_RECORD_BYTES = 768 * 1024
# Up to this size nothing needs a look at both.
_SURE_BYTES = MAX_RECORD_BYTES // 2
_PART = 20
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(slots=True)
class Checked:
    """The events of a body, in order; `keys` and `ids` are as long as `values`, or None when no event has one."""

    values: list[bytes]
    keys: list[bytes | None] | None
    ids: list[str | None] | None
    """The clients' own event ids."""
    rejections: dict[int, Rejection]
    """By place in `values`."""
    single: bool = False
    """Whether the body was one event rather than an array."""


@dataclass(slots=True)
class _Exact:
    """An event that the exact rules accept."""

    key: Any
    event_id: str | None


class Validator:
    def __init__(self, spec: Spec) -> None:
        self._compiled = CompiledSpec(spec)
        self._rules = rules(spec.schema_.fields)
        self._known = frozenset(field.name for field in spec.schema_.fields)
        self._keeps_unknown = spec.source.unknown_fields == "keep"
        self._key = spec.topic.key

    def single(self, body: bytes) -> Checked:
        """Of a body that is one event."""
        event = self._sure(body)
        checked = self._one_by_one([body]) if event is None else self._valid([body], [event])
        checked.single = True
        return checked

    def batch(self, body: bytes, values: list[bytes] | None = None) -> Checked:
        """Of a body that is an array. Raises ValueError when it is none, or does not end.

        `values` are what `split` made of it, where that was done already.
        """
        if values is None:
            values = split(body)
        events = self._beyond_doubt(body, values)
        return self._valid(values, events) if events is not None else self._in_parts(values)

    def _beyond_doubt(self, body: bytes, values: list[bytes]) -> list[Any] | None:
        """The events of an array, when all of them are valid without a closer look."""
        if len(body) > _SURE_BYTES and max(map(len, values), default=0) > _SURE_BYTES:
            return None
        try:
            events = self._compiled.many(body)
        except msgspec.ValidationError:
            return self._compiled.keeping_unknown(body) if self._keeps_unknown else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return events if _is_text(body) and self._compiled.agree(body, events) else None

    def _in_parts(self, values: list[bytes]) -> Checked:
        """A few bad events cost their neighbours little: parts in which all is well need no closer look."""
        parts = []
        for start in range(0, len(values), _PART):
            part = values[start : start + _PART]
            events = self._beyond_doubt(b"[" + b",".join(part) + b"]", part) if len(values) > _PART else None
            parts.append(self._valid(part, events) if events is not None else self._one_by_one(part))
        return _joined(parts)

    def _valid(self, values: list[bytes], events: list[Any]) -> Checked:
        keys = None
        if self._key is not None:
            keys = [_key_bytes(getattr(event, self._key)) for event in events]
        ids = self._compiled.own_ids(events)
        if ids is not None:
            ids = [None if own is UNSET else own for own in ids]
        return Checked(values, keys, ids, {})

    def _one_by_one(self, values: list[bytes]) -> Checked:
        keys: list[bytes | None] = []
        ids: list[str | None] = []
        rejections: dict[int, Rejection] = {}
        for place, raw in enumerate(values):
            found = self._look_at(raw)
            if isinstance(found, Rejection):
                rejections[place] = found
                found = _Exact(None, None)
            keys.append(_key_bytes(found.key))
            ids.append(found.event_id)
        given = ids.count(None) < len(ids)
        return Checked(values, None if self._key is None else keys, ids if given else None, rejections)

    def _sure(self, raw: bytes) -> Any | None:
        """The event, when it is valid beyond doubt."""
        if len(raw) > _SURE_BYTES:
            return None
        try:
            event = self._compiled.one(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return event if _is_text(raw) and self._compiled.agree(raw, [event]) else None

    def _look_at(self, raw: bytes) -> _Exact | Rejection:
        event = self._sure(raw)
        if event is None:
            return self._exactly(raw)
        own = event.event_id if self._compiled.takes_event_id else UNSET
        return _Exact(getattr(event, self._key) if self._key else None, None if own is UNSET else own)

    def _exactly(self, raw: bytes) -> _Exact | Rejection:
        if len(raw) > MAX_EVENT_BYTES:
            return Rejection("", "too_large", f"an event takes at most {MAX_EVENT_BYTES // 1024} KiB")
        event = parse(raw)
        if isinstance(event, Rejection):
            return event
        return self._refused_key(event) or self._refused_value(event, raw) or self._accepted(event, raw)

    def _refused_key(self, event: dict[str, Any]) -> Rejection | None:
        if event.keys() <= self._known:
            return None
        for name in event:
            if name in self._known or (name == "event_id" and self._compiled.takes_event_id):
                continue
            if name.startswith("_"):
                return Rejection(name, "reserved_field", "names that begin with _ are reserved; rename the field")
            if not self._keeps_unknown:
                return Rejection(name, "unknown_field", f"{name!r} is no field of this pipeline; remove it")
        return None

    def _refused_value(self, event: dict[str, Any], raw: bytes) -> Rejection | None:
        raws: dict[str, msgspec.Raw] = {}

        def raw_of(name: str) -> bytes:
            if not raws:
                raws.update(_raw_fields(raw))
            return bytes(raws[name])

        for rule in self._rules:
            if found := rule.check(event, raw_of):
                return found
        event_id = event.get("event_id", UNSET)
        if self._compiled.takes_event_id and event_id is not UNSET and not is_event_id(event_id):
            return Rejection("event_id", "bad_event_id", BAD_EVENT_ID)
        return None

    def _accepted(self, event: dict[str, Any], raw: bytes) -> _Exact | Rejection:
        own = event.get("event_id") if self._compiled.takes_event_id else None
        key = event.get(self._key) if self._key else None
        if len(raw) > _SURE_BYTES and len(raw) + len(_key_bytes(key) or b"") > MAX_RECORD_BYTES:
            most = MAX_RECORD_BYTES // 1024
            return Rejection(
                self._key or "", "too_large", f"the event and {self._key}, its key, take at most {most} KiB"
            )
        return _Exact(key, own)


BAD_EVENT_ID = "an event id has 1 to 128 characters out of A-Z a-z 0-9 . _ : @ / + = -"


def is_event_id(value: object) -> bool:
    return isinstance(value, str) and EVENT_ID.fullmatch(value) is not None


def _joined(parts: list[Checked]) -> Checked:
    """Keys and ids of a part that has none are None for each of its events."""
    rejections: dict[int, Rejection] = {}
    start = 0
    for part in parts:
        rejections |= {start + place: why for place, why in part.rejections.items()}
        start += len(part.values)
    keys: list[bytes | None] = [key for part in parts for key in part.keys or [None] * len(part.values)]
    ids: list[str | None] = [own for part in parts for own in part.ids or [None] * len(part.values)]
    return Checked(
        [value for part in parts for value in part.values],
        keys if any(part.keys for part in parts) else None,
        ids if any(part.ids for part in parts) else None,
        rejections,
    )


def _is_text(data: bytes) -> bool:
    """Valid UTF-8: the decoders skip what they do not keep, without a look at its encoding."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _key_bytes(value: Any) -> bytes | None:
    """The record's key: strings as they are, other scalars as JSON writes them."""
    if value is None or value is UNSET:
        return None
    return value.encode() if isinstance(value, str) else msgspec.json.encode(value)


__all__ = ["BAD_EVENT_ID", "MAX_EVENT_BYTES", "Checked", "Validator", "is_array", "is_event_id", "split"]
