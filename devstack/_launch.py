"""Becomes another program that dies with its parent: `python -ISs _launch.py PARENT_PID PROGRAM ARGS…`.

A process of its own rather than `preexec_fn`, which runs Python between fork and exec and may deadlock in a program
that has threads. PR_SET_PDEATHSIG survives exec (except into a setuid program); the parent that died before it was
set is noticed by its pid.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0):
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("the parent died before its child started")
    try:
        os.execvp(program[0], program)  # noqa: S606
    except OSError as error:
        sys.exit(f"{program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
