"""Whole vectors as expressions: TVM's own vectors are loops over lanes, which cannot say how lanes are to move."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Buffer, Expr, i64, registers

#: Elements of a register of SSE and NEON.
_FOUR = 4


def total(parts: Sequence[Expr]) -> Expr:
    """Their sum, from the first on."""
    first, *others = parts
    for each in others:
        first = first + each
    return first


def same_word(word: Expr, rows: int, dtype: str) -> Expr:
    """An i32 in every lane, as numbers of 8 or 16 bits."""
    lanes = rows * 4 // (1 if dtype.endswith("8") else 2)
    return T.reinterpret(f"{dtype}x{lanes}", tirx.Broadcast(word, rows))


def bytes_of(values: Sequence[int]) -> Expr:
    """A vector of these bytes."""
    return tirx.Shuffle([tirx.IntImm("uint8", value & 255) for value in values], _lanes(range(len(values))))


def hold(vector: Expr) -> Expr:
    """A vector in a register, for those who read it several times."""
    lanes = lanes_of(vector)
    kept = registers(lanes, dtype_of(vector))
    store_vector(kept, 0, vector)
    return load_vector(kept, 0, lanes)


def lanes_of(vector: Expr) -> int:
    """How many elements a vector has."""
    _, _, lanes = str(vector.ty).partition("x")
    return int(lanes or 1)


def dtype_of(vector: Expr) -> str:
    """The dtype of its elements."""
    return str(vector.ty).partition("x")[0]


def shuffled(vectors: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """These lanes of vectors side by side."""
    return tirx.Shuffle(list(vectors), _lanes(lanes))


def joined(*vectors: Expr) -> Expr:
    """Vectors side by side."""
    return shuffled(vectors, range(sum(map(lanes_of, vectors))))


def part_of(vector: Expr, count: int, part: int) -> Expr:
    """One of ``count`` equal parts of a vector."""
    lanes = lanes_of(vector) // count
    return shuffled([vector], range(part * lanes, (part + 1) * lanes))


def _lanes(numbers: Sequence[int]) -> list[Expr]:
    return [tirx.IntImm("int32", number) for number in numbers]


def by_parts(count: int, function: Callable[..., Expr], *vectors: Expr) -> Expr:
    """What ``function`` gives of each of ``count`` parts of ``vectors``, side by side."""
    if count == 1:
        return function(*vectors)
    return joined(*(function(*(part_of(vector, count, part) for vector in vectors)) for part in range(count)))


def load_vector(buffer: Buffer, at: int, lanes: int) -> Expr:
    """``lanes`` elements of a small buffer."""
    return buffer[i64(at) if lanes == 1 else tirx.Ramp(i64(at), i64(1), lanes)]


def sums_of_lanes(buffer: Buffer, count: int, lanes: int) -> Expr:
    """The sums of four vectors of ``lanes`` that lie side by side in a small buffer, f32 [4], each by halves as ``Emitter.sum_lanes``."""
    assert count == _FOUR
    parts = [load_vector(buffer, part * lanes, lanes) for part in range(count)]
    while lanes > _FOUR:
        parts = [hold(part_of(part, 2, 0) + part_of(part, 2, 1)) for part in parts]
        lanes //= 2
    a, b = (hold(shuffled(pair, (0, 1, 4, 5)) + shuffled(pair, (2, 3, 6, 7))) for pair in (parts[:2], parts[2:]))
    return shuffled((a, b), (0, 2, 4, 6)) + shuffled((a, b), (1, 3, 5, 7))


def store_vector(buffer: Buffer, at: int, value: Expr) -> None:
    """Write a vector into a small buffer."""
    lanes = lanes_of(value)
    T.buffer_store(buffer, value, [i64(at) if lanes == 1 else tirx.Ramp(i64(at), i64(1), lanes)])


def fused(a: Expr, b: Expr, c: Expr) -> Expr:
    """a · b + c of vectors of f32, rounded once."""
    return T.call_llvm_pure_intrin(f"float32x{lanes_of(a)}", "llvm.fma", a, b, c)
