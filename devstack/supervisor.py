"""Keeps services running: one that dies without being asked to is started again, later each time it dies soon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from devstack.health import ready
from devstack.process import Child, ProcessError
from tidewatch.clock import Clock, SystemClock
from tidewatch.errors import TidewatchError

FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
STEADY_SECONDS = 30.0  # one that ran so long starts again with the first delay
WATCH_SECONDS = 0.1

State = Literal["stopped", "starting", "running", "restarting"]


@dataclass
class Service:
    """A child that the stack wants running. Its verbs may be called from any thread."""

    name: str
    child: Child
    address: str
    health: str
    """As `devstack.health.ready` takes it."""
    ready_seconds: float = 90.0
    restarts: int = 0
    state: State = "stopped"
    since: datetime | None = None
    due: float = 0.0  # when to start it again, in the clock's monotonic seconds
    delay: float = 0.0
    began: float = 0.0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def probe(self) -> bool:
        return ready(self.health)

    @property
    def pid(self) -> int | None:
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child.running

    def start(self) -> None:
        """Start it and return when it is ready; dying before that is an error, not a reason to try again."""
        with self.lock:
            self.state = "starting"
            self.child.start()
        self.child.wait_ready(self.probe, self.ready_seconds)
        self.adopt()

    def adopt(self) -> None:
        """It was started and is ready: keep it so."""
        self.state, self.since = "running", datetime.now(UTC)

    def stop(self) -> None:
        """Ask it to end and wait; it stays down."""
        with self.lock:
            self.state = "stopped"
        self.child.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash: the supervisor starts it again."""
        self.child.kill()

    def pause(self) -> None:
        self.child.pause()

    def resume(self) -> None:
        self.child.resume()

    def healthy(self) -> bool:
        """Whether it runs and says that it is ready."""
        with suppress(OSError, TidewatchError):
            return self.running and self.probe()
        return False

    def wait_ready(self, timeout: float = 60.0, clock: Clock | None = None) -> None:
        """Return when it is ready, over as many restarts as that takes."""
        clock = clock or SystemClock()
        deadline = clock.monotonic() + timeout
        while not self.healthy():
            if clock.monotonic() > deadline:
                said = self.child.tail()
                raise ProcessError(
                    f"{self.name} was not ready after {timeout:g} s; it said:\n{said}\n", fix="see above"
                )
            clock.sleep(0.05)


class Supervisor:
    """Watches services from a thread of its own; `say` is told of each death and each start."""

    def __init__(
        self,
        services: Iterable[Service],
        say: Callable[[str], None],
        *,
        changed: Callable[[], None] = lambda: None,
        clock: Clock | None = None,
    ) -> None:
        self.services = list(services)
        self._say = say
        self._changed = changed
        self._clock = clock or SystemClock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="devstack-supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when it will start nothing any more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_SECONDS):
            self.look()

    def look(self) -> None:
        """One round over all services."""
        for service in self.services:
            with service.lock:
                if service.state == "running" and not service.running:
                    self._mourn(service)
                elif service.state == "restarting" and self._clock.monotonic() >= service.due:
                    self._restart(service)

    def _mourn(self, service: Service) -> None:
        now = self._clock.monotonic()
        steady = now - service.began >= STEADY_SECONDS
        service.delay = FIRST_DELAY if steady or not service.delay else min(LONGEST_DELAY, service.delay * 2)
        service.due = now + service.delay
        service.state, service.since = "restarting", self._clock.now()
        self._say(f"{service.name} ended with {service.child.outcome}; starting it again in {service.delay:g} s")
        self._changed()

    def _restart(self, service: Service) -> None:
        service.child.start()
        service.restarts += 1
        service.began = self._clock.monotonic()
        service.state, service.since = "running", self._clock.now()
        self._say(f"{service.name} started again as process {service.pid}")
        self._changed()
