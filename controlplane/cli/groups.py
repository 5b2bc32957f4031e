"""`tidewatch groups`: consumer groups, their members, and what each holds."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated, Any

import typer

from collectors.kafka.state import Described, Member
from controlplane.cli.output import console, count, duration, plain, print_json, print_table
from controlplane.kafka_view import KafkaView, measure
from tidewatch.errors import UsageError
from tidewatch.settings import load_settings
from tidewatch.telemetry.catalogue import collectors_kafka as m

PROBLEM = 3


def main(
    group: Annotated[str | None, typer.Argument(help="Show this group's members and partitions.")] = None,
    *,
    seconds: Annotated[float, typer.Option(min=0.2, max=60, help="How far apart the two readings are.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    """Consumer groups with state and members. Exit 3 when one could not be described."""
    view = measure(load_settings(), seconds)
    listed = view.state.lags.listed if view.state.lags is not None else {}
    if group is not None and group not in listed:
        raise UsageError(f"there is no consumer group {group}", fix=f"there are: {', '.join(sorted(listed)) or 'none'}")
    rows = [_row(view, name) for name in sorted(listed) if group in {None, name}]
    blind = [(each.source, each.why) for each in view.unmeasured if group is None or group in each.source]
    if as_json:
        unmeasured = [{"source": source, "why": why} for source, why in blind]
        print_json({"at": view.at, "groups": rows, "unmeasured": unmeasured})
    elif group is not None:
        _print_one(rows[0])
    else:
        _print_all(rows)
    for source, why in blind if not as_json else ():
        console.print(f"[yellow]?[/] not measured: {plain(source)}: {plain(why)}")
    if blind:
        raise typer.Exit(PROBLEM)


def _row(view: KafkaView, name: str) -> dict[str, Any]:
    described: Described | None = view.state.described.get(name)
    listed = next((labels for labels in view.all(m.GROUP) if labels[0] == name), (name, "", "", ""))
    lags = {topic: lag for (group, topic), lag in view.all(m.LAG).items() if group == name}
    ages = [age for (group, _), age in view.all(m.LAG_SECONDS).items() if group == name]
    return {
        "group": name,
        "protocol": listed[1],
        "state": listed[2],
        "coordinator": listed[3],
        "members": None if described is None else [_member(member) for member in described.members],
        "generation": None if described is None else described.generation,
        "rebalance_storm": bool(view.value(m.STORM, (name,))),
        "lag": lags,
        "lag_seconds": max(ages, default=None),
    }


def _member(member: Member) -> dict[str, Any]:
    held: dict[str, list[int]] = defaultdict(list)
    for topic, number in sorted(member.partitions):
        held[topic].append(number)
    identity = {"member_id": member.member_id, "instance_id": member.instance_id}
    return {**identity, "client_id": member.client_id, "host": member.host.lstrip("/"), "partitions": dict(held)}


def _print_all(rows: list[dict[str, Any]]) -> None:
    if not rows:
        console.print("no consumer groups")
        return
    headings = ("group", "protocol", "state", "members", "generation", "topics", "lag", "behind by")
    print_table(headings, map(_cells, rows))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    members = row["members"]
    return (
        plain(row["group"]),
        row["protocol"],
        f"[red]✗[/] {row['state']}, rebalancing again and again" if row["rebalance_storm"] else row["state"],
        "–" if members is None else str(len(members)),
        count(row["generation"]),
        str(len(row["lag"])),
        count(sum(row["lag"].values())) if row["lag"] else "–",
        duration(row["lag_seconds"]),
    )


def _print_one(row: dict[str, Any]) -> None:
    state = f"{row['state']}, {row['protocol']} protocol, coordinated by broker {row['coordinator']}"
    console.print(f"[bold]{plain(row['group'])}[/]: {state}")
    members = [
        (
            plain(member["instance_id"] or member["member_id"]),
            plain(member["client_id"]),
            member["host"],
            plain(", ".join(f"{t}[{', '.join(map(str, ps))}]" for t, ps in member["partitions"].items())) or "–",
        )
        for member in row["members"] or ()
    ]
    if members:
        print_table(("member", "client", "host", "partitions"), members)
    else:
        console.print("no members")
