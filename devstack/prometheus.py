"""A real Prometheus as a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import httpx

from devstack.install import program
from devstack.ports import LOOPBACK, free_port
from devstack.process import Child

START_SECONDS = 60.0


class Prometheus:
    """Scrapes what the file `config` says; the file may be rewritten, `reload` has it read again."""

    def __init__(self, directory: Path, config: Path, port: int = 0, *, retention: str = "2d") -> None:
        self.directory = directory.absolute()
        self.config = config.absolute()
        self.port = port or free_port()
        self.child = Child(
            "prometheus",
            [
                program("prometheus"),
                f"--config.file={self.config}",
                f"--storage.tsdb.path={self.directory / 'data'}",
                f"--storage.tsdb.retention.time={retention}",
                f"--web.listen-address={LOOPBACK}:{self.port}",
                "--web.enable-lifecycle",
                "--log.level=warn",
            ],
            log=self.directory / "prometheus.log",
        )

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def start(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.child.start().wait_ready(self._ready, START_SECONDS)
        return self

    def reload(self) -> None:
        httpx.post(f"{self.url}/-/reload", timeout=10).raise_for_status()

    def stop(self) -> None:
        self.child.stop()

    def kill(self) -> None:
        self.child.kill()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=1).is_success
        except httpx.TransportError:
            return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
