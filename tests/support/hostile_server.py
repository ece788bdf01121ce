"""A server that shakes hands as TVM's does, and then does what a test has it do, in a thread of its own."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence

MAGIC = 0xFF271
RETURN, EXCEPTION, COPY_ACK = 4, 5, 8
NOTHING = struct.pack("<ii", 1, 0)

#: Called with a connection, and the code and the content of each packet that comes.
Answer = Callable[[socket.socket, int, bytes], None]


def packet(code: int, content: bytes) -> bytes:
    return struct.pack("<Qi", 4 + len(content), code) + content


def texts(*values: str) -> bytes:
    """Packed strings."""
    return struct.pack("<i", len(values)) + b"".join(struct.pack("<iQ", 8, len(value)) + value.encode() for value in values)


def start_program(command: Sequence[str]) -> bytes:
    """The packet by which a client of TVM's starts a program: it opens a session over a pipe to it."""
    version = b"0.8.0"
    return packet(2, struct.pack("<Q", len(version)) + version + texts("rpc.CreatePipeClient", *command))


class _Connection(socket.socket):
    """One whose other end may be gone: where a command runs in this process too, the system's SIGPIPE would end it."""

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        super().sendall(data, flags | socket.MSG_NOSIGNAL)


@contextlib.contextmanager
def hostile_server(answer: Answer) -> Iterator[str]:
    """The address of a server that calls ``answer``; clients that do not begin as TVM's are left, as TVM's server does."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    accepted = _Connection(fileno=listener.accept()[0].detach())
                    threading.Thread(target=one, args=(accepted,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with contextlib.suppress(OSError, struct.error), connection:
                if struct.unpack("<i", _read(connection, 4))[0] != MAGIC:
                    return
                _read(connection, struct.unpack("<i", _read(connection, 4))[0])
                connection.sendall(struct.pack("<ii", MAGIC, 4) + b"mine")
                while True:
                    size, code = struct.unpack("<Qi", _read(connection, 12))
                    answer(connection, code, _read(connection, size - 4))

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data
