"""What the routes share: made once by `ingest.gateway.app.build_app`."""

from __future__ import annotations

from dataclasses import dataclass

from ingest.gateway.accounting import Accounting
from ingest.gateway.addresses import Addresses
from ingest.gateway.body import BodyReader
from ingest.gateway.ids import EventIds
from ingest.gateway.limits import Limiter, Rate
from ingest.gateway.producer import EventProducer
from ingest.gateway.requests import RequestCounts
from ingest.outbox.contract import OutboxStore
from tidewatch.clock import Clock
from tidewatch.contracts import ApiKeys, Limit
from tidewatch.telemetry.traces import Tracing


@dataclass(frozen=True, slots=True)
class Services:
    keys: ApiKeys
    producer: EventProducer
    accounting: Accounting
    ids: EventIds
    tracing: Tracing
    sampling: Rate
    """Of traces that a caller wants kept."""
    body: BodyReader
    requests: RequestCounts
    addresses: Addresses
    address_limits: tuple[Limit, ...]
    limiter: Limiter
    clock: Clock
    outbox: OutboxStore | None
    max_batch_events: int
