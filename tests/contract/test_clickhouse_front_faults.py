"""The development ClickHouse as a process: crashes, stops, passwords, limits. Only for the front, never a server."""

from __future__ import annotations

import base64
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from clickhouse_contract import ONE_BLOCK, offsets

from devstack.chfront.spool import KEPT_FILES
from devstack.clickhouse import ClickHouseFront

LOAD = "INSERT INTO t SELECT _offset, raw FROM input('_offset Int64, raw String') FORMAT ArrowStream"
ROWS = 50_000


@pytest.fixture
def front(tmp_path: Path) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path / "clickhouse", connections=2) as running:
        yield running


def run(front: ClickHouseFront, sql: str, data: bytes | None = None, **params: object) -> str:
    values = {name: str(value) for name, value in params.items()}
    query = {"query": sql} if data is not None else {}
    body = data if data is not None else sql.encode()
    return httpx.post(front.url, params=values | query, content=body, timeout=60).raise_for_status().text


def table(front: ClickHouseFront) -> None:
    window = "SETTINGS non_replicated_deduplication_window = 1000"
    run(front, f"CREATE TABLE t (o Int64, raw String) ENGINE = MergeTree ORDER BY o {window}")
    run(front, f"CREATE TABLE copy (o Int64) ENGINE = MergeTree ORDER BY o {window}")
    run(front, "CREATE MATERIALIZED VIEW to_copy TO copy AS SELECT o FROM t")


def test_killed_in_the_middle_of_inserts(front: ClickHouseFront) -> None:
    """After a crash only whole blocks are there, and the same token completes what is missing."""
    table(front)
    bodies = [offsets(ROWS, number * ROWS) for number in range(12)]

    def load(number: int) -> None:
        """Insert one block, over as many crashes as it takes."""
        while True:
            try:
                run(front, LOAD, bodies[number], insert_deduplication_token=number, **ONE_BLOCK)
            except (httpx.TransportError, httpx.HTTPStatusError):
                time.sleep(0.05)
            else:
                return

    with ThreadPoolExecutor(2) as pool:
        loads = [pool.submit(load, number) for number in range(12)]
        for _ in range(5):
            time.sleep(random.uniform(0.02, 0.25))
            front.kill()
            front.start()
            parts = run(
                front, f"SELECT countIf(n != {ROWS}) FROM (SELECT count() AS n FROM t GROUP BY intDiv(o, {ROWS}))"
            )
            assert parts == "0\n"
        for each in loads:
            each.result()
    counts = "SELECT (SELECT count() FROM t), (SELECT uniqExact(o) FROM t), (SELECT count() FROM copy)"
    assert run(front, counts) == f"{12 * ROWS}\t{12 * ROWS}\t{12 * ROWS}\n"


def test_data_outlive_a_stop_and_a_kill(front: ClickHouseFront) -> None:
    table(front)
    run(front, LOAD, offsets(10), **ONE_BLOCK)
    port = front.port
    front.stop()
    assert front.child.returncode == 0
    front.start()
    front.kill()
    front.start()
    assert (front.port, run(front, "SELECT count() FROM t")) == (port, "10\n")


def test_a_stop_lets_statements_end(front: ClickHouseFront) -> None:
    answers: list[str] = []
    sql = "SELECT sum(sleepEachRow(0.1)) FROM numbers(30) SETTINGS max_block_size = 1"
    runner = threading.Thread(target=lambda: answers.append(run(front, sql)))
    runner.start()
    seen = "SELECT query FROM system.processes WHERE query LIKE 'SELECT sum(sleep%'"
    while not answers and "sleepEachRow" not in run(front, seen):
        time.sleep(0.02)
    front.stop()
    runner.join()
    assert answers == ["0\n"]
    assert front.child.returncode == 0


def test_paused_it_answers_nothing_and_resumed_it_goes_on(front: ClickHouseFront) -> None:
    front.pause()
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{front.url}/ping", timeout=0.3)
    front.resume()
    assert httpx.get(f"{front.url}/ping").text == "Ok.\n"


def test_ping_and_kill_get_through_when_every_turn_is_taken(front: ClickHouseFront) -> None:
    sql = "SELECT sum(sleepEachRow(0.1)) FROM numbers(1000) SETTINGS max_block_size = 1"

    def slow(number: int) -> int:
        return httpx.post(front.url, params={"query_id": f"slow{number}"}, content=sql, timeout=120).status_code

    with ThreadPoolExecutor(2) as pool:
        slow_ones = [pool.submit(slow, number) for number in range(2)]
        kill = "KILL QUERY WHERE query_id IN ('slow0', 'slow1') SYNC"
        killed = 0
        while killed < 2:
            assert httpx.get(f"{front.url}/ping", timeout=10).text == "Ok.\n"
            killed += run(front, kill).count("\n")
        assert [each.result() for each in slow_ones] == [500, 500]


def test_nothing_of_a_body_is_left(front: ClickHouseFront) -> None:
    table(front)

    def load(number: int) -> None:
        run(front, LOAD, offsets(1000, number * 1000), **ONE_BLOCK)
        httpx.post(front.url, params={"query": "INSERT INTO t FORMAT CSV"}, content=b"not,a,number\n")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(40)))
    opened = [str(each.readlink()) for each in Path(f"/proc/{front.child.pid}/fd").iterdir()]
    assert len([name for name in opened if "clickhouse-body" in name]) <= KEPT_FILES


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[ClickHouseFront]:
    with ClickHouseFront(tmp_path / "clickhouse", password="s3cret:ü") as running:
        yield running


def test_the_password(guarded: ClickHouseFront) -> None:
    def status(headers: dict[str, str] | dict[str, bytes] | None = None, **params: str) -> tuple[int, str | None]:
        answer = httpx.post(guarded.url, headers=headers or {}, params=params, content="SELECT 1")
        return answer.status_code, answer.headers.get("X-ClickHouse-Exception-Code")

    basic = base64.b64encode("default:s3cret:ü".encode()).decode()
    assert status({"Authorization": f"Basic {basic}"}) == (200, None)
    assert status(user="default", password="s3cret:ü") == (200, None)
    assert status({"X-ClickHouse-User": b"default", "X-ClickHouse-Key": "s3cret:ü".encode()}) == (200, None)
    assert status() == (401, "194")
    assert status(password="wrong") == (403, "516")
    assert status({"X-ClickHouse-User": "default", "X-ClickHouse-Key": "wrong"}) == (403, "516")
    assert status({"X-ClickHouse-User": b"somebody", "X-ClickHouse-Key": "s3cret:ü".encode()}) == (403, "516")
    assert status({"Authorization": "Basic %%%"}) == (403, "516")
    assert httpx.get(f"{guarded.url}/ping").status_code == 200
    assert "s3cret" not in guarded.child.log.read_text()
    assert "s3cret" not in Path(f"/proc/{guarded.child.pid}/cmdline").read_text()


def test_the_memory_limit_reaches_the_engine(tmp_path: Path) -> None:
    with ClickHouseFront(tmp_path / "clickhouse", max_memory=1 << 30) as front:
        greedy = "SELECT groupArray(repeat('x', 1000)) FROM numbers(3000000) FORMAT Null"
        answer = httpx.post(front.url, content=greedy, timeout=60)
        assert answer.headers["X-ClickHouse-Exception-Code"] == "241"
        assert run(front, "SELECT 1") == "1\n"


def test_a_directory_has_one_owner(front: ClickHouseFront) -> None:
    command = [sys.executable, "-m", "devstack.chfront", "--data", str(front.directory), "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "already running" in second.stderr
    assert "Traceback" not in second.stderr
    assert run(front, "SELECT 1") == "1\n"


def test_a_taken_port(front: ClickHouseFront, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "devstack.chfront", "--data", str(tmp_path / "other"), "--port", str(front.port)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert f"port {front.port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_it_says_what_it_is_for(front: ClickHouseFront) -> None:
    command = [sys.executable, "-m", "devstack.chfront", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    for text in (told, front.child.log.read_text()):
        assert "for development and tests only" in " ".join(text.split())


def test_a_signal_while_it_starts(tmp_path: Path) -> None:
    front = ClickHouseFront(tmp_path / "clickhouse")
    front.child.start()
    front.child.signal(signal.SIGTERM)
    assert front.child.wait(20) is not None
    front.stop()


def test_a_crash_of_the_engine_ends_the_process(front: ClickHouseFront) -> None:
    """It does not stay as a husk that answers every request with an error."""
    run(front, "SELECT 1")
    front.child.signal(signal.SIGSEGV)
    assert front.child.wait(20) == -signal.SIGSEGV
    front.start()
    assert run(front, "SELECT 1") == "1\n"


def test_slow_clients_hold_nothing(front: ClickHouseFront) -> None:
    """More clients than turns, each stopped in the middle: of its body, or of the answer it reads."""
    table(front)
    with ExitStack() as held:
        for number in range(8):
            connection = held.enter_context(socket.create_connection((front.host, front.port)))
            half = b"1\n" * 50_000
            target = "/?query=INSERT%20INTO%20copy%20FORMAT%20TSV" if number % 2 else "/"
            body = half if number % 2 else b"SELECT number FROM numbers(1000000000)"
            length = 2 * len(half) if number % 2 else len(body)
            connection.sendall(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode() + body)
        assert [run(front, "SELECT 1") for _ in range(10)] == ["1\n"] * 10
    assert run(front, "SELECT count() FROM copy") == "0\n"
