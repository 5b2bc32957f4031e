"""Free TCP ports on the loopback interface, and whether somebody answers on one."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below Linux's ephemeral range (32768 and up): no outgoing connection can sit on a port while its service restarts.
LOWEST, HIGHEST = 15_000, 32_000

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, never given twice by this process."""
    while True:
        port = random.randrange(LOWEST, HIGHEST)  # noqa: S311
        if port not in _given and is_free(port):
            _given.add(port)
            return port


def is_free(port: int) -> bool:
    """Whether a listener could be opened on the port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def answers(port: int, host: str = LOOPBACK) -> bool:
    """Whether a connection to the port is accepted."""
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def kept_ports(path: Path, names: Iterable[str]) -> dict[str, int]:
    """A port for each name: the one that `path` remembers where it is free, else a new one, remembered from now on."""
    known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    ports = {name: known[name] if name in known and is_free(known[name]) else free_port() for name in names}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | ports, indent=2))
    return ports
