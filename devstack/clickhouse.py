"""The development ClickHouse as a child process: start it, break it, find it again on the same address."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Self
from urllib.request import urlopen

from devstack.ports import LOOPBACK, free_port
from devstack.process import Child

READY_SECONDS = 60.0


class ClickHouseFront:
    """chDB behind ClickHouse's HTTP interface, on `directory`. The port stays the same over restarts."""

    def __init__(
        self, directory: Path, port: int = 0, *, connections: int = 4, max_memory: int = 4 << 30, password: str = ""
    ) -> None:
        self.directory = directory
        self.host = LOOPBACK
        self.port = port or free_port()
        command = [sys.executable, "-m", "devstack.chfront", "--data", str(directory), "--port", str(self.port)]
        command += ["--connections", str(connections), "--max-memory", str(max_memory)]
        environment = {"TIDEWATCH_CLICKHOUSE_PASSWORD": password}
        self.child = Child("clickhouse", command, log=directory / "front.log", env=environment)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def running(self) -> bool:
        return self.child.running

    def start(self) -> Self:
        """Return when it answers; starting it while it runs has no effect."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.child.start().wait_ready(self._pings, READY_SECONDS)
        return self

    def stop(self) -> None:
        """Let statements under way end, then end."""
        self.child.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash: nothing is flushed."""
        self.child.kill()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def _pings(self) -> bool:
        with urlopen(f"{self.url}/ping", timeout=1) as response:  # noqa: S310  # our own http address
            return bool(response.status == 200)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
