"""The loader on a real broker and a real ClickHouse engine, when nothing fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loader_rig import Rig
from recount import recount


@pytest.fixture
def rig(kafka: Any, clickhouse: Any, fresh: str, tmp_path: Path) -> Any:
    with Rig(kafka.bootstrap, clickhouse.url, fresh, tmp_path) as made:
        yield made


def test_every_record_becomes_a_row(rig: Rig) -> None:
    rig.loader()
    rig.send(20_000)
    rig.settled()
    assert recount(rig.bootstrap, rig.clickhouse, rig.spec) == []
