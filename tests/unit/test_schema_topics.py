"""Topics: what is made, what is added to, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ingest.schema import topics
from ingest.schema.changes import Additive, AddPartitions, CreateTopic, Refused, SetConfigs
from tidewatch.kafka.admin import NewTopic, Topic
from tidewatch.spec import Spec, parse


def spec(topic: str = "") -> Spec:
    return parse(
        f"""
name: visits
description: For a test.
owner: tests
source: {{kind: internal}}
topic: {{name: raw.visits.v1, partitions: 4, key: page{topic}}}
dead_letters: {{topic: dlq.visits.v1}}
schema: {{fields: [{{name: page, type: string}}]}}
table: {{name: raw_visits}}
""",
        "test.yaml",
    )


def live(want: NewTopic, configs: Mapping[str, str] = {}, **changes: int) -> Topic:
    shape = {"partitions": want.partitions, "replication": want.replication} | changes
    return Topic(want.name, "id", shape["partitions"], shape["replication"], dict(want.configs) | configs)


def compared(
    found: Mapping[str, str] = {}, *, topic: str = "", brokers: int = 3, **changes: int
) -> list[Additive | Refused]:
    wanted = topics.wanted(spec(topic), brokers)[1]
    return list(topics.compare(spec(topic), wanted, live(wanted, found, **changes)))


@pytest.mark.parametrize(("brokers", "replicas", "insync"), [(1, 1, "1"), (2, 1, "1"), (3, 3, "2"), (5, 3, "2")])
def test_auto_follows_the_brokers(brokers: int, replicas: int, insync: str) -> None:
    for topic in topics.wanted(spec(), brokers):
        assert (topic.replication, topic.configs["min.insync.replicas"]) == (replicas, insync)


def test_the_letters_topic_comes_first_and_holds_a_whole_body() -> None:
    letters, events = topics.wanted(spec(), 1)
    assert (letters.name, events.name) == ("dlq.visits.v1", "raw.visits.v1")
    assert all(int(t.configs["max.message.bytes"]) > 1024 * 1024 for t in (letters, events))
    (change,) = topics.compare(spec(), events, None)
    assert isinstance(change, Additive)
    assert change.steps == (CreateTopic(events),)


def test_a_topic_as_wanted_is_left_alone() -> None:
    assert compared() == []


def test_brokers_that_are_down_today_change_nothing() -> None:
    assert compared({"min.insync.replicas": "2"}, brokers=1, replication=3) == []


def test_partitions_are_added_with_a_word_about_keys() -> None:
    (change,) = compared(partitions=2)
    assert isinstance(change, Additive)
    assert change.steps == (AddPartitions("raw.visits.v1", 4),)
    assert "same page may change partition" in change.note


@pytest.mark.parametrize(
    ("name", "value", "additive"),
    [
        ("retention.ms", "1000", True),
        ("retention.ms", "-1", False),
        ("retention.ms", "99999999999999", False),
        ("min.insync.replicas", "1", True),
        ("min.insync.replicas", "3", False),
        ("max.message.bytes", "1048588", True),
        ("message.timestamp.type", "CreateTime", True),
        ("cleanup.policy", "compact", False),
    ],
)
def test_settings_are_raised_and_never_lowered(name: str, value: str, additive: bool) -> None:  # noqa: FBT001
    (change,) = compared({name: value})
    assert isinstance(change, Additive) is additive
    if isinstance(change, Additive):
        (step,) = change.steps
        assert isinstance(step, SetConfigs)
        assert list(step.configs) == [name]
    else:
        assert f"--add-config {name}=" in change.manual


def test_more_room_for_messages_than_needed_is_fine() -> None:
    assert compared({"max.message.bytes": "999999999"}) == []


@pytest.mark.parametrize(
    ("changes", "what"), [({"partitions": 9}, "partitions 9 → 4"), ({"replication": 1}, "replication 1 → 3")]
)
def test_what_kafka_cannot_undo_is_refused(changes: dict[str, int], what: str) -> None:
    found = compared(topic=", replication: 3, min_insync: 2", **changes)
    assert [change.what for change in found if isinstance(change, Refused)] == [what]
