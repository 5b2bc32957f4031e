"""A ledger's report for a terminal: the table first, then what is wrong, then what cannot be shown."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingest.ledger.report import PipelineReport, Report, Verdict

_STYLES = {Verdict.BALANCED: "green", Verdict.NOT_BALANCED: "bold red", Verdict.NOT_PROVABLE: "yellow"}
_MARKS = {Verdict.BALANCED: "✓", Verdict.NOT_BALANCED: "✗", Verdict.NOT_PROVABLE: "?"}
_LISTED = 50


def show(report: Report, console: Console) -> None:
    """Findings beyond the first fifty are counted, and left to `--json`."""
    console.print(f"Ledger, {_window(report)}", style="bold")
    console.print(_terms(report))
    for pipeline in report.pipelines:
        for line in _before_the_log(pipeline):
            console.print(Text(f"  {pipeline.pipeline}: {line}", style="dim"), soft_wrap=True)
    _findings(report, console)
    _unprovable(report, console)
    for pipeline in report.pipelines:
        for note in pipeline.notes:
            console.print(f"  note: {pipeline.pipeline}: {note}")
        for old in pipeline.history:
            console.print(
                f"  history: {pipeline.pipeline}: {old.rows:,} rows of an earlier topic {old.topic_id}"
                f" ({old.first_received} to {old.last_received})"
            )
    console.print(_verdict(report.verdict), Text(f"receipt {report.as_dict()['receipt'][:16]}", style="dim"))


def _terms(report: Report) -> Table:
    # Narrow, because a pipe and an old terminal have 80 columns.
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("pipeline", no_wrap=True)
    for heading in ("accepted", "loaded", "dead letters", "pending", "lost", "no record"):
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split())))
    table.add_column("verdict", no_wrap=True)
    table.add_column("why")
    for pipeline in report.pipelines:
        terms = pipeline.terms
        dead = sum(terms.dead_lettered.values())
        counts = (terms.accepted, terms.loaded, dead, terms.pending, terms.lost, terms.control + terms.expired)
        # What is not provable takes sentences, which stand below the table.
        why = "see below" if pipeline.verdict is Verdict.NOT_PROVABLE else pipeline.why
        cells = [f"{count:,}" for count in counts] if _was_read(pipeline) else ["–"] * len(counts)
        table.add_row(pipeline.pipeline, *cells, _verdict(pipeline.verdict), why)
    return table


def _was_read(pipeline: PipelineReport) -> bool:
    """False: a source was away, and a count of zero would be a count of nothing."""
    away = any(unprovable.partition is None for unprovable in pipeline.not_provable)
    return bool(pipeline.stretches) and not (away and pipeline.terms.accepted == 0)


def _before_the_log(pipeline: PipelineReport) -> list[str]:
    parts = []
    if pipeline.gateway is not None:
        parts.append("gateway: " + ", ".join(f"{name} {count:,}" for name, count in pipeline.gateway.items()))
    if pipeline.outbox is not None:
        parts.append("outbox: " + ", ".join(f"{name} {count:,}" for name, count in pipeline.outbox.items()))
    return parts


def _findings(report: Report, console: Console) -> None:
    findings = [finding for pipeline in report.pipelines for finding in pipeline.findings]
    if not findings:
        return
    table = Table("finding", "where", "offsets", "records", "detail", box=None, pad_edge=False)
    for finding in findings[:_LISTED]:
        where = f"{finding.topic}[{finding.partition}]" if finding.partition >= 0 else "store"
        table.add_row(
            Text(finding.kind, style="bold red"),
            where,
            _offsets(finding.first, finding.last),
            f"{finding.count:,}",
            finding.detail,
        )
    console.print(table)
    if len(findings) > _LISTED:
        console.print(f"… and {len(findings) - _LISTED:,} more: see --json")


def _unprovable(report: Report, console: Console) -> None:
    for pipeline in report.pipelines:
        for item in pipeline.not_provable[:_LISTED]:
            place = f" {item.topic}[{item.partition}]" if item.partition is not None else ""
            offsets = f" offsets {_offsets(item.first, item.last)}" if item.first is not None else ""
            console.print(Text(f"? {pipeline.pipeline}{place}{offsets}: {item.why}", style="yellow"), soft_wrap=True)


def _offsets(first: int | None, last: int | None) -> str:
    if first is None or first < 0:
        return "–"
    return str(first) if last in (first, None) else f"{first}–{last}"


def _verdict(verdict: Verdict) -> Text:
    return Text(f"{_MARKS[verdict]} {verdict}", style=_STYLES[verdict])


def _window(report: Report) -> str:
    return f"broker append time {_time(report.since, 'the oldest')} to {_time(report.until, 'now')}"


def _time(value: datetime | None, none: str) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC" if value is not None else none
