"""The merged log, how it is shown, and how other commands find a running stack."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devstack import logs, parts, ports, state
from devstack.logs import Collector, Line
from tidewatch.errors import Refused, UsageError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_lines_of_all_services_end_in_one_log_whole_and_in_order(tmp_path: Path) -> None:
    first, second, merged = tmp_path / "a.log", tmp_path / "b.log", tmp_path / "logs" / "all.log"
    first.write_text("from an earlier run\n")
    collector = Collector(merged, {"a": first, "b": second})
    collector.start()
    over = threading.Event()
    with first.open("a") as a:
        a.write("one\ntw")
        a.flush()
        second.write_bytes(b"tab\there\n\xff\n")
        a.write("o\n")
    collector.say("hello")
    collector.stop()
    over.set()

    lines = logs.last(merged, 10, frozenset())
    assert [line.text for line in lines if line.service == "a"] == ["one", "two"]
    assert [line.text for line in lines if line.service == "b"] == ["tab\there", "�"]
    assert [line.text for line in lines if line.service == logs.STACK] == ["hello"]
    assert [line.text for line in logs.last(merged, 1, frozenset({"a"}))] == ["two"]


def test_following_gives_what_comes_until_it_is_over(tmp_path: Path) -> None:
    merged = tmp_path / "all.log"
    merged.write_text(Line(NOW, "a", "before").encode())
    over = threading.Event()
    lines = logs.follow(merged, over, frozenset({"a"}))
    with merged.open("a") as log:
        got: list[str] = []
        reader = threading.Thread(target=lambda: got.extend(line.text for line in lines))
        reader.start()
        while not got:  # the reader stands at the end before it says anything
            log.write(Line(NOW, "a", "new").encode() + Line(NOW, "b", "other").encode())
            log.flush()
        over.set()
        reader.join()
    assert set(got) == {"new"}


def test_structured_lines_read_as_text_and_others_stay_as_they_are() -> None:
    said = json.dumps({"event": "block.inserted", "level": "warning", "time": "…", "rows": 5, "topic": "raw.x"})
    shown = logs.render(Line(NOW, "loader", said), ["gateway", "loader"]).plain
    assert shown.endswith("loader  │ warning block.inserted rows=5 topic=raw.x")
    assert logs.render(Line(NOW, "kafka-0", "{half"), ["loader"]).plain.endswith("kafka-0 │ {half")


def a_state(directory: Path, **environment: str) -> state.StackState:
    return state.StackState(
        pid=1, ready=True, urls={}, environment=environment, project="dev", api_key_file=directory / "k", services=()
    )


def test_a_running_stack_is_found_by_others_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    found = {"TIDEWATCH_KAFKA__BOOTSTRAP": "here:1", "TIDEWATCH_PIPELINES": "p"}
    with state.held(tmp_path):
        assert state.read(tmp_path) is None
        state.write(tmp_path, a_state(tmp_path, **found))
        assert state.local_environment({}, tmp_path) == found
        assert state.local_environment({"TIDEWATCH_PIPELINES": "mine"}, tmp_path) == {
            "TIDEWATCH_KAFKA__BOOTSTRAP": "here:1"
        }
        with pytest.raises(Refused, match="runs here already"), state.held(tmp_path):
            pass
    assert state.local_environment({}, tmp_path) == {}
    with pytest.raises(UsageError, match="tidewatch dev up"):
        state.running(tmp_path)


def test_whoever_names_another_system_gets_no_part_of_the_local_one(tmp_path: Path) -> None:
    with state.held(tmp_path):
        state.write(tmp_path, a_state(tmp_path, TIDEWATCH_KAFKA__BOOTSTRAP="here:1"))
        assert state.local_environment({"TIDEWATCH_CLICKHOUSE__URL": "http://elsewhere"}, tmp_path) == {}


def test_a_state_left_by_a_killed_stack_counts_for_nothing(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from devstack import state; d = Path(sys.argv[1])\n"
        "with state.held(d): (d / state.STATE).write_text('{}'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / state.STATE).exists()
    assert not state.is_running(tmp_path)
    assert state.read(tmp_path) is None


def test_ports_are_kept_while_they_are_free(tmp_path: Path) -> None:
    remembered = tmp_path / "ports.json"
    first = ports.kept_ports(remembered, ["a", "b"])
    assert ports.kept_ports(remembered, ["a", "b"]) == first
    with socket.create_server((ports.LOOPBACK, first["a"])):
        second = ports.kept_ports(remembered, ["a", "b"])
    assert second["a"] != first["a"]
    assert second["b"] == first["b"]
    assert ports.kept_ports(remembered, ["a"]) == {"a": second["a"]}


def test_wiping_removes_what_a_stack_keeps_and_nothing_else(tmp_path: Path) -> None:
    for name in ("kafka", "clickhouse", "mine"):
        (tmp_path / name).mkdir()
    for name in ("store.db", "store.db-wal", "api-key", "notes.txt"):
        (tmp_path / name).touch()
    parts.wipe(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "notes.txt"}


def test_a_style_ends_where_its_part_of_the_line_ends() -> None:
    shown = logs.render(Line(NOW, "loader", json.dumps({"event": "x", "level": "error", "rows": 5})), ["loader"])
    assert shown.style == ""
    assert [shown.plain[span.start : span.end] for span in shown.spans if "red" in str(span.style)] == ["error ", "x"]
