"""What a Kafka record of ours carries besides its value.

The value is the event's JSON, byte for byte as it was accepted. One header, `tw`, says the rest in ASCII, so that
any Kafka tool shows it readably:

    event_id;received_at_us;schema_version;project;traceparent

One header rather than five, because each costs about a fifth of producing a 250-byte event. A record without `tw`
comes from a foreign producer; its event id is then `topic_id:partition:offset` and its time the broker's append time.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import NamedTuple

ENVELOPE = "tw"
TRACEPARENT = "traceparent"
REPLAY = "tw-replay"

EVENT_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
PROJECT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

Headers = list[tuple[str, bytes]]


class Envelope(NamedTuple):
    event_id: str
    received_at_us: int
    """Microseconds since 1970, when the gateway took the request."""
    schema_version: int
    project: str
    traceparent: str

    def encode(self) -> bytes:
        """Raises ValueError for what `decode_envelope` would not read as the same."""
        if not EVENT_ID.fullmatch(self.event_id):
            raise ValueError("no valid event id for tw")
        return self.event_id.encode() + envelope_suffix(*self[1:])


def envelope_suffix(received_at_us: int, schema_version: int, project: str, traceparent: str) -> bytes:
    """All of a `tw` header but the event id: the same for each event of a request, so made once.

    Raises ValueError for parts that hold the separator. Whoever puts an event id before it sees to that id.
    """
    if project and not PROJECT.fullmatch(project):
        raise ValueError("no valid project for tw")
    if ";" in traceparent:
        raise ValueError("no valid traceparent for tw")
    return f";{received_at_us};{schema_version};{project};{traceparent}".encode()


def decode_envelope(header: bytes) -> Envelope:
    """Raises ValueError, saying which part is wrong, for a header that no gateway of ours wrote."""
    parts = header.decode("ascii", errors="strict").split(";")
    if len(parts) != 5:
        raise ValueError(f"tw has {len(parts)} parts, not 5")
    event_id, received, version, project, traceparent = parts
    if not EVENT_ID.fullmatch(event_id):
        raise ValueError("tw holds no valid event id")
    if project and not PROJECT.fullmatch(project):
        raise ValueError("tw holds no valid project")
    if not (received.isdecimal() and version.isdecimal()):
        raise ValueError("tw holds no valid time or schema version")
    return Envelope(event_id, int(received), int(version), project, traceparent)


class Letter:
    """Names of the headers of a dead letter. Its value is the original bytes."""

    PIPELINE = "dlq.pipeline"
    TOPIC = "dlq.topic"
    TOPIC_ID = "dlq.topic-id"
    PARTITION = "dlq.partition"
    OFFSET = "dlq.offset"
    STAGE = "dlq.stage"
    ERROR = "dlq.error"
    FIELD = "dlq.field"
    MESSAGE = "dlq.message"
    SIGNATURE = "dlq.signature"
    FIRST_FAILED_AT = "dlq.first-failed-at"
    FAILED_AT = "dlq.failed-at"
    ATTEMPT = "dlq.attempt"
    LOADER_VERSION = "dlq.loader-version"
    TRUNCATED = "dlq.truncated"
    """Only on a letter that holds the beginning of a value too large for it: the original's length in bytes."""


class Failure(NamedTuple):
    """Why an event became a dead letter."""

    error: str
    """A stable code, such as `missing_field`."""
    field: str
    message: str


class Origin(NamedTuple):
    """Where the event stood in the log; a gateway's letter has none."""

    topic: str
    topic_id: str
    partition: int
    offset: int


_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_HEX = re.compile(r"\b[0-9a-f]{8,}(?:-[0-9a-f]{4,})*\b", re.IGNORECASE)


def signature(pipeline: str, stage: str, failure: Failure) -> str:
    """16 hex digits, equal for failures that differ in their values only: quoted texts, numbers and ids are blanked."""
    message = _NUMBER.sub("#", _HEX.sub("#", _QUOTED.sub("'…'", failure.message)))
    text = f"{pipeline}|{stage}|{failure.error}|{failure.field}|{message}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def letter_headers(
    *,
    pipeline: str,
    stage: str,
    failure: Failure,
    origin: Origin | None,
    failed_at: datetime,
    version: str,
    attempt: int = 1,
    first_failed_at: datetime | None = None,
) -> Headers:
    """The `dlq.*` headers; the original record's own headers go in front of them, unchanged."""
    first = first_failed_at or failed_at
    texts = {
        Letter.PIPELINE: pipeline,
        Letter.STAGE: stage,
        Letter.ERROR: failure.error,
        Letter.FIELD: failure.field,
        Letter.MESSAGE: failure.message[:1000],
        Letter.SIGNATURE: signature(pipeline, stage, failure),
        Letter.FIRST_FAILED_AT: rfc3339(first),
        Letter.FAILED_AT: rfc3339(failed_at),
        Letter.ATTEMPT: str(attempt),
        Letter.LOADER_VERSION: version,
    }
    if origin is not None:
        texts |= {
            Letter.TOPIC: origin.topic,
            Letter.TOPIC_ID: origin.topic_id,
            Letter.PARTITION: str(origin.partition),
            Letter.OFFSET: str(origin.offset),
        }
    return [(name, text.encode()) for name, text in texts.items()]


def rfc3339(time: datetime) -> str:
    """UTC with microseconds: `2026-01-01T00:00:00.000000Z`."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
