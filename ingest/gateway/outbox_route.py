"""The route of a pipeline that is committed to the SQL store first, and emitted to Kafka from there."""

from __future__ import annotations

from ingest.gateway import refusals
from ingest.gateway.answers import Fate, of_single, rejected
from ingest.gateway.events import Answer, EventRoute
from ingest.gateway.problems import unavailable
from ingest.gateway.sending import Stamp, event_ids, goes_to_letters, send_some
from ingest.gateway.services import Services
from ingest.gateway.validation import Checked
from ingest.outbox.contract import EventIdTaken, OutboxStore
from tidewatch.errors import KafkaUnavailable, StoreUnavailable
from tidewatch.spec import Spec
from tidewatch.telemetry.traces import TraceContext


class OutboxRoute(EventRoute):
    """Answers with the id of the row once it is committed; Kafka may be away meanwhile."""

    def __init__(self, spec: Spec, path: str, services: Services, store: OutboxStore) -> None:
        super().__init__(spec, path, "one", services)
        self._store = store
        self._id_field = spec.source.id_field or "event_id"

    async def _accept(self, checked: Checked, project: str, context: TraceContext) -> Answer:
        ids = event_ids(checked, self._services.ids)
        stamp = Stamp(self.spec, project, context)
        accounting = self._services.accounting
        if checked.rejections:
            return await self._refuse(checked, ids, stamp, project)
        event_id, raw = ids[0].decode(), checked.values[0]
        key = checked.keys[0] if checked.keys else None
        try:
            await self._store.accept(self.spec, project, event_id, raw, ids[0] + stamp.suffix, key)
        except EventIdTaken:
            accounting.turned_away(self.spec.name, project, "event_id_taken", 1)
            raise refusals.id_taken(event_id) from None
        except StoreUnavailable as error:
            accounting.turned_away(self.spec.name, project, "unavailable", 1)
            # Under the same id the request may be repeated without fear, whatever became of this one.
            problem = unavailable(error.what)
            problem.body[self._id_field] = event_id
            raise problem from None
        accounting.accepted(self.spec.name, project, 1, len(raw))
        return of_single(Fate("accepted", ids[0]), "", self._id_field)

    async def _refuse(self, checked: Checked, ids: list[bytes], stamp: Stamp, project: str) -> Answer:
        """An invalid event never reaches the store; where the spec says so it becomes a dead letter in Kafka."""
        why = checked.rejections[0]
        if not goes_to_letters(self.spec, why):
            self._account([Fate("rejected", b"", why)], checked.values, project)
            raise rejected(why)
        try:
            fates, _ = await send_some(self.spec, self._services.producer, checked, ids, stamp)
        except KafkaUnavailable as error:
            self._services.accounting.turned_away(self.spec.name, project, "unavailable", 1)
            raise unavailable(error.what) from None
        self._account(fates, checked.values, project)
        return of_single(fates[0], "the dead letter was not acknowledged", self._id_field)
