"""Sessions: `session_id` keeps settings, database and temporary tables over requests, until they rested too long.

A client library may send an id with everything and never need it. An id therefore gets a lasting engine session only
when a statement first changes one; before that each request has a fresh one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from devstack.chfront.errors import refusal
from devstack.chfront.session import Session

DEFAULT_TIMEOUT: Final = 60
MAX_TIMEOUT: Final = 3600


@dataclass(slots=True)
class _Kept:
    session: Session | None = None
    expires: float = 0.0
    busy: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the request says of its session: no id, no session."""

    id: str = ""
    timeout: int = DEFAULT_TIMEOUT
    must_exist: bool = False

    @classmethod
    def of(cls, values: dict[str, str]) -> Wish:
        text = values.get("session_timeout", str(DEFAULT_TIMEOUT))
        if not text.isdigit() or int(text) > MAX_TIMEOUT:
            raise refusal(374, "INVALID_SESSION_TIMEOUT", f"Invalid session timeout: '{text}'")
        return cls(values.get("session_id", ""), int(text), values.get("session_check", "") == "1")


class Sessions:
    """Opens sessions; those with an id stay, one request at a time, until they have rested for their timeout."""

    def __init__(self, opened: Callable[[], Session]) -> None:
        self._open = opened
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    @contextmanager
    def session(self, wish: Wish, *, settings: Iterable[str], lasting: bool) -> Iterator[Session]:
        """A session for one request; `settings` are those that hold for this request alone."""
        if not wish.id:
            with self._fresh() as session:
                yield session
            return
        kept = self._claim(wish)
        try:
            if kept.session is None and lasting:
                kept.session = self._open()
            with (
                self._fresh() if kept.session is None else _borrowed(kept.session, settings, lasting=lasting) as session
            ):
                yield session
        finally:
            kept.expires = time.monotonic() + wish.timeout
            kept.busy.release()

    @contextmanager
    def _fresh(self) -> Iterator[Session]:
        session = self._open()
        try:
            yield session
        finally:
            session.close()

    def _claim(self, wish: Wish) -> _Kept:
        with self._lock:
            self._expire()
            kept = self._kept.get(wish.id)
            if kept is None:
                if wish.must_exist:
                    raise refusal(372, "SESSION_NOT_FOUND", f"Session {wish.id} not found")
                kept = self._kept[wish.id] = _Kept()
            if not kept.busy.acquire(blocking=False):
                raise refusal(373, "SESSION_IS_LOCKED", f"Session {wish.id} is locked by a concurrent client")
            return kept

    def _expire(self) -> None:
        now = time.monotonic()
        for name, kept in list(self._kept.items()):
            if kept.expires < now and kept.busy.acquire(blocking=False):
                _close(kept)
                del self._kept[name]

    def close(self) -> None:
        with self._lock:
            for kept in self._kept.values():
                _close(kept)
            self._kept.clear()


@contextmanager
def _borrowed(session: Session, settings: Iterable[str], *, lasting: bool) -> Iterator[Session]:
    """The request's own settings and database end with it; what a SET or USE changed stays."""
    restore = session.state(settings)
    try:
        yield session
    finally:
        if not lasting:
            restore()


def _close(kept: _Kept) -> None:
    if kept.session is not None:
        kept.session.close()
