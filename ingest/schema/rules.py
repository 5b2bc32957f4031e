"""How each field type is read from JSON, and when a value of it is bad.

Three names stand for a field `f` in the generated SQL: `h_f` says whether one lax parse of the event found a value,
`x_f` is that value (a default where there is none), and `v_f` the value for the table where that is another. ClickHouse's lax parse turns
"5" into 5 and 1.5 into 1. That the JSON type was right is shown by `oddities`, a pattern over the whole event which
no key with a wrong type escapes, and by an exact look at the events that match it (see extract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property

from ingest.schema import codes
from ingest.schema.sql import any_of, array, both, literal
from tidewatch.spec import Field

RFC3339 = (
    r"^(?:19|2[0-2])[0-9][0-9]-[01][0-9]-[0-3][0-9][Tt ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
    r"(?:\.[0-9]{1,9})?(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$"
)
# The range of DateTime64; only in these years may an offset leave it.
_FIRST_TIME, _LAST_TIME = "1900-01-01 00:00:00.000000", "2299-12-31 23:59:59.999999"
_AFTER_FIRST_YEAR, _LAST_YEAR = "1901", "2299"
# Doubles hold every decimal of 15 digits exactly, and integers up to this.
EXACT_DIGITS = 15
EXACT_INTEGER = 2**53
# Comparing with a few texts is quicker than looking them up in a set.
_FEW = 8

# What a raw JSON value of the right type looks like. The parser writes 5.0 as 5, so it counts as an integer.
_RAW = {
    "string": '"',
    "integer": "-?[0-9]+$",
    "number": "[-0-9]",
    "boolean": "[tf]",
    "object": "[{]",
    "array": r"\[",
    "string or number": '["0-9-]',
}
# What may not follow `"key":` when the value has the right type; null is always left to the exact look.
_ODD = {
    "string": r'[^"n\s]',
    "integer": r"[^0-9n\s-]|-?[0-9]+[.eE]",
    "number": r"[^0-9n\s-]",
    "boolean": r"[^tfn\s]",
    "object": r"[^{n\s]",
    "array": r"[^\[n\s]",
    "string or number": r'[^"0-9n\s-]',
}
_TAKES = {
    "string": "a string",
    "float64": "a number",
    "bool": "true or false",
    "timestamp": "an RFC 3339 time with an offset and at most nine decimals, from 1900 to 2299",
    "date": "a date as YYYY-MM-DD, from 1900 to 2299",
    "uuid": "a UUID as 8-4-4-4-12 hex digits",
    "json": "an object in which no path stands twice",
}


@dataclass(frozen=True, slots=True)
class Check:
    """`bad` is a UInt8 expression over `x_f` and `v_f`, meant where `h_f`."""

    code: str
    bad: str
    message: str


@dataclass(frozen=True)
class Rule:
    field: Field

    @property
    def name(self) -> str:
        return self.field.name

    @property
    def h(self) -> str:
        return f"h_{self.name}"

    @property
    def x(self) -> str:
        return f"x_{self.name}"

    @property
    def v(self) -> str:
        return self.x if self.is_native else f"v_{self.name}"

    @property
    def is_native(self) -> bool:
        """Whether the lax parse gives the table's type itself; anything else comes as text."""
        return self.field.kind.name in ("string", "bool", "float64") or self.field.kind.is_integer

    @property
    def lax_type(self) -> str:
        return f"Nullable({self.field.kind.clickhouse if self.is_native else 'String'})"

    @property
    def is_long(self) -> bool:
        return self.field.kind.name in ("int64", "uint64")

    @property
    def raw_pattern(self) -> str:
        """How a raw JSON value of the type begins, or reads."""
        return _RAW[self.field.kind.json]

    @property
    def oddity(self) -> str:
        """What follows the key where the type is wrong."""
        # The lax parse gives the lowest Int64 for any lower integer.
        return _ODD[self.field.kind.json] + (r"|-[0-9]{19}" if self.field.kind.name == "int64" else "")

    @property
    def takes(self) -> str:
        """For messages."""
        kind = self.field.kind
        if kind.is_integer:
            written = ", beyond 2^53 written with all digits" if self.is_long else ""
            return f"an integer from {kind.low} to {kind.high}{written}"
        if kind.precision:
            whole = kind.precision - kind.scale
            return f"a decimal of at most {whole} digits before the point and {kind.scale} after it"
        return _TAKES.get(kind.name, f"an array of {kind.item}")

    @property
    def value(self) -> str:
        """`v_f` from `x_f`; NULL where it cannot be one, for all but native types and arrays."""
        kind, x = self.field.kind, self.x
        match kind.name:
            case "timestamp":
                return f"parseDateTime64BestEffortOrNull(upper({x}), 6, 'UTC')"
            case "date":
                return f"toDate32OrNull({x})"
            case "uuid":
                return f"toUUIDOrNull({x})"
            case "json":
                return f"accurateCastOrNull({x}, {literal(kind.clickhouse)})"
        if kind.precision:
            return f"accurateCastOrNull({self._plain}, {literal(kind.clickhouse)})"
        if kind.item:
            return f"JSONExtract({x}, {literal(kind.clickhouse)})"
        return x

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """In the order in which they are reported; that the JSON type is right comes before them."""
        return (*self._type_checks(), *self._constraints())

    def _type_checks(self) -> list[Check]:
        kind, x, v = self.field.kind, self.x, self.v
        takes = f"takes {self.takes}"
        match kind.name:
            case "timestamp":
                low, high = (f"toDateTime64({literal(t)}, 6, 'UTC')" for t in (_FIRST_TIME, _LAST_TIME))
                edge = f"bitOr({x} < {literal(_AFTER_FIRST_YEAR)}, {x} >= {literal(_LAST_YEAR)})"
                outside = f"if({edge}, ifNull(bitOr({v} < {low}, {v} > {high}), 0), 0)"
                terms = [f"NOT match({x}, {literal(RFC3339)})", f"isNull({v})", outside]
                return [Check(codes.BAD_FORMAT, any_of(terms), takes)]
            case "date":
                terms = [f"ifNull(toString({v}) != {x}, 1)", f"{x} < '1900'", f"{x} >= '2300'"]
                return [Check(codes.BAD_FORMAT, any_of(terms), takes)]
            case "uuid":
                return [Check(codes.BAD_FORMAT, f"ifNull(toString({v}) != lower({x}), 1)", takes)]
            case "json":
                return [Check(codes.BAD_FORMAT, f"isNull({v})", takes)]
            case "float64":
                return [Check(codes.OUT_OF_RANGE, f"NOT isFinite({v})", takes)]
        if kind.precision:
            return self._decimal_checks()
        return self._array_checks() if kind.item else []

    @property
    def _plain(self) -> str:
        """A decimal's text without an exponent, which a double's shortest text may have."""
        double = f"toFloat64OrZero({self.x})"
        # Beyond its range toDecimalString would throw; what comes of zero instead is found to differ.
        text = f"toDecimalString(if(abs({double}) < 1e38, {double}, 0), {self.field.kind.scale})"
        return f"if(match({self.x}, '[eE]'), {text}, {self.x})"

    def _decimal_checks(self) -> list[Check]:
        kind, x = self.field.kind, self.x
        takes = f"takes {self.takes}"
        whole = f"(?:0|[1-9][0-9]{{0,{kind.precision - kind.scale - 1}}})" if kind.precision > kind.scale else "0"
        fraction = rf"(?:\.[0-9]{{1,{kind.scale}}}0*)?" if kind.scale else r"(?:\.0+)?"
        number = literal(r"^-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?$")
        digits = f"trim(BOTH '0' FROM replaceRegexpAll(substringIndex(lower({x}), 'e', 1), '[^0-9]', ''))"
        through_double = any_of(
            [f"toFloat64OrZero({self._plain}) != toFloat64OrZero({x})", f"length({digits}) > {EXACT_DIGITS}"]
        )
        rounded = f"if(match({x}, '[eE]'), {through_double}, 0)"
        fits = [f"isNull({self.v})", f"NOT match({self._plain}, {literal(f'^-?{whole}{fraction}$')})", rounded]
        # A JSON number with a fraction went through a double: exact only while 15 digits hold it.
        large = f"abs(toFloat64OrZero({x})) >= 1e{EXACT_DIGITS - kind.scale}"
        double = any_of([f"match({x}, '[eE]')", f"JSONType(raw, {literal(self.name)}) = 'Double'"])
        inexact = f"if({large}, {double}, 0)"
        as_string = f"is a fraction of more than {EXACT_DIGITS} digits, which JSON numbers round; send it as a string without exponent"
        return [
            Check(codes.BAD_FORMAT, f"NOT match({x}, {number})", takes),
            Check(codes.OUT_OF_RANGE, any_of(fits), takes),
            Check(codes.OUT_OF_RANGE, inexact, as_string),
        ]

    def _array_checks(self) -> list[Check]:
        item, x, v = self.field.kind.item, self.x, self.v
        takes = f"takes {self.takes}"
        raws = f"JSONExtractArrayRaw({x})"
        # An integer beyond 64 bits comes out of the parser in quotes that the event does not have.
        unquoted = "if(match(e, '^\"-?[0-9]{19,}\"$'), position(raw, e) = 0, 0)"
        if item == "string":
            bare = f"arrayExists(e -> NOT startsWith(e, '\"'), {raws})"
            long = f"if(match({x}, '[0-9]{{19}}'), arrayExists(e -> {unquoted}, {raws}), 0)"
            return [Check(codes.WRONG_TYPE, any_of([bare, long]), takes)]
        digits = literal("^-?[0-9]+$" if item == "int64" else "^-?[0-9][0-9.eE+-]*$")
        wrong = f"arrayExists(e -> if(match(e, {digits}), 0, NOT {unquoted}), {raws})"
        # The parser leaves out what does not fit.
        unfit = [f"length({v}) != length({raws})"]
        if item == "float64":
            unfit.append(f"arrayExists(y -> NOT isFinite(y), {v})")
        else:
            large = f"arrayExists(e -> abs(toFloat64OrZero(e)) >= {EXACT_INTEGER}, {raws})"
            is_double = f"JSONType(raw, {literal(self.name)}, i) = 'Double'"
            unfit.append(f"if({large}, arrayExists((e, i) -> {is_double}, {raws}, arrayEnumerate({raws})), 0)")
            unfit.append(f"arrayExists(e -> startsWith(e, '\"'), {raws})")
        return [Check(codes.WRONG_TYPE, wrong, takes), Check(codes.OUT_OF_RANGE, any_of(unfit), takes)]

    def _constraints(self) -> list[Check]:
        field, v, checks = self.field, self.v, []
        if field.kind.precision:
            v = f"assumeNotNull({v})"
        if field.min is not None:
            checks.append(Check(codes.OUT_OF_RANGE, f"{v} < {self._bound(field.min)}", f"is at least {field.min}"))
        if field.max is not None:
            checks.append(Check(codes.OUT_OF_RANGE, f"{v} > {self._bound(field.max)}", f"is at most {field.max}"))
        if (limit := field.max_length) is not None:
            if field.kind.item:
                checks.append(Check(codes.TOO_LONG, f"length({v}) > {limit}", f"holds at most {limit} items"))
            else:
                bad = f"if(length({self.x}) > {limit}, lengthUTF8({self.x}) > {limit}, 0)"
                checks.append(Check(codes.TOO_LONG, bad, f"has at most {limit} characters"))
        if field.values is not None:
            checks.append(Check(codes.NOT_ALLOWED, _not_in(v, field.values), f"is one of {', '.join(field.values)}"))
        if field.pattern is not None:
            whole = literal(rf"(?-s)\A(?:{field.pattern})\z")
            checks.append(Check(codes.PATTERN, f"NOT match({v}, {whole})", f"matches {field.pattern}"))
        return checks

    def _bound(self, value: float) -> str:
        """Compared without going through a double where the field does not."""
        if not self.field.kind.precision:
            return str(value)
        text = f"{Decimal(str(value)):f}"
        return f"toDecimal128({literal(text)}, {max(self.field.kind.scale, len(text.partition('.')[2]))})"


def _not_in(value: str, allowed: tuple[str, ...]) -> str:
    if len(allowed) > _FEW:
        return f"{value} NOT IN ({', '.join(map(literal, allowed))})"
    *rest, joined = [f"{value} != {literal(text)}" for text in allowed]
    for term in reversed(rest):
        joined = both(term, joined)
    return joined


def rules(fields: tuple[Field, ...]) -> list[Rule]:
    return [Rule(field) for field in fields]


def oddities(fields: list[Rule]) -> str:
    """A pattern that matches every event in which a known key has a value of another JSON type, and few others.

    It also matches where space stands between a key and its colon, so that the keys of other events can be counted
    as `":`. It begins with one literal character, which lets the engine skip to the next quote.
    """
    groups: dict[str, list[str]] = {}
    for rule in fields:
        groups.setdefault(rule.oddity, []).append(rule.name)
    parts = [rf'(?:{"|".join(names)})"\s*:\s*(?:{odd})' for odd, names in groups.items()]
    return f'"(?:{"|".join(parts)}|\\s+:)'


def known(fields: list[Rule]) -> str:
    return array([rule.name for rule in fields])
