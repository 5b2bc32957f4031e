"""Fixtures that the loader's tests share; a test module imports those that it uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loader_rig import Rig
from recount import recount

from devstack.clickhouse import ClickHouseFront
from devstack.kafka import KafkaCluster
from devstack.proxy import TcpProxy


@pytest.fixture
def rig(kafka: Any, clickhouse: Any, fresh: str, tmp_path: Path) -> Iterator[Rig]:
    """On the services that all tests share."""
    with Rig(kafka.bootstrap, clickhouse.url, fresh, tmp_path) as made:
        yield made


@pytest.fixture
def own_clickhouse(tmp_path: Path) -> Iterator[ClickHouseFront]:
    """One that the test may kill."""
    with ClickHouseFront(tmp_path / "clickhouse") as front:
        yield front


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaCluster]:
    """One that the test may kill."""
    with KafkaCluster(tmp_path / "kafka") as cluster:
        yield cluster


@pytest.fixture
def proxied(kafka: Any, own_clickhouse: ClickHouseFront, fresh: str, tmp_path: Path) -> Iterator[tuple[Rig, TcpProxy]]:
    """Loaders reach ClickHouse through a proxy; the test itself does not."""
    proxy = TcpProxy(own_clickhouse.port).start()
    with Rig(kafka.bootstrap, own_clickhouse.url, fresh, tmp_path) as made:
        made.loader_url = f"http://127.0.0.1:{proxy.port}"
        yield made, proxy
    proxy.stop()


def balanced(rig: Rig) -> None:
    """The reusable verdict, after everything has settled."""
    rig.settled()
    assert recount(rig.bootstrap, rig.clickhouse, rig.spec) == []


Check = Callable[[], bool]
