"""What became of each event, told to the client."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import msgspec

from ingest.gateway.problems import ProblemError, Rejection, unavailable

JSON = b"application/json"
_BETWEEN = b'"},{"status":"accepted","event_id":"'


class Fate(NamedTuple):
    status: str
    """accepted, dead_lettered, rejected or unavailable."""
    event_id: bytes
    """Empty for a rejected event, which has none."""
    rejection: Rejection | None = None

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = {"status": self.status}
        if self.status != "rejected":
            found["event_id"] = self.event_id.decode()
        if self.rejection is not None:
            found |= self.rejection._asdict()
        return found


def all_accepted(ids: list[bytes]) -> bytes:
    """The answer to a batch without any trouble, put together without a dictionary for each event."""
    return b'{"accepted":%d,"rejected":0,"dead_lettered":0,"results":[{"status":"accepted","event_id":"%s"}]}' % (
        len(ids),
        _BETWEEN.join(ids),
    )


def of_batch(fates: list[Fate], why_unavailable: str) -> tuple[int, bytes]:
    """Status and body: 202 when any event was taken, 422 when all were rejected.

    An event that Kafka did not acknowledge makes the answer a 503, for a client that looks at the status alone would
    take a 202 for the promise that nothing has to be sent again. The results say which events need not be.
    """
    counts = Counter(fate.status for fate in fates)
    body: dict[str, Any] = {
        "accepted": counts["accepted"],
        "rejected": counts["rejected"],
        "dead_lettered": counts["dead_lettered"],
        "results": [fate.result() for fate in fates],
    }
    if counts["unavailable"]:
        detail = f"Kafka did not acknowledge {counts['unavailable']} of {len(fates)} events: {why_unavailable}"
        raise unavailable(detail, unavailable=counts["unavailable"], **body)
    if counts["rejected"] == len(fates):
        raise ProblemError(
            422,
            "all-rejected",
            "No event is valid",
            f"all {len(fates)} events were rejected; the first: {fates[0].rejection.message if fates[0].rejection else ''}",
            fix="see field, reason and message of each result",
            **body,
        )
    return 202, msgspec.json.encode(body)


def of_single(fate: Fate, why_unavailable: str, id_field: str) -> tuple[int, bytes]:
    if fate.status == "unavailable":
        raise unavailable(f"Kafka did not acknowledge the event: {why_unavailable}", event_id=fate.event_id.decode())
    if fate.status == "rejected" and fate.rejection is not None:
        raise rejected(fate.rejection)
    body = fate.result()
    body[id_field] = body.pop("event_id")
    if fate.status == "accepted":
        del body["status"]
    return 202, msgspec.json.encode(body)


def rejected(rejection: Rejection) -> ProblemError:
    """Of the only event of a request."""
    members = rejection._asdict()
    if rejection.reason == "invalid_json":
        return ProblemError(
            400, "malformed-body", "The body is malformed", rejection.message, fix="send one JSON object", **members
        )
    if rejection.reason == "too_large" and not rejection.field:
        fix = "leave out what is not needed, or refer to it by its address"
        return ProblemError(413, "event-too-large", "The event is too large", rejection.message, fix=fix, **members)
    fix = "mend the field named by `field`; /openapi.json holds the schema"
    return ProblemError(422, "invalid-event", "The event is not valid", rejection.message, fix=fix, **members)
