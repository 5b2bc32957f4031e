"""HTTP content codings, both ways and piece by piece: gzip, deflate, lz4 (frames), zstd, and br where it is installed."""

from __future__ import annotations

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, Protocol

from devstack.chfront.errors import CANNOT_DECOMPRESS, UNKNOWN_COMPRESSION, refusal

Bytes = bytes | bytearray | memoryview


class Compressor(Protocol):
    def compress(self, data: Any, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _module(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_lz4 = _module("lz4.frame")
_zstd = _module("compression.zstd", "backports.zstd")
_brotli = _module("brotli", "brotlicffi")


class _Lz4Compressor:
    def __init__(self) -> None:
        self._frame = _lz4.LZ4FrameCompressor(auto_flush=True)
        self._begun = False

    def compress(self, data: Any, /) -> bytes:
        head = b"" if self._begun else bytes(self._frame.begin())
        self._begun = True
        return head + bytes(self._frame.compress(data))

    def flush(self) -> bytes:
        return self.compress(b"") + bytes(self._frame.flush())


class _BrotliCompressor:
    def __init__(self) -> None:
        self._inner = _brotli.Compressor(quality=1)

    def compress(self, data: Any, /) -> bytes:
        return bytes(self._inner.process(bytes(data)))

    def flush(self) -> bytes:
        return bytes(self._inner.finish())


class _BrotliDecompressor:
    def __init__(self) -> None:
        self._inner = _brotli.Decompressor()
        self.eof = False

    def decompress(self, data: Any, /) -> bytes:
        out = bytes(self._inner.process(bytes(data)))
        self.eof = self._inner.is_finished()
        return out


_COMPRESSORS: Final[dict[str, Callable[[], Compressor]]] = {
    **({"br": _BrotliCompressor} if _brotli else {}),
    **({"zstd": lambda: _zstd.ZstdCompressor(level=1)} if _zstd else {}),
    **({"lz4": _Lz4Compressor} if _lz4 else {}),
    "gzip": partial(zlib.compressobj, 1, wbits=31),
    "deflate": partial(zlib.compressobj, 1),
}
_DECOMPRESSORS: Final[dict[str, Callable[[], Any]]] = {
    **({"br": _BrotliDecompressor} if _brotli else {}),
    **({"zstd": _zstd.ZstdDecompressor} if _zstd else {}),
    **({"lz4": _lz4.LZ4FrameDecompressor} if _lz4 else {}),
    "gzip": partial(zlib.decompressobj, wbits=31),
    "deflate": zlib.decompressobj,
    "xz": lzma.LZMADecompressor,
    "bz2": bz2.BZ2Decompressor,
}


_BROKEN: Final[tuple[type[Exception], ...]] = (
    *(zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError),
    *((_zstd.ZstdError,) if _zstd else ()),
    *((_brotli.error,) if _brotli else ()),
)


def chosen(accepted: str) -> str | None:
    """The coding for an answer, in the server's order of preference, or None."""
    offers = {part.split(";")[0].strip().lower() for part in accepted.split(",")}
    return next((name for name in _COMPRESSORS if name in offers), None)


def compressor(name: str) -> Compressor:
    return _COMPRESSORS[name]()


def decompressed(pieces: Iterable[Bytes], name: str) -> Iterator[Bytes]:
    """The pieces, decoded; several frames or members in a row are one body."""
    name = name.strip().lower()
    if name in {"", "identity"}:
        yield from pieces
        return
    if name not in _DECOMPRESSORS:
        raise refusal(UNKNOWN_COMPRESSION, "UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method {name}")
    try:
        yield from _decoded(pieces, _DECOMPRESSORS[name])
    except _BROKEN as error:
        raise refusal(CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", f"Cannot decompress the {name} body: {error}") from error


def _decoded(pieces: Iterable[Bytes], make: Callable[[], Any]) -> Iterator[bytes]:
    decoder, begun = make(), False
    for piece in pieces:
        data: Bytes = piece
        while len(data):
            if decoder.eof:
                decoder = make()
            begun = True
            yield decoder.decompress(data)
            data = getattr(decoder, "unused_data", b"") or b"" if decoder.eof else b""
    if begun and not decoder.eof:
        raise EOFError("it ends in the middle")
