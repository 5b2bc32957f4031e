"""UUIDs of version 7 (RFC 9562), as ASCII, made in batches: time-ordered, and rising within this process.

    tttttttt-tttt-7ccc-vccc-crrrrrrrnnnn

48 bits of milliseconds; 26 bits that rise with each request of the same millisecond, from a random start; 32 random
bits; and 16 bits that number the events of the request. `Random` is enough: an id need not be unguessable, only unique.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random, SystemRandom

_TAILS = [b"%04x" % number for number in range(0x10000)]
_COUNTER_BITS = 26


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class EventIds:
    def __init__(self, now_ms: Callable[[], int] = _wall_ms, random: Random | None = None) -> None:
        self._now_ms = now_ms
        self._random = random or Random(SystemRandom().getrandbits(256))  # noqa: S311 — see above
        self._last_ms = -1
        self._counter = 0

    def batch(self, count: int) -> list[bytes]:
        """`count` ids (65,536 at most), rising, each greater than any made before, also when the clock steps back."""
        prefix = self._prefix()
        return [prefix + tail for tail in _TAILS[:count]]

    def one(self) -> bytes:
        return self._prefix() + _TAILS[self._random.getrandbits(16)]

    def _prefix(self) -> bytes:
        now = self._now_ms()
        if now > self._last_ms:
            self._last_ms = now
            # The top bit stays clear, so that a millisecond has room for 33 million requests.
            self._counter = self._random.getrandbits(_COUNTER_BITS - 1)
        else:
            self._counter += 1
            if self._counter >> _COUNTER_BITS:
                self._last_ms += 1
                self._counter = 0
        ms, counter, random = self._last_ms, self._counter, self._random.getrandbits(32)
        return b"%08x-%04x-7%03x-%04x-%08x" % (
            ms >> 16,
            ms & 0xFFFF,
            counter >> 14,
            0x8000 | (counter & 0x3FFF),
            random,
        )
