"""`tidewatch tail`: a live monitor of a topic."""

from __future__ import annotations

import itertools
import json
import re
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from tidewatch.kafka.tail import MISSING, Record, parse_filter, parse_start, tail
from tidewatch.record import Letter, rfc3339
from tidewatch.settings import load_settings

LONGEST = 1000  # characters of an event that are shown; --json shows all
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")  # would reach the terminal as commands
_PARTITION_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")


def main(
    topic: Annotated[str, typer.Argument(help="For example raw.clicks.v1.")],
    *,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="PATH=VALUE, PATH!=VALUE or PATH~PATTERN, such as properties.plan=pro. Repeat: all must hold."
        ),
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only records with this key.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="10m, 2h, beginning, end, a time (2026-01-01T14:00:00Z) or an offset.")
    ] = "end",
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many records.")] = None,
    follow: Annotated[bool, typer.Option(help="Wait for more; --no-follow ends where the topic ends now.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Show events as they arrive: time, partition, offset, project, event id, key and the event itself."""
    filters = [parse_filter(text) for text in where or []]
    begin = parse_start(start, datetime.now(UTC))
    records = tail(
        load_settings().kafka, topic, begin, follow=follow, matching=lambda record: record.matches(filters, key)
    )
    console = Console(highlight=False, soft_wrap=True)
    with closing(records):
        for record in itertools.islice(records, limit):
            if as_json:
                print(json.dumps(as_object(record)), flush=True)
            else:
                console.print(as_line(record))


def as_object(record: Record) -> dict[str, Any]:
    """Everything about a record; a value that is not JSON is its text, under `raw`."""
    envelope = record.envelope
    event = record.event
    shown: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "time": rfc3339(record.time),
        "key": None if record.key is None else record.key.decode(errors="replace"),
        "project": envelope.project if envelope else None,
        "event_id": envelope.event_id if envelope else None,
        "schema_version": envelope.schema_version if envelope else None,
        "headers": {name: value.decode(errors="replace") for name, value in record.headers.items()},
    }
    if event is MISSING:
        return shown | {"raw": None if record.value is None else record.value.decode(errors="replace")}
    return shown | {"value": event}


def as_line(record: Record) -> Text:
    colour = _PARTITION_COLOURS[record.partition % len(_PARTITION_COLOURS)]
    line = Text().append(f"{record.time.astimezone():%H:%M:%S.%f}"[:-3], style="dim")
    line.append(f" {record.partition}:{record.offset}", style=colour)
    envelope = record.envelope
    if envelope is not None:
        line.append(f" {envelope.project}", style="bold").append(f" {envelope.event_id}", style="dim")
    else:
        line.append(" foreign", style="yellow")
    if Letter.ERROR in record.headers:
        line.append(" ✗ " + " ".join(_header(record, name) for name in (Letter.ERROR, Letter.FIELD)).rstrip(), "red")
    if record.key is not None:
        line.append(f" {printable(record.key)}", style="blue")
    return line.append(" ").append_text(_value(record))


def printable(data: bytes) -> str:
    """As text that a terminal shows and does not obey, cut where it gets long."""
    text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", data.decode(errors="replace"))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… (+{len(text) - LONGEST})"


def _header(record: Record, name: str) -> str:
    return printable(record.headers.get(name, b""))


def _value(record: Record) -> Text:
    if record.value is None:
        return Text("tombstone", style="yellow")
    text = Text(printable(record.value))
    if record.event is MISSING:
        text.stylize("yellow")
    else:
        JSONHighlighter().highlight(text)
    return text
