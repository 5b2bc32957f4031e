"""A real Redis as a child process, its data in `directory` across restarts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Self

from devstack.install import program
from devstack.ports import LOOPBACK, free_port
from devstack.process import Child

START_SECONDS = 30.0


class Redis:
    """Every write is synced to the append-only file before it is answered, so a kill loses nothing."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory.absolute()
        self.port = port or free_port()
        options = {"bind": LOOPBACK, "port": self.port, "dir": self.directory, "appendonly": "yes", "save": ""}
        arguments = [str(part) for name, value in options.items() for part in (f"--{name}", value)]
        self.child = Child(
            "redis",
            [program("redis"), *arguments, "--appendfsync", "always"],
            log=self.directory / "redis.log",
        )

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.child.start().wait_ready(self._pings, START_SECONDS)
        return self

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        self.child.kill()

    def _pings(self) -> bool:
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
