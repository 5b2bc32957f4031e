"""An array of events as the exact bytes of each, so that what goes to Kafka is what was sent."""

from __future__ import annotations

import re

import msgspec

_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
# A string, or a character that opens, closes or separates. Inside a string nothing counts. One that does not end is a
# token, too: else each quote in it would begin another search for the end, and the time would grow with the square.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
_WHITESPACE = b" \t\n\r"


def is_array(body: bytes) -> bool:
    return body[:1] == b"[" or body.lstrip(_WHITESPACE)[:1] == b"["


def split(body: bytes) -> list[bytes]:
    """The elements of a JSON array. Raises ValueError for a body that is none, or does not end.

    One element that is no valid JSON, or nested too deeply, costs nothing but itself: its neighbours are found all the
    same.
    """
    try:
        return [bytes(raw) for raw in _decode_raws(body)]
    except (msgspec.DecodeError, RecursionError):
        return _split_tolerantly(body)


def _split_tolerantly(body: bytes) -> list[bytes]:
    """Splits at the commas between brackets, whatever else stands there."""
    body = body.strip(_WHITESPACE)
    if body[:1] != b"[":
        raise ValueError("the body is not a JSON array")
    elements: list[bytes] = []
    depth, start = 0, 1
    for match in _TOKEN.finditer(body):
        token = match[0]
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
            if depth == 0:
                elements.append(body[start : match.start()].strip(_WHITESPACE))
                return _checked(elements, ends=match.end() == len(body) and token == b"]")
        elif token == b"," and depth == 1:
            elements.append(body[start : match.start()].strip(_WHITESPACE))
            start = match.end()
    raise ValueError("the JSON array does not end: the body was cut off, or a bracket or quote is missing")


def _checked(elements: list[bytes], *, ends: bool) -> list[bytes]:
    if not ends:
        raise ValueError("something follows the JSON array, or its brackets do not match")
    if not all(elements):
        raise ValueError("the JSON array has an empty element: two commas in a row, or one at its end")
    return elements
