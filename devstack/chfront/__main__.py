"""`python -m devstack.chfront`: start the development ClickHouse on one data directory and serve until SIGTERM."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from devstack.chfront.auth import Password
from devstack.chfront.engine import Engine
from devstack.chfront.errors import FrontError
from devstack.chfront.server import Server
from devstack.chfront.service import Service
from tidewatch.errors import TidewatchError

PASSWORD = "TIDEWATCH_CLICKHOUSE_PASSWORD"  # noqa: S105  # the variable's name
GRACE_SECONDS = 6.0
CLOSE_SECONDS = 3.0
ENDS = frozenset({signal.SIGTERM, signal.SIGINT})
NOTICE = "for development and tests only: use a ClickHouse server in production"
log = logging.getLogger("devstack.chfront")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m devstack.chfront",
        description=f"The real ClickHouse engine (chDB) behind ClickHouse's HTTP interface; {NOTICE}.",
        epilog=f"The password of the user `default` is read from the environment: {PASSWORD} (unset: none is asked).",
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="data directory, created if missing; one process owns it"
    )
    parser.add_argument("--port", type=int, default=8123, help="port to listen on (0: any free one; default: 8123)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--connections", type=int, default=4, help="statements that run at once (default: 4)")
    parser.add_argument("--max-memory", type=int, default=4 << 30, help="bytes the engine may use (default: 4 GiB)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _arguments(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        return _serve(arguments)
    except TidewatchError as error:
        log.error("%s", error)  # noqa: TRY400  # what, where and fix; a traceback would add nothing
        return error.exit_code


def _serve(arguments: argparse.Namespace) -> int:
    # Blocked in every thread from here on and fetched by sigwait: no handler runs in the middle of anything.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    engine = _open(arguments)
    service = Service(engine, Password(os.environ.get(PASSWORD, "")))
    server = _listen(service, arguments.host, arguments.port)
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    where = f"http://{arguments.host}:{server.port}"
    log.info("ClickHouse %s (chDB) on %s, data in %s; %s", engine.version, where, arguments.data, NOTICE)
    log.info("stopping: %s", signal.Signals(signal.sigwait(ENDS)).name)
    whole = server.stop(GRACE_SECONDS)
    if whole:
        _close(service, engine)
    log.info("stopped%s", "" if whole else "; statements were still running")
    os._exit(0 if whole else 1)  # threads that still wait for the engine cannot be joined


def _close(service: Service, engine: Engine) -> None:
    """Close the engine if it can be done in time; what is on disk is whole either way."""

    def close() -> None:
        service.close()
        engine.close()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(CLOSE_SECONDS)


def _open(arguments: argparse.Namespace) -> Engine:
    where = str(arguments.data)
    try:
        return Engine(arguments.data.resolve(), connections=arguments.connections, max_memory=arguments.max_memory)
    except ImportError as error:
        raise TidewatchError("the engine is not installed: chdb", fix="run `uv sync`") from error
    except FrontError as error:
        fix = "stop the other process that owns it, or give another --data"
        raise TidewatchError(f"the engine did not open the directory: {error.text}", where=where, fix=fix) from error
    except OSError as error:
        raise TidewatchError(
            f"the directory cannot be used: {error}", where=where, fix="give another --data"
        ) from error


def _listen(service: Service, host: str, port: int) -> Server:
    try:
        return Server(service, host, port)
    except OSError as error:
        fix = "give another --port (0: any free one)"
        raise TidewatchError(f"cannot listen on {host} port {port}: {error.strerror}", fix=fix) from error


if __name__ == "__main__":
    sys.exit(main())
