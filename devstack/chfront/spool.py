"""Where a request's data wait for the engine: an anonymous file in memory.

It has no name that anybody could guess or collide with, and the kernel takes it back when the process dies, however it
dies. Files are used again: writing over pages that are there costs half of asking for new ones.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from devstack.chfront.compression import Bytes

KEPT_BYTES: Final = 64 << 20
KEPT_FILES: Final = 4


class Spool:
    """Files for bodies; `write` may be called by many threads at once, each gets a file of its own."""

    def __init__(self) -> None:
        self._free: list[int] = []

    @contextmanager
    def write(self, pieces: Iterable[Bytes]) -> Iterator[str]:
        """Write the pieces and give the path by which this process, and the engine in it, reads them."""
        descriptor = self._take()
        try:
            size = 0
            for piece in pieces:
                _write_all(descriptor, memoryview(piece))
                size += len(piece)
            os.ftruncate(descriptor, size)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            self._give(descriptor)

    def _take(self) -> int:
        try:
            return self._free.pop()
        except IndexError:
            return os.memfd_create("tidewatch-clickhouse-body", os.MFD_CLOEXEC)

    def _give(self, descriptor: int) -> None:
        if len(self._free) >= KEPT_FILES:
            os.close(descriptor)
            return
        os.lseek(descriptor, 0, os.SEEK_SET)
        if os.fstat(descriptor).st_size > KEPT_BYTES:
            os.ftruncate(descriptor, KEPT_BYTES)
        self._free.append(descriptor)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
