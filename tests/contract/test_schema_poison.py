"""A record is poison exactly when the insert would throw: by a second definition in Python, on generated JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schema_oracle import verdict
from schema_world import World, body, make_spec, open_world

from ingest.schema import codes
from tidewatch.spec import Spec

# Each is that many records and four statements; more examples for a search by hand.
EXAMPLES = int(os.environ.get("TIDEWATCH_TEST_EXAMPLES", "5"))
RECORDS = 500
FIELDS = """
{name: s, type: string, required: true, max_length: 6}
{name: i, type: int64}
{name: u, type: uint64}
{name: u8, type: uint8, min: 1, max: 200}
{name: i32, type: int32, required: REQUIRED}
{name: f, type: float64, max: 1000000}
{name: b, type: bool}
{name: t, type: timestamp}
{name: d, type: date}
{name: id, type: uuid}
{name: dec, type: "decimal(14,2)", min: -1000}
{name: exact, type: "decimal(30,10)"}
{name: strs, type: array(string), max_length: 3}
{name: ints, type: array(int64)}
{name: floats, type: array(float64)}
{name: v, type: string, values: [a, b]}
{name: p, type: string, pattern: "[a-z]+[0-9]?"}
"""
SHAPES = {
    "keep": make_spec(FIELDS.replace("REQUIRED", "false"), name="keep"),
    "refuse": make_spec(FIELDS.replace("REQUIRED", "true"), name="refuse", unknown="refuse"),
    "json": make_spec(FIELDS.replace("REQUIRED", "false") + "{name: j, type: json}", name="nested"),
    "optional": make_spec("{name: s, type: string}\n{name: u8, type: uint8}", name="optional"),
}


@pytest.fixture(scope="module")
def world(clickhouse: Any) -> Iterator[World]:
    opened = open_world(clickhouse.url, "schema_poison")
    for spec in SHAPES.values():
        opened.create(spec)
    yield opened
    opened.client.command("DROP DATABASE schema_poison SYNC")
    opened.client.close()


# Texts, since how a number is written is half of the matter.
_NUMBERS = [
    "0", "-0", "7", "-1", "255", "256", "5.0", "1.5", "1e2", "1E+2", "1e-2", "1.005", "12.34", "1e400", "-1e308", "0.1",
    "9007199254740991.0", "9007199254740993.0", "2147483647", "2147483648", "-2147483649", "1e18", "1e-7", "-1001",
    "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "1000001",
    "18446744073709551615", "18446744073709551616", "999999999999.99", "1000000000000", "01", "+1", ".5", "NaN",
]  # fmt: skip
_TEXTS = [
    "", "a", "b", "abc1", "abc12", "5", "true", "null", "2026-08-01T00:00:00Z", "2026-08-01t23:59:59.123456789+05:30",
    "2026-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2026-08-01", "2026-02-30", "1899-12-31", "2300-01-01",
    "1900-01-01T00:00:00+00:01", "1900-01-01T00:00:00Z", "2299-12-31T23:59:59Z", "2299-12-31T23:59:59-00:01",
    "2026-08-01T24:00:00Z", "2026-08-01T23:59:60Z", "2026-08-01T00:00:00", "1950-05-05T05:05:05.5Z",
    "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61F0C404-5CB3-11E7-907B-A6006AD3DBA0",
    "61f0c4045cb311e7907ba6006ad3dba0", "1.50", "1.505", "-0.01", "1e2", "1e-2", "12345678901234567890.1234567890",
    "999999999999.99", "abc", '":', '"i":"', "\\", "é", "éééééé", "\U0001f600", "\x00", "{", "[1]", "1234567",
]  # fmt: skip
_KEYS = ["i", "s", "a", "b", "a.b", "x", ""]
_FIT: dict[str, Callable[[Random], str]] = {
    "s": lambda rng: json.dumps(rng.choice(["a", "é", "x y", "123456", ""]), ensure_ascii=rng.random() < 0.5),
    "i": lambda rng: str(rng.randint(-(2**63), 2**63 - 1)),
    "u": lambda rng: str(rng.randint(0, 2**64 - 1)),
    "u8": lambda rng: str(rng.randint(1, 200)),
    "i32": lambda rng: str(rng.randint(-(2**31), 2**31 - 1)),
    "f": lambda rng: repr(rng.uniform(-1e6, 1e6)),
    "b": lambda rng: rng.choice(["true", "false"]),
    "t": lambda rng: (
        f'"{rng.randint(1901, 2298)}-02-{rng.randint(1, 28):02}T0{rng.randint(0, 9)}:00:00.{rng.randint(0, 999)}Z"'
    ),
    "dec": lambda rng: rng.choice(['"{}"', "{}"]).format(f"{rng.randint(-99_999, 10**12) / 100:.2f}"),
    "exact": lambda rng: f'"{rng.randint(-(10**19), 10**19)}.{rng.randint(0, 10**10 - 1):010}"',
    "strs": lambda rng: _array([json.dumps(rng.choice(_TEXTS)) for _ in range(rng.randint(0, 4))]),
    "ints": lambda rng: _array([str(rng.randint(-(2**63), 2**63 - 1)) for _ in range(rng.randint(0, 3))]),
    "floats": lambda rng: _array([repr(rng.uniform(-9, 9)) for _ in range(rng.randint(0, 3))]),
    "v": lambda rng: rng.choice(['"a"', '"b"']),
    "p": lambda rng: rng.choice(['"abc"', '"abc7"']),
}


def _array(items: list[str]) -> str:
    return "[" + ", ".join(items) + "]"


def _object(pairs: list[tuple[str, str]], colon: str = ":", comma: str = ",") -> str:
    return "{" + comma.join(f"{key}{colon}{value}" for key, value in pairs) + "}"


def _any_value(rng: Random, depth: int = 2) -> str:
    kind = rng.randrange(10 if depth else 8)
    if kind < 3:
        return rng.choice([*_NUMBERS, str(rng.randint(-(2**70), 2**70)), repr(rng.uniform(-1e20, 1e20))])
    if kind < 6:
        return json.dumps(rng.choice(_TEXTS), ensure_ascii=rng.random() < 0.5)
    if kind < 8:
        return rng.choice(["true", "false", "null", "null", '"\\ud800"'])
    inner = [_any_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return _array(inner) if kind == 8 else _object([(json.dumps(rng.choice(_KEYS)), value) for value in inner])


def _event(rng: Random, spec: Spec) -> bytes:
    """Mostly right but for one thing: a wrong value among right ones is the hard case."""
    fields = spec.schema_.fields
    chosen = [field.name for field in fields if rng.random() < 0.4 or (field.required and rng.random() < 0.97)]
    rng.shuffle(chosen)
    wrong = rng.choice(chosen) if chosen and rng.random() < 0.6 else ""
    pairs = []
    for name in chosen:
        key = "".join(f"\\u{ord(c):04x}" for c in name) if rng.random() < 0.01 else name
        value = _FIT[name](rng) if name in _FIT and name != wrong else _any_value(rng)
        pairs.append((f'"{key}"', value))
    if rng.random() < 0.1:
        key = rng.choice(["zz", "_zz", "S", "i ", "s:s", "", "é", *chosen])
        pairs.insert(rng.randint(0, len(pairs)), (json.dumps(key), _any_value(rng)))
    space = rng.choice(["", "", "", " ", "\n\t "])
    text = space + _object(pairs, rng.choice([":", f"{space}:{space}", f":{space}"]), f"{space},{space}") + space
    if rng.random() < 0.05:
        text = rng.choice([text + "x", text + "{}", text + "]", "\ufeff" + text, f"[{text}]", text[: len(text) // 2]])
    return text.encode()


@pytest.mark.parametrize("shape", SHAPES)
def test_poison_is_what_the_definition_says_and_what_the_insert_refuses(world: World, shape: str) -> None:
    spec = SHAPES[shape]

    @settings(max_examples=EXAMPLES, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        rng = Random(seed)
        raws = [_event(rng, spec) for _ in range(RECORDS)]
        expected = {offset: code for offset, raw in enumerate(raws) if (code := verdict(spec, raw))}
        found = {offset: reason[0] for offset, reason in world.poison(spec, body(raws)).items()}
        differ = expected.keys() ^ found.keys()
        assert not differ, [(raws[offset], expected.get(offset), found.get(offset)) for offset in sorted(differ)]
        assert set(found.values()) <= set(codes.ALL)
        good = [raw for offset, raw in enumerate(raws) if offset not in found]
        assert RECORDS * 0.05 < len(good) < RECORDS * 0.95
        assert not world.refuses(spec, body(good))
        for offset in rng.sample(list(found), 2):
            assert world.refuses(spec, body([*good, raws[offset]]))

    holds()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=60))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_break_either_statement(world: World, raws: list[bytes]) -> None:
    spec = SHAPES["optional"]
    found = world.poison(spec, body(raws))
    assert world.refuses(spec, body(raws)) == bool(found)
