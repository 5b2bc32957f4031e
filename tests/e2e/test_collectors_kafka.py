"""The Kafka collectors when brokers die or hang, and the process and commands as an operator uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from devstack.kafka import KafkaCluster
from devstack.ports import free_port
from devstack.process import Child
from tests.kafka_observed import Members, Observed, Seen
from tidewatch.telemetry.catalogue import collectors_kafka as m

COMMAND = [sys.executable, "-m", "controlplane.cli.main"]
PATIENCE = 60.0


def _until(look: Callable[[], Seen], holds: Callable[[Seen], bool]) -> Seen:
    """Look again until it holds; what was seen then."""
    deadline = time.monotonic() + PATIENCE
    while not holds(found := look()):
        assert time.monotonic() < deadline, f"it did not come to that: {found.unmeasured}"
        time.sleep(0.2)
    return found


@pytest.fixture
def seen(three_brokers: KafkaCluster) -> Iterator[Observed]:
    with closing(Observed(three_brokers.bootstrap)) as observed:
        yield observed


def _alone_on(seen: Observed, fresh: str, broker: int) -> str:
    """A topic without replicas whose only partition that broker leads."""
    for attempt in range(30):
        topic = seen.topic(f"alone-{attempt}.{fresh}")
        seen.collect(seen.brokers)
        led = seen.state.partition(topic, 0)
        if led is not None and led.leader == broker:
            return topic
    pytest.fail("no topic came to lie on that broker")


def test_a_broker_that_dies_blinds_what_it_led_and_nothing_else(
    seen: Observed, three_brokers: KafkaCluster, fresh: str
) -> None:
    replicated = seen.topic(f"replicated.{fresh}", 3, replication=3, min_insync_replicas="2")
    alone, group = _alone_on(seen, fresh, 2), f"g.{fresh}"
    seen.produce(replicated, 0, 1, 2)
    seen.produce(alone, 0)
    seen.commit(group, replicated, p0=0, p1=0, p2=0)
    seen.commit(group, alone, p0=0)
    found = seen.collect(seen.lag, seen.brokers)
    assert (found.value(m.LAG, group, replicated), found.value(m.LAG, group, alone)) == (3, 1)
    assert found.value(m.KE_BROKERS) == 3
    three_brokers.kill(2)
    try:
        found = _until(
            lambda: seen.collect(seen.lag, seen.brokers), lambda now: now.value(m.LAG, group, replicated) is not None
        )
        assert found.value(m.LAG, group, alone) is None, "what is not known is not shown"
        assert f"topic {alone}" in found.unmeasured
        found = _until(lambda: seen.collect(seen.lag, seen.brokers), lambda now: now.value(m.KE_BROKERS) == 2)
        found = seen.collect(seen.lag, seen.brokers)
        assert found.value(m.BROKER_UP, "2") == 0
        assert found.value(m.UNDER_REPLICATED, replicated) == found.value(m.AT_MIN_ISR, replicated) == 3
        assert found.value(m.UNDER_MIN_ISR, replicated) == 0
        assert found.value(m.OFFLINE, alone) == 1
        assert found.unmeasured[f"topic {alone}"] == "partitions 0: no leader"
        assert found.value(m.LAG, group, replicated) == 3
    finally:
        three_brokers.start_broker(2)
        three_brokers.wait_in_sync()
    found = _until(lambda: seen.collect(seen.lag), lambda now: now.value(m.LAG, group, alone) == 1)
    assert f"topic {alone}" not in found.unmeasured
    assert seen.collect(seen.brokers).value(m.UNDER_REPLICATED, replicated) == 0


def test_a_broker_that_hangs_does_not_hold_up_what_the_others_tell(
    seen: Observed, three_brokers: KafkaCluster, fresh: str
) -> None:
    topics = {broker: _alone_on(seen, f"{broker}.{fresh}", broker) for broker in (0, 2)}
    seen.collect(seen.lag)
    three_brokers.pause(2)
    try:
        found = seen.collect(seen.lag)
        assert found.unmeasured["broker 2"] == "does not answer"
        assert found.unmeasured[f"topic {topics[2]}"].endswith("does not answer")
        assert f"topic {topics[0]}" not in found.unmeasured
        assert f'current_offset{{topic="{topics[0]}"' in found.rendered.decode()
        assert seen.collect(seen.brokers).value(m.KE_PARTITIONS, topics[0]) == 1, "another broker is asked"
    finally:
        three_brokers.resume(2)
    three_brokers.wait_in_sync()
    _until(lambda: seen.collect(seen.lag), lambda now: f"topic {topics[2]}" not in now.unmeasured)


def test_every_broker_is_probed(seen: Observed) -> None:
    found = _until(
        lambda: seen.collect(seen.probe), lambda now: len(now.labels(m.PROBE_ROUND_TRIP)) == 3 and not now.unmeasured
    )
    assert found.labels(m.CLOCK_SKEW) == [("0",), ("1",), ("2",)]


@pytest.fixture
def collecting(kafka: Any, tmp_path: Path) -> Iterator[tuple[Child, dict[str, str], str]]:
    """`tidewatch collect` with short intervals: the process, its environment, its address."""
    port = free_port()
    environment = {
        **os.environ,
        "TIDEWATCH_KAFKA__BOOTSTRAP": kafka.bootstrap,
        "TIDEWATCH_COLLECT__PORT": str(port),
        "TIDEWATCH_COLLECT__INTERVAL_SECONDS": "0.5",
    }
    url = f"http://127.0.0.1:{port}"
    kinds = [f"--only={name}" for name in ("kafka_lag", "kafka_groups", "kafka_lag_seconds", "kafka_brokers")]
    with Child("collect", [*COMMAND, "collect", *kinds], log=tmp_path / "collect.log", env=environment) as child:
        child.wait_ready(lambda: _ready(url), 90)
        yield child, environment, url


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def _scraped(url: str, name: str, **labels: str) -> list[float]:
    text = httpx.get(f"{url}/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return [s.value for s in samples if labels.items() <= s.labels.items()]


def test_the_process_exposes_it_and_the_commands_print_it(
    kafka: Any, collecting: tuple[Child, dict[str, str], str], fresh: str
) -> None:
    child, environment, url = collecting
    with closing(Observed(kafka.bootstrap)) as seen:
        topic, group = seen.topic(f"t.{fresh}", 2), f"g.{fresh}"
        seen.produce(topic, 0, 1)
        with closing(Members(seen, group, topic, ["worker"])) as members:
            members.settle(2)
            members.commit("worker", p0=0, p1=1)
            while _scraped(url, m.LAG.name, group=group) != [1] or not _scraped(url, m.MEMBERS.name, group=group):
                time.sleep(0.2)
            assert _scraped(url, m.KE_LAG.name, consumergroup=group) == [1, 0]
            assert httpx.get(f"{url}/healthz").status_code == 200

            done = _run(["lag", group, "--json", "--seconds", "0.5"], environment)
            answer = json.loads(done.stdout)
            (row,) = answer["groups"]
            assert (row["group"], row["topic"], row["lag"], row["members"]) == (group, topic, 1, 1)
            assert answer["watched"] is True, "statuses come from the process"
            table = _run(["lag", group, "--seconds", "0.2"], environment)
            assert group in table.stdout
            assert "\x1b" not in table.stdout, "no colour but on a terminal"

            done = _run(["groups", group, "--json", "--seconds", "0.2"], environment)
            (row,) = json.loads(done.stdout)["groups"]
            assert row["state"] == "Stable"
            assert row["members"][0]["partitions"] == {topic: [0, 1]}
        assert _run(["groups", f"no.{fresh}"], environment).returncode == 2
    child.stop()
    assert child.returncode == 0


def test_without_a_broker_everything_is_unmeasured_and_the_command_says_what_to_do(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "TIDEWATCH_KAFKA__BOOTSTRAP": f"127.0.0.1:{free_port()}",
        "TIDEWATCH_COLLECT__PORT": str(port),
        "TIDEWATCH_COLLECT__INTERVAL_SECONDS": "0.5",
        "TIDEWATCH_COLLECT__TIMEOUT_SECONDS": "2",
    }
    url = f"http://127.0.0.1:{port}"
    with Child("blind", [*COMMAND, "collect", "--only=kafka_lag"], log=tmp_path / "log", env=environment) as child:
        child.wait_ready(lambda: _ready(url), 90)
        assert _scraped(url, "tidewatch_unmeasured", collector="kafka_lag", source="everything") == [1]
        assert _scraped(url, m.LAG.name) == _scraped(url, m.KE_LAG.name) == []
    done = _run(["lag"], environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert "TIDEWATCH_KAFKA__BOOTSTRAP" in done.stderr
    assert "Traceback" not in done.stderr


def _run(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
