"""One connection to a TVM RPC server: a question, and its answer, within a time. The server can do nothing else here."""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.remote.protocol import (
    MAGIC,
    MOST_ANSWER_BYTES,
    OTHER_KEY,
    PROTOCOL_VERSION,
    Code,
    ProtocolError,
    Reader,
    Tensor,
    Value,
    pack,
)

#: Seconds to wait for an answer: of a call that computes or loads, and of any other.
CALL_TIMEOUT, ANSWER_TIMEOUT = 600.0, 60.0
#: Bytes a second at which a connection counts as alive: what is sent and received adds to the time that there is.
_SLOWEST = 100_000
_MOST_KEY = 4096
#: Between messages a server that is gone without a word is noticed after some minutes (tcp(7)).
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 20), (socket.TCP_KEEPCNT, 6))


class ServerError(Exception):
    """The server says that what it was asked for failed. The text is its own."""


class KeyMismatchError(Exception):
    """The server was started with another key."""


class NoServerError(Exception):
    """What answers is no TVM RPC server."""


class Channel:
    """A session, until ``close``. All methods raise OSError (TimeoutError and ConnectionError among them) and ProtocolError."""

    def __init__(self, host: str, port: int, key: str, timeout: float) -> None:
        """Also raises KeyMismatchError, NoServerError and ServerError. ``timeout`` is for all of it together."""
        self._start(timeout)
        self._socket = socket.create_connection((host, port), timeout)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                self._socket.setsockopt(socket.IPPROTO_TCP, option, value)
            self._shake_hands(f"client:{key}".encode())
            version = PROTOCOL_VERSION.encode()
            self._send(Code.INIT_SERVER, struct.pack("<Q", len(version)) + version + pack([]))
            self._values()
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, key: bytes) -> None:
        self._write(struct.pack("<ii", MAGIC, len(key)) + key)
        (code,) = struct.unpack("<i", self._read(4))
        if code == OTHER_KEY:
            raise KeyMismatchError
        if code != MAGIC:
            raise NoServerError
        (size,) = struct.unpack("<i", self._read(4))
        if not 0 <= size <= _MOST_KEY:
            raise ProtocolError(f"a key of {size} bytes")
        self._read(size)

    def close(self) -> None:
        """End the session, in words unless a question is open. What the server holds is freed by it."""
        if not self._is_asking:
            with suppress(OSError):
                self._start(1.0)
                self._send(Code.SHUTDOWN)
        self._socket.close()

    # -- questions -------------------------------------------------------------------------------------------------------

    def ask(self, code: Code, *values: Value) -> Value:
        """The answer to a question of the system's: one value. Raises ServerError too, as all questions do."""
        self._start(ANSWER_TIMEOUT)
        self._send(code, pack(values))
        found = self._values()
        if len(found) != 1:
            raise ProtocolError(f"{len(found)} values in place of one")
        return found[0]

    def call(self, function: int, *values: Value) -> tuple[int, Value]:
        """Call a function by its handle: the type of what it returns, and that."""
        packed = pack(values)
        self._start(CALL_TIMEOUT + len(packed) / _SLOWEST)
        self._send(Code.CALL_FUNCTION, struct.pack("<Q", function) + packed)
        found = self._values()
        if len(found) < 2 or not isinstance(found[0], int):
            raise ProtocolError(f"{len(found)} values in place of a type and a value")
        return found[0], found[1]

    def copy_to(self, tensor: Tensor, values: npt.NDArray[np.uint8]) -> None:
        """Copy bytes into ``tensor``, which has as many."""
        self._start(ANSWER_TIMEOUT + values.nbytes / _SLOWEST)
        self._send(Code.COPY_TO_SERVER, tensor.packed() + struct.pack("<Q", values.nbytes), values.data)
        self._values()

    def copy_from(self, tensor: Tensor, out: npt.NDArray[np.uint8]) -> None:
        """Copy the bytes of ``tensor`` into ``out``, which has as many."""
        self._start(ANSWER_TIMEOUT + out.nbytes / _SLOWEST)
        self._send(Code.COPY_FROM_SERVER, tensor.packed() + struct.pack("<Q", out.nbytes))
        size, code = self._head()
        if code != Code.COPY_ACK:
            self._refuse(size, code)
        if size != out.nbytes:
            raise ProtocolError(f"{size} bytes in place of {out.nbytes}")
        self._read_into(out.data)
        self._is_asking = False

    # -- packets ---------------------------------------------------------------------------------------------------------

    def _values(self) -> list[Value]:
        size, code = self._head()
        if code != Code.RETURN:
            self._refuse(size, code)
        return self._content(size)

    def _content(self, size: int) -> list[Value]:
        if not 0 <= size <= MOST_ANSWER_BYTES:
            raise ProtocolError(f"an answer of {size} bytes")
        data = self._read(size)
        self._is_asking = False
        return Reader(data).values()

    def _head(self) -> tuple[int, int]:
        """The bytes of content that follow, and the code."""
        size, code = struct.unpack("<Qi", self._read(12))
        return size - 4, code

    def _refuse(self, size: int, code: int) -> None:
        """Raise ServerError for an exception, and ProtocolError for all else: what a server may not ask for here."""
        if code == Code.EXCEPTION:
            found = self._content(size)
            raise ServerError(str(found[0]) if found else "")
        raise ProtocolError(f"a packet of code {code}, which is no answer")

    def _send(self, code: Code, head: bytes = b"", body: memoryview | None = None) -> None:
        self._write(struct.pack("<Qi", 4 + len(head) + (0 if body is None else body.nbytes), code) + head)
        if body is not None:
            self._write(body)

    def _start(self, seconds: float) -> None:
        self._end, self._is_asking = time.monotonic() + seconds, True

    def _wait(self) -> None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            self._wait()
            left = left[self._socket.send(left, socket.MSG_NOSIGNAL) :]

    def _read(self, size: int) -> bytes:
        data = bytearray(size)
        self._read_into(memoryview(data))
        return bytes(data)

    def _read_into(self, left: memoryview) -> None:
        while left:
            self._wait()
            count = self._socket.recv_into(left)
            if not count:
                raise ConnectionResetError("the server has closed the connection")
            left = left[count:]
