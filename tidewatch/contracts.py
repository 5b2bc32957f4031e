"""What one service reads at run time and another part of the system keeps: contracts between packages that never meet."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol

_LIMIT = re.compile(r"(events|requests)=(\d{1,12})/(\d{1,6})?(s|m|h)")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `count` events or requests in any `seconds` on end."""

    of: Literal["events", "requests"]
    count: int
    seconds: int

    def __str__(self) -> str:
        unit = next(unit for unit in ("h", "m", "s") if self.seconds % _UNIT_SECONDS[unit] == 0)
        return f"{self.of}={self.count}/{self.seconds // _UNIT_SECONDS[unit]}{unit}"


def parse_limit(text: str) -> Limit:
    """`events=60000/1m`, `requests=100/s`. Raises ValueError, showing the form, for anything else."""
    match = _LIMIT.fullmatch(text.strip())
    seconds = int(match[3] or 1) * _UNIT_SECONDS[match[4]] if match else 0
    if match is None or not seconds or not int(match[2]):
        raise ValueError(f"{text!r} is no limit; write events=60000/1m or requests=100/s")
    return Limit("events" if match[1] == "events" else "requests", int(match[2]), seconds)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key allows. `key_id` names it in logs; the key itself is never kept."""

    key_id: str
    project: str
    pipelines: frozenset[str] | None = None
    """None: every pipeline."""
    limits: tuple[Limit, ...] = ()
    """Of the project: its keys share them."""

    def allows(self, pipeline: str) -> bool:
        return self.pipelines is None or pipeline in self.pipelines


class ApiKeys(Protocol):
    def find(self, key: str) -> ApiKey | None:
        """What `key` allows, None when it is unknown or revoked. Answers from memory: it is called for each request."""
        ...
