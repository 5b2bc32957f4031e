"""The whole local stack: Kafka, ClickHouse, Prometheus, PostgreSQL when asked, and our services, on free ports.

    with Stack(StackOptions(directory)) as stack:
        httpx.post(f"{stack.gateway_url}/v1/events", headers={"X-Api-Key": stack.api_key}, …)
        stack.service("loader").kill()  # and it comes back

Data, ports and keys stay in the directory; the processes never outlive this one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Self, TypeVar

from devstack import state
from devstack.clickhouse import ClickHouseFront
from devstack.kafka import KafkaCluster
from devstack.logs import Collector
from devstack.parts import GATEWAY, Foreign, Parts, StackOptions, wipe
from devstack.postgres import Postgres
from devstack.process import ProcessError
from devstack.prometheus import Prometheus
from devstack.supervisor import Service, Supervisor
from ingest.gateway import keys
from tidewatch.errors import NotBalanced, UsageError

__all__ = ["Stack", "StackOptions"]

T = TypeVar("T")

PROJECT = "dev"
COMMAND_SECONDS = 120.0


class Stack:
    """The parts of a started stack, and its one life: start, stop."""

    def __init__(self, options: StackOptions | None = None, say: Callable[[str], None] = lambda _: None) -> None:
        """`say` is told what is going on, a line at a time, from several threads."""
        self.options = options or StackOptions()
        self.directory = self.options.directory.absolute()
        self.project = PROJECT
        self.api_key = ""
        self._tell = say
        self._parts: Parts | None = None
        self._collector: Collector | None = None
        self._ready = False
        self._closing = ExitStack()

    @property
    def parts(self) -> Parts:
        if self._parts is None:
            raise UsageError("the stack was not started", fix="call start() first, or use it as a context")
        return self._parts

    @property
    def kafka(self) -> KafkaCluster:
        return self.parts.kafka

    @property
    def clickhouse(self) -> ClickHouseFront:
        return self.parts.clickhouse

    @property
    def postgres(self) -> Postgres | None:
        return self.parts.postgres

    @property
    def prometheus(self) -> Prometheus | None:
        return self.parts.prometheus

    @property
    def gateway_url(self) -> str:
        return self.parts.urls[GATEWAY]

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which `tidewatch` finds this stack."""
        return self.parts.environment

    @property
    def merged_log(self) -> Path:
        return state.merged_log(self.directory)

    @property
    def service_names(self) -> list[str]:
        """Empty until it is being started."""
        return [] if self._parts is None else list(self._parts.services)

    def service(self, name: str) -> Service:
        services = self.parts.services
        if name not in services:
            raise UsageError(f"there is no service {name}", fix=f"choose among {', '.join(services)}")
        return services[name]

    def tidewatch(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run a command of ours against this stack, to its end; its status is the caller's to judge."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            [*self.options.command, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self) -> Self:
        """Return when everything is ready for events; what fails first is raised, and nothing stays behind."""
        with ExitStack() as undo:
            undo.enter_context(state.held(self.directory))
            if self.options.fresh:
                wipe(self.directory)
            parts = self._parts = Parts(self.options)
            collector = self._collect(undo, parts)
            for note in parts.notes:
                self._say(note)
            supervisor = Supervisor(parts.services.values(), collector.say, changed=self._write_state)
            for part in reversed(parts.foreign):
                undo.callback(self._stop_foreign, part)
            _all_at_once(self._start_foreign, parts.foreign)
            self._prepare()
            for service in reversed(parts.ours):
                undo.callback(self._stop_ours, service)
            _all_at_once(self._start_ours, parts.ours)
            undo.callback(supervisor.stop)
            supervisor.start()
            self._ready = True
            self._write_state()
            self._closing = undo.pop_all()
        return self

    def stop(self) -> None:
        """The gateway drains first, then what reads from it, then what holds the data."""
        self._ready = False
        self._closing.close()

    def _collect(self, undo: ExitStack, parts: Parts) -> Collector:
        logs = {name: service.child.log for name, service in parts.services.items()}
        self._collector = Collector(self.merged_log, logs)
        self._collector.start()
        undo.callback(self._collector.stop)
        return self._collector

    def _start_foreign(self, part: tuple[Foreign, list[Service]]) -> None:
        foreign, services = part
        foreign.start()
        for service in services:
            service.adopt()
            self._say(f"{service.name} is ready at {service.address}")
        self._write_state()

    def _start_ours(self, service: Service) -> None:
        service.start()
        self._say(f"{service.name} is ready at {service.address}")
        self._write_state()

    def _stop_foreign(self, part: tuple[Foreign, list[Service]]) -> None:
        foreign, services = part
        self._say(f"stopping {', '.join(service.name for service in services)}")
        foreign.stop()

    def _stop_ours(self, service: Service) -> None:
        if service.running:
            self._say(f"stopping {service.name}")
            service.stop()

    def _prepare(self) -> None:
        """Topics, tables and a key, before anything needs them."""
        applied = self.tidewatch("spec", "apply", "--yes")
        if applied.returncode == NotBalanced.exit_code:
            self._say("some changes of the specs were refused and left out: `tidewatch spec plan` says why")
        elif applied.returncode != 0:
            raise ProcessError(f"`tidewatch spec apply` failed:\n{applied.stdout}{applied.stderr}", fix="see above")
        else:
            self._say("topics and tables are as the specs say")
        self.api_key = self._key()

    def _key(self) -> str:
        """The key of this directory's first start, as long as its hash is still among the keys."""
        path, keys_file = state.api_key_file(self.directory), self.parts.keys_file
        if path.exists() and keys.FileApiKeys(keys_file).find(path.read_text()) is not None:
            return path.read_text()
        key, _ = keys.create(keys_file, PROJECT, note="local stack")
        path.touch(mode=0o600)
        path.write_text(key)
        return key

    def _say(self, text: str) -> None:
        self._tell(text)
        if self._collector is not None:
            self._collector.say(text)

    def _write_state(self) -> None:
        services = self.parts.services.values()
        state.write(
            self.directory,
            state.StackState(
                pid=os.getpid(),
                ready=self._ready,
                urls=self.parts.urls,
                environment=self.environment,
                project=self.project,
                api_key_file=state.api_key_file(self.directory),
                services=tuple(_service_state(service) for service in services),
            ),
        )

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _service_state(service: Service) -> state.ServiceState:
    return state.ServiceState(
        name=service.name,
        state=service.state,
        pid=service.pid,
        restarts=service.restarts,
        since=service.since,
        address=service.address,
        health=service.health,
        log=service.child.log,
    )


def _all_at_once(work: Callable[[T], None], items: Iterable[T]) -> None:
    """The first failure is raised when all have ended."""
    with ThreadPoolExecutor(max_workers=16) as pool:
        for done in [pool.submit(work, item) for item in items]:
            done.result()
