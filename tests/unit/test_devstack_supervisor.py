"""When a service is started again, and when it is left alone; time is moved by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.process import Child
from devstack.supervisor import FIRST_DELAY, LONGEST_DELAY, STEADY_SECONDS, Service, Supervisor
from tidewatch.clock import ManualClock

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    child = Child("sleeper", SLEEPER, log=tmp_path / "log").start()
    service = Service("sleeper", child, "here", "tcp://127.0.0.1:1")
    service.adopt()
    yield service
    child.kill()


def test_a_crash_is_followed_by_a_start_after_the_delay(service: Service) -> None:
    clock, said = ManualClock(), list[str]()
    supervisor = Supervisor([service], said.append, clock=clock)
    first = service.pid

    service.kill()
    supervisor.look()
    assert (service.state, service.running) == ("restarting", False)
    clock.advance(FIRST_DELAY - 0.01)
    supervisor.look()
    assert not service.running
    clock.advance(0.02)
    supervisor.look()

    assert service.running
    assert service.pid != first
    assert (service.state, service.restarts) == ("running", 1)
    assert "ended with SIGKILL" in said[0]
    assert "started again" in said[1]


def delay_after_crash(service: Service, supervisor: Supervisor, clock: ManualClock) -> float:
    service.kill()
    supervisor.look()
    delay = service.delay
    clock.advance(delay)
    supervisor.look()
    assert service.running
    return delay


def test_the_delay_doubles_to_a_limit_and_is_forgotten_after_a_steady_run(service: Service) -> None:
    clock = ManualClock()
    supervisor = Supervisor([service], lambda _: None, clock=clock)
    delays = [delay_after_crash(service, supervisor, clock) for _ in range(8)]
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, LONGEST_DELAY]
    clock.advance(STEADY_SECONDS)
    assert delay_after_crash(service, supervisor, clock) == FIRST_DELAY


def test_what_was_asked_to_stop_stays_down(service: Service) -> None:
    clock = ManualClock()
    supervisor = Supervisor([service], lambda _: None, clock=clock)
    service.stop()
    for _ in range(5):
        supervisor.look()
        clock.advance(LONGEST_DELAY)
    assert (service.state, service.running, service.restarts) == ("stopped", False, 0)


def test_stopping_while_it_waits_to_be_started_again_holds_too(service: Service) -> None:
    clock = ManualClock()
    supervisor = Supervisor([service], lambda _: None, clock=clock)
    service.kill()
    supervisor.look()
    service.stop()
    clock.advance(LONGEST_DELAY)
    supervisor.look()
    assert not service.running
