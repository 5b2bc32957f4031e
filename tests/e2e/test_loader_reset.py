"""An operator sets the group's offset by a tool that knows nothing of loaders."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from loader_fixtures import balanced, rig
from loader_rig import Rig

from ingest.ledger.positions import loader_group
from tidewatch.kafka.client import consumer_config
from tidewatch.settings import Kafka

__all__ = ["rig"]


def reset(rig: Rig, offset: int) -> None:
    """As soon as the group is empty: a static member is remembered for its session timeout."""
    consumer = Consumer(consumer_config(Kafka(bootstrap=rig.bootstrap), "operator", loader_group(rig.topic)))

    def is_set() -> bool:
        try:
            consumer.commit(offsets=[TopicPartition(rig.topic, 0, offset)], asynchronous=False)
        except KafkaException:
            return False
        return True

    rig.wait(is_set, why="the group is empty")
    consumer.close()


@pytest.fixture
def loaded(rig: Rig) -> Rig:
    loader = rig.loader()
    rig.send(3000)
    balanced(rig)
    loader.stop()
    return rig


def test_a_reset_to_before_what_is_loaded_stops_the_loader_and_doubles_nothing(loaded: Rig) -> None:
    end = loaded.ends()[0]
    reset(loaded, end - 10)
    loader = loaded.loader()
    loaded.wait(
        lambda: any("rows from there on are loaded" in p for p in loaded.ready(loader)[1]) or not loader.running
    )
    assert loaded.clickhouse.scalar("SELECT count() FROM raw_clicks") == 3000
    loader.kill()
    reset(loaded, end)
    loaded.loader("b")
    loaded.send(100)
    balanced(loaded)
