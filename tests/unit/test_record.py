from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidewatch.record import (
    EVENT_ID,
    Envelope,
    Failure,
    Letter,
    Origin,
    decode_envelope,
    letter_headers,
    rfc3339,
    signature,
)

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.from_regex(EVENT_ID, fullmatch=True), st.integers(0, 2**53), st.integers(1, 65535))
def test_an_envelope_survives_its_header(event_id: str, received: int, version: int) -> None:
    envelope = Envelope(event_id, received, version, "shop", TRACE)
    assert decode_envelope(envelope.encode()) == envelope


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "1 parts"),
        (b"a;1;1;shop", "4 parts"),
        (b"a b;1;1;shop;", "event id"),
        (b";1;1;shop;", "event id"),
        (b"a;1;1;SHOP;", "project"),
        (b"a;-1;1;shop;", "time or schema"),
        (b"a;1;x;shop;", "time or schema"),
    ],
)
def test_a_header_that_we_did_not_write_says_what_is_wrong(header: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_envelope(header)


def test_a_signature_ignores_values_and_keeps_causes_apart() -> None:
    def sign(error: str, field: str, message: str) -> str:
        return signature("clicks", "loader", Failure(error, field, message))

    one = sign("out_of_range", "position", "300 at id 018f2c1e-aaaa does not fit; got 'x'")
    assert one == sign("out_of_range", "position", "70000 at id 01900000-bbbb does not fit; got 'naïve'")
    assert one != sign("out_of_range", "item_id", "300 at id 018f2c1e-aaaa does not fit; got 'x'")
    assert one != sign("wrong_type", "position", "300 at id 018f2c1e-aaaa does not fit; got 'x'")


def test_a_letter_says_where_it_came_from() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    failure = Failure("missing_field", "item_id", "item_id is required")
    headers = dict(
        letter_headers(
            pipeline="clicks",
            stage="loader",
            failure=failure,
            origin=Origin("raw", "id", 3, 42),
            failed_at=at,
            version="1",
        )
    )
    assert headers[Letter.PARTITION] == b"3"
    assert headers[Letter.OFFSET] == b"42"
    assert headers[Letter.FAILED_AT] == headers[Letter.FIRST_FAILED_AT] == b"2026-01-01T10:00:00.000000Z"
    gateway = dict(
        letter_headers(pipeline="clicks", stage="gateway", failure=failure, origin=None, failed_at=at, version="1")
    )
    assert Letter.OFFSET not in gateway


def test_times_are_written_in_utc() -> None:
    assert rfc3339(datetime(2026, 2, 3, 4, 5, 6, 7, tzinfo=UTC)) == "2026-02-03T04:05:06.000007Z"
