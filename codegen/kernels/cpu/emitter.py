"""Emits CPU code: vectors of a target's width, and loops over them."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.tir import Arithmetic, Buffer, Expr, assign, f32, i64


class Emitter(Arithmetic):
    """Emits statements of one kernel for one CPU."""

    def __init__(self, cpu: Cpu) -> None:
        self.cpu = cpu
        self.lanes = cpu.lanes

    def fma(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """See ``Arithmetic.fma``."""
        if self.cpu.fma:
            return T.call_llvm_pure_intrin("float32", "llvm.fma", a, b, c)
        return a * b + c

    def rounded(self, x: Expr) -> Expr:
        """See ``Arithmetic.rounded``: TVM lets LLVM fuse a product and a sum where it sees them side by side."""
        return T.call_llvm_pure_intrin("float32", "llvm.arithmetic.fence", x) if self.cpu.fma else x

    def half(self, x: Expr) -> Expr:
        """See ``Arithmetic.half``. The levels that have a fused multiply-add convert by an instruction."""
        return T.Cast("float32", T.Cast("float16", x)) if self.cpu.fma else super().half(x)

    def fused(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """a · b + c in f32, rounded once on every level: for what an engine computes so."""
        if self.cpu.fma:
            return self.fma(a, b, c)
        a, b, c = (T.Cast("float64", x) for x in (a, b, c))
        return T.Cast("float32", a * b + c)

    def vector(self, count: int, body: Callable[[Expr], None]) -> None:
        """Emit ``body(lane)`` for lane in 0 .. count - 1 as vector instructions."""
        if count == 1:
            body(i64(0))
            return
        with T.vectorized(i64(0), i64(count)) as lane:
            body(lane)

    def chunks(self, columns: int, body: Callable[[Expr, int], None]) -> None:
        """Emit ``body(start, width)`` over a row of ``columns``: a loop of whole vectors, then what is left."""
        whole = columns // self.lanes
        if whole:
            with T.serial(i64(0), i64(whole)) as step:
                body(step * self.lanes, self.lanes)
        if columns % self.lanes:
            body(i64(whole * self.lanes), columns % self.lanes)

    def zero(self, buffer: Buffer, first: int, count: int) -> None:
        """Set ``count`` elements of a flat buffer from ``first`` on to 0."""
        self.vector(count, lambda lane: assign(buffer, f32(0.0), [i64(first) + lane]))

    def dot_step(self, acc: Buffer, first: int, width: int, a: Callable[[Expr], Expr], b: Callable[[Expr], Expr]) -> None:
        """acc[first + lane] += a(lane) · b(lane) for the lanes of one vector."""

        def step(lane: Expr) -> None:
            at = i64(first) + lane
            assign(acc, self.fma(a(lane), b(lane), acc[at]), [at])

        self.vector(width, step)

    def copy(self, source: Buffer, first: Expr, target: Buffer, row: Expr, column: Expr, lane: Expr) -> None:
        """target[row, column + lane] = source[first + lane]."""
        assign(target, source[first + lane], [row, column + lane])

    def fold(self, acc: Buffer, first: int, width: int) -> None:
        """Add the ``width`` elements behind the ``width`` from ``first`` on to these."""

        def step(lane: Expr) -> None:
            assign(acc, acc[i64(first) + lane] + acc[i64(first + width) + lane], [i64(first) + lane])

        self.vector(width, step)

    def sum_lanes(self, acc: Buffer, first: int) -> Expr:
        """Sum ``lanes`` partial sums by halves, always in the same order; the expression of the total."""
        width = self.lanes // 2
        while width:
            self.fold(acc, first, width)
            width //= 2
        return acc[i64(first)]
