"""What a server can do to the client that runs on it: answer, and nothing else; within a time."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.api import CompiledModel
from aprgraph.graph.errors import RemoteError
from aprgraph.runtime.remote import channel
from aprgraph.runtime.remote.address import parse_remote
from aprgraph.runtime.remote.connection import Connection
from aprgraph.runtime.remote.protocol import Device, Handle, ProtocolError, Reader, Tensor, ValueType, pack
from tests.support.cli import fails, run_python
from tests.support.compiled import compiled, shared_model
from tests.support.hostile_server import COPY_ACK, EXCEPTION, NOTHING, RETURN, Answer, hostile_server, packet, start_program, texts

HANDLE = struct.pack("<iiQ", 1, ValueType.HANDLE, 77)
#: What a call returned: the type of an object, and its handle.
CALLED = struct.pack("<iiqiQ", 2, ValueType.INT, ValueType.MODULE, ValueType.HANDLE, 77)


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> CompiledModel:
    return compiled(shared_model(tiny_model))


def polite(connection: socket.socket, code: int, content: bytes) -> None:
    """What lets a session begin: every question of a kind has the same answer."""
    connection.sendall(packet(RETURN, {2: NOTHING, 3: CALLED, 7: NOTHING}.get(code, HANDLE)))


def after(steps: int, then: Answer) -> Answer:
    """Answers ``steps`` questions, and is another from then on."""
    left = [steps]

    def answer(connection: socket.socket, code: int, content: bytes) -> None:
        left[0] -= 1
        (polite if left[0] >= 0 else then)(connection, code, content)

    return answer


@pytest.mark.contract("SAFE-SERVER-1")
@pytest.mark.parametrize("steps", [0, 1, 3, 9])
def test_a_server_cannot_start_a_program_here(tiny: CompiledModel, steps: int, tmp_path: Path) -> None:
    told = tmp_path / "told"

    def attack(connection: socket.socket, _code: int, _content: bytes) -> None:
        connection.sendall(start_program(["/bin/sh", "-c", f"touch {told}"]))

    with hostile_server(after(steps, attack)) as address:
        message = fails("run", tiny.artifact.directory, "--tokens", "5,200,17", "--rpc", address)
    assert "a packet of code 2, which is no answer" in message
    time.sleep(0.2)
    assert not told.exists()


@pytest.mark.contract("SAFE-SERVER-1")
def test_the_attack_is_one(tmp_path: Path) -> None:
    """TVM's own client, which was used here before, runs the command."""
    told = tmp_path / "told"

    def attack(connection: socket.socket, _code: int, _content: bytes) -> None:
        connection.sendall(start_program(["/bin/sh", "-c", f"touch {told}; sleep 1"]))
        connection.sendall(packet(RETURN, NOTHING))

    with hostile_server(attack) as address:
        run_python("import sys; from tvm import rpc; rpc.connect('127.0.0.1', int(sys.argv[1]))", address.partition(":")[2], cwd=tmp_path)
    assert told.exists()


@pytest.mark.contract("SAFE-SERVER-2")
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
def test_a_server_that_falls_silent_is_left(tiny: CompiledModel, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CALL_TIMEOUT", "ANSWER_TIMEOUT"):
        monkeypatch.setattr(channel, name, 0.3)
    monkeypatch.setattr("aprgraph.runtime.remote.address.CONNECT_TIMEOUT", 0.3)
    stop = threading.Event()
    with hostile_server(after(steps, lambda *_: stop.wait(20) and None)) as address:  # type: ignore[func-returns-value]
        started = time.monotonic()
        with pytest.raises(RemoteError, match=r"kept silent for too long while [a-z ]+; see there|no answer within 0\.3 s"):
            tiny.on(address).logits([5, 200, 17])
    assert time.monotonic() - started < 10
    stop.set()


@pytest.mark.contract("SAFE-SERVER-2")
def test_a_server_that_answers_byte_by_byte_is_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "ANSWER_TIMEOUT", 0.4)

    def drip(connection: socket.socket, _code: int, _content: bytes) -> None:
        for byte in packet(RETURN, HANDLE) * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    with hostile_server(after(1, drip)) as address:
        connection = Connection(parse_remote(address))
        started = time.monotonic()
        with pytest.raises(RemoteError, match="kept silent for too long while allocating"), connection.doing("allocating"):
            connection.allocate(100)
        assert time.monotonic() - started < 3
        connection.close()


ANSWERS = {
    "nothing at all": b"",
    "no packet": b"HTTP/1.1 200 OK\r\n\r\n",
    "a length of 2^63": struct.pack("<Qi", 1 << 63, RETURN),
    "a length of 2^40": struct.pack("<Qi", 1 << 40, RETURN),
    "a negative length": struct.pack("<Qi", 0, RETURN),
    "an exception of 2^40 bytes": struct.pack("<Qi", 1 << 40, EXCEPTION),
    "many values": packet(RETURN, struct.pack("<i", 1 << 30)),
    "fewer than no values": packet(RETURN, struct.pack("<i", -1)),
    "a text beyond its end": packet(RETURN, struct.pack("<iiQ", 1, 8, 1 << 62) + b"x"),
    "two values": packet(RETURN, texts("a", "b")),
    "a value and more": packet(RETURN, HANDLE + b"x"),
    "a tensor": packet(RETURN, struct.pack("<ii", 1, 7) + bytes(100)),
    "an object of another kind": packet(RETURN, struct.pack("<iiIQ", 1, 71, 71, 3)),
    "a call": packet(3, struct.pack("<Q", 5) + texts("rm")),
    "a question": packet(9, texts("tvm.rpc.server.upload")),
    "a copy": packet(COPY_ACK, bytes(64)),
    "a shutdown": packet(1, b""),
    "a handle that is text": packet(RETURN, texts("x")),
}


@pytest.mark.contract("SAFE-SERVER-1")
@pytest.mark.parametrize("kind", ANSWERS)
def test_answers_that_are_none(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "ANSWER_TIMEOUT", 1.0)

    def answer(connection: socket.socket, _code: int, _content: bytes) -> None:
        connection.sendall(ANSWERS[kind])
        connection.close()

    with hostile_server(after(1, answer)) as address:
        connection = Connection(parse_remote(address))
        message = r"what is no answer while allocating|the connection was lost while allocating"
        with pytest.raises(RemoteError, match=message) as caught, connection.doing("allocating"):
            connection.allocate(100)
        assert "\n" not in str(caught.value)
        connection.close()


def test_a_tensor_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(connection: socket.socket, code: int, content: bytes) -> None:
        connection.sendall(packet(COPY_ACK, bytes(10)) if code == 6 else packet(RETURN, NOTHING if code == 2 else HANDLE))

    with hostile_server(answer) as address:
        connection = Connection(parse_remote(address))
        space = connection.allocate(100)
        with pytest.raises(RemoteError, match="no answer while fetching: 10 bytes in place of 12"), connection.doing("fetching"):
            connection.get(space, (3,), "float32")
        connection.close()


def test_what_the_server_says_is_shown_as_text(tiny: CompiledModel) -> None:
    def answer(connection: socket.socket, _code: int, _content: bytes) -> None:
        connection.sendall(packet(EXCEPTION, texts("first\nlast \x1b]0;title\x07 line" + "x" * 10_000)))

    with hostile_server(after(1, answer)) as address:
        message = fails("run", tiny.artifact.directory, "--tokens", "5", "--rpc", address)
    assert "the server failed while telling its processor: " in message
    assert "\x1b" not in message
    assert len(message) < 500


def test_random_answers_are_read_or_refused() -> None:
    """Nothing but values or ProtocolError comes of any bytes."""
    draw = random.Random(5)
    whole = pack([None, True, 5, 2.5, "text", b"bytes", Handle(9), Handle(9, ValueType.OBJECT)])
    assert Reader(whole).values() == [None, 1, 5, 2.5, "text", b"bytes", Handle(9), Handle(9, ValueType.OBJECT)]
    refused = 0
    for _ in range(5000):
        data = bytearray(whole[: draw.randrange(len(whole) + 1)] if draw.random() < 0.5 else whole)
        for _ in range(draw.randrange(4)):
            if data:
                data[draw.randrange(len(data))] = draw.randrange(256)
        try:
            Reader(bytes(data)).values()
        except ProtocolError:
            refused += 1
    assert 1000 < refused < 5000


def test_tensors_are_packed_as_dlpack_has_them() -> None:
    packed = pack([Tensor(7, Device(2, 1), (3, 5), "float64", 16), np.dtype(np.uint8), Device(1)])
    assert packed == struct.pack("<i", 3) + (
        struct.pack("<iQiiiBBHqqQ", 7, 7, 2, 1, 2, 2, 64, 1, 3, 5, 16) + struct.pack("<iBBHi", 5, 1, 8, 1, 0) + struct.pack("<iii", 6, 1, 0)
    )
