"""Children are watched, stopped as a group, and never outlive their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from devstack.process import Child, ProcessError

# Starts a child and a grandchild, says when, and ignores SIGTERM if it is told to.
FAMILY = """
import signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(f"ready {grandchild.pid}", flush=True)
time.sleep(600)
"""


def python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def says(child: Child, word: str) -> Callable[[], bool]:
    return lambda: word in child.tail()


def gone(pid: int) -> bool:
    """Whether the process is dead; one that nobody has waited for yet is."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def await_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while not gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
def test_stop_ends_the_whole_group(tmp_path: Path, manner: str) -> None:
    child = Child("family", python(FAMILY, manner), log=tmp_path / "log", grace=0.3).start()
    child.wait_ready(says(child, "ready"), timeout=20)
    grandchild = int(child.tail().split()[1])

    child.stop()

    assert not child.running
    assert child.returncode == (-signal.SIGTERM if manner == "polite" else -signal.SIGKILL)
    await_gone(grandchild)


def test_a_death_before_it_is_ready_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    child = Child("doomed", python("import sys; print('no such disk'); sys.exit(3)"), log=tmp_path / "log").start()
    with pytest.raises(ProcessError, match=r"doomed ended with status 3 .*\n.*no such disk"):
        child.wait_ready(lambda: False, timeout=20)


def test_silence_is_an_error_too(tmp_path: Path) -> None:
    with (
        Child("mute", python("import time; time.sleep(60)"), log=tmp_path / "log") as child,
        pytest.raises(ProcessError, match=r"not ready after 0.1 s"),
    ):
        child.wait_ready(lambda: False, timeout=0.1)


def test_a_program_that_is_not_there_says_so(tmp_path: Path) -> None:
    child = Child("nothing", ["/no/such/program"], log=tmp_path / "log").start()
    with pytest.raises(ProcessError, match="/no/such/program: No such file"):
        child.wait_ready(lambda: False, timeout=20)


def test_a_paused_child_stops_and_a_stopped_child_starts_again(tmp_path: Path) -> None:
    child = Child("family", python(FAMILY), log=tmp_path / "log").start()
    child.wait_ready(says(child, "ready"), timeout=20)
    first = child.pid
    assert first is not None
    child.pause()
    while psutil.Process(first).status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    child.stop()
    assert child.returncode == -signal.SIGTERM

    child.start()
    assert child.running
    assert child.pid != first
    child.kill()
    assert child.returncode == -signal.SIGKILL


def test_a_child_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = Child("family", python(FAMILY), log=tmp_path / "log")
    starter = threading.Thread(target=lambda: child.start().wait_ready(says(child, "ready"), timeout=20))
    starter.start()
    starter.join()
    time.sleep(0.2)
    assert child.running
    child.stop()


PARENT = """
import sys, time
from pathlib import Path
from devstack.process import Child
child = Child("orphan", [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"],
              log=Path(sys.argv[1]))
child.start().wait_ready(lambda: "up" in child.tail())
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_parent_however_it_dies(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        python(PARENT, str(tmp_path / "log")), stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert parent.stdout is not None
    with parent.stdout:
        orphan = int(parent.stdout.readline())
        assert not gone(orphan)
        os.kill(parent.pid, number)
        parent.wait()
    await_gone(orphan)
