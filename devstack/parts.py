"""What a local stack consists of, and how its parts find each other; nothing is started here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from devstack import state
from devstack.clickhouse import ClickHouseFront
from devstack.install import InstallError
from devstack.kafka import KafkaCluster
from devstack.ports import LOOPBACK, kept_ports
from devstack.postgres import Postgres
from devstack.process import Child
from devstack.prometheus import Prometheus
from devstack.scrape import write_config
from devstack.supervisor import Service
from tidewatch.spec import load_all

COMMAND = (sys.executable, "-m", "controlplane.cli.main")
DRAIN_SECONDS = 30.0  # longer than the gateway takes to drain
GATEWAY, RELAY, LOADER = "gateway", "relay", "loader"
KEPT_DIRECTORIES = frozenset({"kafka", "clickhouse", "postgres", "prometheus", "logs"})
KEPT_FILES = ("store.db", "keys.yaml", "api-key", "ports.json", state.STATE)


@dataclass(frozen=True)
class StackOptions:
    directory: Path = state.DIRECTORY
    brokers: int = 1
    loaders: int = 1
    postgres: bool = False
    prometheus: bool = True
    fresh: bool = False  # begin without what an earlier stack kept in the directory
    pipelines: Path = Path("pipelines")
    settings: Mapping[str, str] = field(default_factory=dict)  # more for our services, such as TIDEWATCH_LOADER__…
    command: Sequence[str] = COMMAND  # how `tidewatch` is run

    @property
    def loader_names(self) -> list[str]:
        return [LOADER, *(f"{LOADER}-{i}" for i in range(2, self.loaders + 1))]


def wipe(directory: Path) -> None:
    """Remove what a stack keeps, and nothing else that may be in the directory; its lock stays."""
    for entry in directory.glob("*"):
        if entry.name in KEPT_DIRECTORIES:
            shutil.rmtree(entry)
        elif entry.name.startswith(KEPT_FILES):
            entry.unlink()


class Foreign(Protocol):
    """Starts and stops one or more children that are not ours."""

    def start(self) -> object: ...

    def stop(self) -> None: ...


class Parts:
    """All parts of a stack in `options.directory`, which the caller holds."""

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.directory = options.directory.absolute()
        # A relay without a pipeline to emit refuses to run.
        emits = any(spec.source.kind == "outbox" for spec in load_all(options.pipelines).values())
        ours = [GATEWAY, *([RELAY] if emits else []), *options.loader_names]
        self.ports = kept_ports(self.directory / "ports.json", ["clickhouse", "postgres", "prometheus", *ours])
        self.kafka = KafkaCluster(self.directory / "kafka", options.brokers)
        self.clickhouse = ClickHouseFront(self.directory / "clickhouse", self.ports["clickhouse"])
        self.postgres = Postgres(self.directory / "postgres", self.ports["postgres"]) if options.postgres else None
        self.notes: list[str] = []
        """What is not as it was asked for, and why."""
        self.prometheus = self._prometheus(ours) if options.prometheus else None
        self.environment = self._environment()
        self.foreign = self._foreign()
        """Each with its services, in the order in which they stop."""
        self.ours = [self._our(name) for name in ours]
        """In the order in which they stop."""

    @property
    def services(self) -> dict[str, Service]:
        everything = [*self.ours, *(service for _, services in self.foreign for service in services)]
        return {service.name: service for service in everything}

    @property
    def keys_file(self) -> Path:
        return self.directory / "keys.yaml"

    @property
    def urls(self) -> dict[str, str]:
        urls = {GATEWAY: self._url(GATEWAY), "kafka": self.kafka.bootstrap, "clickhouse": self.clickhouse.url}
        if self.postgres is not None:
            urls["postgres"] = self.postgres.url
        if self.prometheus is not None:
            urls["prometheus"] = self.prometheus.url
        return urls

    def _url(self, name: str) -> str:
        return f"http://{LOOPBACK}:{self.ports[name]}"

    def _prometheus(self, scraped: list[str]) -> Prometheus | None:
        """Events flow without it, so a machine that cannot have it goes without."""
        config = self.directory / "prometheus" / "prometheus.yml"
        write_config(config, {name: f"{LOOPBACK}:{self.ports[name]}" for name in scraped})
        try:
            return Prometheus(self.directory / "prometheus", config, self.ports["prometheus"])
        except InstallError as error:
            self.notes.append(f"going without Prometheus: {error}")
            return None

    def _environment(self) -> dict[str, str]:
        store = self.postgres.url if self.postgres is not None else f"sqlite:///{self.directory / 'store.db'}"
        return {
            "TIDEWATCH_PIPELINES": str(self.options.pipelines.absolute()),
            "TIDEWATCH_KAFKA__BOOTSTRAP": self.kafka.bootstrap,
            "TIDEWATCH_CLICKHOUSE__URL": self.clickhouse.url,
            "TIDEWATCH_STORE__URL": store,
            "TIDEWATCH_GATEWAY__KEYS_FILE": str(self.keys_file),
            **self.options.settings,
        }

    def _foreign(self) -> list[tuple[Foreign, list[Service]]]:
        found: list[tuple[Foreign, list[Service]]] = []
        if (prometheus := self.prometheus) is not None:
            found.append((prometheus, [self._http(prometheus.child, prometheus.url, "/-/ready")]))
        found.append((self.clickhouse, [self._http(self.clickhouse.child, self.clickhouse.url, "/ping")]))
        if self.postgres is not None:
            found.append((self.postgres, [self._tcp(self.postgres.child, self.postgres.port)]))
        brokers = zip(self.kafka.brokers, self.kafka.ports, strict=True)
        found.append((self.kafka, [self._tcp(child, ports.client) for child, ports in brokers]))
        return found

    def _http(self, child: Child, url: str, path: str) -> Service:
        child.log = self._log(child.name)
        return Service(child.name, child, url, url + path)

    def _tcp(self, child: Child, port: int) -> Service:
        child.log = self._log(child.name)
        return Service(child.name, child, f"{LOOPBACK}:{port}", f"tcp://{LOOPBACK}:{port}")

    def _log(self, name: str) -> Path:
        return self.directory / "logs" / f"{name}.log"

    def _our(self, name: str) -> Service:
        port = str(self.ports[name])
        if name == GATEWAY:
            command, own = [GATEWAY], {"TIDEWATCH_GATEWAY__PORT": port}
        elif name == RELAY:
            command, own = ["outbox", "relay"], {"TIDEWATCH_RELAY__PORT": port}
        else:
            command, own = [LOADER], {"TIDEWATCH_LOADER__PORT": port, "TIDEWATCH_LOADER__INSTANCE": name}
        environment = {
            **self.environment,
            **own,
            "TIDEWATCH_TELEMETRY__LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
        }
        argv = [*self.options.command, *command]
        child = Child(name, argv, log=self._log(name), env=environment, grace=DRAIN_SECONDS)
        return self._http(child, self._url(name), "/readyz")
