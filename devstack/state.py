"""Where a running stack can be found: `.tidewatch/dev/stack.json`, and a lock that is held as long as it runs."""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tidewatch.errors import Refused, UsageError

DIRECTORY = Path(".tidewatch/dev")
STATE, LOCK = "stack.json", "stack.lock"
# Whoever names one of these has a system in mind; pieces of the local stack must not be mixed into it.
_PLACES = ("TIDEWATCH_KAFKA__", "TIDEWATCH_CLICKHOUSE__", "TIDEWATCH_STORE__")

_writing = threading.Lock()


class ServiceState(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    state: str
    pid: int | None
    restarts: int
    since: datetime | None
    address: str
    health: str
    """Where it says whether it is ready; see devstack.health."""
    log: Path


class StackState(BaseModel):
    """What the stack's own process writes and every other command reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    pid: int
    ready: bool
    urls: Mapping[str, str]
    """gateway, clickhouse, prometheus, …, and kafka's bootstrap servers."""
    environment: Mapping[str, str]
    """The settings that find this stack."""
    project: str
    api_key_file: Path
    """A key for the gateway, readable by its owner alone."""
    services: tuple[ServiceState, ...]


def merged_log(directory: Path) -> Path:
    return directory / "logs" / "all.log"


def api_key_file(directory: Path) -> Path:
    return directory / "api-key"


def write(directory: Path, state: StackState) -> None:
    """Replaced as a whole, so that a reader never sees half of it."""
    with _writing:
        new = directory / f".{STATE}"
        new.touch(mode=0o600)
        new.write_text(state.model_dump_json(indent=2))
        new.replace(directory / STATE)


def read(directory: Path) -> StackState | None:
    """The state of the stack that runs now; None when none does."""
    if not is_running(directory):
        return None
    try:
        return StackState.model_validate_json((directory / STATE).read_text())
    except (OSError, ValidationError):
        return None  # it is only just starting


def running(directory: Path) -> StackState:
    """The state of the stack that runs now, or an error that says how to start one."""
    found = read(directory)
    if found is None:
        raise UsageError("no local stack runs here", where=str(directory), fix="start one with `tidewatch dev up`")
    return found


def is_running(directory: Path) -> bool:
    """Whether a process holds the lock; the kernel lets go of it when that process dies, however it dies."""
    try:
        with (directory / LOCK).open("r+") as handle:
            return not _take(handle, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Be the one stack of this directory."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a+") as handle:
        if not _take_patiently(handle):
            raise Refused(
                "a local stack runs here already",
                where=str(directory),
                fix="`tidewatch dev status` shows it, `tidewatch dev down` stops it; --directory starts a second one",
            )
        (directory / STATE).unlink(missing_ok=True)
        yield
        (directory / STATE).unlink(missing_ok=True)


def local_environment(environ: Mapping[str, str], directory: Path = DIRECTORY) -> dict[str, str]:
    """The settings of the stack that runs in this directory; empty when none does or when `environ` names places."""
    if any(name.startswith(_PLACES) for name in environ):
        return {}
    found = read(directory)
    return {} if found is None else {name: value for name, value in found.environment.items() if name not in environ}


def _take(handle: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _take_patiently(handle: IO[Any]) -> bool:
    """Somebody who only looks whether it is held holds it for a moment."""
    for _ in range(10):
        if _take(handle, fcntl.LOCK_EX):
            return True
        time.sleep(0.05)
    return False
