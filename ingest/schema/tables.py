"""How a table or a view differs from what is live."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from ingest.schema.changes import Additive, Change, Refused, Statement
from ingest.schema.ddl import Table, View
from ingest.schema.live import LiveTable
from ingest.schema.sql import ident

_SECONDS = re.compile(r"toIntervalSecond\((\d+)\)")
# Only known when the table is made.
_FIXED_SETTINGS = frozenset({"allow_nullable_key"})


def compare_table(
    pipeline: str, database: str, want: Table, live: LiveTable | None, *, note: str = ""
) -> Iterator[Change]:
    """`note` goes with creation."""
    target, name = f"table {want.name}", f"{ident(database)}.{ident(want.name)}"
    if live is None:
        yield Additive(
            pipeline, target, f"create with {len(want.columns)} columns", (Statement(want.create(database)),), note
        )
        return
    if not live.engine.endswith(want.engine):
        manual = f"rename {want.name} away (RENAME TABLE), run this again, and copy the rows with INSERT … SELECT"
        yield Refused(pipeline, target, f"engine {live.engine} → {want.engine}", "an engine cannot be changed", manual)
        return
    yield from _columns(pipeline, name, want, live)
    yield from _keys(pipeline, want, live)
    yield from _ttl(pipeline, name, want, live)
    yield from _settings(pipeline, name, want, live)


def _columns(pipeline: str, name: str, want: Table, live: LiveTable) -> Iterator[Change]:
    target = f"table {want.name}"
    before = ""
    for column in want.columns:
        found = live.columns.get(column.name)
        if found is None:
            place = f" AFTER {ident(before)}" if before else " FIRST"
            sql = f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {column.ddl}{place}"
            optional = column.type.startswith(("Nullable(", "Array(", "Map(", "JSON")) or column.name.startswith("_")
            note = "" if optional else "rows that are there get the type's default, not NULL"
            yield Additive(pipeline, target, f"add column {column.name} {column.type}", (Statement(sql),), note)
        elif found != column.type:
            yield Refused(
                pipeline,
                target,
                f"column {column.name} {found} → {column.type}",
                "another type rewrites every row, and may not hold what is there",
                f"add a field of another name; or stop the loaders, ALTER TABLE {name} MODIFY COLUMN "
                f"{ident(column.name)} {column.type}, and start them again",
            )
        before = column.name
    wanted = {column.name for column in want.columns}
    for column_name in live.columns:
        if column_name not in wanted:
            yield Refused(
                pipeline,
                target,
                f"drop column {column_name}",
                "what it holds would be lost",
                f"keep the field in the spec as optional; or ALTER TABLE {name} DROP COLUMN {ident(column_name)}",
            )


def _keys(pipeline: str, want: Table, live: LiveTable) -> Iterator[Refused]:
    pairs = [
        ("order_by", live.order_by, ", ".join(want.order_by)),
        ("partition_by", live.partition_by, want.partition_by),
    ]
    for what, found, wanted in pairs:
        if found.replace("`", "") != wanted:
            yield Refused(
                pipeline,
                f"table {want.name}",
                f"{what} ({found}) → ({wanted})",
                "the order and the parts on disk are made by it",
                f"name another table in the spec, run this, and copy the rows of {want.name} with INSERT … SELECT",
            )


def _ttl(pipeline: str, name: str, want: Table, live: LiveTable) -> Iterator[Change]:
    target = f"table {want.name}"
    if _age(live.ttl) == _age(want.ttl):
        return
    what = f"ttl {live.ttl or 'none'} → {want.ttl or 'none'}"
    if not want.ttl:
        yield Additive(pipeline, target, what, (Statement(f"ALTER TABLE {name} REMOVE TTL"),))
    elif live.ttl and _age(want.ttl) > _age(live.ttl):
        yield Additive(pipeline, target, what, (Statement(f"ALTER TABLE {name} MODIFY TTL {want.ttl}"),))
    else:
        manual = f"ALTER TABLE {name} MODIFY TTL {want.ttl}"
        yield Refused(pipeline, target, what, "a shorter life deletes rows", manual)


def _age(ttl: str) -> float:
    """Seconds; without a TTL rows live for ever."""
    match = _SECONDS.search(ttl)
    return float(match[1]) if match else float("inf")


def _settings(pipeline: str, name: str, want: Table, live: LiveTable) -> Iterator[Change]:
    target = f"table {want.name}"
    for setting, value in want.all_settings.items():
        found = live.settings.get(setting, 0)
        if found == value or setting in _FIXED_SETTINGS:
            continue
        what, sql = f"{setting} {found} → {value}", f"ALTER TABLE {name} MODIFY SETTING {setting} = {value}"
        if value < found:
            reason = "inserts that are still remembered would be forgotten, and a retry of one would double its rows"
            yield Refused(pipeline, target, what, reason, f"stop the loaders cleanly, {sql}, and start them again")
        else:
            yield Additive(pipeline, target, what, (Statement(sql),))


def compare_view(
    pipeline: str, database: str, want: View, live: LiveTable | None, formatted: Callable[[str], str], *, note: str = ""
) -> Iterator[Change]:
    """`formatted` spells a SELECT as the server does; `note` goes with creation."""
    target, name = f"view {want.name}", f"{ident(database)}.{ident(want.name)}"
    if live is None:
        yield Additive(
            pipeline, target, f"create, from {want.source} to {want.target}", (Statement(want.create(database)),), note
        )
        return
    if live.select == formatted(want.select(database)):
        return
    kept = tuple(column for column in want.columns if column[0] in live.columns)
    added = [column for column, _ in want.columns if column not in live.columns]
    if added and live.select == formatted(replace(want, columns=kept).select(database)):
        sql = f"ALTER TABLE {name} MODIFY QUERY {want.select(database)}"
        what = f"add measure {', '.join(added)}"
        yield Additive(pipeline, target, what, (Statement(sql),), "rows loaded before keep the type's default in it")
        return
    yield Refused(
        pipeline,
        target,
        "the view's SELECT changes",
        f"{want.target} would mix what the old and the new SELECT counted",
        f"give the aggregate another name; or stop the loaders, DROP TABLE {name}, TRUNCATE TABLE {want.target}, "
        f"run this, and refill it with INSERT INTO {want.target} {want.select(database)}",
    )
