"""What the gateway accepts the loader's own SQL accepts too: an accepted event never becomes poison."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyarrow import ipc

from devstack.clickhouse import ClickHouseFront
from ingest.gateway.problems import Rejection
from ingest.gateway.validation import Validator
from ingest.schema.extract import STRUCTURE, poison_sql
from tidewatch.clickhouse import ClickHouse
from tidewatch.settings import ClickHouse as ClickHouseSettings
from tidewatch.spec import Spec

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import test_gateway_bad_input as bad_input
from gateway_world import APP_EVENT, CLICK, ORDER, SPECS

TW = "mine;1767225600000000;1;shop;00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
# Faults are one or two at most, so that plenty of events are accepted.
EXTREMES: dict[str, list[Any]] = {
    "text": ["", "a" * 5, "é\u0000\u2028", "😀" * 5, "\\\"'`"],
    "choice": ["a", None],
    "code": ["z9"],
    "number": [-100, 127, 0],
    "large": [0, 2**63, 2**64 - 1],
    "signed": [-(2**63), 10],
    "real": [0, -1, 1e-320, 1.7976931348623157e308, 2**63 - 1, 0.1],
    "flag": [True, False],
    "at": [
        "1900-01-01T00:00:00Z",
        "2299-12-30T23:59:59.999999Z",
        "2024-02-29t23:59:59.5z",
        "2026-01-01 00:00:00-23:59",
    ],
    "day": ["1900-01-01", "2299-12-31", "2024-02-29"],
    "id": [bad_input.UUID_TEXT.upper()],
    "price": ["-10", "9999.99", 9999.99, 0.1, "1.500", 1e1, "0.00", 5, "1e2"],
    "more": [{}, {"a": None}, {"a": [1, "x", None, {}]}, {"": 1}, {"a.b": 1, "c": 2}, {"x": 2**70}, {"k" * 300: "v"}],
    "words": [[], ["", "é"], ["\u0000"]],
    "counts": [[], [-(2**63), 2**63 - 1]],
    "reals": [[], [1, 1.5, -1e300]],
    "other": [None, 1, "x", [1, [2]], {"a": {"b": 2**65}}, 1e300, 2**70],
    "event_id": ["a:b"],
}


@pytest.fixture(scope="module")
def client(clickhouse: ClickHouseFront) -> Iterator[ClickHouse]:
    with ClickHouse(ClickHouseSettings(url=clickhouse.url)) as client:
        yield client


def poison(client: ClickHouse, spec: Spec, raws: list[bytes]) -> dict[int, Any]:
    """Offset → why, of those in `raws` that the loader would call poison."""
    count = len(raws)
    table = pa.table(
        {
            "_partition": pa.array([0] * count, pa.int32()),
            "_offset": pa.array(range(count), pa.int64()),
            "_appended_ms": pa.array([1_767_225_600_000] * count, pa.int64()),
            "tw": pa.array([TW] * count),
            "raw": pa.array(raws, pa.binary()),
        }
    )
    body = BytesIO()
    with ipc.new_stream(body, table.schema) as writer:
        writer.write_table(table)
    rows = client.query_over(poison_sql(spec), body.getvalue(), STRUCTURE)
    return {row[1]: row[2:] for row in rows}


def accepted(spec: Spec, raws: list[bytes]) -> list[bytes]:
    validator = Validator(spec)
    return [raw for raw in raws if not isinstance(validator._look_at(raw), Rejection)]


@settings(max_examples=30, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_generated_events(client: ClickHouse, data: st.DataObject) -> None:
    fields = st.fixed_dictionaries(
        {"text": st.sampled_from(EXTREMES["text"]), "at": st.sampled_from(EXTREMES["at"])},
        optional={name: st.sampled_from(found) for name, found in EXTREMES.items() if name not in {"text", "at"}},
    )
    events = data.draw(st.lists(fields | bad_input.events, min_size=50, max_size=50))
    raws = [
        json.dumps(event, ensure_ascii=number % 2 == 0).encode("utf-8", "ignore") for number, event in enumerate(events)
    ]
    good = accepted(bad_input.EVERY_TYPE, raws)
    assert {good[place]: why for place, why in poison(client, bad_input.EVERY_TYPE, good).items()} == {}


@pytest.mark.parametrize("field", EXTREMES)
def test_extremes_of_each_field_are_taken_by_both(client: ClickHouse, field: str) -> None:
    raws = [json.dumps(bad_input.right | {field: value}).encode() for value in EXTREMES[field]]
    assert accepted(bad_input.EVERY_TYPE, raws) == raws
    assert poison(client, bad_input.EVERY_TYPE, raws) == {}


def test_known_oddities(client: ClickHouse) -> None:
    raws = [*bad_input.ODD, *bad_input.BAD]
    good = accepted(SPECS["clicks"], raws)
    assert good == bad_input.ODD
    assert poison(client, SPECS["clicks"], good) == {}


@pytest.mark.parametrize(
    ("pipeline", "event"), [("clicks", CLICK), ("app_events", APP_EVENT), ("orders", ORDER)], ids=lambda v: str(v)[:10]
)
def test_an_event_id_of_the_client_s_own_is_no_unknown_field(
    client: ClickHouse, pipeline: str, event: dict[str, Any]
) -> None:
    raws = [json.dumps(event | {"event_id": "mine"}).encode()]
    assert accepted(SPECS[pipeline], raws) == raws
    assert poison(client, SPECS[pipeline], raws) == {}
