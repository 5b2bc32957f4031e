"""A child process that is watched while it starts, stopped as a group, and never outlives its parent."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from tidewatch.errors import TidewatchError

LAUNCHER = Path(__file__).with_name("_launch.py")
TAIL_LINES = 25
TAIL_BYTES = 64 * 1024
POLL_SECONDS = 0.02

Probe = Callable[[], bool]


class ProcessError(TidewatchError):
    """A part of the stack did not start, or died."""


class Child:
    """One program in its own session, its output appended to `log`.

    It is killed by the kernel when this process dies, by SIGKILL too; the processes that it starts in turn are only
    reached by `stop` and `kill`, unless they look after themselves. `start` may be called again after it ended.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace: float = 10.0,
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.log = log
        self.env = dict(env or {})
        self.cwd = cwd
        self.grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._group_gone = True

    @property
    def pid(self) -> int | None:
        """The process id while it runs (also while it is paused), else None."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs and before its first start; negative: the signal that ended it."""
        return self._process.poll() if self._process is not None else None

    def start(self) -> Self:
        """Start it; no effect while it runs."""
        if not self.running:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._process = _spawner().run(self._spawn)
            self._group_gone = False
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        launcher = [sys.executable, "-ISs", str(LAUNCHER), str(os.getpid())]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [*launcher, *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                start_new_session=True,
            )

    def wait_ready(self, probe: Probe, timeout: float = 60.0) -> Self:
        """Return when `probe` answers True; a process that dies first, or stays silent, is an error with its log."""
        deadline = time.monotonic() + timeout
        while not _answers(probe):
            if not self.running:
                raise self._failed(f"{self.name} ended with {self.outcome} before it was ready")
            if time.monotonic() > deadline:
                raise self._failed(f"{self.name} was not ready after {timeout:g} s")
            time.sleep(POLL_SECONDS)
        return self

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status once it ended, None when it still runs after `timeout`."""
        if self._process is None:
            return None
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout)
        return None

    def stop(self, grace: float | None = None) -> None:
        """SIGTERM, then SIGKILL when the grace is over; whatever remains of its group is killed too."""
        if self.running:
            self.signal(signal.SIGCONT)  # a paused process would not see the request to end
            self.signal(signal.SIGTERM)
            self.wait(self.grace if grace is None else grace)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, and wait until it is gone."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait()
            self._group_gone = True

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """To the whole group; no effect when nothing is left of it (its number may belong to somebody else then)."""
        if self._process is not None and not self._group_gone:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def tail(self, lines: int = TAIL_LINES) -> str:
        """The last lines that it wrote."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    @property
    def outcome(self) -> str:
        """How it ended, in words: a signal or a status."""
        code = self.returncode
        if code is not None and code < 0:
            return signal.Signals(-code).name
        return f"status {code}"

    def _failed(self, what: str) -> ProcessError:
        said = self.tail() or "(it wrote nothing)"
        return ProcessError(f"{what}; it said:\n{said}\n", where=str(self.log), fix=f"see the log above: {self.log}")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _answers(probe: Probe) -> bool:
    try:
        return probe()
    except (OSError, TidewatchError):
        return False


class _Spawner:
    """Starts every child from one thread that lives as long as the process.

    The kernel's "parent died" signal fires when the *thread* that forked ends, so a child started by a worker thread
    would be killed as soon as that worker returned.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], subprocess.Popen[bytes]], Future[subprocess.Popen[bytes]]]]
        self._work = queue.SimpleQueue()
        threading.Thread(target=self._loop, name="devstack-spawner", daemon=True).start()

    def run(self, spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
        result: Future[subprocess.Popen[bytes]] = Future()
        self._work.put((spawn, result))
        return result.result()

    def _loop(self) -> None:
        while True:
            spawn, result = self._work.get()
            try:
                result.set_result(spawn())
            except BaseException as error:
                result.set_exception(error)


@cache
def _spawner() -> _Spawner:
    return _Spawner()


os.register_at_fork(after_in_child=_spawner.cache_clear)
