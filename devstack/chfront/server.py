"""The listener: a thread for every connection, because a statement blocks its thread (and frees the interpreter)."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import closing, suppress

from devstack.chfront.errors import FrontError
from devstack.chfront.service import Service
from devstack.chfront.wire import BadRequest, Gone, Request, Response, Wire

log = logging.getLogger("devstack.chfront")


class Server:
    """Accepts until `stop`; then idle connections are closed and requests under way are finished."""

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        self._listener = socket.create_server((host, port), backlog=256, reuse_port=False)
        self._idle: set[socket.socket] = set()
        self._busy = 0
        self._changed = threading.Condition()
        self._stopping = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def serve(self) -> None:
        """Accept connections until the listener is closed by `stop`."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def stop(self, grace: float) -> bool:
        """No new connection, no new request; True when all that were under way ended within the grace."""
        with self._changed:
            self._stopping = True
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            for connection in self._idle:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RD)
            deadline = time.monotonic() + grace
            while self._busy and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._busy

    def _talk(self, connection: socket.socket) -> None:
        wire = Wire(connection)
        try:
            while self._one(wire, connection):
                pass
        except (Gone, OSError):
            pass
        except FrontError as error:
            log.warning("answer broken off: %s", error.text[:300])
        except Exception:
            log.exception("a connection failed")
        finally:
            with self._changed:
                self._idle.discard(connection)
            wire.close()

    def _one(self, wire: Wire, connection: socket.socket) -> bool:
        """One request and its answer; whether the connection may carry another."""
        with self._changed:
            if self._stopping:
                return False
            self._idle.add(connection)
        try:
            request = wire.request()
        except BadRequest as error:
            wire.answer(Response.text(400, f"{error}\n"), keep_alive=False)
            return False
        if request is None:
            return False
        with self._changed:
            self._idle.discard(connection)
            self._busy += 1
        try:
            return self._exchange(wire, request)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _exchange(self, wire: Wire, request: Request) -> bool:
        try:
            with closing(self._service.answer(request)) as response:
                keep = request.body.drain() and request.keep_alive and not self._stopping
                wire.answer(response, keep_alive=keep, head_only=request.method == "HEAD")
                return keep
        except BadRequest as error:  # only reading raises it, so nothing was answered yet
            wire.answer(Response.text(400, f"{error}\n"), keep_alive=False)
            return False
