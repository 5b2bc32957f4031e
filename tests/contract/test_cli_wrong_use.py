"""What an operator sees who names the wrong thing, or whose services are away: what happened, the fix, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOWHERE = {
    "TIDEWATCH_PIPELINES": str(ROOT / "pipelines"),
    "TIDEWATCH_KAFKA__BOOTSTRAP": "127.0.0.1:1",
    "TIDEWATCH_CLICKHOUSE__URL": "http://127.0.0.1:1",
    "TIDEWATCH_STORE__URL": "sqlite:///nothing/store.db",
}


def tidewatch(home: Path, *arguments: str, **settings: str) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEWATCH_")}
    done = subprocess.run(
        [sys.executable, "-m", "controlplane.cli.main", *arguments],
        cwd=home,
        env={**environment, "PYTHONPATH": str(ROOT), **NOWHERE, **settings},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["spec", "plan"], 1, "Kafka did not answer"),
        (["ledger", "check", "-p", "nope"], 2, "known pipelines: accounting, app_events"),
        (["ledger", "ranges", "-p", "nope"], 2, "known pipelines: accounting, app_events"),
        (["tail", "raw.clicks.v1", "--from", "soon"], 2, "'soon' is no place to start"),
        (["key", "create", "--project", "shop", "--file", "/proc/nowhere/keys.yaml"], 1, "/proc/nowhere"),
        (["key", "revoke", "nope"], 2, "there is no key 'nope'"),
        (["dev", "up", "--directory", "/proc/nowhere"], 1, "/proc/nowhere"),
        (["dev", "logs", "--directory", "nowhere"], 2, "start a stack"),
        (["outbox", "status"], 2, "the store holds no outbox"),
        (["loader", "-p", "nope"], 2, "there is no pipeline nope"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_is_answered_with_a_fix(tmp_path: Path, arguments: list[str], status: int, says: str) -> None:
    code, said, complaint = tidewatch(tmp_path, *arguments)
    assert (code, said) == (status, ""), complaint
    assert complaint.startswith("error: ")
    assert says in complaint
    assert "  fix: " in complaint
    assert len(complaint.splitlines()) == 2


def test_a_ledger_without_services_says_so_in_80_columns(tmp_path: Path) -> None:
    code, said, _ = tidewatch(tmp_path, "ledger", "check", "-p", "clicks", COLUMNS="80")
    assert code == 4
    heading, _, _, row = said.splitlines()[:4]
    assert heading == "Ledger, broker append time the oldest to now"
    assert row.split()[:1] == ["clicks"]
    assert "? not provable" in row
    assert "? clicks: Kafka cannot be read: Kafka did not answer while connecting" in said


def test_a_password_in_the_store_s_url_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql+psycopg://tidewatch:hunter2@127.0.0.1:1/tidewatch"
    code, said, complaint = tidewatch(tmp_path, "outbox", "status", TIDEWATCH_STORE__URL=url)
    assert (code, said) == (1, "")
    assert "the store did not answer" in complaint
    assert "hunter2" not in complaint
