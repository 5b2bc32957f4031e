"""Errors as RFC 9457 problem details: what happened, and how to fix it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

MEDIA_TYPE = b"application/problem+json"
_TYPES = "urn:tidewatch:problem:"


class Rejection(NamedTuple):
    """Why one event is not valid."""

    field: str
    """Path of the field, empty when the event as a whole is meant."""
    reason: str
    """A stable code, such as `missing_field`; docs/http-api.md lists them."""
    message: str
    """For people, with the fix."""


class ProblemError(Exception):
    """Ends a request with a problem document. `kind` is the last part of its type."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        fix: str,
        retry_after: float | None = None,
        close: bool = False,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        **members: Any,
    ) -> None:
        """`retry_after` in seconds; `close` ends the connection, for a body that was not read to its end."""
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.body = {"type": _TYPES + kind, "title": title, "status": status, "detail": detail, "fix": fix, **members}
        self.headers = list(headers)
        if retry_after is not None:
            # The header holds whole seconds, so round up: waiting that long always suffices.
            self.headers.append((b"retry-after", b"%d" % max(1, math.ceil(retry_after))))
            self.body["retry_after_seconds"] = round(retry_after, 3)
        if close:
            self.headers.append((b"connection", b"close"))

    def encode(self) -> bytes:
        return msgspec.json.encode(self.body)


def unavailable(detail: str, *, retry_after: float = 1.0, **members: Any) -> ProblemError:
    return ProblemError(
        503,
        "unavailable",
        "Try again",
        detail,
        fix="send the request again after Retry-After, with the same event ids where you set them",
        retry_after=retry_after,
        **members,
    )
