"""Why a record is poison: stable codes, the same that the gateway answers with. docs/validation.md explains each."""

from __future__ import annotations

INVALID_JSON = "invalid_json"
NOT_AN_OBJECT = "not_an_object"
BAD_HEADER = "bad_header"
DUPLICATE_KEY = "duplicate_key"
UNKNOWN_FIELD = "unknown_field"
RESERVED_FIELD = "reserved_field"
MISSING_FIELD = "missing_field"
WRONG_TYPE = "wrong_type"
BAD_FORMAT = "bad_format"
OUT_OF_RANGE = "out_of_range"
TOO_LONG = "too_long"
NOT_ALLOWED = "not_allowed"
PATTERN = "pattern"

ALL = (
    INVALID_JSON,
    NOT_AN_OBJECT,
    BAD_HEADER,
    DUPLICATE_KEY,
    UNKNOWN_FIELD,
    RESERVED_FIELD,
    MISSING_FIELD,
    WRONG_TYPE,
    BAD_FORMAT,
    OUT_OF_RANGE,
    TOO_LONG,
    NOT_ALLOWED,
    PATTERN,
)
