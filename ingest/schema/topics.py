"""The topics of a pipeline, and how they differ from those that are live."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from ingest.schema.changes import Additive, AddPartitions, Change, CreateTopic, Refused, SetConfigs
from tidewatch.kafka.admin import NewTopic, Topic
from tidewatch.spec import Spec
from tidewatch.spec.model import format_duration

# A body through the gateway is at most 1 MiB; others may send more.
MAX_MESSAGE_BYTES = 2 * 1024 * 1024
# Of a letter. Kafka measures the source's records compressed, so one may come out far larger than its limit.
MAX_LETTER_BYTES = 8 * 1024 * 1024
_RETENTION, _INSYNC, _MAX_BYTES = "retention.ms", "min.insync.replicas", "max.message.bytes"


def wanted(spec: Spec, brokers: int) -> tuple[NewTopic, NewTopic]:
    """The topic of the letters first: an event must never be poison before its letter has a place."""
    replicas, insync = spec.topic.replicas(brokers), spec.topic.insync(brokers)
    letters = spec.dead_letters
    return (
        NewTopic(letters.topic, letters.partitions, replicas, _configs(letters.retention, insync, MAX_LETTER_BYTES)),
        NewTopic(
            spec.topic.name, spec.topic.partitions, replicas, _configs(spec.topic.retention, insync, MAX_MESSAGE_BYTES)
        ),
    )


def _configs(retention: timedelta, insync: int, largest: int) -> dict[str, str]:
    return {
        _RETENTION: str(int(retention.total_seconds() * 1000)),
        _INSYNC: str(insync),
        _MAX_BYTES: str(largest),
        # The ledger's windows are the broker's append times.
        "message.timestamp.type": "LogAppendTime",
        "cleanup.policy": "delete",
    }


def compare(spec: Spec, want: NewTopic, live: Topic | None) -> Iterator[Change]:
    target = f"topic {want.name}"
    if live is None:
        keeps = format_duration(timedelta(milliseconds=int(want.configs[_RETENTION])))
        shape = f"{want.partitions} partitions, {want.replication} replicas, keeps {keeps}"
        yield Additive(spec.name, target, f"create with {shape}", (CreateTopic(want),))
        return
    yield from _partitions(spec, want, live)
    if spec.topic.replication != "auto" and live.replication != want.replication:
        yield Refused(
            spec.name,
            target,
            f"replication {live.replication} → {want.replication}",
            "moving replicas copies the whole topic between brokers",
            f"plan it with kafka-reassign-partitions.sh for {want.name}, then run this again",
        )
    yield from _settings(spec, want, live)


def _partitions(spec: Spec, want: NewTopic, live: Topic) -> Iterator[Change]:
    target, what = f"topic {want.name}", f"partitions {live.partitions} → {want.partitions}"
    if want.partitions > live.partitions:
        keyed = spec.topic.key is not None and want.name == spec.topic.name
        note = (
            f"events with the same {spec.topic.key} may change partition, so their order is lost once" if keyed else ""
        )
        yield Additive(spec.name, target, what, (AddPartitions(want.name, want.partitions),), note)
    elif want.partitions < live.partitions:
        yield Refused(
            spec.name,
            target,
            what,
            "Kafka cannot take partitions away, and their events would go with them",
            f"set partitions to {live.partitions}, or move to a new topic name and let the loaders drain {want.name}",
        )


def _settings(spec: Spec, want: NewTopic, live: Topic) -> Iterator[Change]:
    target = f"topic {want.name}"
    # `auto` was decided when the topic was made; brokers that are down today do not change it.
    auto = spec.topic.min_insync == "auto"
    insync = str(max(1, live.replication - 1)) if auto else want.configs[_INSYNC]
    raised: dict[str, str] = {}
    for name, value in (dict(want.configs) | {_INSYNC: insync}).items():
        found = live.configs.get(name, "")
        if found == value or (name == _MAX_BYTES and found.isdecimal() and int(found) > int(value)):
            continue
        what = f"{name} {found or 'unset'} → {value}"
        if why := _loses(name, found, value):
            manual = f"kafka-configs.sh --alter --topic {want.name} --add-config {name}={value}"
            yield Refused(spec.name, target, what, why, manual)
        else:
            raised[name] = value
    if raised:
        what = ", ".join(f"{name} {live.configs.get(name, 'unset')} → {value}" for name, value in raised.items())
        yield Additive(spec.name, target, what, (SetConfigs(want.name, raised),))


def _loses(name: str, found: str, value: str) -> str:
    """Why the change would lose something, if it would."""
    if name == _RETENTION and (found == "-1" or (found.isdecimal() and int(value) < int(found))):
        return "a shorter retention deletes events at once"
    if name == _INSYNC and found.isdecimal() and int(value) < int(found):
        return "fewer replicas would have to hold an event before it counts as accepted"
    if name == "cleanup.policy":
        return f"the topic is made for {found}, and changing that lets the broker delete events"
    return ""
