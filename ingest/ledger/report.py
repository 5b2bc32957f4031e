"""What a check found: plain values, one JSON form, and a hash over it that serves as a receipt."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from ingest.ledger.spans import Span
from tidewatch.record import rfc3339

Kind = Literal[
    "gap",  # accepted, passed over by the loader, and neither a row nor a dead letter
    "double",  # more than one row
    "double_letter",  # more than one dead letter for one record
    "loaded_and_dead",  # both a row and a dead letter
    "duplicate_event_id",  # one event id at two offsets, and no declared replay
    "unknown_row",  # a row whose offset holds no committed record
    "lost_letter",  # a dead letter that Kafka holds and the warehouse does not
    "double_letter_row",  # a dead letter that stands in the warehouse twice
    "position_moved",  # the loader's committed offset was set back
    "outbox_mismatch",  # committed rows that are neither emitted nor waiting, or emitted rows that were not committed
]


class Verdict(StrEnum):
    BALANCED = "balanced"
    NOT_BALANCED = "not balanced"
    NOT_PROVABLE = "not provable"

    @property
    def exit_code(self) -> int:
        return {"balanced": 0, "not balanced": 3, "not provable": 4}[self.value]


@dataclass(frozen=True, slots=True)
class Finding:
    """`count` records among the offsets `first..last` (both included) of one partition."""

    kind: Kind
    pipeline: str
    topic: str
    partition: int
    first: int
    last: int
    count: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Unprovable:
    """What cannot be shown, and why. Without offsets it concerns the whole pipeline."""

    pipeline: str
    why: str
    topic: str = ""
    partition: int | None = None
    first: int | None = None
    last: int | None = None


@dataclass(slots=True)
class Terms:
    """accepted = loaded + dead-lettered + pending + lost. `expired` and `control` stand beside: no committed record."""

    accepted: int = 0
    loaded: int = 0
    dead_lettered: dict[str, int] = field(default_factory=lambda: {"gateway": 0, "loader": 0})
    pending: int = 0
    """Beyond the loader's committed position: in flight, not lost."""
    oldest_pending_ms: int | None = None
    lost: int = 0
    expired: int = 0
    """Offsets that retention or compaction took before they could be loaded, as the loader recorded."""
    control: int = 0
    """Offsets without a committed record: transaction markers, aborted records, compaction."""
    letters_pending: int = 0
    """Dead letters that Kafka has and the warehouse does not have yet; counted in `dead_lettered`."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The offsets `first <= offset < stop` of a partition that the window covers; `oldest` is the log's own start.

    `committed` is how far the loader has come: by its group's offset, or by range records that reach further.
    """

    partition: int
    oldest: int
    end: int
    first: int
    stop: int
    committed: int | None


@dataclass(frozen=True, slots=True)
class Incarnation:
    """Rows of the table that came from an earlier topic of the same name."""

    topic_id: str
    rows: int
    offsets: int
    first_received: str
    last_received: str


@dataclass
class PipelineReport:
    pipeline: str
    topic: str
    topic_id: str = ""
    stretches: list[Stretch] = field(default_factory=list)
    terms: Terms = field(default_factory=Terms)
    gateway: dict[str, int] | None = None
    """Offered, accepted, rejected, dead-lettered, by the gateways' own counts; None where there are none."""
    outbox: dict[str, int] | None = None
    """Committed, emitted and waiting rows of the SQL store; None for a pipeline without an outbox."""
    findings: list[Finding] = field(default_factory=list)
    not_provable: list[Unprovable] = field(default_factory=list)
    history: list[Incarnation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """What is wrong outweighs what cannot be shown."""
        if self.findings:
            return Verdict.NOT_BALANCED
        return Verdict.NOT_PROVABLE if self.not_provable else Verdict.BALANCED

    @property
    def why(self) -> str:
        if self.findings:
            kinds = sorted({finding.kind for finding in self.findings})
            return f"{sum(f.count for f in self.findings):,} records: {', '.join(kinds)}"
        if self.not_provable:
            return self.not_provable[0].why
        pending = self.terms.pending
        return f"every record once, {pending:,} in flight" if pending else "every record once"

    def find(self, kind: Kind, span: Span, detail: str = "", topic: str = "") -> None:
        where = (topic or self.topic, span.partition, span.first, span.last, span.count)
        self.findings.append(Finding(kind, self.pipeline, *where, detail))

    def unprovable(
        self, why: str, partition: int | None = None, first: int | None = None, last: int | None = None
    ) -> None:
        self.not_provable.append(Unprovable(self.pipeline, why, self.topic, partition, first, last))


@dataclass
class Report:
    checked_at: datetime
    since: datetime | None
    until: datetime | None
    pipelines: list[PipelineReport]

    @property
    def verdict(self) -> Verdict:
        verdicts = [pipeline.verdict for pipeline in self.pipelines]
        for worst in (Verdict.NOT_BALANCED, Verdict.NOT_PROVABLE):
            if worst in verdicts:
                return worst
        return Verdict.BALANCED

    @property
    def exit_code(self) -> int:
        return self.verdict.exit_code

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, with `receipt` over everything else in it."""
        content = {
            "checked_at": rfc3339(self.checked_at),
            "window": {"from": _time(self.since), "to": _time(self.until)},
            "verdict": str(self.verdict),
            "exit_code": self.exit_code,
            "pipelines": [_pipeline(pipeline) for pipeline in self.pipelines],
        }
        return content | {"receipt": receipt(content)}


def receipt(content: dict[str, Any]) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces, without an earlier `receipt`."""
    bare = {key: value for key, value in content.items() if key != "receipt"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _pipeline(report: PipelineReport) -> dict[str, Any]:
    fields = asdict(report)
    partitions = fields.pop("stretches")
    order = ("pipeline", "topic", "topic_id")
    head = {name: fields.pop(name) for name in order}
    return head | {"verdict": str(report.verdict), "why": report.why, "partitions": partitions} | fields


def _time(value: datetime | None) -> str | None:
    return rfc3339(value) if value is not None else None
