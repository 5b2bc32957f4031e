"""A record is poison exactly when the insert would throw: by a second definition in Python, on generated JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schema_oracle import verdict
from schema_world import World, body, make_spec, open_world

from ingest.schema import codes
from tidewatch.spec import Spec

# Each is up to sixty records and three statements; more of them for a search by hand.
EXAMPLES = int(os.environ.get("TIDEWATCH_TEST_EXAMPLES", "12"))
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


def names(spec: Spec) -> list[str]:
    return [field.name for field in spec.schema_.fields]


# Numbers as texts, since how a number is written is half of the matter.
_NUMBERS = st.one_of(
    st.integers(-300, 300).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["0", "-0", "255", "256", "5.0", "1.5", "1e2", "1E+2", "1e-2", "1.005", "12.34", "1e400", "-1e308", "0.1",
         "9007199254740991.0", "9007199254740993.0", "2147483647", "2147483648", "-2147483649", "1e18", "1e-7",
         "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809",
         "18446744073709551615", "18446744073709551616", "999999999999.99", "1000000000000", "01", "+1", ".5", "NaN"]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)  # fmt: skip
_TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["", "a", "b", "abc1", "abc12", "5", "true", "null", "2026-08-01T00:00:00Z", "2026-08-01t23:59:59.123456789+05:30",
         "2026-02-29T00:00:00Z", "2024-02-29T00:00:00Z", "2026-08-01", "2026-02-30", "1899-12-31", "2300-01-01",
         "1900-01-01T00:00:00+00:01", "1900-01-01T00:00:00Z", "2299-12-31T23:59:59Z", "2299-12-31T23:59:59-00:01",
         "2026-08-01T24:00:00Z", "2026-08-01T23:59:60Z", "2026-08-01T00:00:00", "1950-05-05T05:05:05.5Z",
         "61f0c404-5cb3-11e7-907b-a6006ad3dba0", "61F0C404-5CB3-11E7-907B-A6006AD3DBA0",
         "61f0c4045cb311e7907ba6006ad3dba0", "1.50", "1.505", "-0.01", "1e2", "12345678901234567890.1234567890",
         "999999999999.99", "abc", '":', '"i":"', "\\", "é", "\U0001f600", "\x00", "{", "[1]"]
    ),
)  # fmt: skip
_SCALARS = st.one_of(_NUMBERS, _TEXTS.map(json.dumps), st.sampled_from(["true", "false", "null", '"\\ud800"']))


def _array(items: list[str]) -> str:
    return "[" + ", ".join(items) + "]"


def _object(pairs: list[tuple[str, str]], colon: str = ":", comma: str = ",") -> str:
    return "{" + comma.join(f"{key}{colon}{value}" for key, value in pairs) + "}"


_INNER_KEYS = st.sampled_from(["i", "s", "a", "b", "a.b", "x"]).map(json.dumps)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(_array), st.lists(st.tuples(_INNER_KEYS, inner), max_size=3).map(_object)
    ),
    max_leaves=5,
)
_FIT = {
    "s": st.text(max_size=6).map(json.dumps),
    "i": st.integers(-(2**63), 2**63 - 1).map(str),
    "u": st.integers(0, 2**64 - 1).map(str),
    "u8": st.integers(1, 200).map(str),
    "i32": st.integers(-(2**31), 2**31 - 1).map(str),
    "f": st.floats(max_value=1e6, allow_nan=False, allow_infinity=False).map(repr),
    "b": st.sampled_from(["true", "false"]),
    "t": st.datetimes().map(lambda t: json.dumps(f"{t:%Y-%m-%dT%H:%M:%S}.{t.microsecond:06}Z")),
    "dec": st.decimals(-1000, 10**12 - 1, places=2).map(lambda d: json.dumps(f"{d:f}")),
    "exact": st.decimals(-(10**20) + 1, 10**20 - 1, places=10).map(lambda d: json.dumps(f"{d:f}")),
    "strs": st.lists(st.text(max_size=4).map(json.dumps), max_size=4).map(_array),
    "ints": st.lists(st.integers(-(2**63), 2**63 - 1).map(str), max_size=4).map(_array),
}


@st.composite
def _events(draw: st.DrawFn, spec: Spec) -> bytes:
    """Mostly nearly right: a wrong record among right ones is the hard case."""
    chosen = draw(st.lists(st.sampled_from(names(spec)), unique=draw(st.integers(0, 5)) > 0, max_size=6))
    if draw(st.integers(0, 4)) > 0:
        chosen += [field.name for field in spec.schema_.fields if field.required and field.name not in chosen]
    pairs = []
    for name in chosen:
        fits = draw(st.integers(0, 3)) > 0 and name in _FIT
        key = "".join(f"\\u{ord(c):04x}" for c in name) if draw(st.integers(0, 30)) == 0 else name
        pairs.append((f'"{key}"', draw(_FIT[name] if fits else _VALUES)))
    if draw(st.integers(0, 6)) == 0:
        unknown = st.one_of(st.text(max_size=4), st.sampled_from(["zz", "_zz", "S", "i ", "s:s"])).map(json.dumps)
        pairs.append((draw(unknown), draw(_VALUES)))
    space = draw(st.sampled_from(["", "", "", " ", "\n\t "]))
    text = space + _object(pairs, f"{space}:{space}", f"{space},{space}") + space
    damage = draw(st.sampled_from(["", "", "", "", "", "", "", "", "x", "{}", "]", "\ufeff"]))
    raw = (damage + text if damage == "\ufeff" else text + damage).encode(errors="surrogatepass")
    return raw[: draw(st.integers(0, len(raw)))] if draw(st.integers(0, 40)) == 0 else raw


@pytest.mark.parametrize("shape", SHAPES)
def test_poison_is_what_the_definition_says_and_what_the_insert_refuses(world: World, shape: str) -> None:
    spec = SHAPES[shape]

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.lists(_events(spec), min_size=1, max_size=60))
    def holds(raws: list[bytes]) -> None:
        expected = {offset: code for offset, raw in enumerate(raws) if (code := verdict(spec, raw))}
        found = {offset: reason[0] for offset, reason in world.poison(spec, body(raws)).items()}
        differ = expected.keys() ^ found.keys()
        assert not differ, [(raws[offset], expected.get(offset), found.get(offset)) for offset in sorted(differ)]
        assert set(found.values()) <= set(codes.ALL)
        good = [raw for offset, raw in enumerate(raws) if offset not in found]
        if good:
            assert not world.refuses(spec, body(good))
        for offset in list(found)[:1]:
            assert world.refuses(spec, body([*good, raws[offset]]))

    holds()


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=60))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_break_either_statement(world: World, raws: list[bytes]) -> None:
    spec = SHAPES["optional"]
    found = world.poison(spec, body(raws))
    assert world.refuses(spec, body(raws)) == bool(found)
