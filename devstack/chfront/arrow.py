"""ArrowStream block by block: the engine writes each block as a whole stream, a client wants one stream."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from devstack.chfront.compression import Bytes

_CONTINUATION: Final = b"\xff\xff\xff\xff"
_END: Final = _CONTINUATION + b"\x00\x00\x00\x00"


def one_stream(streams: Iterator[Bytes]) -> Iterator[Bytes]:
    """Splice whole streams of one schema: the first schema, every batch, one end."""
    opened = False
    for stream in streams:
        if not len(stream):
            continue
        view = memoryview(stream)
        body = view if not opened else view[_schema_size(view) :]
        opened = True
        yield body[: -len(_END)] if bytes(body[-len(_END) :]) == _END else body
    if opened:
        yield _END


def _schema_size(stream: memoryview) -> int:
    """The first message is the schema, and a schema has no body behind its header."""
    size: int = struct.unpack_from("<i", stream, 4)[0]
    return 8 + size
