"""What the gateway asks of the store behind a pipeline whose source is an outbox."""

from __future__ import annotations

from typing import Protocol

from tidewatch.errors import Refused
from tidewatch.spec import Spec


class EventIdTaken(Refused):
    """The event id was accepted before, with another body; nothing was stored."""


class OutboxStore(Protocol):
    async def accept(  # noqa: PLR0917 — what a request consists of
        self, spec: Spec, project: str, event_id: str, raw: bytes, tw: bytes, key: bytes | None
    ) -> None:
        """Return once the business row and its outbox row are committed together, and durable.

        `raw` is the event's JSON as accepted, in UTF-8; `tw` the record header it will carry; `key` the record's key.
        The same project and event id again, with the same body, changes nothing and returns: the first request was
        accepted. With another body it raises EventIdTaken. Raises StoreUnavailable when the store did not answer in
        time: the row may or may not be there, and repeating under the same event id settles it.
        """
        ...
