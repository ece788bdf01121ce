"""Addresses of RPC servers, and whatever may answer there."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from aprgraph.graph.errors import RemoteError
from aprgraph.runtime.remote import address as remote_address
from aprgraph.runtime.remote.address import RemoteAddress, find_server, parse_remote
from aprgraph.runtime.remote.connection import Connection


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("board:9090", RemoteAddress("board", 9090), "board:9090"),
        ("127.0.0.1:1/secret", RemoteAddress("127.0.0.1", 1, "secret"), "127.0.0.1:1"),
        ("[::1]:65535", RemoteAddress("::1", 65535), "[::1]:65535"),
        ("[fe80::1%eth0]:9/a/b:c", RemoteAddress("fe80::1%eth0", 9, "a/b:c"), "[fe80::1%eth0]:9"),
    ],
)
def test_addresses(text: str, address: RemoteAddress, shown: str) -> None:
    assert parse_remote(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (text, "expected HOST:PORT or HOST:PORT/KEY")
            for text in ("", "board", ":9090", "[]:9090", "a b:9090", "[::1:9090", "board/9090")
        ),
        ("::1:9090", "an IPv6 address goes into brackets"),
        *((f"board:{port}", "expected a number from 1 to 65535") for port in ("", "x", "0", "65536", "-1", "9090 ", "٣", "1" * 5000)),
        *((f"board:9090/{key}", "expected a word without blanks") for key in ("", "a b", " a", "a\n")),
    ],
)
def test_what_is_no_address(text: str, message: str) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        parse_remote(text)
    assert str(caught.value).startswith("rpc='")
    assert len(str(caught.value)) < 400


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Something that calls ``answer`` with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection = server.accept()[0]
                    held.append(connection)
                    answer(connection)

        held: list[socket.socket] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


def fails(address: str) -> str:
    with pytest.raises(RemoteError) as caught:
        Connection(parse_remote(address))
    assert str(caught.value).startswith(f"{parse_remote(address)}: ")
    return str(caught.value)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert f"start one there: python -m tvm.exec.rpc_server --host 127.0.0.1 --port {port} --port-end {port + 1}" in fails(
        f"127.0.0.1:{port}"
    )
    assert "unknown host" in fails("no-such-host.invalid:9090")
    assert "no host can have this name" in fails(f"{'a' * 64}.b:9090")

    def unreachable(*_: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert "cannot be reached (Network is unreachable)" in fails("127.0.0.1:9090")


def hello(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-server\r\n")


def silent(_connection: socket.socket) -> None:
    """As a server that is busy: the system has taken the connection for it."""


def after_the_probe(act: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Hangs up on the first connection, as a TVM server does, and acts on the second."""
    count = iter(range(100))
    return lambda connection: act(connection) if next(count) else connection.close()


def mismatch(connection: socket.socket) -> None:
    connection.sendall((0xFF271 + 2).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (hello, "what answers there is no TVM RPC server"),
        (silent, "no answer within 0.5 s; a TVM RPC server serves one client at a time"),
        (after_the_probe(hello), "what answers there is no TVM RPC server"),
        (after_the_probe(silent), "no answer within 0.5 s"),
        (after_the_probe(mismatch), r"the server has a key; give rpc='127\.0\.0\.1:\d+/KEY"),
        (after_the_probe(socket.socket.close), r"no session with the server \(.+\); expected one of TVM 0\."),
    ],
    ids=["another service", "silence", "another service later", "silence later", "a key", "hanging up"],
)
def test_strange_answers(answer: Callable[[socket.socket], None], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_address, "CONNECT_TIMEOUT", 0.5)
    with listening(answer) as address:
        assert re.search(message, fails(address))


def test_a_server_that_resets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs up with bytes unread: a server all the same."""

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    monkeypatch.setattr(remote_address, "CONNECT_TIMEOUT", 0.5)
    with listening(reset) as address:
        assert find_server(parse_remote(address)) == "127.0.0.1"
