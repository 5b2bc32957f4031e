"""Loading into ClickHouse: inserts, external tables, deduplication, many at once, query ids."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData
from clickhouse_contract import ONE_BLOCK, ClickHouseContract, arrow, offsets


class TestLoading(ClickHouseContract):
    # Inserts

    @pytest.mark.parametrize(
        ("query", "body"),
        [
            ("INSERT INTO t (b, a) FORMAT CSV", b'"x",1\n'),
            ("INSERT INTO t FORMAT JSONEachRow", b'{"b":"x","a":1}'),
            ("INSERT INTO t SETTINGS async_insert = 0 FORMAT TSV", b"1\tx\n"),
            ("", b"INSERT INTO t (a, b) FORMAT CSV\n1,x\n"),
            ("", b"INSERT INTO t VALUES (1, 'x')"),
            ("INSERT INTO t (a, b) VALUES", b"(1, 'x')"),
            ("INSERT INTO t SELECT 1, 'x'", b""),
            ("", b"INSERT INTO t SELECT 1, 'x'"),
        ],
    )
    def test_ways_to_insert(self, http: httpx.Client, query: str, body: bytes) -> None:
        http.post("/", content="CREATE TABLE t (a Int64, b String) ENGINE = MergeTree ORDER BY a").raise_for_status()
        http.post("/", params={"query": query} if query else {}, content=body).raise_for_status()
        assert http.post("/", content="SELECT a, b FROM t").text == "1\tx\n"

    def test_binary_data_arrive_byte_for_byte(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (s String) ENGINE = MergeTree ORDER BY s").raise_for_status()
        value = bytes(range(256)) * 2
        row = bytes([0x80, 0x04]) + value
        http.post("/", params={"query": "INSERT INTO t FORMAT RowBinary"}, content=row * 3).raise_for_status()
        assert http.post("/", content=b"INSERT INTO t FORMAT RowBinary\n" + row).status_code == 200
        assert http.post("/", content="SELECT s FROM t LIMIT 1 FORMAT RowBinary").content == row
        assert http.post("/", content="SELECT count(), uniqExact(s) FROM t").text == "4\t1\n"

    def test_a_row_that_does_not_parse_inserts_nothing(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        bad = http.post("/", params={"query": "INSERT INTO t FORMAT TSV"}, content=b"1\n2\nthree\n")
        assert bad.status_code == 400
        assert http.post("/", content="SELECT count() FROM t").text == "0\n"

    def test_input_reads_the_body(self, client: Client) -> None:
        client.command(
            "CREATE TABLE t (_offset Int64, raw Nullable(String), size UInt64) ENGINE = MergeTree ORDER BY _offset"
        )
        values = [b"\x00\xff", None, b"", "é".encode(), b"null"]
        body = arrow({"_offset": pa.array(range(5), pa.int64()), "raw": pa.array(values, pa.binary())})
        select = "SELECT _offset + {add:Int64}, raw, length(coalesce(raw, 'none')) FROM input('{structure}') FORMAT ArrowStream"
        sql = "INSERT INTO t " + select.replace("{structure}", "_offset Int64, raw Nullable(String)")
        client.command(sql, data=body, parameters={"add": 10}, settings=ONE_BLOCK)
        rows = client.query("SELECT _offset, hex(raw), raw IS NULL, size FROM t ORDER BY 1").result_rows
        hexed = [(value.hex().upper() if value is not None else None) for value in values]
        assert [row[1] for row in rows] == hexed
        assert [row[0] for row in rows] == [10, 11, 12, 13, 14]
        assert [row[3] for row in rows] == [2, 4, 0, 2, 4]

    def test_input_sees_the_body_of_its_own_request(self, client: Client) -> None:
        client.command("CREATE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n")
        sql = "INSERT INTO t SELECT _offset FROM input('_offset Int64, raw String') FORMAT ArrowStream"
        for first in range(0, 1000, 100):
            client.command(sql, data=offsets(100, first))
        assert client.query("SELECT count(), uniqExact(n), max(n) FROM t").result_rows == [(1000, 1000, 999)]

    def test_a_short_body_after_a_long_one(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        for body in (b"1\n" * 100_000, b"2\n", b"", b"3\n" * 50_000):
            http.post("/", params={"query": "INSERT INTO t FORMAT TSV"}, content=body).raise_for_status()
        assert (
            http.post("/", content="SELECT a, count() FROM t GROUP BY a ORDER BY a").text
            == "1\t100000\n2\t1\n3\t50000\n"
        )

    @pytest.mark.parametrize("where", ["url", "body", "multipart"])
    def test_bodies_of_many_pieces(self, http: httpx.Client, where: str) -> None:
        """Every number once, in order: no piece of a long body may stand in for another."""
        http.post("/", content="CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        data = b"".join(b"%d\n" % number for number in range(700_000))
        sql = "INSERT INTO t FORMAT TSV"
        match where:
            case "url":
                answer = http.post("/", params={"query": sql}, content=data)
            case "body":
                answer = http.post("/", content=sql.encode() + b"\n" + data)
            case _:
                params = {"query": "INSERT INTO t SELECT n FROM numbered", "numbered_structure": "n UInt64"}
                answer = http.post("/", params=params, files={"numbered": data})
        answer.raise_for_status()
        assert http.post("/", content="SELECT count(), uniqExact(a), max(a) FROM t").text == "700000\t700000\t699999\n"

    def test_many_parts_are_refused_with_their_code(self, client: Client) -> None:
        client.command("CREATE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n SETTINGS parts_to_throw_insert = 2")
        client.command("SYSTEM STOP MERGES t")
        sql = "INSERT INTO t SETTINGS async_insert = 0 VALUES (1)"
        client.command(sql)
        client.command(sql)
        with pytest.raises(DatabaseError, match="code: 252"):
            client.command(sql)

    # External tables

    def test_external_tables(self, client: Client) -> None:
        body = arrow(
            {"_offset": pa.array([0, 1, 2], pa.int64()), "raw": pa.array([b'{"v":1}', b"\xff", None], pa.binary())}
        )
        structure = ["_offset Int64", "raw Nullable(String)"]
        batch = ExternalData(file_name="batch", data=body, fmt="ArrowStream", structure=structure)
        sql = "SELECT _offset FROM batch WHERE NOT isValidJSON(coalesce(raw, '')) ORDER BY _offset"
        assert client.query(sql, external_data=batch).result_rows == [(1,), (2,)]
        with pytest.raises(DatabaseError, match="code: 60"):
            client.query("SELECT * FROM batch")

    def test_two_external_tables_and_types(self, client: Client) -> None:
        both = ExternalData(file_name="one", data=b"1\ta\n2\tb\n", fmt="TSV", types=["UInt8", "String"])
        both.add_file(file_name="two", data=b"2,x,y\r\n", fmt="CSV", structure=["id UInt8", "p String", "q String"])
        sql = "SELECT _2, p, {z:String} FROM one JOIN two ON _1 = id"
        assert client.query(sql, parameters={"z": "z"}, external_data=both).result_rows == [("b", "x", "z")]

    def test_an_external_table_that_does_not_parse(self, client: Client) -> None:
        bad = ExternalData(file_name="bad", data=b"not a number\n", fmt="TSV", structure=["n UInt8"])
        with pytest.raises(DatabaseError, match=r"code: (27|72)"):
            client.query("SELECT * FROM bad", external_data=bad)

    # Deduplication by token

    @pytest.fixture
    def dedup(self, client: Client) -> dict[str, object]:
        """What this server knows of the settings that turn deduplication on for INSERT … SELECT."""
        sql = (
            "SELECT name, value FROM system.settings WHERE name IN ('deduplicate_insert', 'deduplicate_insert_select')"
        )
        known = {name for name, _ in client.query(sql).result_rows}
        wanted = {"deduplicate_insert": "enable", "deduplicate_insert_select": "force_enable"}
        return ONE_BLOCK | {name: value for name, value in wanted.items() if name in known}

    @pytest.fixture
    def load(self, client: Client, dedup: dict[str, object]) -> Callable[..., tuple[int, int, int]]:
        """Insert a body under a token into a table with two views, and count what each holds."""
        window = "SETTINGS non_replicated_deduplication_window = 1000"
        client.command(f"CREATE TABLE raw (o Int64, v Int64) ENGINE = MergeTree ORDER BY o {window}")
        client.command(f"CREATE TABLE agg (h Int64, n UInt64) ENGINE = SummingMergeTree ORDER BY h {window}")
        client.command(f"CREATE TABLE copy (v Int64) ENGINE = MergeTree ORDER BY v {window}")
        client.command(
            "CREATE MATERIALIZED VIEW to_agg TO agg AS SELECT intDiv(v, 100) AS h, count() AS n FROM raw GROUP BY h"
        )
        client.command("CREATE MATERIALIZED VIEW to_copy TO copy AS SELECT v FROM raw")
        sql = (
            "INSERT INTO raw (o, v) SELECT _offset, JSONExtractInt(raw, 'v') FROM input('_offset Int64, raw String') "
            "WHERE throwIf(now() > toDateTime('2100-01-01 00:00:00', 'UTC'), 'deadline') = 0 FORMAT ArrowStream"
        )

        def insert(body: bytes, token: str, **settings: object) -> tuple[int, int, int]:
            client.command(sql, data=body, settings=dedup | {"insert_deduplication_token": token} | settings)
            counts = "SELECT (SELECT count() FROM raw), (SELECT sum(n) FROM agg), (SELECT count() FROM copy)"
            return tuple(client.query(counts).result_rows[0])

        return insert

    def test_a_token_inserts_once(self, load: Callable[..., tuple[int, int, int]]) -> None:
        body = offsets(20_000)
        assert load(body, "a") == (20_000,) * 3
        assert load(body, "a") == (20_000,) * 3
        assert load(body, "a", max_block_size=1000, min_insert_block_size_rows=1) == (20_000,) * 3
        assert load(body, "b") == (40_000,) * 3

    def test_a_token_stands_for_its_data(self, load: Callable[..., tuple[int, int, int]]) -> None:
        assert load(offsets(100), "a") == (100,) * 3
        assert load(offsets(50, first=5000), "a") == (100,) * 3

    def test_one_insert_is_one_part(self, client: Client, load: Callable[..., tuple[int, int, int]]) -> None:
        load(offsets(200_000), "a")
        sql = "SELECT count() FROM system.parts WHERE database = currentDatabase() AND table = 'raw' AND active"
        assert client.command(sql) == 1

    def test_a_failing_view_is_completed_by_the_retry(
        self, client: Client, load: Callable[..., tuple[int, int, int]]
    ) -> None:
        client.command("CREATE MATERIALIZED VIEW bad ENGINE = Memory AS SELECT throwIf(v = 99) FROM raw")
        with pytest.raises(DatabaseError, match="code: 395"):
            load(offsets(100), "a")
        client.command("DROP VIEW bad")
        assert load(offsets(100), "a") == (100,) * 3

    # Several at once

    def test_requests_run_side_by_side(self, connect: Callable[[], Client]) -> None:
        def ask(number: int) -> int:
            client = connect()
            return sum(int(client.command(f"SELECT {number} + {i}")) for i in range(20))

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, range(8))) == [20 * number + 190 for number in range(8)]

    def test_concurrent_inserts_do_not_mix(self, http: httpx.Client, connect: Callable[[], Client]) -> None:
        http.post("/", content="CREATE TABLE t (n Int64) ENGINE = MergeTree ORDER BY n").raise_for_status()
        sql = "INSERT INTO t SELECT _offset FROM input('_offset Int64, raw String') FORMAT ArrowStream"
        clients = [connect() for _ in range(4)]

        def insert(number: int) -> None:
            for part in range(5):
                clients[number].command(sql, data=offsets(1000, (number * 5 + part) * 1000))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(insert, range(4)))
        assert http.post("/", content="SELECT count(), uniqExact(n), max(n) FROM t").text == "20000\t20000\t19999\n"

    def test_big_results_stream(self, client: Client) -> None:
        with client.query_row_block_stream("SELECT number FROM numbers(3000000)") as blocks:
            assert sum(len(block) for block in blocks) == 3_000_000
        sql = "SELECT number, toLowCardinality(toString(number % 3)) AS s FROM numbers(1000000)"
        with client.query_arrow_stream(sql) as batches:
            tables = list(batches)
        assert sum(batch.num_rows for batch in tables) == 1_000_000
        assert sum(sum(batch.column(0).to_pylist()) for batch in tables) == sum(range(1_000_000))

    def test_a_client_that_stops_listening(self, http: httpx.Client) -> None:
        for _ in range(20):
            with http.stream("POST", "/", content="SELECT number FROM numbers(1000000000)") as response:
                pieces = response.iter_bytes()
                assert next(pieces)
        assert http.post("/", content="SELECT 1").text == "1\n"

    def test_a_client_that_dies_while_it_sends(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").raise_for_status()

        def dying() -> Iterator[bytes]:
            yield b"1\n" * 100_000
            raise ZeroDivisionError

        for _ in range(6):
            with pytest.raises(ZeroDivisionError):
                http.post("/", params={"query": "INSERT INTO t FORMAT TSV"}, content=dying())
        assert http.post("/", content="SELECT count() FROM t").text == "0\n"

    # Query ids

    def test_a_running_statement_is_known_by_its_id(self, http: httpx.Client, fresh: str) -> None:
        params = {"query_id": f"q-{fresh}", "max_block_size": "1"}
        answers: list[httpx.Response] = []
        sql = "SELECT sum(sleepEachRow(0.1)) FROM numbers(500)"
        runner = threading.Thread(target=lambda: answers.append(http.post("/", params=params, content=sql)))
        runner.start()
        seen = f"SELECT query FROM system.processes WHERE query_id = 'q-{fresh}'"
        while not (text := http.post("/", content=seen).text) and not answers:
            time.sleep(0.02)
        assert text == sql + "\n"
        again = http.post("/", params=params, content="SELECT 1")
        assert again.headers["X-ClickHouse-Exception-Code"] == "216"
        http.post("/", content=f"KILL QUERY WHERE query_id = 'q-{fresh}' SYNC").raise_for_status()
        runner.join()
        assert answers[0].headers["X-ClickHouse-Exception-Code"] == "394"
        assert http.post("/", content=seen).text == ""

    def test_the_id_is_answered(self, http: httpx.Client, fresh: str) -> None:
        answer = http.post("/", params={"query_id": fresh}, content="SELECT 1")
        assert answer.headers["X-ClickHouse-Query-Id"] == fresh
        assert http.post("/", content="SELECT 1").headers["X-ClickHouse-Query-Id"]
