"""Each service of the local stack starts, works, and comes back with its data after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from devstack.install import InstallError, install, java, kafka_jars, program
from devstack.kafka import KafkaCluster
from devstack.postgres import Postgres
from devstack.prometheus import Prometheus
from devstack.proxy import TcpProxy
from devstack.redis import Redis
from tidewatch.errors import UsageError


def create_topic(bootstrap: str, topic: str, replicas: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=replicas)])[topic].result(timeout=30)


def produce(bootstrap: str, topic: str, *values: bytes) -> None:
    """Returns when all are acknowledged by all replicas in sync."""
    assert attempt(bootstrap, topic, *values, seconds=60) == ["None"] * len(values)


def attempt(bootstrap: str, topic: str, *values: bytes, seconds: float) -> list[str]:
    """The error of each record, "None" for none: a KafkaError must not be compared with None, it raises later."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 0, "log_level": 0})
    errors: list[str] = []
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: errors.append(str(error)))
    producer.flush(seconds)
    return errors or ["no answer"] * len(values)


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "contract", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values: list[bytes] = []
    while len(values) < count:
        message = consumer.poll(30)
        assert message is not None, f"{len(values)} of {count} records"
        assert message.error() is None
        values.append(message.value() or b"")
    consumer.close()
    return values


def test_one_broker_keeps_its_records_and_its_address_through_kill_and_stop(tmp_path: Path, fresh: str) -> None:
    with KafkaCluster(tmp_path) as cluster:
        address = cluster.bootstrap
        create_topic(address, fresh)
        produce(address, fresh, b"one", b"two")
        cluster.kill(0)
        cluster.start_broker(0)
        produce(address, fresh, b"three")
        cluster.stop()
        cluster.start()
        assert consume(address, fresh, 3) == [b"one", b"two", b"three"]
    with KafkaCluster(tmp_path) as again:
        assert again.bootstrap == address
        assert consume(address, fresh, 3) == [b"one", b"two", b"three"]


def test_topics_are_never_created_by_a_typing_error(kafka: KafkaCluster, fresh: str) -> None:
    assert attempt(kafka.bootstrap, fresh, b"x", seconds=1) != ["None"]
    assert fresh not in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=10).topics


def test_three_brokers_accept_while_each_is_killed_in_turn(three_brokers: KafkaCluster, fresh: str) -> None:
    create_topic(three_brokers.bootstrap, fresh, replicas=3)
    for broker in range(3):
        three_brokers.kill(broker)
        produce(three_brokers.bootstrap, fresh, f"without {broker}".encode())
        three_brokers.start_broker(broker)
        three_brokers.wait_in_sync()
    assert consume(three_brokers.bootstrap, fresh, 3) == [b"without 0", b"without 1", b"without 2"]


def test_clients_go_through_a_proxy_that_is_advertised(tmp_path: Path, fresh: str) -> None:
    cluster = KafkaCluster(tmp_path)
    with TcpProxy(cluster.ports[0].client) as proxy:
        cluster.advertise([proxy.port])
        with cluster:
            assert cluster.bootstrap == f"127.0.0.1:{proxy.port}"
            create_topic(cluster.bootstrap, fresh)
            produce(cluster.bootstrap, fresh, b"x")
            proxy.cut()
            assert attempt(cluster.bootstrap, fresh, b"y", seconds=0.5) == ["no answer"]
            proxy.heal()
            assert consume(cluster.bootstrap, fresh, 1) == [b"x"]


def test_postgres_keeps_what_was_committed_through_a_kill(tmp_path: Path) -> None:
    with Postgres(tmp_path) as server:
        address = server.url.replace("+psycopg", "")
        with psycopg.connect(address) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        server.kill()
        server.start()
        with psycopg.connect(address) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_redis_keeps_what_was_written_through_a_kill(tmp_path: Path) -> None:
    with Redis(tmp_path) as server:
        assert redis_cli(server, "SET", "kept", "42") == "OK"
        server.kill()
        server.start()
        assert redis_cli(server, "GET", "kept") == "42"


def redis_cli(server: Redis, *command: str) -> str:
    client = program("redis").with_name("redis-cli")
    return subprocess.run(
        [client, "-p", str(server.port), *command], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_shared_postgres_and_redis_answer(postgres: Postgres, redis_server: Redis) -> None:
    with psycopg.connect(postgres.url.replace("+psycopg", "")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert redis_server.url.startswith("redis://")


def test_prometheus_scrapes_what_its_file_says_and_reads_it_again(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text("scrape_configs: []\n")
    with Prometheus(tmp_path / "data", config) as server:
        target = server.url.removeprefix("http://")
        config.write_text(f"scrape_configs: [{{job_name: self, static_configs: [{{targets: ['{target}']}}]}}]\n")
        server.reload()
        await_target(server, "self")


def await_target(server: Prometheus, job: str) -> None:
    """The scraper takes up a new configuration within some seconds."""
    deadline = time.monotonic() + 60
    while job not in httpx.get(f"{server.url}/api/v1/targets", timeout=10).text:
        assert time.monotonic() < deadline, f"{job} is not scraped"
        time.sleep(0.1)


ORPHANS = """
import sys, time
from pathlib import Path
from devstack.kafka import KafkaCluster
from devstack.postgres import Postgres
from devstack.redis import Redis
home = Path(sys.argv[1])
parts = [KafkaCluster(home / "kafka"), Postgres(home / "postgres"), Redis(home / "redis")]
for part in parts:
    part.start()
print("up", flush=True)
time.sleep(600)
"""


def test_no_service_outlives_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == "up\n"
        family = psutil.Process(parent.pid).children(recursive=True)
        assert {"java", "postgres", "redis-server"} <= {process.name() for process in family}
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []


def test_installing_again_is_quick_and_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    install(["postgres", "redis"])
    assert str(program("redis")) in capsys.readouterr().out


def test_what_is_missing_and_cannot_be_had_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TIDEWATCH_CACHE", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(InstallError, match="openjdk"):
        java()
    with pytest.raises(InstallError, match="apt-get install maven"):
        kafka_jars()
    with pytest.raises(InstallError, match="apt-get install -y --no-install-recommends redis-server"):
        program("redis")
    with pytest.raises(UsageError, match="choose among postgres, prometheus, redis"):
        install(["oracle"])
