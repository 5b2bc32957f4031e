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

PASSWORD = "TIDEWATCH_CLICKHOUSE_PASSWORD"  # noqa: S105  # the variable's name
GRACE_SECONDS = 8.0
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
    from devstack.chfront.auth import Password  # noqa: PLC0415  # --help must not load the engine
    from devstack.chfront.engine import Engine  # noqa: PLC0415
    from devstack.chfront.server import Server  # noqa: PLC0415
    from devstack.chfront.service import Service  # noqa: PLC0415

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    engine = Engine(arguments.data.resolve(), connections=arguments.connections, max_memory=arguments.max_memory)
    service = Service(engine, Password(os.environ.get(PASSWORD, "")))
    server = Server(service, arguments.host, arguments.port)
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    where = f"http://{arguments.host}:{server.port}"
    log.info("ClickHouse %s (chDB) on %s, data in %s; %s", engine.version, where, arguments.data, NOTICE)
    while not ended.wait(3600):
        pass
    whole = server.stop(GRACE_SECONDS)
    if whole:
        service.close()
        engine.close()
    log.info("stopped%s", "" if whole else "; statements were still running")
    os._exit(0 if whole else 1)


if __name__ == "__main__":
    sys.exit(main())
