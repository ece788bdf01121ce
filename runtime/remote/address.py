"""Where a TVM RPC server is, and whether one answers there: asked before TVM is imported, and without hanging."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from aprgraph.graph.arguments import RPC, Argument
from aprgraph.graph.errors import RemoteError, shown

#: Seconds to wait for each answer until a session is there.
CONNECT_TIMEOUT = 10.0

_MAX_PORT = 65535
_FORM = "expected HOST:PORT or HOST:PORT/KEY, as in board:9090, [::1]:9090 or board:9090/secret"
#: Not the number that a client of TVM begins with, so the server hangs up, silently, and waits for the next.
_NO_CLIENT = bytes(4)


@dataclass(frozen=True)
class RemoteAddress:
    """A TVM RPC server. ``key`` is what it was started with (--key), empty for none; ``argument`` is where it was given."""

    host: str
    port: int
    key: str = ""
    argument: Argument = field(default=RPC, compare=False)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_remote(text: str, argument: Argument = RPC) -> RemoteAddress:
    """The address in ``text``, HOST:PORT[/KEY]; an IPv6 address stands in brackets. Raises RemoteError, which names the ``argument``."""
    place, slash, key = text.partition("/")
    host, colon, port = place.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise RemoteError(argument.given(shown(text)), f": an IPv6 address goes into brackets; {_FORM}")
    if not colon or not host or set("[] \t").intersection(host):
        raise RemoteError(argument.given(shown(text)), f": {_FORM}")
    if not (port.isascii() and port.isdigit() and len(port) <= len(str(_MAX_PORT)) and 1 <= int(port) <= _MAX_PORT):
        raise RemoteError(argument.given(shown(text)), f": port {shown(port)}, expected a number from 1 to {_MAX_PORT}; {_FORM}")
    if slash and (not key or len(key.split()) != 1 or key != key.strip()):
        raise RemoteError(argument.given(shown(text)), f": key {shown(key)}, expected a word without blanks; {_FORM}")
    return RemoteAddress(host, int(port), key, argument)


def find_server(address: RemoteAddress) -> str:
    """The numeric address of the host, if a server takes connections there. Raises RemoteError.

    TVM's own client would wait for minutes for a host that drops packets, and for ever for a server that is busy. It must not
    even try there: a server that finds a client gone when its turn comes, stops serving.
    """
    numeric = address.host
    try:
        with socket.create_connection((address.host, address.port), CONNECT_TIMEOUT) as connection:
            with suppress(OSError):  # it may have hung up already
                numeric = _numeric(connection)
            connection.sendall(_NO_CLIENT, socket.MSG_NOSIGNAL)
            answer = connection.recv(1)
    except socket.gaierror as error:
        raise RemoteError(
            f"{address}: unknown host ({error.strerror}); give ", address.argument, " the HOST:PORT of a TVM RPC server"
        ) from None
    except UnicodeError:
        raise RemoteError(f"{address}: no host can have this name; give ", address.argument, " the HOST:PORT of a TVM RPC server") from None
    except TimeoutError:
        raise RemoteError(no_answer(address)) from None
    except (ConnectionResetError, BrokenPipeError):
        return numeric  # it hung up with our bytes unread
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            raise RemoteError(
                f"{address}: connection refused, no server is there; start one there: "
                f"python -m tvm.exec.rpc_server --host {address.host} --port {address.port} --port-end {address.port + 1}"
            ) from None
        raise RemoteError(f"{address}: cannot be reached ({error.strerror or error}); expected a TVM RPC server there") from None
    if answer:
        raise RemoteError(f"{address}: what answers there is no TVM RPC server; give ", address.argument, " the HOST:PORT of one")
    return numeric


def no_answer(address: RemoteAddress) -> str:
    """What to say of a server that keeps silent."""
    return (
        f"{address}: no answer within {CONNECT_TIMEOUT:g} s; a TVM RPC server serves one client at a time, and none any more once "
        "a session of it has crashed: wait for the other client, or start the server again"
    )


def _numeric(connection: socket.socket) -> str:
    host, *rest = connection.getpeername()
    scope = rest[2] if connection.family == socket.AF_INET6 else 0
    return f"{host}%{scope}" if scope else str(host)
