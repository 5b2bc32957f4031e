"""The Kafka collectors against a real broker, each with its fault: seen while it lasts, gone after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from math import inf
from typing import Any

import pytest
from confluent_kafka import Producer

from collectors.kafka.wire import Ask
from tests.kafka_observed import Members, Observed, ShiftedClock
from tidewatch.errors import KafkaUnavailable
from tidewatch.kafka.admin import Partition
from tidewatch.kafka.client import producer_config
from tidewatch.telemetry.catalogue import collectors_kafka as m

EVERY = 15.0
OK, NEVER, WARN, STALL, STOP = "ok", "never", "warn", "stall", "stop"


@pytest.fixture
def seen(kafka: Any) -> Iterator[Observed]:
    with closing(Observed(kafka.bootstrap)) as observed:
        yield observed


def _statuses(found: Any, group: str, topic: str) -> dict[str, int]:
    every = found.labels(m.PARTITIONS, group, topic)
    counts = {status: int(found.value(m.PARTITIONS, group, topic, status)) for (status,) in every}
    return {status: number for status, number in counts.items() if number}


def test_lag_by_group_and_by_partition_under_both_sets_of_names(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}", 3), f"g.{fresh}"
    seen.produce(topic, 0, 0, 0, 1)
    seen.commit(group, topic, p0=1, p1=1)
    found = seen.collect(seen.lag)
    assert found.value(m.LAG, group, topic) == found.value(m.KE_LAG_SUM, group, topic) == 2
    assert _statuses(found, group, topic) == {"unknown": 1, OK: 1, NEVER: 1}
    lines = found.rendered.decode().splitlines()
    assert f'kafka_consumergroup_lag{{consumergroup="{group}",topic="{topic}",partition="0"}} 2' in lines
    assert f'kafka_consumergroup_current_offset{{consumergroup="{group}",topic="{topic}",partition="0"}} 1' in lines
    assert f'kafka_topic_partition_current_offset{{topic="{topic}",partition="0"}} 3' in lines
    never = [line for line in lines if group in line and 'partition="2"' in line]
    assert never == [], "never committed is neither a lag of zero nor of everything"


def test_a_partition_that_stands_still_is_a_poison_record_and_green_once_it_is_passed(
    seen: Observed, fresh: str
) -> None:
    topic, group = seen.topic(f"t.{fresh}", 2), f"g.{fresh}"
    with closing(Members(seen, group, topic, ["one"])) as members:
        members.settle(2)
        members.commit("one", p0=0, p1=0)
        for turn in range(1, 8):
            seen.produce(topic, 0, 1)
            members.commit("one", p0=turn)
            found = seen.collect(seen.lag, seen.groups, after=EVERY)
        assert _statuses(found, group, topic) == {OK: 1, STALL: 1}
        assert found.labels(m.STUCK, group) == [(topic, "1", "0")]
        assert (found.value(m.STUCK, group, topic, "1", "0") or 0) >= 60
        assert found.value(m.STATUS, group, STALL) == 7
        detail = f"{topic}[1] stands at offset 0 while its consumer moves elsewhere"
        assert found.labels(m.CAUSE, group) == [("poison_record", detail)]
        members.commit("one", p1=7)
        found = seen.collect(seen.lag, seen.groups, after=EVERY)
        assert _statuses(found, group, topic) == {OK: 2}
        assert found.labels(m.CAUSE, group) == found.labels(m.STUCK, group) == []


def test_a_member_that_commits_nothing_is_named_and_green_once_it_does(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}", 4), f"g.{fresh}"
    with closing(Members(seen, group, topic, ["hung", "fine"])) as members:
        members.settle(4)
        everything = {name: {f"p{n}": 0 for n in members.held(name)} for name in ("hung", "fine")}
        for name, held in everything.items():
            assert len(held) == 2
            members.commit(name, **held)
        for turn in range(1, 8):
            seen.produce(topic, 0, 1, 2, 3)
            members.commit("fine", **dict.fromkeys(everything["fine"], turn))
            found = seen.collect(seen.lag, seen.groups, after=EVERY)
        assert _statuses(found, group, topic) == {OK: 2, STALL: 2}
        ((cause, detail),) = found.labels(m.CAUSE, group)
        assert (cause, detail) == ("hung_member", "member hung@127.0.0.1 commits nothing while others do")
        assert found.value(m.MEMBERS, group) == found.value(m.KE_MEMBERS, group) == 2
        assert found.value(m.ASSIGNED, group, topic) == 4
        members.commit("hung", **dict.fromkeys(everything["hung"], 7))
        found = seen.collect(seen.lag, seen.groups, after=EVERY)
        assert _statuses(found, group, topic) == {OK: 4}
        assert found.labels(m.CAUSE, group) == []


def test_a_group_without_members_has_stopped(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    seen.produce(topic, 0)
    seen.commit(group, topic, p0=0)
    for _ in range(7):
        found = seen.collect(seen.lag, seen.groups, after=EVERY)
    assert found.value(m.STATUS, group, STOP) == 8
    assert found.labels(m.CAUSE, group) == [("no_members", "the group has no members: start its consumers")]
    assert found.value(m.DRAIN, group, topic) == inf
    seen.commit(group, topic, p0=1)
    found = seen.collect(seen.lag, seen.groups, after=EVERY)
    assert found.value(m.STATUS, group, OK) == 0
    assert found.value(m.DRAIN, group, topic) == 0


def test_a_group_that_never_committed_is_shown_with_its_members_and_without_a_lag(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    seen.produce(topic, 0)
    with closing(Members(seen, group, topic, ["one"])) as members:
        members.settle(1)
        found = seen.collect(seen.lag, seen.groups)
        assert found.value(m.MEMBERS, group) == 1
        assert found.value(m.LAG, group, topic) is None
        assert _statuses(found, group, topic) == {}
        members.commit("one", p0=0)
        assert seen.collect(seen.lag).value(m.LAG, group, topic) == 1


def test_transaction_markers_are_no_lag_and_a_record_behind_them_is(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    producer = Producer(producer_config(seen.settings.kafka, "test", transactional_id=fresh, enable_idempotence=True))
    producer.init_transactions(30)
    for keep in (True, False):
        producer.begin_transaction()
        producer.produce(topic, b"x", partition=0)
        assert producer.flush(20) == 0
        producer.commit_transaction(30) if keep else producer.abort_transaction(30)
    seen.commit(group, topic, p0=1)
    assert seen.collect(seen.lag).value(m.LAG, group, topic) == 3, "marker, aborted record, marker"
    found = seen.collect(seen.seconds)
    assert found.value(m.LAG_SECONDS, group, topic) == 0
    found = seen.collect(seen.lag, after=EVERY)
    assert found.value(m.LAG, group, topic) == 0
    for _ in range(8):
        found = seen.collect(seen.lag, after=EVERY)
    assert _statuses(found, group, topic) == {OK: 1}
    seen.produce(topic, 0)
    assert seen.collect(seen.lag).value(m.LAG, group, topic) == 1


def test_a_topic_that_vanishes_in_mid_cycle_is_unmeasured_and_the_others_go_on(seen: Observed, fresh: str) -> None:
    kept, gone, group = seen.topic(f"kept.{fresh}"), seen.topic(f"gone.{fresh}"), f"g.{fresh}"
    seen.produce(kept, 0)
    seen.commit(group, kept, p0=0)
    seen.commit(group, gone, p0=0)
    assert seen.collect(seen.lag).value(m.LAG, group, gone) == 0
    seen.admin.delete_topic(gone)
    found = seen.collect(seen.lag)  # the metadata that it holds still names the topic
    assert found.unmeasured[f"topic {gone}"] == "partitions 0: unknown topic or partition (Kafka error 3)"
    assert found.value(m.LAG, group, gone) is None
    assert found.value(m.LAG, group, kept) == 1
    found = seen.collect(seen.lag)
    assert found.unmeasured[f"topic {gone}"] == "was deleted"
    assert gone not in found.rendered.decode()
    assert found.value(m.LAG, group, kept) == 1
    found = seen.collect(seen.lag, after=301)
    assert f"topic {gone}" not in found.unmeasured


def test_a_group_that_vanishes_says_so_for_a_while(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    seen.commit(group, topic, p0=0)
    assert seen.collect(seen.lag).value(m.LAG, group, topic) == 0
    seen.admin._client.delete_groups([group])
    found = seen.collect(seen.lag)
    assert found.unmeasured[f"group {group}"] == "was deleted, or its offsets expired"
    assert found.value(m.LAG, group, topic) is None
    seen.commit(group, topic, p0=0)
    found = seen.collect(seen.lag)
    assert f"group {group}" not in found.unmeasured, "it is back"


def test_a_group_of_the_new_protocol(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}", 2), f"g.{fresh}"
    with closing(Members(seen, group, topic, ["one"], group_protocol="consumer")) as members:
        members.settle(2)
        members.commit("one", p0=0)
        found = seen.collect(seen.lag, seen.groups)
        assert found.labels(m.GROUP, group)[0][:2] == ("consumer", "Stable")
        before = found.value(m.GENERATION, group)
        assert before is not None
        assert found.value(m.ASSIGNED, group, topic) == 2
        with closing(Members(seen, group, topic, ["two"], group_protocol="consumer")) as more:
            while not more.held("two"):
                members.consumers["one"].poll(0.1)
                more.consumers["two"].poll(0.1)
            found = seen.collect(seen.lag, seen.groups)
        assert (found.value(m.GENERATION, group) or 0) > before
        assert (found.value(m.REBALANCES, group) or 0) >= 1
        assert found.value(m.STORM, group) == 0


def test_a_group_that_rebalances_again_and_again_is_a_storm(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    for _ in range(6):
        with closing(Members(seen, group, topic, ["restarted"])) as members:
            members.settle(1)
            members.commit("restarted", p0=0)
            found = seen.collect(seen.lag, seen.groups)
    assert found.value(m.STORM, group) == 1
    assert found.value(m.REBALANCES, group) == 5
    with closing(Members(seen, group, topic, ["steady"])) as members:
        members.settle(1)
        for _ in range(8):
            found = seen.collect(seen.lag, seen.groups)
    assert found.value(m.STORM, group) == 0


def test_lag_in_seconds_by_the_brokers_clock_when_ours_is_wrong(kafka: Any, fresh: str) -> None:
    with closing(Observed(kafka.bootstrap, clock=ShiftedClock(ahead=120))) as seen:
        topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
        seen.produce(topic, 0)
        seen.commit(group, topic, p0=0)
        probed = seen.collect(seen.probe)
        assert probed.value(m.CLOCK_SKEW, "0") == pytest.approx(-120, abs=5)
        assert (probed.value(m.CLOCK_SKEW_ERROR, "0") or inf) < 5
        assert (probed.value(m.PROBE_ROUND_TRIP, "0") or 0) > 0
        age = seen.collect(seen.lag, seen.seconds).value(m.LAG_SECONDS, group, topic)
        assert age is not None
        assert age < 60
        assert seen.collect(seen.lag, seen.seconds, after=300).value(m.LAG_SECONDS, group, topic) == pytest.approx(
            age + 300, abs=30
        )
        line = f'kafka_consumergroup_group_lag_seconds{{cluster_name="main",group="{group}",topic="{topic}",partition="0"}}'
        assert line in seen.collect(seen.seconds).rendered.decode()
        seen.commit(group, topic, p0=1)
        assert seen.collect(seen.lag, seen.seconds).value(m.LAG_SECONDS, group, topic) == 0


def test_a_right_clock_has_no_skew(seen: Observed) -> None:
    assert seen.collect(seen.probe).value(m.CLOCK_SKEW, "0") == pytest.approx(0, abs=5)


def test_time_to_data_loss_and_what_is_lost(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}", retention_ms="3600000"), f"g.{fresh}"
    seen.produce(topic, 0, 0, 0)
    seen.commit(group, topic, p0=0)
    seen.collect(seen.lag, seen.brokers)
    found = seen.collect(seen.topics, seen.seconds)
    assert found.value(m.LOSS, group, topic) == pytest.approx(3600, abs=60)
    assert found.value(m.LOST, group, topic) == 0
    assert found.value(m.RETAINED, topic) == 3
    assert seen.collect(seen.seconds, after=3000).value(m.LOSS, group, topic) == pytest.approx(600, abs=60)
    seen.admin.delete_records({Partition(topic, 0): 2})
    seen.collect(seen.lag)
    found = seen.collect(seen.topics, seen.seconds)
    assert (found.value(m.LOST, group, topic), found.value(m.LOSS, group, topic)) == (2, 0)
    seen.commit(group, topic, p0=3)
    found = seen.collect(seen.lag, seen.seconds)
    assert (found.value(m.LOST, group, topic), found.value(m.LOSS, group, topic)) == (0, inf)


def test_growing_lag_and_how_many_members_would_do(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}", 2), f"g.{fresh}"
    with closing(Members(seen, group, topic, ["one"])) as members:
        members.settle(2)
        for turn in range(14):
            seen.produce(topic, *([0, 1] * 3))
            members.commit("one", p0=turn, p1=turn)
            found = seen.collect(seen.lag, seen.groups, after=EVERY)
    assert found.value(m.STATUS, group, WARN) == 4
    assert found.value(m.DRAIN, group, topic) == inf
    assert found.value(m.MEMBERS_NEEDED, group, topic) == 4, "three times as fast, and a fifth more"
    assert found.value(m.PRODUCED, topic) == pytest.approx(6 / EVERY, rel=0.2)
    assert found.value(m.HOTTEST, topic) == pytest.approx(0.5, abs=0.05)
    assert [cause for cause, _ in found.labels(m.CAUSE, group)] == ["capacity"]


def test_brokers_topics_and_directories(seen: Observed, fresh: str) -> None:
    topic = seen.topic(f"t.{fresh}", 2)
    seen.produce(topic, 0)
    found = seen.collect(seen.brokers)
    assert found.value(m.BROKER_UP, "0") == found.value(m.CONTROLLER, "0") == 1
    assert found.value(m.KE_PARTITIONS, topic) == 2
    assert found.value(m.OFFLINE, topic) == found.value(m.UNDER_REPLICATED, topic) == 0
    assert found.value(m.UNDER_MIN_ISR, topic) == 0
    assert (found.value(m.TOPIC_BYTES, topic) or 0) > 0
    assert found.value(m.RETENTION, topic) == 7 * 24 * 3600
    ((broker, directory),) = found.labels(m.LOG_DIR_FREE)
    assert (found.value(m.LOG_DIR_FREE, broker, directory) or 0) > 0
    seen.admin.set_configs(topic, {"min.insync.replicas": "2"})
    for _ in range(4):
        found = seen.collect(seen.brokers)
    assert found.value(m.UNDER_MIN_ISR, topic) == 2


def test_what_needs_a_first_reading_says_that_there_is_none(seen: Observed) -> None:
    seen.state.read.set()  # nobody will come
    for collector in (seen.groups, seen.seconds, seen.topics):
        with pytest.raises(KafkaUnavailable, match="the lag collector has read nothing yet"):
            seen.collect(collector)


def _tampered(seen: Observed, before: Callable[[Any], None], after: Callable[[Any], None]) -> None:
    """Let a test see the lag collector's requests and answers on their way."""
    wire = seen.lag._reader._wire
    really = wire.ask

    def ask(asks: Sequence[Ask]) -> list[Any]:
        for each in asks:
            before(each.request)
        answers = really(asks)
        for answer in answers:
            after(answer)
        return answers

    wire.ask = ask  # type: ignore[method-assign]


def test_a_commit_between_the_reads_overstates_a_lag_and_never_turns_it_round(seen: Observed, fresh: str) -> None:
    topic, group = seen.topic(f"t.{fresh}"), f"g.{fresh}"
    seen.commit(group, topic, p0=0)
    seen.collect(seen.lag)

    def in_between(request: Any) -> None:
        if request.name == "ListOffsetsRequest":
            seen.produce(topic, 0)
            seen.commit(group, topic, p0=1)

    _tampered(seen, in_between, lambda _: None)
    found = seen.collect(seen.lag)
    assert found.value(m.LAG, group, topic) == 1
    assert f"group {group} on topic {topic}" not in found.unmeasured


def test_a_group_that_may_not_be_read_leaves_the_others(seen: Observed, fresh: str) -> None:
    topic, groups = seen.topic(f"t.{fresh}", 2), [f"{name}.{fresh}" for name in ("hidden", "open", "partly")]
    seen.produce(topic, 0)
    for group in groups:
        seen.commit(group, topic, p0=0, p1=0)

    def forbid(answer: Any) -> None:
        for group in getattr(answer, "groups", ()) if answer.name == "OffsetFetchResponse" else ():
            if group.group_id == groups[0]:
                group.error_code = 30
            if group.group_id == groups[2]:
                group.topics[0].partitions[1].error_code = 29

    _tampered(seen, lambda _: None, forbid)
    found = seen.collect(seen.lag)
    assert found.unmeasured[f"group {groups[0]}"] == "group authorization failed (Kafka error 30)"
    refused = found.unmeasured[f"group {groups[2]} on topic {topic}"]
    assert refused == "partitions 1: topic authorization failed (Kafka error 29)"
    assert [found.value(m.LAG, group, topic) for group in groups] == [None, 1, None]
