"""The consumer of a lane: its part in the group, what it reads, and what it commits. For the polling thread alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka import KafkaError as ConfluentError

from ingest.loader.effects import CommitResult, Committed, Failed, Trouble
from tidewatch.clock import Clock
from tidewatch.errors import KafkaError, Refused
from tidewatch.kafka.client import consumer_config, translate
from tidewatch.settings import Kafka, Loader
from tidewatch.telemetry.logs import get_logger

_SECONDS = 10.0
_FATAL = frozenset({ConfluentError.FENCED_INSTANCE_ID, ConfluentError._FENCED, ConfluentError._FATAL})  # noqa: SLF001

log = get_logger(__name__)

Partitions = Sequence[int]


class Membership:
    """`assigned`, `revoked` and `lost` are called from within `consume`, with numbers of partitions."""

    def __init__(
        self,
        kafka: Kafka,
        loader: Loader,
        *,
        topic: str,
        group: str,
        clock: Clock,
        assigned: Callable[[Partitions], tuple[Mapping[int, int], Sequence[int]]],
        revoked: Callable[[Partitions], None],
        lost: Callable[[Partitions], None],
    ) -> None:
        """`assigned` answers where each begins, and which of them are not to be read yet."""
        self._topic = topic
        self._clock = clock
        self._session = loader.session_timeout_seconds
        self._polled = clock.monotonic()
        self._paused: set[int] = set()
        self._assigned, self._revoked, self._lost = assigned, revoked, lost
        config = consumer_config(kafka, f"tidewatch-loader-{loader.instance}", group) | {
            "group.instance.id": f"{loader.instance}.{topic}"[-240:],
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": int(loader.session_timeout_seconds * 1000),
            "heartbeat.interval.ms": 1000,
            "max.poll.interval.ms": 300_000,
            "fetch.wait.max.ms": 100,
            "fetch.min.bytes": 1,
            # Compressed: what it becomes when it is unpacked comes on top of the queue.
            "fetch.max.bytes": 8 * 1024 * 1024,
            "max.partition.fetch.bytes": 1024 * 1024,
            "queued.max.messages.kbytes": loader.queued_kbytes,
            "queued.min.messages": 100_000,
            "check.crcs": True,
        }
        self._consumer = Consumer(config)

    def join(self) -> None:
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def leave(self) -> None:
        """Static members keep their partitions for a session timeout, so that a restart moves nothing."""
        self._consumer.close()

    def consume(self, most: int, seconds: float) -> list[Message]:
        """Records and error events; raises Refused when another process took this member's place."""
        self._polled = self._clock.monotonic()
        try:
            messages: list[Message] = self._consumer.consume(max(1, most), seconds)
        except KafkaException as error:
            raise self._fatal(error.args[0]) or translate(error, f"reading {self._topic}") from error
        return messages

    def explain(self, error: ConfluentError) -> KafkaError:
        """An error event; raises Refused for one that ends this member."""
        fatal = self._fatal(error)
        if fatal is not None:
            raise fatal
        return translate(error, f"reading {self._topic}")

    def commit(self, offsets: Mapping[int, Committed]) -> CommitResult:
        """DONE when every one was taken. A member that has not polled for a session may have been replaced, and does
        not even try: the broker takes commits into an empty group from anyone.
        """
        if self._clock.monotonic() - self._polled > self._session:
            return CommitResult.AGAIN
        wanted = [TopicPartition(self._topic, p, c.offset, c.metadata) for p, c in offsets.items()]
        try:
            results = self._consumer.commit(offsets=wanted, asynchronous=False)
        except KafkaException as error:
            fatal = self._fatal(error.args[0])
            if fatal is not None:
                raise fatal from error
            log.info("loader.commit_failed", topic=self._topic, error=str(error))
            return CommitResult.AGAIN
        failed = {str(result.error) for result in results if result.error is not None}
        if failed:
            log.warning("loader.commit_refused", topic=self._topic, errors=sorted(failed))
        return CommitResult.AGAIN if failed else CommitResult.DONE

    def committed(self, partitions: Iterable[int]) -> dict[int, Committed] | Failed:
        """Stable: waits for transactions that are under way."""
        wanted = [TopicPartition(self._topic, p) for p in partitions]
        try:
            found = self._consumer.committed(wanted, _SECONDS)
        except KafkaException as error:
            return Failed(Trouble.KAFKA, str(error))
        if any(result.error is not None for result in found):
            return Failed(Trouble.KAFKA, "; ".join({str(result.error) for result in found if result.error is not None}))
        return {
            result.partition: Committed(-1 if result.offset == OFFSET_INVALID else result.offset, result.metadata or "")
            for result in found
        }

    def bounds(self, partition: int, *, cached: bool = False) -> tuple[int, int]:
        """(first offset there is, end of the log); raises KafkaError. The cached end is -1001 before the first fetch."""
        try:
            found = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), _SECONDS, cached)
        except KafkaException as error:
            raise translate(error, f"asking for the bounds of {self._topic}[{partition}]") from error
        low, high = found
        return low, high

    def read_from(self, positions: Mapping[int, int]) -> None:
        """Also ends a pause of these partitions."""
        if not positions:
            return
        self._consumer.resume([TopicPartition(self._topic, p) for p in positions])
        self._paused.difference_update(positions)
        for partition, offset in positions.items():
            self._consumer.seek(TopicPartition(self._topic, partition, offset))

    def hold(self, partitions: Iterable[int]) -> None:
        """Read nothing from these until `read_from` or `unhold`."""
        holding = [p for p in partitions if p not in self._paused]
        if holding:
            self._consumer.pause([TopicPartition(self._topic, p) for p in holding])
            self._paused.update(holding)

    def unhold(self, partitions: Iterable[int]) -> None:
        waiting = [p for p in partitions if p in self._paused]
        if waiting:
            self._consumer.resume([TopicPartition(self._topic, p) for p in waiting])
            self._paused.difference_update(waiting)

    def group(self) -> Any:
        """For a transaction: fences a member of a former generation."""
        return self._consumer.consumer_group_metadata()

    def _on_assign(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in given]
        starts, held = self._assigned(partitions)
        consumer.incremental_assign([TopicPartition(self._topic, p, starts[p]) for p in partitions])
        # A pause outlives the loss of a partition, and would last for ever.
        self._consumer.resume([TopicPartition(self._topic, p) for p in partitions])
        self.hold(held)

    def _on_revoke(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in given]
        self._revoked(partitions)
        self._paused.difference_update(partitions)
        consumer.incremental_unassign(given)

    def _on_lost(self, consumer: Consumer, given: list[TopicPartition]) -> None:
        partitions = [tp.partition for tp in given]
        self._lost(partitions)
        self._paused.difference_update(partitions)
        consumer.incremental_unassign(given)

    def _fatal(self, error: ConfluentError) -> Refused | None:
        if error.code() not in _FATAL and not error.fatal():
            return None
        fix = "give each loader that runs at the same time its own TIDEWATCH_LOADER__INSTANCE"
        return Refused(f"another process took this loader's place in the group: {error.str()}", fix=fix)
