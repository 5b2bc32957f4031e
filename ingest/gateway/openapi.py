"""The event routes in OpenAPI, from the specs."""

from __future__ import annotations

from typing import Any

from tidewatch.spec import Field, Spec

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_EXAMPLES: dict[str, Any] = {
    "string": "text",
    "bool": True,
    "float64": 0.5,
    "timestamp": "2026-01-31T12:00:00.000Z",
    "date": "2026-01-31",
    "uuid": "0192f3a4-b5c6-7abc-8def-0123456789ab",
    "json": {"any": "thing"},
}
_ERRORS = {
    400: "The body is malformed; nothing was taken.",
    401: "The API key is missing or not known.",
    403: "The API key is for other pipelines.",
    408: "The body took too long.",
    413: "The body, the batch or an event is too large.",
    415: "The body is not JSON, or compressed in another way than gzip.",
    429: "A limit is reached; Retry-After says when it passes.",
    503: "Not acknowledged; send it again after Retry-After.",
}


def add_event_routes(document: dict[str, Any], specs: list[Spec]) -> dict[str, Any]:
    """`document`, as FastAPI made it, with the routes of `specs`."""
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas |= {"Problem": _problem(), "Result": _result(), "BatchAnswer": _batch_answer()}
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    }
    for spec in specs:
        schemas[f"{spec.name}_event"] = event_schema(spec)
        source = spec.source
        one = {"$ref": f"#/components/schemas/{spec.name}_event"}
        many = {"type": "array", "minItems": 1, "maxItems": 5000, "items": one}
        if source.path:
            either = source.kind == "http" and source.batch_path is None
            body = {"oneOf": [one, many]} if either else one
            document["paths"][source.path] = {"post": _operation(spec, body, single=True, batch=either)}
        if source.batch_path:
            document["paths"][source.batch_path] = {"post": _operation(spec, many, single=False, batch=True)}
    return document


def event_schema(spec: Spec) -> dict[str, Any]:
    """JSON Schema of one event."""
    fields = spec.schema_.fields
    properties = {field.name: _property(field) for field in fields}
    own_id = {
        "type": "string",
        "pattern": "^[A-Za-z0-9._:@/+=-]{1,128}$",
        "description": "The client's own id, kept; without one the gateway makes a UUID.",
    }
    return {
        "type": "object",
        "title": spec.name,
        "description": spec.description,
        "required": [field.name for field in fields if field.required],
        "properties": {"event_id": own_id} | properties,
        "additionalProperties": spec.source.unknown_fields == "keep",
        "example": example(spec),
    }


def example(spec: Spec) -> dict[str, Any]:
    """A valid event; a pattern is beyond us, so such a field shows its pattern's description only."""
    return {field.name: _example(field) for field in spec.schema_.fields if field.pattern is None}


def _property(field: Field) -> dict[str, Any]:
    kind = field.kind
    found: dict[str, Any] = {"description": field.description} if field.description else {}
    if kind.is_integer:
        found |= {"type": "integer", "minimum": kind.low, "maximum": kind.high}
    elif kind.precision:
        found |= {"type": ["string", "number"], "description": f"Up to {kind.scale} digits after the point."} | found
    elif kind.item:
        item = {"string": "string", "int64": "integer", "float64": "number"}[kind.item]
        found |= {"type": "array", "items": {"type": item}}
    else:
        found |= {"type": kind.json}
    formats = {"timestamp": "date-time", "date": "date", "uuid": "uuid"}
    if kind.name in formats:
        found["format"] = formats[kind.name]
    if field.min is not None:
        found["minimum"] = field.min
    if field.max is not None:
        found["maximum"] = field.max
    if field.max_length is not None:
        found["maxItems" if kind.item else "maxLength"] = field.max_length
    if field.values is not None:
        found["enum"] = list(field.values)
    if field.pattern is not None:
        found["pattern"] = f"^(?:{field.pattern})$"
    return found


def _example(field: Field) -> Any:
    kind = field.kind
    if field.values is not None:
        return field.values[0]
    if kind.is_integer:
        return int(max(field.min if field.min is not None else 1, 1) if field.max is None else field.max)
    if kind.precision:
        return "12.50" if kind.scale >= 2 and kind.precision >= 4 else "1"
    if kind.item:
        return {"string": ["a", "b"], "int64": [1, 2], "float64": [0.5]}[kind.item]
    value = _EXAMPLES[kind.name]
    if kind.name == "float64" and (field.min is not None or field.max is not None):
        return field.min if field.min is not None else field.max
    return value[: field.max_length] if isinstance(value, str) and kind.name == "string" else value


def _operation(spec: Spec, body: dict[str, Any], *, single: bool, batch: bool) -> dict[str, Any]:
    content = {"application/json": {"schema": body, "example": example(spec) if single else [example(spec)]}}
    operation: dict[str, Any] = {
        "operationId": f"send_{spec.name}{'' if single else '_batch'}",
        "summary": f"Send {spec.name}: {'one event or an array' if single and batch else 'an array' if batch else 'one event'}",
        "description": f"{spec.description} Answered once {_safe(spec)}.",
        "tags": ["events"],
        "security": [{"bearer": []}, {"apiKey": []}],
        "requestBody": {"required": True, "content": content},
        "responses": {"202": _taken(spec, single=single, batch=batch)} | _errors(batch=batch, single=single),
    }
    if single:
        operation["parameters"] = [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "description": "The event's own id, for a single event.",
                "schema": {"type": "string", "maxLength": 128},
            }
        ]
    return operation


def _safe(spec: Spec) -> str:
    if spec.source.kind == "outbox":
        return "the row is committed to the SQL store"
    return "all in-sync replicas of Kafka have acknowledged"


def _taken(spec: Spec, *, single: bool, batch: bool) -> dict[str, Any]:
    id_field = spec.source.id_field or "event_id"
    one = {"type": "object", "required": [id_field], "properties": {id_field: {"type": "string"}}}
    many = {"$ref": "#/components/schemas/BatchAnswer"}
    schema = {"oneOf": [one, many]} if single and batch else many if batch else one
    return {"description": "Taken.", "content": {"application/json": {"schema": schema}}}


def _errors(*, single: bool, batch: bool) -> dict[str, Any]:
    invalid = " or ".join(["The event is not valid"] * single + ["no event of the batch is valid"] * batch)
    texts = _ERRORS | {422: f"{invalid[0].upper()}{invalid[1:]}."}
    return {
        str(status): {"description": text, "content": {"application/problem+json": {"schema": _PROBLEM}}}
        for status, text in sorted(texts.items())
    }


def _problem() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "title": "Problem details (RFC 9457)",
        "required": ["type", "title", "status", "detail", "fix"],
        "properties": {
            "type": {"type": "string", "format": "uri"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "fix": text,
            "field": text,
            "reason": text,
            "message": text,
            "retry_after_seconds": {"type": "number"},
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
        },
    }


def _result() -> dict[str, Any]:
    text = {"type": "string"}
    return {
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"type": "string", "enum": ["accepted", "dead_lettered", "rejected", "unavailable"]},
            "event_id": text,
            "field": text,
            "reason": text,
            "message": text,
        },
    }


def _batch_answer() -> dict[str, Any]:
    count = {"type": "integer", "minimum": 0}
    return {
        "type": "object",
        "required": ["accepted", "rejected", "dead_lettered", "results"],
        "properties": {
            "accepted": count,
            "rejected": count,
            "dead_lettered": count,
            "results": {"type": "array", "items": {"$ref": "#/components/schemas/Result"}},
        },
    }
