"""ClickHouse's HTTP interface as Tidewatch uses it: what the suites of it share.

They run against the development front, or with TIDEWATCH_TEST_CLICKHOUSE=http://host:8123 against a real server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import clickhouse_connect
import httpx
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client

from devstack.clickhouse import ClickHouseFront

ONE_BLOCK: dict[str, object] = {
    "async_insert": 0,
    "max_threads": 1,
    "max_insert_threads": 1,
    "input_format_parallel_parsing": 0,
    "max_block_size": 10_000_000,
    "max_insert_block_size": 10_000_000,
    "min_insert_block_size_rows": 10_000_000,
    "min_insert_block_size_bytes": 10_000_000_000,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
}


def arrow(columns: dict[str, pa.Array], batch: int | None = None) -> bytes:
    """One ArrowStream; `batch` rows to a record batch, all in one by default."""
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for part in table.to_batches(max_chunksize=batch or max(1, table.num_rows)):
            writer.write_batch(part)
    return bytes(sink.getvalue())


def offsets(rows: int, first: int = 0, batch: int | None = None) -> bytes:
    numbers = range(first, first + rows)
    raw = pa.array([b'{"v":%d}' % number for number in numbers], pa.binary())
    return arrow({"_offset": pa.array(numbers, pa.int64()), "raw": raw}, batch)


class ClickHouseContract:
    """A database of its own for each test; `http` speaks bare HTTP, `client` is clickhouse-connect."""

    @pytest.fixture
    def address(self, clickhouse: ClickHouseFront) -> str:
        return clickhouse.url

    @pytest.fixture
    def database(self, address: str, fresh: str) -> Iterator[str]:
        name = f"contract_{fresh}"
        httpx.post(address, content=f"CREATE DATABASE {name}").raise_for_status()
        yield name
        httpx.post(address, content=f"DROP DATABASE {name}").raise_for_status()

    @pytest.fixture
    def http(self, address: str, database: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=address, params={"database": database}, timeout=60) as client:
            yield client

    @pytest.fixture
    def connect(self, address: str, database: str) -> Iterator[Callable[[], Client]]:
        made: list[Client] = []

        def client() -> Client:
            url = httpx.URL(address)
            pool = clickhouse_connect.driver.httputil.get_pool_manager()
            made.append(
                clickhouse_connect.get_client(host=url.host, port=url.port or 8123, database=database, pool_mgr=pool)
            )
            return made[-1]

        yield client
        for each in made:
            each.http.clear()
            each.close()

    @pytest.fixture
    def client(self, connect: Callable[[], Client]) -> Client:
        return connect()
