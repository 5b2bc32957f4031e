"""`tidewatch lag`: how far consumer groups are behind, since when, why, and until when it may last."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from collectors.kafka.status import TROUBLE, Status
from controlplane.cli.output import console, count, duration, plain, print_json, print_table
from controlplane.kafka_view import KafkaView, measure
from tidewatch.errors import UsageError
from tidewatch.settings import load_settings
from tidewatch.telemetry.catalogue import collectors_kafka as m

PROBLEM = 3
_TROUBLE = {status.word for status in TROUBLE}
_COLOURS = {"ok": "green", "never": "dim", "unknown": "dim", "unmeasured": "yellow", "warn": "yellow"}
_MARKS = {"ok": "●", "never": "○", "unknown": "◌", "unmeasured": "?", "warn": "▲"}


def main(
    groups: Annotated[list[str] | None, typer.Argument(help="Groups, or patterns such as 'tidewatch.*'.")] = None,
    *,
    topic: Annotated[str | None, typer.Option(help="This topic only; may be a pattern.")] = None,
    seconds: Annotated[float, typer.Option(min=0.2, max=60, help="How far apart the two readings are.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Lag of consumer groups in messages and seconds. Exit 3 when a group is in trouble or could not be measured."""
    view = measure(load_settings(), seconds)
    rows = [row for row in _rows(view) if _wanted(row, groups or [], topic)]
    listed = view.state.lags.listed if view.state.lags is not None else {}
    missing = [each for each in groups or [] if not any(fnmatchcase(name, each) for name in listed)]
    if missing:
        known = ", ".join(sorted(listed)) or "none"
        raise UsageError(f"there is no consumer group {', '.join(missing)}", fix=f"there are: {known}")
    blind = [(each.source, each.why) for each in view.unmeasured if not groups or any(g in each.source for g in groups)]
    if as_json:
        unmeasured = [{"source": source, "why": why} for source, why in blind]
        print_json({"at": view.at, "watched": view.watched, "groups": rows, "unmeasured": unmeasured})
    else:
        _print(view, rows, blind)
    if blind or any(row["status"] in _TROUBLE for row in rows):
        raise typer.Exit(PROBLEM)


def _rows(view: KafkaView) -> list[dict[str, Any]]:
    lags = view.state.lags.lags if view.state.lags is not None else {}
    return [_row(view, group, topic) for group, topic in sorted(lags)]


def _row(view: KafkaView, group: str, topic: str) -> dict[str, Any]:
    key = (group, topic)
    counts = {s: int(n) for (g, t, s), n in view.all(m.PARTITIONS).items() if (g, t) == key and n}
    worst = max((Status[word.upper()] for word in counts), default=Status.UNMEASURED)
    causes = [(cause, detail) for (g, cause, detail) in view.all(m.CAUSE) if g == group]
    stuck = {(int(p), int(o)): s for (g, t, p, o), s in view.all(m.STUCK).items() if (g, t) == key}
    return {
        "group": group,
        "topic": topic,
        "status": worst.word,
        "partitions": counts,
        "lag": view.value(m.LAG, key),
        "lag_seconds": view.value(m.LAG_SECONDS, key),
        "consumed_per_second": view.value(m.CONSUMED, key),
        "produced_per_second": view.value(m.PRODUCED, (topic,)),
        "drain_seconds": view.value(m.DRAIN, key),
        "drains": None if (drain := view.value(m.DRAIN, key)) is None else drain != float("inf"),
        "members": view.value(m.MEMBERS, (group,)),
        "members_needed": view.value(m.MEMBERS_NEEDED, key),
        "data_loss_seconds": view.value(m.LOSS, key),
        "lost_messages": view.value(m.LOST, key),
        "stuck": [{"partition": p, "offset": o, "seconds": s} for (p, o), s in sorted(stuck.items())],
        "cause": causes[0][0] if causes else None,
        "detail": causes[0][1] if causes else None,
    }


def _wanted(row: dict[str, Any], groups: list[str], topic: str | None) -> bool:
    named = not groups or any(fnmatchcase(row["group"], pattern) for pattern in groups)
    return named and (topic is None or fnmatchcase(row["topic"], topic))


def _print(view: KafkaView, rows: list[dict[str, Any]], blind: list[tuple[str, str]]) -> None:
    if not rows:
        console.print("no consumer group has committed offsets")
    else:
        headings = ("group", "topic", "status", "lag", "behind by", "in/s", "out/s", "drained in", "lost in")
        print_table(headings, map(_cells, rows))
    for group, detail in dict.fromkeys((row["group"], row["detail"]) for row in rows if row["detail"]):
        console.print(f"[yellow]▲[/] {plain(group)}: {plain(detail)}")
    for row in rows:
        if row["lost_messages"]:
            console.print(
                f"[red]✗[/] {plain(row['group'])}: {row['lost_messages']:,.0f} offsets of {row['topic']} are gone"
            )
    for source, why in blind:
        console.print(f"[yellow]?[/] not measured: {plain(source)}: {plain(why)}")
    if rows and not view.watched:
        console.print("[dim]two readings only: statuses need minutes of watching, which `tidewatch collect` does[/]")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    word = row["status"]
    status = f"[{_COLOURS.get(word, 'red')}]{_MARKS.get(word, '✗')} {word}[/]"
    drained = duration(row["drain_seconds"])
    if drained == "never" and row["members_needed"]:
        drained = f"never: needs {row['members_needed']:.0f} members"
    loss = row["data_loss_seconds"]
    return (
        plain(row["group"]),
        plain(row["topic"]),
        status,
        count(row["lag"]),
        duration(row["lag_seconds"]),
        count(row["produced_per_second"]),
        count(row["consumed_per_second"]),
        drained,
        "" if loss is not None and loss == float("inf") else duration(loss),
    )
