"""The real services, once per session, and fresh names per test.

Each can be one that runs already: TIDEWATCH_TEST_KAFKA (bootstrap servers), TIDEWATCH_TEST_CLICKHOUSE (an HTTP URL),
TIDEWATCH_TEST_POSTGRES (a SQLAlchemy URL), TIDEWATCH_TEST_REDIS (a URL).
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from devstack.clickhouse import ClickHouseFront
from devstack.install import InstallError
from devstack.kafka import KafkaCluster
from devstack.postgres import Postgres
from devstack.redis import Redis


@dataclass(frozen=True)
class ExternalKafka:
    bootstrap: str


@dataclass(frozen=True)
class ExternalUrl:
    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0


@contextmanager
def needs(service: str) -> Iterator[None]:
    """A service that cannot be had on this machine skips its tests, saying why; in CI that is a failure."""
    try:
        yield
    except InstallError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{service} cannot run here: {error}")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster | ExternalKafka]:
    """One broker, shared by all tests; kill it only in a test that starts its own."""
    external = os.environ.get("TIDEWATCH_TEST_KAFKA")
    if external:
        yield ExternalKafka(external)
        return
    with needs("Kafka"):
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"))
    with cluster:
        yield cluster


@pytest.fixture(scope="session")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """Replicated three times; a test that kills a broker starts it again and waits until it is in sync."""
    with needs("Kafka"):
        cluster = KafkaCluster(tmp_path_factory.mktemp("kafka3"), brokers=3)
    try:
        yield cluster.start()
    finally:
        cluster.kill()  # three that stop at once wait for each other, and nobody needs the data


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseFront | ExternalUrl]:
    """One engine, shared by all tests: each creates a database of its own."""
    external = os.environ.get("TIDEWATCH_TEST_CLICKHOUSE")
    if external:
        yield ExternalUrl(external)
        return
    with ClickHouseFront(tmp_path_factory.mktemp("clickhouse")) as front:
        yield front


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres | ExternalUrl]:
    external = os.environ.get("TIDEWATCH_TEST_POSTGRES")
    if external:
        yield ExternalUrl(external)
        return
    with needs("PostgreSQL"):
        server = Postgres(tmp_path_factory.mktemp("postgres"))
    with server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis | ExternalUrl]:
    external = os.environ.get("TIDEWATCH_TEST_REDIS")
    if external:
        yield ExternalUrl(external)
        return
    with needs("Redis"):
        server = Redis(tmp_path_factory.mktemp("redis"))
    with server:
        yield server


@pytest.fixture
def fresh() -> str:
    """A suffix that no other test has, for topics, groups, tables and databases."""
    return uuid.uuid4().hex[:10]
