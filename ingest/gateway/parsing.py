"""The exact reading of one event: everything that JSON readers disagree on is refused, with the reason."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from ingest.gateway.problems import Rejection

MAX_DEPTH = 64
_decode = msgspec.json.Decoder().decode
_GAPS = (b" :", b"\t:", b"\n:", b"\r:")


def parse(raw: bytes) -> dict[str, Any] | Rejection:
    """The event's object, when every JSON reader would read the same from its bytes."""
    try:
        value = _decode(raw)
    except RecursionError:
        return _too_deep()
    except msgspec.ValidationError:
        try:
            field = _infinite_field(raw)
        except RecursionError:
            return _too_deep()
        return Rejection(field, "out_of_range", "a number is too large for a 64-bit float")
    except UnicodeDecodeError:
        return Rejection("", "invalid_json", "the event is not valid UTF-8; encode the request in UTF-8")
    except msgspec.DecodeError as error:
        return Rejection("", "invalid_json", f"the event is not valid JSON: {_reason(error)}")
    if not isinstance(value, dict):
        return Rejection("", "not_an_object", f"an event is a JSON object, and this is {kind_of(value)}")
    keys, depth = measure(value)
    if depth > MAX_DEPTH:
        return _too_deep()
    if raw.count(b'":') != keys or any(gap in raw for gap in _GAPS):
        # Too many or too few colons for the keys found: look closely. Usually a string holds `":`.
        twice = _duplicate(raw)
        if twice is not None:
            return Rejection(twice, "duplicate_key", f"the key {twice!r} stands twice in one object; keep one")
    return value


def measure(value: Any) -> tuple[int, int]:
    """(distinct keys of all objects in `value`, depth of nesting)."""
    keys = deepest = 0
    layer = [value]
    while layer:
        deepest += 1
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, dict):
                keys += len(item)
                inner += [v for v in item.values() if v.__class__ is dict or v.__class__ is list]
            else:
                inner += [v for v in item if v.__class__ is dict or v.__class__ is list]
        layer = inner
    return keys, deepest


def kind_of(value: Any) -> str:
    """For messages: what a JSON value is, without the value itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    names = {int: "an integer", float: "a number with a fraction", str: "a string", list: "an array", dict: "an object"}
    return names[type(value)]


def _too_deep() -> Rejection:
    return Rejection("", "too_deep", f"the event is nested more than {MAX_DEPTH} levels deep; flatten it")


def _reason(error: msgspec.DecodeError) -> str:
    return str(error).removeprefix("JSON is malformed: ")


class _DuplicateError(Exception):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateError(key)
        found[key] = value
    return found


def _zero(_: str) -> int:
    return 0


def _duplicate(raw: bytes) -> str | None:
    """A key that stands twice in one object, in JSON that is known to be valid and shallow."""
    try:
        json.loads(raw.decode(), object_pairs_hook=_unique, parse_int=_zero, parse_float=_zero)
    except _DuplicateError as twice:
        return str(twice.args[0])
    return None


def _infinite_field(raw: bytes) -> str:
    """The top-level key whose value holds a number that is no finite float."""
    try:
        event = json.loads(raw.decode(), parse_int=_zero)
    except ValueError:
        return ""
    if not isinstance(event, dict):
        return ""
    return next((key for key, value in event.items() if _has_infinity(value)), "")


def _has_infinity(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_infinity, value.values()))
    if isinstance(value, list):
        return any(map(_has_infinity, value))
    return isinstance(value, float) and math.isinf(value)
