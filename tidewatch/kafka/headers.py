"""The headers of a record, whoever wrote it."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

from tidewatch.record import Headers

# Called through C: where the interpreter has specialised a call, it no longer looks whether the function failed.
_ask = methodcaller("headers")

# Stands in a message whose headers were found to be unreadable, known by its identity.
UNREADABLE: list[tuple[str, str | bytes | None]] = []


def native_headers(message: Any) -> Any:
    """What confluent-kafka gives, without a copy: for hot loops. UNREADABLE, the object itself, where it cannot."""
    try:
        return _ask(message)
    except SystemError:
        # confluent-kafka keeps the list that it could not fill, with a null pointer in it, and would hand it out.
        message.set_headers(UNREADABLE)
        return UNREADABLE


def headers_of(message: Any) -> Headers | None:
    """In their order; a header without a value has an empty one. None: a name is not UTF-8, so they cannot be read.

    Any record can be like that, and to ask such a message twice by `message.headers()` would crash the process: ask
    for headers by this function alone.
    """
    found = native_headers(message)
    if found is UNREADABLE:
        return None
    return [(name, value.encode() if isinstance(value, str) else value or b"") for name, value in found or ()]
