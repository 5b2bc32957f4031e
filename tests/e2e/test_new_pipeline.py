"""A pipeline is added and changed as docs/add-a-pipeline.md says, with the very example that stands there."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.stack import Stack, StackOptions
from tidewatch.clickhouse import ClickHouse
from tidewatch.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-pipeline.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 120.0


def block(language: str) -> str:
    """The first block of this language on the page."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found, language
    return found[1]


class Newcomer:
    """Somebody with a directory of specs, a running stack, and the command line."""

    def __init__(self, stack: Stack, file: Path) -> None:
        self.stack = stack
        self.file = file
        self.clickhouse = ClickHouse(load_settings(stack.environment).clickhouse)
        self.key = stack.api_key

    def run(self, *arguments: str, status: int = 0) -> str:
        done = self.stack.tidewatch(*arguments)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def changes(self, *arguments: str, status: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("spec", *arguments, "--json", status=status))
        return found

    def restart(self, *names: str) -> None:
        for name in names:
            self.stack.service(name).stop()
            self.stack.service(name).start()

    def post(self, event: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.post(f"{self.stack.gateway_url}/api/v1/signups/", json=event, headers=headers, timeout=60)

    def rows(self, count: int) -> list[dict[str, Any]]:
        """All of them, in the order of arrival, once there are as many."""
        query = "SELECT * FROM raw_signups ORDER BY _received_at, _event_id"
        return self.eventually(lambda: self.clickhouse.dicts(query), lambda rows: len(rows) >= count)

    def hours(self, measures: str) -> list[tuple[Any, ...]]:
        return self.clickhouse.query(f"SELECT plan, {measures} FROM signups_hourly GROUP BY plan ORDER BY plan")

    def ledger(self) -> dict[str, Any]:
        """The pipeline's terms, when nothing is on its way any more."""

        def settled(terms: dict[str, Any]) -> bool:
            return not terms["pending"] and not terms["letters_pending"]

        def ask() -> dict[str, Any]:
            (report,) = json.loads(self.run("ledger", "check", "-p", "signups", "--json"))["pipelines"]
            assert report["verdict"] == "balanced"
            terms: dict[str, Any] = report["terms"]
            return terms

        return self.eventually(ask, settled)

    def eventually(self, ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not enough(found := ask()):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text(encoding="utf-8")
        assert text.count(old) == 1
        self.file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """With the shipped pipelines running, and nothing new yet."""
    home = tmp_path_factory.mktemp("newcomer")
    pipelines = shutil.copytree(ROOT / "pipelines", home / "pipelines")
    with Stack(StackOptions(home / "stack", prometheus=False, pipelines=pipelines)) as stack:
        found = Newcomer(stack, pipelines / "signups.yaml")
        yield found
        found.clickhouse.close()


@pytest.mark.timeout(600)
def test_one_file_is_a_pipeline(newcomer: Newcomer) -> None:
    newcomer.file.write_text(block("yaml"), encoding="utf-8")
    assert "signups, 4 fields, table raw_signups" in newcomer.run("spec", "check", str(newcomer.file))
    planned = newcomer.changes("plan")
    assert planned["refused"] == []
    assert {change["pipeline"] for change in planned["additive"]} == {"signups"}
    assert newcomer.changes("apply", "--yes")["applied"] == len(planned["additive"])
    assert newcomer.changes("plan") == {"additive": [], "refused": []}
    assert newcomer.post(SENT).status_code == 404
    newcomer.restart("loader", "gateway")

    newcomer.key = newcomer.run("key", "create", "--project", "shop", "--pipeline", "signups").strip()
    newcomer.eventually(lambda: newcomer.post(SENT).status_code, lambda status: status != 401)
    answer = newcomer.post(SENT)
    assert answer.status_code == 202, answer.text
    refused = newcomer.post(SENT | {"plan": "gold"})
    assert (refused.status_code, refused.json()["field"], refused.json()["reason"]) == (422, "plan", "not_allowed")
    mixed = newcomer.post([SENT | {"plan": "free", "price": None}, SENT | {"price": "9.999"}]).json()
    assert [result["status"] for result in mixed["results"]] == ["accepted", "rejected"]

    first, second, third = newcomer.rows(3)
    assert second["_event_id"] == answer.json()["event_id"]
    assert {first["_project"], second["_project"], third["_project"]} == {"shop"}
    assert (second["signed_up_at"], second["plan"]) == (datetime.fromisoformat(SENT["signed_up_at"]), SENT["plan"])
    assert (second["price"], second["email"], third["price"]) == (Decimal(SENT["price"]), None, None)
    assert newcomer.hours("sum(signups), sum(revenue)") == [("free", 1, None), ("pro", 2, 2 * Decimal(SENT["price"]))]
    terms = newcomer.ledger()
    assert (terms["accepted"], terms["loaded"], terms["lost"]) == (3, 3, 0)
    shown = newcomer.run("tail", "raw.signups.v1", "--from", "beginning", "--no-follow", "--json")
    assert [json.loads(line)["value"]["plan"] for line in shown.splitlines()].count("pro") == 2


@pytest.mark.timeout(600)
def test_a_field_and_a_measure_are_added_while_events_flow(newcomer: Newcomer) -> None:
    loader = newcomer.stack.service("loader").pid
    newcomer.edit("  fields:\n", "  fields:\n    - {name: referrer, type: string}\n")
    newcomer.edit("      signups: count()\n", "      signups: count()\n      referred: countIf(referrer != '')\n")
    planned = newcomer.changes("plan")
    assert planned["refused"] == []
    assert len(planned["additive"]) >= 2
    assert newcomer.changes("apply", "--yes")["applied"] == len(planned["additive"])
    # Nothing was restarted yet: to the gateway and the loader the field is one that nobody knows.
    assert newcomer.post(SENT | {"referrer": "a friend"}).status_code == 202
    before = newcomer.rows(4)[-1]
    assert newcomer.stack.service("loader").pid == loader
    assert (before["referrer"], before["_extra"]) == (None, {"referrer": '"a friend"'})
    newcomer.restart("loader", "gateway")
    wrong = newcomer.post(SENT | {"referrer": 7})
    assert (wrong.status_code, wrong.json()["reason"]) == (422, "wrong_type")
    assert newcomer.post(SENT | {"referrer": "a poster"}).status_code == 202
    after = newcomer.rows(5)[-1]
    assert (after["referrer"], after["_extra"]) == ("a poster", {})
    assert newcomer.hours("sum(signups), sum(referred)") == [("free", 1, 0), ("pro", 4, 1)]
    assert newcomer.ledger()["accepted"] == 5


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("old", "new", "target"),
    [
        ('type: "decimal(10,2)"', "type: float64", "price"),
        ("    - {name: email, type: string, sensitive: true, max_length: 254}\n", "", "email"),
        ("partitions: 3", "partitions: 2", "raw.signups.v1"),
    ],
    ids=["another type", "a field removed", "fewer partitions"],
)
def test_what_would_lose_something_is_refused_with_the_manual_way(
    newcomer: Newcomer, old: str, new: str, target: str
) -> None:
    before = newcomer.clickhouse.query("SELECT name, type FROM system.columns WHERE table = 'raw_signups'")
    newcomer.edit(old, new)
    try:
        newcomer.run("spec", "check", str(newcomer.file))
        refused = newcomer.changes("plan", status=3)["refused"]
        assert {change["pipeline"] for change in refused} == {"signups"}
        assert any(target in change["target"] + change["what"] for change in refused)
        assert all(change["reason"] and change["manual"] for change in refused)
        assert newcomer.changes("apply", "--yes", status=3)["applied"] == 0
        shown = newcomer.run("spec", "plan", status=3)
        assert "refused" in shown
        assert "by hand" in shown
    finally:
        newcomer.edit(new, old) if new else newcomer.edit("table:\n", old + "table:\n")
    assert newcomer.clickhouse.query("SELECT name, type FROM system.columns WHERE table = 'raw_signups'") == before
    assert newcomer.post(SENT).status_code == 202


SENT: dict[str, Any] = json.loads(re.findall(r"-d '(.*?)'", PAGE)[0])
