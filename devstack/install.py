"""Fetches what the local stack runs: `python -m devstack.install [--with prometheus,postgres,redis]`.

Kafka comes by Maven into a cache ($TIDEWATCH_CACHE, else ~/.cache/tidewatch), the others from Debian, and only as
root. Nothing is started. Everything is quick when it is already there.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tidewatch.errors import TidewatchError, UsageError

KAFKA_VERSION = "4.3.0"
SLF4J_VERSION = "1.7.36"
JAVA_FIX = "install a Java runtime, 17 or newer (Debian: apt-get install openjdk-17-jre-headless), or set JAVA_HOME"
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>tidewatch</groupId><artifactId>kafka</artifactId><version>{kafka}</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version>
    </dependency>
    <dependency><!-- without a binding the broker logs nothing; this is the one that starts fastest -->
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{slf4j}</version>
    </dependency>
  </dependencies>
</project>
"""


class InstallError(TidewatchError):
    """Something that the stack needs is not on this machine and could not be fetched."""


@dataclass(frozen=True)
class Package:
    """A Debian package and the program in it that we start."""

    debian: str
    program: str
    also_in: str = ""  # a glob of directories that are not on the PATH

    def find(self) -> Path | None:
        found = shutil.which(self.program)
        if found is not None:
            return Path(found)
        candidates = sorted(Path("/").glob(f"{self.also_in}/{self.program}")) if self.also_in else []
        return candidates[-1] if candidates else None


PACKAGES: Mapping[str, Package] = {
    "postgres": Package("postgresql", "initdb", "usr/lib/postgresql/*/bin"),
    "prometheus": Package("prometheus", "prometheus"),
    "redis": Package("redis-server", "redis-server"),
}


def cache_directory() -> Path:
    configured = os.environ.get("TIDEWATCH_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "tidewatch"


def java() -> str:
    """The Java program; an error that says how to get it when there is none."""
    home = os.environ.get("JAVA_HOME")
    candidate = Path(home) / "bin" / "java" if home else None
    found = str(candidate) if candidate is not None and candidate.is_file() else shutil.which("java")
    if found is None:
        raise InstallError("Java was not found", fix=JAVA_FIX)
    return found


def kafka_jars(version: str = KAFKA_VERSION) -> Path:
    """The directory with Kafka's jars, fetched by Maven on first use."""
    target = cache_directory() / f"kafka-{version}"
    if target.is_dir():
        return target
    with _lock(target.with_suffix(".lock")):
        if not target.is_dir():  # another process may have been first
            _fetch_kafka(version, target)
    return target


def program(name: str) -> Path:
    """The path of a program of PACKAGES, installed from Debian on first use where we are root."""
    package = PACKAGES[name]
    found = package.find()
    if found is not None:
        return found
    with _lock(cache_directory() / "apt.lock"):
        found = package.find()
        if found is None:
            _install(package)
            found = package.find()
    if found is None:
        raise InstallError(
            f"{package.debian} was installed and has no {package.program}", fix=f"put {package.program} on the PATH"
        )
    return found


def _fetch_kafka(version: str, target: Path) -> None:
    if shutil.which("mvn") is None:
        raise InstallError(
            "Maven was not found, and it fetches Kafka",
            fix="install it (Debian: apt-get install maven), or copy a machine's Kafka jars to " + str(target),
        )
    work = Path(tempfile.mkdtemp(prefix=".kafka-", dir=target.parent))
    try:
        (work / "pom.xml").write_text(POM.format(kafka=version, slf4j=SLF4J_VERSION))
        jars = work / "target" / "dependency"
        _run(
            f"mvn -B -q -ntp -f {work}/pom.xml dependency:copy-dependencies -DincludeScope=runtime".split(),
            fix="check that this machine reaches Maven Central (or its mirror in ~/.m2/settings.xml), then try again",
        )
        jars.rename(target)  # complete or not there at all
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(package: Package) -> None:
    by_hand = f"apt-get install -y --no-install-recommends {package.debian}"
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise InstallError(
            f"{package.program} was not found, and only root on Debian can have it installed here",
            fix=f"run `{by_hand}` as root, or put {package.program} on the PATH",
        )
    fix = f"run `{by_hand}` by hand and read what it says"
    environment = {"DEBIAN_FRONTEND": "noninteractive"}
    with _services_stay_down():
        _run(["apt-get", "update", "-qq"], fix=fix, environment=environment)
        _run(by_hand.split(), fix=fix, environment=environment)


@contextmanager
def _services_stay_down(policy: Path = Path("/usr/sbin/policy-rc.d")) -> Iterator[None]:
    """Debian's packages start their services; this is its own way of asking them not to."""
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; released by the kernel when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _run(argv: list[str], *, fix: str, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise InstallError(f"`{' '.join(argv[:2])}` failed with status {done.returncode}:\n{said}\n", fix=fix)


def install(extras: Sequence[str]) -> None:
    """Fetch Kafka and the named packages, telling what is going on."""
    unknown = sorted(set(extras) - set(PACKAGES))
    if unknown:
        raise UsageError(f"unknown: {', '.join(unknown)}", fix=f"choose among {', '.join(PACKAGES)}")
    print(f"java        {java()}", flush=True)
    print(f"kafka       {KAFKA_VERSION} …", flush=True)
    print(f"kafka       {kafka_jars()}", flush=True)
    for name in extras:
        print(f"{name:<11} …", flush=True)
        print(f"{name:<11} {program(name)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m devstack.install", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--with", dest="extras", default="", metavar="NAMES", help=", ".join(PACKAGES))
    extras = [name for name in parser.parse_args().extras.split(",") if name]
    try:
        install(extras)
    except TidewatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
