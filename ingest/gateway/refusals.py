"""Requests that are refused as a whole, before their events are looked at one by one."""

from __future__ import annotations

from ingest.gateway.problems import ProblemError
from tidewatch.contracts import Limit
from tidewatch.spec import Spec


def wrong_method() -> ProblemError:
    return ProblemError(
        405,
        "wrong-method",
        "Wrong method",
        "events are sent with POST",
        fix="use POST",
        headers=((b"allow", b"POST"),),
    )


def unknown_key(what: str) -> ProblemError:
    return ProblemError(
        401,
        "unknown-key",
        "The API key is not known",
        f"the API key is {what}",
        fix="send `Authorization: Bearer <key>` or `X-Api-Key: <key>`; `tidewatch key create` makes one",
        headers=((b"www-authenticate", b"Bearer"),),
    )


def forbidden(pipeline: str) -> ProblemError:
    return ProblemError(
        403,
        "pipeline-not-allowed",
        "The API key is for other pipelines",
        f"this key may not send to {pipeline}",
        fix=f"make a key with `tidewatch key create --pipeline {pipeline}`",
    )


def too_many(wait: float, limits: tuple[Limit, ...]) -> ProblemError:
    return ProblemError(
        429,
        "rate-limited",
        "Too many requests or events",
        f"the limit is {' and '.join(map(str, limits))}",
        fix="wait for as long as Retry-After says, or ask the operators for a higher limit",
        retry_after=wait,
    )


def beyond_limit(limit: Limit, events: int) -> ProblemError:
    return ProblemError(
        413,
        "beyond-limit",
        "More events at once than the limit ever allows",
        f"the batch holds {events} events, and the limit is {limit}",
        fix=f"send at most {limit.count} events a request",
    )


def array_refused(spec: Spec) -> ProblemError:
    fix = f"send arrays to {spec.source.batch_path}" if spec.source.batch_path else "send one event a request"
    return ProblemError(400, "array-refused", "This route takes one event", "the body is an array", fix=fix)


def malformed(why: str) -> ProblemError:
    fix = "send a JSON array of one event or more"
    return ProblemError(400, "malformed-body", "The body is malformed", why, fix=fix, reason="invalid_json")


def too_many_events(count: int, most: int) -> ProblemError:
    return ProblemError(
        413,
        "batch-too-large",
        "The batch holds too many events",
        f"a batch takes at most {most} events, and this one has {count}",
        fix="send several smaller batches",
    )


def key_for_a_batch() -> ProblemError:
    return ProblemError(
        400,
        "idempotency-key-of-a-batch",
        "Idempotency-Key names one event",
        "the header came with an array",
        fix="give each event its own event_id",
    )


def id_taken(event_id: str) -> ProblemError:
    return ProblemError(
        409,
        "event-id-taken",
        "The event id is taken",
        f"{event_id} was accepted before, with another body",
        fix="use a new event id for a new event",
    )


def our_fault() -> ProblemError:
    return ProblemError(
        500,
        "internal",
        "The gateway failed",
        "the request could not be handled, and that is our fault",
        fix="send it again; if it fails again, tell the operators the time",
    )
