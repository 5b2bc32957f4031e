"""Where a request's data wait for the engine: an anonymous file in memory.

It has no name that anybody could guess or collide with, and the kernel takes it back when the process dies.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def spooled(pieces: Iterable[bytes | bytearray | memoryview]) -> Iterator[str]:
    """Write the pieces to memory and give the path by which this process (and the engine in it) reads them."""
    descriptor = os.memfd_create("tidewatch-clickhouse-body", os.MFD_CLOEXEC)
    try:
        for piece in pieces:
            _write_all(descriptor, memoryview(piece))
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
