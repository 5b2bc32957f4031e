"""The proxy against a plain echo server: each fault looks to both sides like the one it stands for."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from devstack.ports import LOOPBACK
from devstack.proxy import TcpProxy


class EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Echo)
        self.received = bytearray()
        self.ended = threading.Event()
        self.pause = 0.0  # before it reads
        self.silent = False


class Echo(socketserver.BaseRequestHandler):
    server: EchoServer

    def handle(self) -> None:
        time.sleep(self.server.pause)
        try:
            while data := self.request.recv(65536):
                self.server.received += data
                if not self.server.silent:
                    self.request.sendall(data)
        except ConnectionError:
            pass
        finally:
            self.server.ended.set()


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    with EchoServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy(echo.server_address[1]) as proxy:
        yield proxy


def connect(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection((LOOPBACK, proxy.port), timeout=5)


def exchange(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data):
        more = connection.recv(65536)
        if not more:
            break
        answer += more
    return answer


def send_until_reset(connection: socket.socket, piece: bytes) -> None:
    """Ends with the error that the reset is; returning means that there was none."""
    for _ in range(1000):
        exchange(connection, piece)


def test_bytes_pass_both_ways_and_an_end_is_passed_on(proxy: TcpProxy, echo: EchoServer) -> None:
    data = bytes(range(256)) * 20_000
    with connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        got = b"".join(iter(lambda: connection.recv(65536) if len(echo.received) < len(data) else b"", b""))
        sender.join()
        connection.shutdown(socket.SHUT_WR)
        while more := connection.recv(65536):
            got += more
    assert got == data
    assert echo.ended.wait(5)


def test_cut_resets_what_is_open_and_refuses_what_is_new(proxy: TcpProxy, echo: EchoServer) -> None:
    with connect(proxy) as connection:
        assert exchange(connection, b"before") == b"before"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    assert echo.ended.wait(5)

    proxy.heal()
    with connect(proxy) as connection:
        assert exchange(connection, b"after") == b"after"


def test_a_black_hole_accepts_and_delivers_nothing_until_healed(proxy: TcpProxy, echo: EchoServer) -> None:
    with connect(proxy) as old:
        assert exchange(old, b"x") == b"x"
        proxy.blackhole()
        with connect(proxy) as new:
            for connection in (old, new):
                connection.sendall(b"held")
                connection.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            assert echo.received == b"x"

            proxy.heal()
            for connection in (old, new):
                connection.settimeout(5)
                assert connection.recv(4) == b"held"


def test_delay_holds_every_byte_back_in_both_directions(proxy: TcpProxy) -> None:
    with connect(proxy) as connection:
        proxy.delay(0.1)
        begun = time.monotonic()
        assert exchange(connection, b"slow") == b"slow"
        assert time.monotonic() - begun >= 0.2


def test_cut_after_lets_exactly_so_many_bytes_reach_the_server_once(proxy: TcpProxy, echo: EchoServer) -> None:
    proxy.cut_after(100_000)
    with connect(proxy) as connection, pytest.raises(ConnectionError):
        send_until_reset(connection, b"a" * 1000)
    assert proxy.tripped.wait(5)
    assert echo.ended.wait(5)
    assert echo.received == b"a" * 100_000

    with connect(proxy) as connection:
        assert exchange(connection, b"b" * 200_000) == b"b" * 200_000


def test_cut_after_waits_for_a_server_that_is_slow_to_read(proxy: TcpProxy, echo: EchoServer) -> None:
    echo.pause, echo.silent = 0.3, True
    proxy.cut_after(500_000)
    with connect(proxy) as connection, pytest.raises(ConnectionError):
        connection.sendall(b"a" * 50_000_000)
    assert echo.ended.wait(5)
    assert len(echo.received) == 500_000


def test_cut_after_can_leave_the_server_unreachable(proxy: TcpProxy) -> None:
    proxy.cut_after(10, refuse=True)
    with connect(proxy) as bystander:
        with connect(proxy) as connection, pytest.raises(ConnectionError):
            send_until_reset(connection, b"a" * 11)
        with pytest.raises(ConnectionResetError):
            bystander.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)


def test_a_target_that_is_not_there_resets_the_client(echo: EchoServer) -> None:
    with TcpProxy(echo.server_address[1]) as proxy:
        proxy.target = (LOOPBACK, 1)
        with pytest.raises(ConnectionResetError), connect(proxy) as connection:  # it may come as early as the connect
            connection.recv(1)
