"""What the demonstration tells at its end, for people and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from devstack.demo.run import Outcome
from devstack.stack import Stack
from ingest.ledger.report import Verdict


def as_json(outcome: Outcome) -> dict[str, Any]:
    journal, verdict = outcome.journal, outcome.verdict
    accepted, letters = journal.total(journal.accepted), journal.total(journal.dead_lettered)
    return {
        "proved": outcome.proved,
        "sent": sum(journal.sent.values()),
        "accepted": accepted + letters,
        "rejected": sum(journal.rejected.values()),
        "malformed_requests": outcome.malformed,
        "foreign_records": sum(len(written.good) + len(written.bad) for written in outcome.foreign.values()),
        "dead_lettered": sum(letter[-1] for letter in outcome.letters),
        "dead_letters": [
            dict(zip(("pipeline", "stage", "error", "field", "letters"), letter, strict=True))
            for letter in outcome.letters
        ],
        "missing": {name: len(ids) for name, ids in verdict.missing.items()},
        "doubled": {name: len(ids) for name, ids in verdict.doubled.items()},
        "unannounced": {name: len(ids) for name, ids in verdict.unannounced.items()},
        "foreign_problems": verdict.foreign,
        "ledger": outcome.ledger.as_dict(),
        "accept_to_queryable_p50_s": outcome.probe.quantile(0.5),
        "accept_to_queryable_p99_s": outcome.probe.quantile(0.99),
        "probes": len(outcome.probe.seconds),
        "sending_seconds": outcome.sending_seconds,
        "events_per_s": sum(journal.sent.values()) / outcome.sending_seconds,
        "retried_requests": journal.retried,
    }


def show(console: Console, outcome: Outcome, stack: Stack, *, kept: bool) -> None:
    console.print()
    console.print(_by_pipeline(outcome))
    console.print(
        _counted("Rejected events, as the sender was told", ("pipeline", "field", "reason"), outcome.journal.rejected)
    )
    console.print(
        _counted("Refused requests: malformed on purpose", ("status", "why"), outcome.journal.refused_requests)
    )
    letters = Counter({letter[:-1]: letter[-1] for letter in outcome.letters})
    console.print(_counted("Dead letters, by reason", ("pipeline", "stage", "error", "field"), letters))
    _show_speed(console, outcome)
    _show_proof(console, outcome)
    _show_next(console, stack, kept=kept)


def _by_pipeline(outcome: Outcome) -> Table:
    table = Table(title="Events by pipeline", title_justify="left")
    for name in ("pipeline", "sent", "accepted", "rejected", "foreign", "loaded", "dead-lettered", "pending", "ledger"):
        table.add_column(name, justify="left" if name in ("pipeline", "ledger") else "right")
    journal = outcome.journal
    for report in outcome.ledger.pipelines:
        pipeline, terms = report.pipeline, report.terms
        foreign = outcome.foreign.get(pipeline)
        rejected = sum(count for (name, _, _), count in journal.rejected.items() if name == pipeline)
        accepted = len(journal.accepted.get(pipeline, [])) + len(journal.dead_lettered.get(pipeline, []))
        told = (journal.sent[pipeline], accepted, rejected, len(foreign.good) + len(foreign.bad) if foreign else 0)
        found = (terms.loaded, sum(terms.dead_lettered.values()), terms.pending + terms.letters_pending)
        table.add_row(pipeline, *(f"{number:,}" for number in (*told, *found)), str(report.verdict))
    return table


def _counted(title: str, columns: tuple[str, ...], counts: Counter[Any]) -> Table | str:
    if not counts:
        return f"{title}: none"
    table = Table(title=f"{title}: {sum(counts.values()):,}", title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column("count", justify="right")
    for key, count in counts.most_common():
        table.add_row(*(escape(str(part)) for part in key), f"{count:,}")
    return table


def _show_speed(console: Console, outcome: Outcome) -> None:
    probe, sent = outcome.probe, sum(outcome.journal.sent.values())
    console.print(
        f"Accept → queryable: p50 {probe.quantile(0.5):.2f} s, p99 {probe.quantile(0.99):.2f} s ({len(probe.seconds)} probes during the load)",
        f"\nThroughput: {sent:,} events in {outcome.sending_seconds:.1f} s = {sent / outcome.sending_seconds:,.0f} events/s,"
        " sender and all services on this machine",
        highlight=False,
    )


def _show_proof(console: Console, outcome: Outcome) -> None:
    verdict, journal = outcome.verdict, outcome.journal
    answers = journal.total(journal.accepted) + journal.total(journal.dead_lettered)
    if not outcome.loaded_in_time:
        console.print("[red]✗[/] not everything accepted reached ClickHouse in time")
    for word, found in (
        ("missing", verdict.missing),
        ("doubled", verdict.doubled),
        ("never answered, yet there", verdict.unannounced),
    ):
        for pipeline, ids in found.items():
            if ids:
                console.print(f"[red]✗[/] {pipeline}: {len(ids):,} {word}, the first {escape(ids[0])}", highlight=False)
    for problem in verdict.foreign:
        console.print(f"[red]✗[/] {escape(problem)}", highlight=False)
    for report in outcome.ledger.pipelines:
        if report.verdict is not Verdict.BALANCED:
            console.print(
                f"[red]✗[/] {report.pipeline}: the ledger is {report.verdict}: {escape(report.why)}", highlight=False
            )
    if outcome.proved:
        console.print(
            f"[green]✓ proved[/]: each of {answers:,} events answered with 202, and each foreign record, is once in ClickHouse"
            " or among the dead letters; the ledger balances",
            highlight=False,
        )


def _show_next(console: Console, stack: Stack, *, kept: bool) -> None:
    console.print(
        f"\nThe sender's journal: {stack.directory / 'journal.jsonl'}   merged log: {stack.merged_log}", highlight=False
    )
    if not kept:
        console.print("Leave it running with [bold]KEEP=1 make demo[/], and look around.")
        return
    console.print("\n[bold]Where to look next[/] (another terminal)")
    for command, why in (
        ("tidewatch dev status", "what runs, and where"),
        ("tidewatch ledger check", "the proof, again, from the log and the warehouse"),
        ("tidewatch tail raw.clicks.v1 --from 10m --limit 5", "events as they stand in Kafka"),
        ("tidewatch dev logs loader", "what the loader did"),
    ):
        console.print(f"  .venv/bin/{command:52} {why}", highlight=False)
    console.print(f"  {stack.gateway_url}/openapi.json    the HTTP API\nCtrl-C stops everything.", highlight=False)
