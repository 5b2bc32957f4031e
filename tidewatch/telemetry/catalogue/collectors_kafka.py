"""Kafka as seen from outside: consumer groups, brokers, topics, and the way of a record through them."""

from __future__ import annotations

from typing import Literal

from tidewatch.telemetry.metrics import Metric

_GROUP = ("group",)
_GROUP_TOPIC = ("group", "topic")


def _kafka_exporter(name: str, labels: tuple[str, ...], text: str) -> Metric:
    kind: Literal["gauge"] = "gauge"
    return Metric(name, kind, text, labels, compatible_with="kafka_exporter")


# Consumer lag, of a group on a topic. By partition: kafka_consumergroup_lag below.
LAG = Metric(
    "tidewatch_consumer_lag_messages",
    "gauge",
    "Records between the group's commits and the ends of its partitions, transaction markers left out.",
    _GROUP_TOPIC,
)
LAG_SECONDS = Metric(
    "tidewatch_consumer_lag_seconds",
    "gauge",
    "Age, by the broker's clock, of the oldest record that the group has not committed; 0 when there is none.",
    _GROUP_TOPIC,
)
LAST_COMMIT_AGE = Metric(
    "tidewatch_consumer_last_commit_age_seconds",
    "gauge",
    "Since a commit was last seen to move; as long as it was watched when it never moved.",
    _GROUP_TOPIC,
)
PARTITIONS = Metric(
    "tidewatch_consumer_partitions",
    "gauge",
    "Partitions of the topic by the group's status on them: ok, never, unknown, unmeasured, warn, ahead, rewind, stall, stop.",
    ("group", "topic", "status"),
)
STATUS = Metric(
    "tidewatch_consumer_group_status",
    "gauge",
    "Severity of the worst partition: 0 ok, 1 never, 2 unknown, 3 unmeasured, 4 warn, 5 ahead, 6 rewind, 7 stall, 8 stop.",
    ("group", "status"),
)
STUCK = Metric(
    "tidewatch_consumer_stuck_partition_seconds",
    "gauge",
    "For how long records have been waiting on this partition without a commit; only where that is too long.",
    ("group", "topic", "partition", "offset"),
)
CONSUMED = Metric(
    "tidewatch_consumer_rate_messages_per_second", "gauge", "Offsets committed a second, over minutes.", _GROUP_TOPIC
)
DRAIN = Metric(
    "tidewatch_consumer_drain_seconds",
    "gauge",
    "Until the lag is gone at the present rates; +Inf: never.",
    _GROUP_TOPIC,
)
MEMBERS_NEEDED = Metric(
    "tidewatch_consumer_members_needed",
    "gauge",
    "Members that would drain the lag at what each consumes now; absent when nothing is consumed.",
    _GROUP_TOPIC,
)
LOSS = Metric(
    "tidewatch_consumer_data_loss_seconds",
    "gauge",
    "Until retention may delete a record that the group has not committed; +Inf: retention is not by time.",
    _GROUP_TOPIC,
)
LOST = Metric(
    "tidewatch_consumer_lost_messages",
    "gauge",
    "Offsets that the group has not committed and that the topic holds no more.",
    _GROUP_TOPIC,
)
CAUSE = Metric(
    "tidewatch_consumer_lag_cause",
    "gauge",
    "Always 1: the likely cause of the group's lag, and what to look at.",
    ("group", "cause", "detail"),
)

# Groups and their members.
GROUP = Metric(
    "tidewatch_consumer_group_info",
    "gauge",
    "Always 1: protocol (classic, consumer, share, streams), state and coordinator.",
    ("group", "protocol", "state", "coordinator"),
)
MEMBERS = Metric("tidewatch_consumer_members", "gauge", "Members of the group.", _GROUP)
ASSIGNED = Metric(
    "tidewatch_consumer_assigned_partitions", "gauge", "Partitions that the group's members hold.", _GROUP_TOPIC
)
GENERATION = Metric(
    "tidewatch_consumer_generation",
    "gauge",
    "The group's epoch (KIP-848), or the generation its members tell; absent when they do not.",
    _GROUP,
)
REBALANCES = Metric(
    "tidewatch_consumer_rebalances_total",
    "counter",
    "Rebalances seen: by the generation where it is known, else one at most for each look.",
    _GROUP,
)
STORM = Metric("tidewatch_consumer_rebalance_storm", "gauge", "1 while the group rebalances again and again.", _GROUP)

# Brokers and topics.
BROKER_UP = Metric("tidewatch_kafka_broker_up", "gauge", "1 when the broker is in the cluster.", ("broker",))
BROKER_ANSWER = Metric(
    "tidewatch_kafka_broker_answer_seconds", "gauge", "How long the broker took to answer.", ("broker",)
)
CONTROLLER = Metric(
    "tidewatch_kafka_controller", "gauge", "1 for the broker that leads the metadata quorum.", ("broker",)
)
CONTROLLER_EPOCH = Metric("tidewatch_kafka_controller_epoch", "gauge", "Grows with each election of a controller.")
QUORUM_LAG = Metric(
    "tidewatch_kafka_quorum_lag_records",
    "gauge",
    "How far a voter or observer is behind the metadata log.",
    ("broker", "role"),
)
UNDER_REPLICATED = Metric(
    "tidewatch_kafka_under_replicated_partitions", "gauge", "Partitions with a replica out of sync.", ("topic",)
)
UNDER_MIN_ISR = Metric(
    "tidewatch_kafka_under_min_isr_partitions",
    "gauge",
    "Partitions with fewer replicas in sync than min.insync.replicas: acks=all is refused.",
    ("topic",),
)
AT_MIN_ISR = Metric(
    "tidewatch_kafka_at_min_isr_partitions",
    "gauge",
    "Replicated partitions that one more broker lost would make refuse acks=all.",
    ("topic",),
)
OFFLINE = Metric("tidewatch_kafka_offline_partitions", "gauge", "Partitions without a leader.", ("topic",))
LOG_DIR_BYTES = Metric(
    "tidewatch_kafka_log_dir_bytes", "gauge", "Bytes of all replicas in the directory.", ("broker", "directory")
)
LOG_DIR_FREE = Metric(
    "tidewatch_kafka_log_dir_free_bytes", "gauge", "Bytes free on its volume.", ("broker", "directory")
)
LOG_DIR_SIZE = Metric("tidewatch_kafka_log_dir_size_bytes", "gauge", "Size of its volume.", ("broker", "directory"))
TOPIC_BYTES = Metric("tidewatch_kafka_topic_bytes", "gauge", "Bytes of the topic, all replicas together.", ("topic",))
RETENTION = Metric(
    "tidewatch_kafka_topic_retention_seconds", "gauge", "retention.ms of the topic; +Inf: for ever.", ("topic",)
)
RETAINED = Metric(
    "tidewatch_kafka_topic_messages", "gauge", "Offsets between the beginning and the end of the topic.", ("topic",)
)
PRODUCED = Metric(
    "tidewatch_kafka_topic_rate_messages_per_second", "gauge", "Records appended a second, over minutes.", ("topic",)
)
HOTTEST = Metric(
    "tidewatch_kafka_topic_hottest_partition_share",
    "gauge",
    "Share of the topic's records that goes to its busiest partition.",
    ("topic",),
)

# The probe.
PROBE_ACK = Metric(
    "tidewatch_kafka_probe_acknowledged_seconds",
    "gauge",
    "From sending a probe record to its acknowledgement.",
    ("broker",),
)
PROBE_ROUND_TRIP = Metric(
    "tidewatch_kafka_probe_round_trip_seconds", "gauge", "From sending a probe record to reading it back.", ("broker",)
)
CLOCK_SKEW = Metric(
    "tidewatch_kafka_clock_skew_seconds",
    "gauge",
    "The broker's clock less ours, as the append time of a probe record tells.",
    ("broker",),
)
CLOCK_SKEW_ERROR = Metric(
    "tidewatch_kafka_clock_skew_error_seconds", "gauge", "By how much that may be wrong, either way.", ("broker",)
)

# Names of others. Values are ours: hidden markers are no lag, what is unknown is absent.
KE_BROKERS = _kafka_exporter("kafka_brokers", (), "Number of brokers in the cluster.")
KE_PARTITIONS = _kafka_exporter("kafka_topic_partitions", ("topic",), "Number of partitions of the topic.")
KE_CURRENT = _kafka_exporter("kafka_topic_partition_current_offset", ("topic", "partition"), "End offset.")
KE_OLDEST = _kafka_exporter("kafka_topic_partition_oldest_offset", ("topic", "partition"), "First offset.")
KE_IN_SYNC = _kafka_exporter("kafka_topic_partition_in_sync_replica", ("topic", "partition"), "Replicas in sync.")
KE_UNDER = _kafka_exporter(
    "kafka_topic_partition_under_replicated_partition", ("topic", "partition"), "1 when a replica is out of sync."
)
KE_LAG = _kafka_exporter(
    "kafka_consumergroup_lag", ("consumergroup", "topic", "partition"), "Records that the group has not committed."
)
KE_COMMIT = _kafka_exporter(
    "kafka_consumergroup_current_offset", ("consumergroup", "topic", "partition"), "Committed offset."
)
KE_LAG_SUM = _kafka_exporter("kafka_consumergroup_lag_sum", ("consumergroup", "topic"), "Sum over the partitions.")
KE_MEMBERS = _kafka_exporter("kafka_consumergroup_members", ("consumergroup",), "Members of the group.")
KE_LAG_SECONDS = Metric(
    "kafka_consumergroup_group_lag_seconds",
    "gauge",
    "Age of the oldest record that the group has not committed; only where there is one.",
    ("cluster_name", "group", "topic", "partition"),
    compatible_with="kafka-lag-exporter",
)
