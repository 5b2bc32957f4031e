"""A real PostgreSQL as a child process, its data in `directory` across restarts."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Self

import psycopg

from devstack.install import InstallError, program
from devstack.ports import LOOPBACK, free_port
from devstack.process import Child, ProcessError

ACCOUNT = "postgres"  # made by Debian's package
START_SECONDS = 60.0


class Postgres:
    """Trusts connections from the loopback interface; the server refuses to run as root, so then it runs as ACCOUNT."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self.port = port or free_port()
        self.initdb = program("postgres").resolve()
        options = {"listen_addresses": LOOPBACK, "port": self.port, "unix_socket_directories": "", "timezone": "UTC"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        server = [str(self.initdb.with_name("postgres")), "-D", str(self.data), *settings]
        self.child = Child("postgres", _unprivileged(server), log=self.directory / "postgres.log")

    @property
    def url(self) -> str:
        """For SQLAlchemy; `/postgres` is the maintenance database, in which others can be created."""
        return f"postgresql+psycopg://{ACCOUNT}@{LOOPBACK}:{self.port}/postgres"

    def start(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").exists():
            self._initdb()
        self.child.start().wait_ready(self._answers, START_SECONDS)
        return self

    def stop(self) -> None:
        """Its fast shutdown: open sessions are ended, what they committed is kept."""
        self.child.signal(signal.SIGINT)
        self.child.wait(self.child.grace)
        self.child.stop()

    def kill(self) -> None:
        self.child.kill()

    def _initdb(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.data, ACCOUNT, pwd.getpwnam(ACCOUNT).pw_gid)
        command = [
            str(self.initdb),
            "-D",
            str(self.data),
            "-U",
            ACCOUNT,
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
        ]
        done = subprocess.run(
            _unprivileged([*command, "--locale=C.UTF-8"]), capture_output=True, text=True, check=False, cwd="/"
        )
        if done.returncode != 0:
            raise ProcessError(
                f"initdb failed:\n{done.stdout}{done.stderr}", where=str(self.data), fix="look at the message above"
            )

    def _answers(self) -> bool:
        try:
            psycopg.connect(host=LOOPBACK, port=self.port, user=ACCOUNT, dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _unprivileged(command: list[str]) -> list[str]:
    """The command under another account when we are root.

    It keeps the one capability that lets it reach a data directory inside directories of ours, and, as changing the
    account clears it, the signal that it gets when we die.
    """
    if os.geteuid() != 0:
        return command
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise InstallError("setpriv was not found, and PostgreSQL refuses to run as root", fix="install util-linux")
    account = [f"--reuid={ACCOUNT}", f"--regid={pwd.getpwnam(ACCOUNT).pw_gid}", "--clear-groups"]
    reach = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [setpriv, *account, *reach, "--pdeathsig=KILL", "--", *command]
