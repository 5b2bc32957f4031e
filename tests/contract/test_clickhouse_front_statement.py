"""What the front understands of SQL: where data begin, and what the engine is told instead."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstack.chfront import multipart
from devstack.chfront.arrow import one_stream
from devstack.chfront.compression import chosen, compressor, decompressed
from devstack.chfront.errors import FrontError
from devstack.chfront.processes import by_caller, marked, unshifted
from devstack.chfront.statement import parse


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("INSERT INTO t FORMAT CSV\n1", "INSERT INTO t  FROM INFILE '/f' FORMAT CSV"),
        ("insert into `a`.`b` (x, y) format CSV 1", "insert into `a`.`b` (x, y)  FROM INFILE '/f' format CSV"),
        ("INSERT INTO t SETTINGS a = 1 FORMAT CSV\n", "INSERT INTO t  FROM INFILE '/f' SETTINGS a = 1 FORMAT CSV"),
        ("INSERT INTO t VALUES (1)", "INSERT INTO t  FROM INFILE '/f'  FORMAT Values"),
        ("INSERT INTO t SETTINGS a=1 VALUES", "INSERT INTO t  FROM INFILE '/f' SETTINGS a=1  FORMAT Values"),
        ("INSERT INTO format FORMAT CSV\n", "INSERT INTO format  FROM INFILE '/f' FORMAT CSV"),
        ("INSERT INTO db.values VALUES", "INSERT INTO db.values  FROM INFILE '/f'  FORMAT Values"),
        (
            "INSERT INTO t SELECT a FROM input('a Int8') FORMAT CSV\n",
            "INSERT INTO t SELECT a FROM file('/f', 'CSV', 'a Int8') ",
        ),
        (
            "INSERT INTO t WITH 1 AS x SELECT 'FORMAT input(', a FROM (SELECT * FROM input( 'a Int8, b String' )) FORMAT TSV",
            "INSERT INTO t WITH 1 AS x SELECT 'FORMAT input(', a FROM (SELECT * FROM file('/f', 'TSV', 'a Int8, b String')) ",
        ),
    ],
)
def test_data_go_to_a_file(sql: str, told: str) -> None:
    assert parse(sql).reading("/f") == told


@pytest.mark.parametrize(
    ("sql", "data"),
    [
        ("INSERT INTO t FORMAT CSV\n1,2\n", "1,2\n"),
        ("INSERT INTO t FORMAT CSV \t\r\n\n1", "\n1"),
        ("INSERT INTO t FORMAT CSV 1,2", "1,2"),
        ("INSERT INTO t VALUES (1)", " (1)"),
        ("INSERT INTO t VALUES ('; FORMAT CSV')", " ('; FORMAT CSV')"),
        ("INSERT INTO t -- FORMAT TSV\n /* VALUES */ FORMAT CSV\nx", "x"),
        ("INSERT INTO t SELECT * FROM input('a Int8') FORMAT CSV\n'", "'"),
    ],
)
def test_where_data_begin(sql: str, data: str) -> None:
    parsed = parse(sql)
    assert parsed.takes_data
    assert sql[parsed.data_start :] == data


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t SELECT 1",
        "INSERT INTO t SELECT 1 AS input FORMAT CSV",
        "SELECT 'INSERT INTO t FORMAT CSV'",
        "",
        "--",
    ],
)
def test_statements_without_data(sql: str) -> None:
    assert not parse(sql).takes_data


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT 1 FORMAT CSV", "CSV"),
        ("SELECT 1 FORMAT JSON SETTINGS max_threads = 1", "JSON"),
        ("SELECT 1 FORMAT CSV;", "CSV"),
        ("SELECT (SELECT 1 FORMAT CSV)", None),
        ("SELECT 'x FORMAT CSV'", None),
        ("SELECT format('{}', 'x')", None),
        ("SELECT $$ FORMAT CSV $$", None),
    ],
)
def test_the_format_of_an_answer(sql: str, name: str | None) -> None:
    assert parse(sql).format == name


def test_infile_is_the_clients_business() -> None:
    with pytest.raises(FrontError, match="infile"):
        parse("INSERT INTO t FROM INFILE '/etc/passwd' FORMAT CSV")


def test_running_statements_by_the_callers_id() -> None:
    assert "query_id: " in by_caller("SELECT", "SELECT * FROM system.processes AS p")
    assert by_caller("SELECT", "SELECT 'FROM system.processes'") == "SELECT 'FROM system.processes'"
    assert "extract(query" in by_caller("KILL", "KILL QUERY WHERE query_id = 'x'")


def test_an_id_cannot_end_its_comment() -> None:
    assert marked("SELECT 1", "*/ DROP TABLE t /*\n").count("*/") == 1


def test_positions_are_the_callers() -> None:
    shift = len(marked("", "id"))
    error = FrontError(62, f"failed at position {shift + 8} (x) (line 1, col {shift + 8}): /* query_id: id */ x")
    assert unshifted(error, "id").text == "failed at position 8 (x) (line 1, col 8): x"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "lz4", "zstd"])
@given(data=st.binary(max_size=2000), cut=st.integers(1, 50))
def test_codings_round_trip(coding: str, data: bytes, cut: int) -> None:
    encoder = compressor(coding)
    whole = encoder.compress(data[: len(data) // 2]) + encoder.compress(data[len(data) // 2 :]) + encoder.flush()
    pieces = [whole[at : at + cut] for at in range(0, len(whole), cut)]
    assert b"".join(decompressed(pieces, coding)) == data


@pytest.mark.parametrize("coding", ["gzip", "deflate", "lz4", "zstd"])
def test_a_body_that_breaks_off_is_not_a_shorter_body(coding: str) -> None:
    encoder = compressor(coding)
    whole = encoder.compress(bytes(5000)) + encoder.flush()
    with pytest.raises(FrontError, match="Cannot decompress"):
        list(decompressed([whole[:-6]], coding))


def test_the_answers_coding() -> None:
    assert chosen("gzip;q=0.5, identity") == "gzip"
    assert chosen("identity") is None
    assert chosen("") is None


def test_an_unknown_coding() -> None:
    with pytest.raises(FrontError, match="Unknown compression"):
        list(decompressed([gzip.compress(b"x")], "snappy"))


@given(files=st.dictionaries(st.sampled_from("abc"), st.binary(max_size=200), min_size=1))
def test_multipart(files: dict[str, bytes]) -> None:
    files = {name: data.replace(b"--mark", b"") for name, data in files.items()}
    body = b"".join(
        b'--mark\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in files.items()
    )
    parts = multipart.parts("multipart/form-data; boundary=mark", body + b"--mark--\r\n")
    assert {part.name: bytes(part.data) for part in parts} == files


@pytest.mark.parametrize("body", [b"", b"--mark", b"--mark\r\n\r\nx", b"nothing", b"--mark\r\n\r\nx\r\n--mark--"])
def test_broken_multipart(body: bytes) -> None:
    with pytest.raises(FrontError, match="is broken"):
        multipart.parts("multipart/form-data; boundary=mark", body)


def test_no_stream_at_all() -> None:
    def nothing() -> Iterator[bytes]:
        yield b""

    assert list(one_stream(nothing())) == []
