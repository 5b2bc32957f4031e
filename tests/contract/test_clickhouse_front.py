"""Talking to ClickHouse: health, values, errors, statements, settings, formats and bodies."""

from __future__ import annotations

import datetime as dt
import gzip
import math
import uuid
import zlib
from collections.abc import Callable
from decimal import Decimal
from ipaddress import IPv4Address

import httpx
import lz4.frame
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_contract import ClickHouseContract


class TestTalking(ClickHouseContract):
    # Health

    def test_ping(self, http: httpx.Client) -> None:
        assert http.get("/ping").text == "Ok.\n"
        assert http.get("/").text == "Ok.\n"
        assert http.get("/nothing-here").status_code == 404

    # Values

    def test_types_round_trip(self, client: Client) -> None:
        columns = {
            "i8 Int8": -128,
            "u64 UInt64": 2**64 - 1,
            "i64 Int64": -(2**63),
            "f Float64": 0.1,
            "b Bool": True,
            "s String": "naïve \t\n\\ 'quoted' 🌊",
            "n Nullable(String)": None,
            "lc LowCardinality(String)": "low",
            "fs FixedString(4)": b"\x00\xff\x01\x02",
            "d Date": dt.date(2026, 2, 28),
            "dt DateTime('UTC')": dt.datetime(2026, 2, 28, 23, 59, 59, tzinfo=dt.UTC),
            "dt6 DateTime64(6, 'UTC')": dt.datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=dt.UTC),
            "u UUID": uuid.UUID("01234567-89ab-cdef-0123-456789abcdef"),
            "dec Decimal(38, 9)": Decimal("-12345678901234567890.123456789"),
            "e Enum8('a' = 1, 'b' = 2)": "b",
            "a Array(Nullable(Int32))": [1, None, -3],
            "m Map(String, String)": {"k": "v", "": "empty"},
            "t Tuple(x Int8, y String)": {"x": 1, "y": "z"},
            "ip IPv4": IPv4Address("10.0.0.1"),
            "j JSON": {"nested": {"deep": [1, 2]}, "text": "x"},
        }
        client.command(f"CREATE TABLE t ({', '.join(columns)}) ENGINE = MergeTree ORDER BY tuple()")
        client.insert("t", [list(columns.values())], column_names=[name.split()[0] for name in columns])
        (row,) = client.query("SELECT * FROM t").result_rows
        back = dict(zip(columns, row, strict=True))
        back["dt DateTime('UTC')"] = back["dt DateTime('UTC')"].replace(tzinfo=dt.UTC)
        back["dt6 DateTime64(6, 'UTC')"] = back["dt6 DateTime64(6, 'UTC')"].replace(tzinfo=dt.UTC)
        assert back == columns

    def test_not_a_number_and_infinities(self, client: Client) -> None:
        (row,) = client.query("SELECT nan, inf, -inf").result_rows
        assert math.isnan(row[0])
        assert row[1:] == (math.inf, -math.inf)

    def test_arrow_both_ways(self, client: Client) -> None:
        client.command("CREATE TABLE t (n Int64, s Nullable(String)) ENGINE = MergeTree ORDER BY n")
        table = pa.table({"n": pa.array([1, 2, 3], pa.int64()), "s": pa.array(["a", None, "c"], pa.string())})
        client.insert_arrow("t", table)
        got = client.query_arrow("SELECT n, s FROM t ORDER BY n", use_strings=True)
        assert got.column("n").to_pylist() == [1, 2, 3]
        assert got.column("s").to_pylist() == ["a", None, "c"]

    @pytest.mark.parametrize(
        "text", ["plain", "it's", 'a "b" `c`', "tab\tnew\nline", "back\\slash \\n", "", "🌊", "\\N"]
    )
    def test_parameters_arrive_as_sent(self, client: Client, text: str) -> None:
        assert client.query("SELECT {x:String}", parameters={"x": text}).result_rows == [(text,)]

    def test_typed_parameters(self, client: Client) -> None:
        values = {"n": 7, "list": ["a", "b'c"], "t": "numbers", "none": None}
        sql = "SELECT {n:UInt8} + 1, {list:Array(String)}, {none:Nullable(String)}, currentDatabase() = {t:String}"
        assert client.query(sql, parameters=values).result_rows == [(8, ["a", "b'c"], None, 0)]

    def test_parameters_of_a_bare_request(self, http: httpx.Client) -> None:
        assert http.post("/", params={"param_x": "a\\tb"}, content="SELECT length({x:String})").text == "3\n"

    # Errors

    @pytest.mark.parametrize(
        ("sql", "code", "status"),
        [
            ("SELECT * FROM no_such_table", 60, 404),
            ("SELECT no_such_column", 47, 404),
            ("SELECT no_such_function(1)", 46, 404),
            ("SELEC 1", 62, 400),
            ("SELECT 1; SELECT 2", 62, 400),
            ("SELECT toUInt8('x')", 6, 400),
            ("SELECT throwIf(1, 'on purpose')", 395, 500),
            ("INSERT INTO no_such_table VALUES (1)", 60, 404),
            ("SELECT 1 FORMAT NoSuchFormat", 73, 404),
            ("SELECT 1 SETTINGS no_such_setting = 1", 115, 404),
            ("SELECT * FROM no_such_database.t", 81, 404),
        ],
    )
    def test_errors(self, http: httpx.Client, sql: str, code: int, status: int) -> None:
        response = http.post("/", content=sql)
        assert response.headers["X-ClickHouse-Exception-Code"] == str(code)
        assert response.text.startswith(f"Code: {code}. DB::Exception: ")
        assert "(version " in response.text
        assert response.status_code == status

    def test_the_position_of_a_syntax_error_is_the_callers(self, http: httpx.Client) -> None:
        assert "failed at position 8 (TABEL)" in http.post("/", content="CREATE TABEL x").text

    def test_an_unknown_database_and_setting_in_the_url(self, http: httpx.Client) -> None:
        assert http.post("/", params={"database": "nowhere"}, content="SELECT 1").status_code == 404
        refused = http.post("/", params={"no_such_setting": "1"}, content="SELECT 1")
        assert refused.headers["X-ClickHouse-Exception-Code"] == "115"

    def test_the_client_library_gets_the_code(self, client: Client) -> None:
        with pytest.raises(DatabaseError, match="code: 60"):
            client.query("SELECT * FROM no_such_table")

    def test_an_error_leaves_the_connection_usable(self, http: httpx.Client) -> None:
        refused = http.post("/", params={"query": "INSERT INTO missing FORMAT CSV"}, content=b"1\n" * 300_000)
        assert refused.status_code == 404
        assert http.post("/", content="SELECT 1").text == "1\n"

    def test_an_exception_in_the_middle(self, client: Client) -> None:
        sql = "SELECT throwIf(number = 3000000, 'too far'), number FROM numbers(5000000) SETTINGS max_threads = 1"
        with pytest.raises(StreamFailureError, match="too far"), client.query_row_block_stream(sql) as blocks:
            for _ in blocks:
                pass
        assert client.command("SELECT 1") == 1

    # Statement, settings, formats

    def test_where_the_query_may_stand(self, http: httpx.Client) -> None:
        assert http.get("/", params={"query": "SELECT 1"}).text == "1\n"
        assert http.post("/", content="SELECT 2").text == "2\n"
        assert http.post("/", params={"query": "SELECT"}, content="3").text == "3\n"
        assert http.post("/", content="-- a comment\nSELECT 4 -- and another").text == "4\n"
        assert http.post("/", content="SELECT 'a;b';").text == "a;b\n"

    def test_get_does_not_change_anything(self, http: httpx.Client) -> None:
        refused = http.get("/", params={"query": "CREATE TABLE t (a Int8) ENGINE = Memory"})
        assert refused.headers["X-ClickHouse-Exception-Code"] == "164"

    def test_formats(self, http: httpx.Client) -> None:
        sql = "SELECT 1 AS a, 'x' AS b"
        assert http.post("/", content=sql).text == "1\tx\n"
        assert http.post("/", params={"default_format": "CSV"}, content=sql).text == '1,"x"\n'
        assert http.post("/", headers={"X-ClickHouse-Format": "JSONEachRow"}, content=sql).json() == {"a": 1, "b": "x"}
        explicit = http.post(
            "/", params={"default_format": "CSV"}, content=f"{sql} FORMAT JSON SETTINGS max_threads = 1"
        )
        assert explicit.json()["data"] == [{"a": 1, "b": "x"}]
        assert explicit.headers["X-ClickHouse-Format"] == "JSON"
        assert explicit.headers["Content-Type"].startswith("application/json")

    def test_settings_hold_for_their_request(self, http: httpx.Client) -> None:
        sql = "SELECT getSetting('max_block_size')"
        for session in ({}, {"session_id": uuid.uuid4().hex}):
            default = http.post("/", params=session, content=sql).text
            assert http.post("/", params={**session, "max_block_size": "77"}, content=sql).text == "77\n"
            assert http.post("/", params=session, content=sql).text == default
        both = http.post("/", params={"max_block_size": "77"}, content=f"{sql} SETTINGS max_block_size = 99")
        assert both.text == "99\n"

    def test_a_session_keeps_its_state(self, http: httpx.Client) -> None:
        session = {"session_id": uuid.uuid4().hex}
        http.post("/", params=session, content="SET max_block_size = 66").raise_for_status()
        http.post("/", params=session, content="CREATE TEMPORARY TABLE kept (a Int8)").raise_for_status()
        http.post("/", params=session, content="INSERT INTO kept VALUES (5)").raise_for_status()
        sql = "SELECT a, getSetting('max_block_size'), getSetting('max_threads') = 7, currentDatabase() = 'system' FROM kept"
        own = session | {"max_block_size": "55", "max_threads": "7", "database": "system"}
        assert http.post("/", params=own, content=sql).text == "5\t55\t1\t1\n"
        assert http.post("/", params=session, content=sql).text == "5\t66\t0\t0\n"
        assert http.post("/", content="SELECT * FROM kept").status_code == 404

    def test_a_session_is_for_one_request_at_a_time(self, http: httpx.Client) -> None:
        session = {"session_id": uuid.uuid4().hex}
        unknown = http.post("/", params=session | {"session_check": "1"}, content="SELECT 1")
        assert unknown.headers["X-ClickHouse-Exception-Code"] == "372"
        http.post("/", params=session, content="SET max_threads = 1").raise_for_status()
        with http.stream("POST", "/", params=session, content="SELECT number FROM numbers(1000000000)") as answer:
            pieces = answer.iter_bytes()
            assert next(pieces)
            locked = http.post("/", params=session, content="SELECT 1")
            assert locked.headers["X-ClickHouse-Exception-Code"] == "373"
        while (after := http.post("/", params=session, content="SELECT getSetting('max_threads')")).status_code != 200:
            assert after.headers["X-ClickHouse-Exception-Code"] == "373"
        assert after.text == "1\n"

    def test_the_summary_counts(self, client: Client, http: httpx.Client) -> None:
        client.command("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
        assert client.insert("t", [[1], [2], [3]], column_names=["a"]).written_rows == 3
        response = http.post("/", params={"wait_end_of_query": "1"}, content="SELECT * FROM t")
        assert '"read_rows":"3"' in response.headers["X-ClickHouse-Summary"].replace(" ", "")

    # Bodies

    @pytest.mark.parametrize(
        ("coding", "encode"),
        [
            ("gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("lz4", lz4.frame.compress),
            ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ],
        ids=["gzip", "deflate", "lz4", "two members"],
    )
    def test_compressed_bodies(self, http: httpx.Client, coding: str, encode: Callable[[bytes], bytes]) -> None:
        http.post("/", content="CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        data = b"".join(b"%d\n" % number for number in range(1000))
        sql = {"query": "INSERT INTO t FORMAT TSV"}
        http.post("/", params=sql, headers={"Content-Encoding": coding}, content=encode(data)).raise_for_status()
        assert http.post("/", content="SELECT count(), sum(a) FROM t").text == "1000\t499500\n"

    def test_a_compressed_body_that_breaks_off(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        broken = gzip.compress(b"1\n" * 1000)[:-12]
        sql = {"query": "INSERT INTO t FORMAT TSV"}
        refused = http.post("/", params=sql, headers={"Content-Encoding": "gzip"}, content=broken)
        assert refused.status_code >= 400
        assert http.post("/", content="SELECT count() FROM t").text == "0\n"

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_compressed_answers(self, http: httpx.Client, coding: str) -> None:
        sql = "SELECT number FROM numbers(1000000)"
        for params in ({"enable_http_compression": "1"}, {"enable_http_compression": "1", "wait_end_of_query": "1"}):
            response = http.post("/", params=params, headers={"Accept-Encoding": coding}, content=sql)
            assert response.headers["Content-Encoding"] == coding
            assert response.text.endswith("\n999999\n")
        plain = http.post("/", params={"enable_http_compression": "0"}, content=sql)
        assert "Content-Encoding" not in plain.headers

    def test_chunked_bodies(self, http: httpx.Client) -> None:
        http.post("/", content="CREATE TABLE t (a UInt64) ENGINE = MergeTree ORDER BY a").raise_for_status()
        pieces = (b"%d\n" % number for number in range(1000))
        http.post("/", params={"query": "INSERT INTO t FORMAT TSV"}, content=pieces).raise_for_status()
        assert http.post("/", content="SELECT sum(a) FROM t").text == "499500\n"
