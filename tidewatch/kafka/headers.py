"""The headers of a record, whoever wrote it."""

from __future__ import annotations

from typing import Any

from confluent_kafka import Message

from tidewatch.record import Headers

# Stands in a message whose headers were found to be unreadable, known by its identity.
_UNREADABLE: list[tuple[str, str | bytes | None]] = []


def headers_of(message: Message) -> Headers | None:
    """In their order; a header without a value has an empty one. None: a name is not UTF-8, so they cannot be read.

    Any record can be like that, and to ask such a message twice by `message.headers()` would crash the process: ask
    for headers by this function alone.
    """
    try:
        found: Any = message.headers()
    except SystemError:
        # confluent-kafka keeps the list that it could not fill, with a null pointer in it, and would hand it out.
        message.set_headers(_UNREADABLE)
        return None
    if found is _UNREADABLE:
        return None
    return [(name, value.encode() if isinstance(value, str) else value or b"") for name, value in found or ()]
