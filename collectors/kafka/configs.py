"""The few topic configurations that measurements need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, NamedTuple

from kafka.protocol.admin import DescribeConfigsRequest

from collectors.kafka.wire import Failure, Wire, reason

_TOPIC = 2
_KEYS = ["retention.ms", "cleanup.policy", "min.insync.replicas"]
_AT_ONCE = 500


class TopicConfig(NamedTuple):
    retention: float
    """Seconds; infinite when nothing is deleted by time."""
    min_in_sync: int


def read_configs(wire: Wire, topics: Iterable[str]) -> tuple[dict[str, TopicConfig], dict[str, str]]:
    """By topic, and why the others are not known."""
    names = list(topics)
    chunks = [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
    configs: dict[str, TopicConfig] = {}
    failed: dict[str, str] = {}
    for chunk in chunks:
        answer = wire.ask_any(_request(chunk))
        if isinstance(answer, Failure):
            failed.update(dict.fromkeys(chunk, f"the broker asked {answer.why}"))
            continue
        for result in answer.results:
            if result.error_code:
                failed[result.resource_name] = reason(result.error_code)
            else:
                configs[result.resource_name] = _config({entry.name: entry.value for entry in result.configs})
    return configs, failed


def _request(topics: Sequence[str]) -> Any:
    resource = DescribeConfigsRequest.DescribeConfigsResource
    wanted = [resource(resource_type=_TOPIC, resource_name=name, configuration_keys=_KEYS) for name in topics]
    return DescribeConfigsRequest(resources=wanted, include_synonyms=False)


def _config(values: dict[str, str]) -> TopicConfig:
    milliseconds = int(values.get("retention.ms") or -1)
    deletes = "delete" in (values.get("cleanup.policy") or "delete")
    retention = milliseconds / 1000 if deletes and milliseconds >= 0 else inf
    return TopicConfig(retention, int(values.get("min.insync.replicas") or 1))
