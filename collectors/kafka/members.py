"""Groups as their coordinators describe them: classic ones, and those of KIP-848."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from struct import error as StructError  # noqa: N812 — the standard library's lower-case class
from typing import Any

from kafka.protocol.admin import DescribeGroupsRequest
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment, ConsumerProtocolSubscription

from collectors.kafka.offsets import Listed
from collectors.kafka.schemas import ConsumerGroupDescribeRequest
from collectors.kafka.state import Described, Member
from collectors.kafka.wire import Ask, Failure, Wire, reason

KIP_848 = "consumer"
# Share and streams groups have protocols of their own to describe them.
DESCRIBABLE = frozenset({"classic", KIP_848})
_AT_ONCE = 50


def describe(wire: Wire, groups: Iterable[Listed]) -> tuple[dict[str, Described], dict[str, str]]:
    """The groups that could be described, and why the others could not."""
    buckets: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for group in groups:
        if group.kind in DESCRIBABLE:
            buckets[group.coordinator, group.kind == KIP_848].append(group.name)
    asked = [
        (node, new, names[start : start + _AT_ONCE])
        for (node, new), names in buckets.items()
        for start in range(0, len(names), _AT_ONCE)
    ]
    answers = wire.ask([Ask(node, _request(names, new=new)) for node, new, names in asked])
    described: dict[str, Described] = {}
    failed: dict[str, str] = {}
    for (_, new, names), answer in zip(asked, answers, strict=True):
        if isinstance(answer, Failure):
            failed.update(dict.fromkeys(names, f"its coordinator {answer.why}"))
            continue
        for group in answer.groups:
            if group.error_code:
                failed[group.group_id] = reason(group.error_code)
            else:
                described[group.group_id] = _kip_848(group) if new else _classic(group)
    return described, failed


def _request(names: list[str], *, new: bool) -> Any:
    if new:
        return ConsumerGroupDescribeRequest(group_ids=names, include_authorized_operations=False)
    return DescribeGroupsRequest(groups=names)


def _kip_848(group: Any) -> Described:
    members = (
        Member(
            member.member_id,
            member.instance_id or None,
            member.client_id,
            member.client_host,
            frozenset((held.topic_name, p) for held in member.assignment.topic_partitions for p in held.partitions),
        )
        for member in group.members
    )
    return Described(group.group_id, group.group_state, KIP_848, group.group_epoch, tuple(members))


def _classic(group: Any) -> Described:
    members = (
        Member(m.member_id, m.group_instance_id or None, m.client_id, m.client_host, frozenset(_assignment(m)))
        for m in group.members
    )
    # Members tell the generation they had when they joined the present one, if they had one and their client says so.
    told = max((_generation(m) for m in group.members), default=-1)
    return Described(group.group_id, group.group_state, "classic", told + 1 if told >= 0 else None, tuple(members))


def _assignment(member: Any) -> Iterator[tuple[str, int]]:
    """Nothing for a protocol that is not the consumers', such as Kafka Connect's."""
    if not member.member_assignment:
        return
    try:
        decoded = ConsumerProtocolAssignment.decode(bytes(member.member_assignment))
    except (StructError, ValueError, IndexError, UnicodeDecodeError):
        return
    for held in decoded.assigned_partitions:
        yield from ((held.topic, number) for number in held.partitions)


def _generation(member: Any) -> int:
    if not member.member_metadata:
        return -1
    try:
        return int(ConsumerProtocolSubscription.decode(bytes(member.member_metadata)).generation_id)
    except (StructError, ValueError, IndexError, UnicodeDecodeError):
        return -1
