"""Who asks: X-ClickHouse-User/Key, Basic, or user/password in the URL, against one user with one password."""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import dataclass

from devstack.chfront.errors import AUTHENTICATION_FAILED, REQUIRED_PASSWORD, refusal
from devstack.chfront.wire import Request

USER = "default"


@dataclass(frozen=True)
class Password:
    """The one user's password; empty means that none is asked for."""

    secret: str = ""

    def __repr__(self) -> str:
        return "Password(***)"

    def check(self, request: Request) -> None:
        """Refuse with the server's codes; return when the caller may go on."""
        user, password = _credentials(request)
        if user == USER and hmac.compare_digest(password.encode(errors="surrogateescape"), self.secret.encode()):
            return
        if self.secret and user == USER and not password:
            raise refusal(
                REQUIRED_PASSWORD, "REQUIRED_PASSWORD", f"{user}: Authentication failed: a password is required"
            )
        reason = "password is incorrect, or there is no user with such name"
        raise refusal(AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", f"{user}: Authentication failed: {reason}")


def _credentials(request: Request) -> tuple[str, str]:
    by_header = _utf8(request.header("x-clickhouse-user")), _utf8(request.header("x-clickhouse-key"))
    scheme, _, encoded = request.header("authorization").partition(" ")
    if any(by_header):
        return by_header[0] or USER, by_header[1]
    if scheme.lower() == "basic":
        return _basic(encoded)
    return request.params.get("user") or USER, request.params.get("password", "")


def _basic(encoded: str) -> tuple[str, str]:
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise refusal(
            AUTHENTICATION_FAILED, "AUTHENTICATION_FAILED", "The Authorization header is not Basic"
        ) from error
    return user or USER, password


def _utf8(header: str) -> str:
    """Headers are read as latin-1; names and passwords are sent as UTF-8."""
    return header.encode("latin-1").decode(errors="surrogateescape")
