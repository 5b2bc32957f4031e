"""`make demo`, as a user meets it: the generated events, the exit code, and the summary's own arithmetic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_demo_proves_what_it_sent(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TIDEWATCH_DATA"}
    command = [sys.executable, "-m", "devstack.demo", "--json", "--directory", str(tmp_path / "stack")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["proved"] is True
    assert told["sent"] > 80_000
    assert told["sent"] == told["accepted"] + told["rejected"]
    assert told["malformed_requests"] > 10
    assert told["dead_lettered"] > 0
    assert told["probes"] > 0
    assert 0 < told["accept_to_queryable_p50_s"] <= told["accept_to_queryable_p99_s"]
    # The sender's journal on disk says the same as the summary.
    journal = [json.loads(line) for line in (tmp_path / "stack" / "journal.jsonl").read_text().splitlines()]
    assert len(journal) == told["accepted"]
    assert len({entry["event_id"] for entry in journal}) == len(journal)
