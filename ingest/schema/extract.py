"""The statements that turn records of Kafka into rows, and that find the records which cannot be one.

Both are built from one set of expressions, `_judged`, which marks every record good or `bad`. `insert_sql` throws
before anything is written when one is; `poison_sql` returns those that are, with the reason. So a record is poison
exactly when the insert would throw.

One lax parse gives all values. A record is `strange` when a value may be of another JSON type than its field
(`oddities`), or when it may be no object; only strange records pay for a look at their raw key-value pairs, `kv`. It
is `odd` when it is strange, or has more keys than values were found: an unknown key, a repeated one, or an explicit
null; only odd records pay for a look at their `keys`.
"""

from __future__ import annotations

from ingest.schema import codes
from ingest.schema.columns import keeps_raw, keeps_unknown, raw_columns
from ingest.schema.rules import EXACT_INTEGER, Rule, known, oddities, rules
from ingest.schema.sql import any_of, both, ident, literal
from tidewatch.spec import Spec

STRUCTURE = ("_partition Int32", "_offset Int64", "_appended_ms Int64", "tw String", "raw String")
"""Columns of the body, an Arrow stream: `tw` is the record's header or empty, `raw` its value."""
POISON_TABLE = "batch"
POISON_MARK = "tidewatch:poison"
"""In the server's message when a record is bad; nothing was written."""
LATE_MARK = "tidewatch:late"
"""In the server's message when the deadline had passed; nothing was written."""

_HEADER = r"^[A-Za-z0-9._:@/+=-]+;[0-9]+;[0-9]+;(?:[a-z0-9][a-z0-9_-]*)?;[^;]*$"
# Microseconds of 2000-01-01 and 2100-01-01: the range of what a header may claim, and so of partitions.
_FIRST_RECEIVED, _LAST_RECEIVED = 946_684_800_000_000, 4_102_444_800_000_000
# An integer of 19 digits or more outside of quotes, or a text that looks like one: beyond 64 bits, maybe.
_LONG_INTEGER = r"[:\[,\s]-?[0-9]{19}"
_OBJECT = r"^[ \t\r\n]*\{"


def insert_sql(spec: Spec, database: str) -> str:
    """`INSERT … SELECT … FROM input(…)`, to be followed by ` FORMAT ArrowStream`.

    Parameters: `topic_id`, and `deadline` in unix seconds of the server's clock, looked at while the block is built.
    All or nothing: the server throws POISON_MARK or LATE_MARK before it writes.
    """
    values = _values(spec)
    columns = ", ".join(ident(name) for name in values)
    # Added to a column, since a filter would copy every column only to drop no row.
    late = "toUnixTimestamp(nowInBlock()) > {deadline:Int64}"
    values["_offset"] += f" + throwIf(bad, {literal(POISON_MARK)}) + throwIf({late}, {literal(LATE_MARK)})"
    selected = ",\n  ".join(values.values())
    structure = ", ".join(STRUCTURE)
    return (
        f"INSERT INTO {ident(database)}.{ident(spec.table.name)} ({columns})\n"
        f"SELECT\n  {selected}\nFROM ({_judged(spec, f'input({literal(structure)})')})"
    )


def poison_sql(spec: Spec) -> str:
    """Read-only over the external table `batch` of the same structure: `_partition, _offset, error, field, message`.

    One row for each record that insert_sql would refuse, none for the others.
    """
    fields = rules(spec.schema_.fields)
    return (
        "SELECT _partition, _offset, why.1 AS error, why.2 AS field, why.3 AS message\n"
        f"FROM (SELECT _partition, _offset, {_explanation(spec, fields)} AS why\n"
        f"FROM (SELECT *, {_explained(fields)}\n"
        f"FROM ({_judged(spec, POISON_TABLE)})\nWHERE bad))\nORDER BY _partition, _offset"
    )


def _judged(spec: Spec, source: str) -> str:
    """Each record with its values and `bad`. Few levels, since planning them costs as much as many thousand rows."""
    fields = rules(spec.schema_.fields)
    lax = ", ".join(f"{ident(rule.name)} {rule.lax_type}" for rule in fields)
    parsed = (
        f"SELECT {_RECORD}, splitByChar(';', tw) AS header,\n"
        f"  JSONExtract(raw, {literal(f'Tuple({lax})')}) AS t\nFROM {source}"
    )
    found = ", ".join(_element(i, rule) for i, rule in enumerate(fields, 1))
    split = f"SELECT {_RECORD}, header, toInt64OrZero(header[2]) AS received, {found}\nFROM ({parsed})"
    derived = "".join(f"{rule.value} AS {rule.v}, " for rule in fields if not rule.is_native)
    valued = f"SELECT *, {derived}{_strange(fields)} AS strange, {_odd(fields)} AS odd\nFROM ({split})"
    looked = f"{_KEYS} AS keys, {_unknown(fields)} AS unknown, {_pairs(spec)} AS kv"
    return f"SELECT *, {looked}, {_bad(spec, fields)} AS bad\nFROM ({valued})"


def _element(index: int, rule: Rule) -> str:
    element = f"tupleElement(t, {index})"
    optional = f", {element} AS t_{rule.name}" if rule.is_native and not rule.field.required else ""
    return f"isNotNull({element}) AS {rule.h}, assumeNotNull({element}) AS {rule.x}{optional}"


_RECORD = "_partition, _offset, _appended_ms, tw, raw"
# Our keys consist of [a-z0-9_]: where one of those is spelt with an escape, the pattern would not see the key.
_ESCAPED_KEY = r"\\u00(?:[367][0-9a-fA-F]|5[fF])"


def _strange(fields: list[Rule]) -> str:
    """Whether a value may be of another JSON type than its field, or the record no object."""
    escaped = f"if(position(raw, {literal(chr(92) + 'u00')}) > 0, match(raw, {literal(_ESCAPED_KEY)}), 0)"
    return any_of(["NOT startsWith(raw, '{')", escaped, f"match(raw, {literal(oddities(fields))})"])


def _odd(fields: list[Rule]) -> str:
    present = " + ".join(rule.h for rule in fields)
    recount = "JSONLength(raw) != present"
    nested = any(rule.field.kind.json == "object" for rule in fields)
    # Where no key is nested, and none is followed by space, counting `":` is half the price of parsing again. It can
    # only count too many, so that equal to `present` means: all keys are known, none repeated, none null.
    unequal = recount if nested else f"if(countSubstrings(raw, '\":') = present, 0, {recount})"
    return any_of(["strange", f"({present} AS present) = 0", unequal])


# The parser writes an integer beyond 64 bits as a string; those that are not quoted in the event lose the quotes again.
_UNQUOTED = (
    "arrayMap(p -> if(match(p.2, '^\"-?[0-9]{19,}\"$') AND position(raw, p.2) = 0, "
    "(p.1, substring(p.2, 2, length(p.2) - 2)), p), JSONExtractKeysAndValuesRaw(raw))"
)
_KEYS = "if(odd, JSONExtractKeys(raw), CAST([], 'Array(String)'))"


def _pairs(spec: Spec) -> str:
    """The raw key-value pairs, where the types are to be looked at or unknown keys to be kept."""
    wanted = any_of(["strange", "notEmpty(unknown)"]) if keeps_unknown(spec) else "strange"
    pairs = f"if(match(raw, {literal(_LONG_INTEGER)}), {_UNQUOTED}, JSONExtractKeysAndValuesRaw(raw))"
    return f"if({wanted}, {pairs}, CAST([], 'Array(Tuple(String, String))'))"


def _unknown(fields: list[Rule]) -> str:
    names = ", ".join(literal(rule.name) for rule in fields)
    return f"arrayFilter(k -> k NOT IN ({names}), keys)"


def _bad(spec: Spec, fields: list[Rule]) -> str:
    looks = [f"if(odd, {_bad_keys(spec, fields)}, 0)", f"if(strange, {_bad_types(fields)}, 0)"]
    terms = [_BAD_HEADER, *looks]
    if required := [rule.h for rule in fields if rule.field.required]:
        terms.append(f"NOT least({', '.join(required)}, 1)")
    for rule in fields:
        # Where a required field is absent the record is bad anyway.
        terms += [check.bad if rule.field.required else both(rule.h, check.bad) for check in rule.checks]
    return any_of(terms)


_BAD_HEADER = both(
    "notEmpty(tw)",
    any_of(
        [
            f"NOT match(tw, {literal(_HEADER)})",
            "length(header[1]) > 128",
            "length(header[4]) > 63",
            f"toUInt64(received - {_FIRST_RECEIVED}) >= {_LAST_RECEIVED - _FIRST_RECEIVED}",
            "isNull(toUInt16OrNull(header[3]))",
        ]
    ),
)


def _bad_keys(spec: Spec, fields: list[Rule]) -> str:
    """The exact look at the keys of odd records."""
    refused = "startsWith(k, '_')" if keeps_unknown(spec) else _refused("k")
    # Without a required field, an empty object is an event.
    nothing = (
        "empty(keys)" if any(rule.field.required for rule in fields) else both("empty(keys)", "NOT isValidJSON(raw)")
    )
    terms = [
        nothing,
        "arrayUniq(keys) != length(keys)",
        f"arrayExists(k -> {refused}, unknown)",
    ]
    for rule in fields:
        if rule.field.kind.is_integer and not rule.field.required:
            # It is there, and the parse found nothing: a null, or out of range.
            given = f"if(has(keys, {literal(rule.name)}), JSONType(raw, {literal(rule.name)}) != 'Null', 0)"
            terms.append(both(f"NOT {rule.h}", given))
    return any_of(terms)


def _bad_types(fields: list[Rule]) -> str:
    """The exact look at the values of strange records."""
    right = f"match(concat(p.1, ':', p.2), {literal(_right_types(fields))})"
    terms = [
        f"NOT match(raw, {literal(_OBJECT)})",
        f"arrayExists(p -> if(has({known(fields)}, p.1), NOT {right}, 0), kv)",
    ]
    terms += [
        both(rule.h, _unlike(rule, f"arrayFirst(p -> p.1 = {literal(rule.name)}, kv).2"))
        for rule in fields
        if rule.is_long
    ]
    return any_of(terms)


def _refused(key: str) -> str:
    """Where unknown keys are refused, a client's own event id is none: the gateway took it into the header."""
    return f"if(notEmpty(tw), {key} != 'event_id', 1)"


def _right_types(fields: list[Rule]) -> str:
    """A pattern over `key:raw value` of a known key whose value is null or of its JSON type."""
    groups: dict[str, list[str]] = {}
    for rule in fields:
        groups.setdefault(rule.raw_pattern, []).append(rule.name)
    return "^(?:" + "|".join(f"(?:{'|'.join(names)}):(?:null$|{raw})" for raw, names in groups.items()) + ")"


def _unlike(rule: Rule, text: str) -> str:
    """Whether a 64-bit integer is another than the event's: the lowest for a lower one, or one that a double rounded."""
    large = f"abs(toFloat64({rule.x})) >= {EXACT_INTEGER}"
    rounded = f"if({large}, JSONType(raw, {literal(rule.name)}) = 'Double', 0)"
    return any_of([f"toString({rule.x}) != {text}", rounded])


def _values(spec: Spec) -> dict[str, str]:
    """Column → expression over a judged record. `_loaded_at` is left to its default."""
    fields = rules(spec.schema_.fields)
    values = {
        "_topic_id": "{topic_id:String}",
        "_partition": "_partition",
        "_offset": "_offset",
        "_event_id": "if(tw = '', concat({topic_id:String}, ':', toString(_partition), ':', toString(_offset)), header[1])",
        "_project": "header[4]",
        "_schema": "toUInt16OrZero(header[3])",
        "_received_at": "fromUnixTimestamp64Micro(if(tw = '', _appended_ms * 1000, received), 'UTC')",
    }
    for rule in fields:
        values |= _field_values(rule)
    if keeps_unknown(spec):
        values["_extra"] = "CAST(arrayFilter(p -> has(unknown, p.1), kv), 'Map(String, String)')"
    if keeps_raw(spec):
        anywhere = any_of(["odd", *(rule.h for rule in fields if rule.field.type == "json")])
        values["_raw"] = f"if(if({anywhere}, match(raw, {literal(_LONG_INTEGER)}), 0), raw, '')"
    names = [column.name for column in raw_columns(spec) if column.name in values]
    return {name: values[name] for name in names}


def _field_values(rule: Rule) -> dict[str, str]:
    kind, name = rule.field.kind, rule.name
    if kind.json == "object":
        there, text = f"ifNull({rule.v}, CAST('{{}}', {literal(kind.clickhouse)}))", f"if({rule.h}, {rule.x}, '')"
        return {name: there, f"_json_{name}": text}
    if kind.item:
        value = {name: rule.v}
        return value if rule.field.required else value | {f"_has_{name}": rule.h}
    if rule.field.required:
        return {name: f"assumeNotNull({rule.v})"}
    return {name: f"t_{name}" if rule.is_native else rule.v}


def _explained(fields: list[Rule]) -> str:
    """For each field of a bad record its raw JSON, and whether the record is an object."""
    pairs = f"if(match(raw, {literal(_LONG_INTEGER)}), {_UNQUOTED}, JSONExtractKeysAndValuesRaw(raw)) AS pairs"
    raws = [f"arrayFirst(p -> p.1 = {literal(rule.name)}, pairs).2 AS k_{rule.name}" for rule in fields]
    return ", ".join([pairs, *raws])


def _explanation(spec: Spec, fields: list[Rule]) -> str:
    """(error, field, message) of the first thing wrong."""
    repeated = "arrayFirst(k -> countEqual(pairs.1, k) > 1, pairs.1)"
    reserved = "arrayFirst(k -> startsWith(k, '_'), pairs.1)"
    branches = [
        (
            any_of(["NOT isValidJSON(raw)", "startsWith(raw, '\\xEF\\xBB\\xBF')"]),
            codes.INVALID_JSON,
            "''",
            "'the value is no valid JSON'",
        ),
        (f"NOT match(raw, {literal(_OBJECT)})", codes.NOT_AN_OBJECT, "''", "'the value is JSON, and no object'"),
        (
            _BAD_HEADER,
            codes.BAD_HEADER,
            "'tw'",
            "'the header tw is not event_id;received_at_us;schema_version;project;traceparent'",
        ),
        (f"{repeated} != ''", codes.DUPLICATE_KEY, repeated, f"concat('the key `', {repeated}, '` stands twice')"),
        ("arrayUniq(pairs.1) != length(pairs)", codes.DUPLICATE_KEY, "''", "'the empty key stands twice'"),
        (
            f"{reserved} != ''",
            codes.RESERVED_FIELD,
            reserved,
            f"concat('`', {reserved}, '`: keys that begin with _ are ours')",
        ),
    ]
    for rule in fields:
        branches += _field_branches(rule)
    if not keeps_unknown(spec):
        refused = f"k -> if(has({known(fields)}, k), 0, {_refused('k')}), pairs.1"
        unknown = f"arrayFirst({refused})"
        text = f"concat('`', {unknown}, '` is no field of the schema')"
        branches.append((f"arrayExists({refused})", codes.UNKNOWN_FIELD, unknown, text))
    conditions = ",\n  ".join(
        f"{condition}, ({literal(code)}, {field}, {message})" for condition, code, field, message in branches
    )
    return f"multiIf({conditions},\n  ({literal(codes.WRONG_TYPE)}, '', 'the record cannot be extracted'))"


def _field_branches(rule: Rule) -> list[tuple[str, str, str, str]]:
    k, name = f"k_{rule.name}", literal(rule.name)
    branches = []
    if rule.field.required:
        branches.append((f"{k} IN ('', 'null')", codes.MISSING_FIELD, name, literal(f"{rule.name} is required")))
    there = f"{k} NOT IN ('', 'null')"
    right = literal(f"^(?:{rule.raw_pattern})")

    def got(takes: str) -> str:
        if rule.field.sensitive:
            return literal(f"{rule.name} {takes}")
        shown = f"replaceAll(if(lengthUTF8({k}) > 80, concat(substringUTF8({k}, 1, 80), '…'), {k}), '`', '´')"
        return f"concat({literal(f'{rule.name} {takes}; got `')}, {shown}, '`')"

    takes = f"takes {rule.takes}"
    branches.append((both(there, f"NOT match({k}, {right})"), codes.WRONG_TYPE, name, got(takes)))
    if rule.field.kind.is_integer:
        unfit = any_of([f"NOT {rule.h}", _unlike(rule, k)]) if rule.is_long else f"NOT {rule.h}"
        branches.append((both(there, unfit), codes.OUT_OF_RANGE, name, got(takes)))
    branches += [(both(rule.h, check.bad), check.code, name, got(check.message)) for check in rule.checks]
    return branches
