"""The stack around our services: order, restarts, and that nothing of it stays behind.

The foreign services are real; ours are stand-ins that listen where they are told to and say when they drain. The real
ones are started so in tests/e2e/test_local_stack.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from devstack import logs, state
from devstack.process import ProcessError
from devstack.stack import Stack, StackOptions
from tidewatch.errors import Refused, UsageError

ROOT = Path(__file__).parents[2]
STAND_IN = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

ports = {"gateway": "TIDEWATCH_GATEWAY__PORT", "loader": "TIDEWATCH_LOADER__PORT", "outbox": "TIDEWATCH_RELAY__PORT"}
command = sys.argv[1]
if command == "spec":
    print("specs applied, or not:", os.environ.get("TIDEWATCH_TELEMETRY__LOG_LEVEL"))
    sys.exit(os.environ.get("TIDEWATCH_TELEMETRY__LOG_LEVEL") == "error")

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

def drain(*_):
    print(f"{command} drained", flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, drain)
HTTPServer(("127.0.0.1", int(os.environ[ports[command]])), Ready).serve_forever()
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    program = tmp_path_factory.mktemp("stand-in") / "tidewatch.py"
    program.write_text(STAND_IN)
    return sys.executable, str(program)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, command: tuple[str, str]) -> Iterator[Stack]:
    options = StackOptions(tmp_path_factory.mktemp("stack"), loaders=2, postgres=True, command=command)
    with Stack(options) as stack:
        yield stack


def test_every_part_is_up_and_found(stack: Stack) -> None:
    assert set(stack.service_names) == {
        *("gateway", "relay", "loader", "loader-2", "prometheus", "clickhouse", "postgres", "kafka-0")
    }
    assert all(stack.service(name).healthy() for name in stack.service_names)
    found = state.running(stack.directory)
    assert found.ready
    assert found.environment["TIDEWATCH_KAFKA__BOOTSTRAP"] == stack.kafka.bootstrap
    assert httpx.get(f"{stack.clickhouse.url}/ping", timeout=5).text == "Ok.\n"
    with psycopg.connect(found.environment["TIDEWATCH_STORE__URL"].replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert found.api_key_file.read_text() == stack.api_key
    assert found.api_key_file.stat().st_mode & 0o077 == 0


def test_prometheus_scrapes_every_service_of_ours(stack: Stack) -> None:
    assert stack.prometheus is not None
    targets: list[Any] = []
    # It reads its targets some seconds after it is ready.
    for _ in range(300):
        targets = httpx.get(f"{stack.prometheus.url}/api/v1/targets", timeout=10).json()["data"]["activeTargets"]
        if targets:
            break
        time.sleep(0.1)
    assert {target["labels"]["service"] for target in targets} == {"gateway", "relay", "loader", "loader-2"}


@pytest.mark.parametrize("name", ["loader-2", "clickhouse", "kafka-0"])
def test_what_is_killed_comes_back_on_the_same_address(stack: Stack, name: str) -> None:
    service = stack.service(name)
    pid, restarts = service.pid, service.restarts
    service.kill()
    while service.restarts == restarts:
        time.sleep(0.05)
    service.wait_ready(60)
    assert service.pid != pid
    assert any(f"{name} ended with SIGKILL" in line.text for line in logs.last(stack.merged_log, 1000, frozenset()))


def test_an_unknown_service_says_which_there_are(stack: Stack) -> None:
    with pytest.raises(UsageError, match="choose among gateway, relay, loader"):
        stack.service("warehouse")


def test_a_second_stack_in_the_same_directory_is_refused(stack: Stack) -> None:
    with pytest.raises(Refused, match="runs here already"):
        Stack(stack.options).start()
    assert stack.service("gateway").healthy()


def small(directory: Path, command: tuple[str, str], **over: object) -> StackOptions:
    return StackOptions(directory, prometheus=False, command=command, **over)  # type: ignore[arg-type]


def test_it_stops_in_order_and_starts_again_with_what_it_kept(tmp_path: Path, command: tuple[str, str]) -> None:
    with Stack(small(tmp_path, command)) as stack:
        address, key = stack.kafka.bootstrap, stack.api_key
        processes = [psutil.Process(stack.service(name).pid) for name in stack.service_names]
    assert not any(process.is_running() for process in processes)
    assert not state.is_running(tmp_path)
    order = [line.text for line in logs.last(stack.merged_log, 100, frozenset()) if line.text.startswith("stopping")]
    assert order == [f"stopping {name}" for name in ("gateway", "relay", "loader", "clickhouse", "kafka-0")]
    drained = [line.text for line in logs.last(stack.merged_log, 100, frozenset()) if line.text.endswith("drained")]
    assert sorted(drained) == ["gateway drained", "loader drained", "outbox drained"]

    with Stack(small(tmp_path, command)) as again:
        assert (again.kafka.bootstrap, again.api_key) == (address, key)
    with Stack(small(tmp_path, command, fresh=True)) as new:
        assert new.api_key != key


def test_a_start_that_fails_says_why_and_leaves_nothing_running(tmp_path: Path, command: tuple[str, str]) -> None:
    options = small(tmp_path, command, settings={"TIDEWATCH_TELEMETRY__LOG_LEVEL": "error"})
    mine = psutil.Process()
    before = {child.pid for child in mine.children(recursive=True)}
    with pytest.raises(ProcessError, match=r"spec apply` failed:\nspecs applied, or not: error"):
        Stack(options).start()
    assert {child.pid for child in mine.children(recursive=True)} <= before
    assert not state.is_running(tmp_path)


KILLED = """
import sys, time
from pathlib import Path
from devstack.stack import Stack, StackOptions
Stack(StackOptions(Path(sys.argv[1]), prometheus=False, command=tuple(sys.argv[2:]))).start()
print("up", flush=True)
time.sleep(600)
"""


def test_nothing_of_it_outlives_its_process(tmp_path: Path, command: tuple[str, str]) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), *command], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "up\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) >= 5
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
    assert not state.is_running(tmp_path)
