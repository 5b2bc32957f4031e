"""Compressed pieces that join into one gzip member without being inflated.

A gzip stream of several members is legal, and many clients read the first member only. So pieces are compressed apart,
each ended by a full flush, and joined: bytes behind bytes, and one checksum made of their checksums.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

_RAW = -15  # zlib's number for a stream without header
_FAST = 1
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_LAST = b"\x03\x00"  # an empty block that says that it is the last
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


@dataclass(frozen=True, slots=True)
class Deflated:
    data: bytes
    crc: int
    length: int
    """Of what was compressed."""
    shift: int
    """What a checksum before this piece is multiplied with, in the field of checksums, to pass over it."""

    @classmethod
    def of(cls, pieces: Iterable[bytes]) -> Deflated:
        squeeze = zlib.compressobj(_FAST, zlib.DEFLATED, _RAW)
        parts, crc, length = [], 0, 0
        for piece in pieces:
            parts.append(squeeze.compress(piece))
            crc, length = zlib.crc32(piece, crc), length + len(piece)
        parts.append(squeeze.flush(zlib.Z_FULL_FLUSH))
        return cls(b"".join(parts), crc, length, _shift(length))

    def __add__(self, other: Deflated) -> Deflated:
        crc = _times(other.shift, self.crc) ^ other.crc
        shift = _times(self.shift, other.shift)
        return Deflated(self.data + other.data, crc, self.length + other.length, shift)

    def gzip(self) -> bytes:
        return b"".join([_HEADER, self.data, _LAST, struct.pack("<II", self.crc, self.length & 0xFFFF_FFFF)])

    def inflate(self) -> bytes:
        return zlib.decompress(self.data + _LAST, _RAW)


def _times(a: int, b: int) -> int:
    """The product of two polynomials, modulo that of CRC-32, bits reversed: as in zlib's crc32_combine."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFF_FFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def _shift(length: int) -> int:
    """X to the power of eight times the length."""
    power, square = _ONE, 1 << 30
    for _ in range(3):
        square = _times(square, square)
    while length:
        if length & 1:
            power = _times(square, power)
        square = _times(square, square)
        length >>= 1
    return power
