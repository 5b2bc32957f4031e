"""`tidewatch dev` with the real services: one command up, events in, found by every other command, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from devstack import state
from tidewatch.clickhouse import ClickHouse
from tidewatch.settings import load_settings

PIPELINES = Path(__file__).parents[2] / "pipelines"
TIDEWATCH = [sys.executable, "-m", "controlplane.cli.main"]
PLACES = ("TIDEWATCH_KAFKA__", "TIDEWATCH_CLICKHOUSE__", "TIDEWATCH_STORE__")


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(PLACES)}


def tidewatch(home: Path, *arguments: str, status: int = 0) -> str:
    """Run in `home` as a user would, with nothing in the environment that says where the stack is."""
    done = subprocess.run(
        [*TIDEWATCH, *arguments],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a stack in the background."""
    home = tmp_path_factory.mktemp("home")
    said = tidewatch(home, "dev", "up", "--detach", "--no-prometheus", "--pipelines", str(PIPELINES))
    assert "running in the background" in said
    yield home
    if state.is_running(home / state.DIRECTORY):
        tidewatch(home, "dev", "down")


@pytest.fixture(scope="module")
def stack(home: Path) -> state.StackState:
    return state.running(home / state.DIRECTORY)


def services(home: Path) -> dict[str, dict[str, Any]]:
    return {service["name"]: service for service in json.loads(tidewatch(home, "dev", "status", "--json"))["services"]}


def send(stack: state.StackState, user: str) -> str:
    event = {"event": "purchase", "occurred_at": datetime.now(UTC).isoformat(), "user_id": user, "app": "shop"}
    headers = {"X-Api-Key": stack.api_key_file.read_text()}
    answer = httpx.post(f"{stack.urls['gateway']}/v1/events", json=event, headers=headers, timeout=30)
    assert answer.status_code == 202, answer.text
    return answer.text


def test_all_services_are_ready(home: Path) -> None:
    found = services(home)
    assert set(found) == {"gateway", "relay", "loader", "clickhouse", "kafka-0"}
    assert all(service["healthy"] for service in found.values())
    table = tidewatch(home, "dev", "status")
    assert table.count("● ready") == 5


def test_an_event_sent_over_http_is_seen_in_the_log_and_in_the_warehouse(
    home: Path, stack: state.StackState, fresh: str
) -> None:
    send(stack, f"user-{fresh}")
    shown = tidewatch(
        home,
        *("tail", "raw.app_events.v1", "--from", "beginning", "--no-follow", "--json"),
        *("--where", f"user_id=user-{fresh}"),
    )
    seen = json.loads(shown)
    assert (seen["project"], seen["key"]) == (stack.project, f"user-{fresh}")
    assert loaded(stack, seen["event_id"]) == (seen["partition"], seen["offset"])


def loaded(stack: state.StackState, event_id: str) -> tuple[int, int]:
    """Where the event's row says it came from; waits for the loader."""
    with ClickHouse(load_settings(stack.environment).clickhouse) as clickhouse:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            rows = clickhouse.query(
                "SELECT _partition, _offset FROM raw_app_events WHERE _event_id = {id:String}", {"id": event_id}
            )
            if rows:
                return rows[0][0], rows[0][1]
            time.sleep(0.1)
    raise AssertionError(f"{event_id} was not loaded")


@pytest.mark.parametrize("name", ["gateway", "loader", "relay"])
def test_a_killed_service_comes_back_and_events_flow(
    home: Path, stack: state.StackState, fresh: str, name: str
) -> None:
    before = services(home)[name]
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 90
    while (now := status_of(home, name))["restarts"] == before["restarts"] or not now["healthy"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.2)
    send(stack, f"after-{name}-{fresh}")
    assert f"{name} ended with SIGKILL" in tidewatch(home, "dev", "logs", "stack")


def status_of(home: Path, name: str) -> dict[str, Any]:
    done = subprocess.run(
        [*TIDEWATCH, "dev", "status", "--json"],
        cwd=home,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, Any] = next(each for each in json.loads(done.stdout)["services"] if each["name"] == name)
    return found


def test_logs_of_one_service_and_an_unknown_one(home: Path) -> None:
    lines = tidewatch(home, "dev", "logs", "gateway", "-n", "5").splitlines()
    assert lines
    assert all("gateway" in line for line in lines)
    tidewatch(home, "dev", "logs", "warehouse", status=2)


def test_a_second_one_is_refused(home: Path) -> None:
    tidewatch(home, "dev", "up", "--pipelines", str(PIPELINES), status=1)
    assert services(home)["gateway"]["healthy"]


def test_down_stops_everything(home: Path, stack: state.StackState) -> None:
    processes = [psutil.Process(service["pid"]) for service in services(home).values()]
    assert "stopped" in tidewatch(home, "dev", "down")
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []
    tidewatch(home, "dev", "status", status=3)
    assert "no local stack runs here" in tidewatch(home, "dev", "down")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_stops_it_in_order(home: Path, number: signal.Signals) -> None:
    command = [*TIDEWATCH, "dev", "up", "--no-prometheus", "--pipelines", str(PIPELINES)]
    process = subprocess.Popen(
        command, cwd=home, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C stops everything" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        said += process.stdout.readlines()
    assert process.wait(60) == 0, "".join(said)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    stops = [line.rsplit("stopping ", 1)[1].strip() for line in said if "│ stopping " in line]
    assert stops == ["gateway", "relay", "loader", "clickhouse", "kafka-0"]
