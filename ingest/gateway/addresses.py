"""Who a request comes from. X-Forwarded-For counts only as far as proxies that we were told to trust wrote it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from tidewatch.errors import SettingsError


class Addresses:
    def __init__(self, trusted_proxies: str) -> None:
        """Comma-separated networks. Raises SettingsError for anything else."""
        try:
            self._trusted = [ipaddress.ip_network(text.strip()) for text in trusted_proxies.split(",") if text.strip()]
        except ValueError as error:
            raise SettingsError(
                f"TIDEWATCH_GATEWAY__TRUSTED_PROXIES: {error}", fix="write networks such as 10.0.0.0/8,192.168.1.7/32"
            ) from None

    def of(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> str:
        """The nearest address that no trusted proxy has."""
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if not self._trusted or not self._is_trusted(address):
            return address
        for hop in reversed(headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            hop = hop.strip()  # noqa: PLW2901 — the same hop, trimmed
            if not _is_address(hop):
                return address
            address = hop
            if not self._is_trusted(hop):
                return hop
        return address

    def _is_trusted(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
