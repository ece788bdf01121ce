"""How flash attention takes positions and keys apart, for kernels of every target: see graph/ops/flash_attention.py."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.tir import Expr, i64
from aprgraph.graph.ops.attention import is_causal
from aprgraph.graph.ops.flash_attention import CELLS, DEFAULTS, DIVIDED_CELLS, TILE


@dataclass(frozen=True)
class FlashPasses:
    """Of ``n`` positions, the last of ``t``: those before ``first_online`` are computed in tiles, the others from key to key."""

    request: KernelRequest
    n: Expr
    t: Expr

    @property
    def ubatch(self) -> int | None:
        """How many positions a pass has at most; None where all go at once, as with attention to later positions."""
        return self._count("ubatch") if is_causal(self.request.attrs) else None

    @property
    def threads(self) -> int:
        """Among how many threads the keys of one position are divided."""
        return self._count("threads")

    @property
    def _rest(self) -> Expr:
        """How many positions the last pass has, 0 where it is full."""
        return self.n if self.ubatch is None else T.floormod(self.n, i64(self.ubatch))

    @property
    def first_online(self) -> Expr:
        """The first position that is computed from key to key."""
        if self.ubatch is not None and self.ubatch < TILE:
            return i64(0)
        return T.Select(self._rest < i64(TILE), self.n - self._rest, self.n)

    def keys_of_thread(self, position: Expr) -> tuple[Expr, Expr]:
        """Among how many threads the keys of a position are divided, and how many each of them has, in order."""
        alone = self.n == i64(1)
        if self.ubatch is not None:
            alone = T.And(self._rest == i64(1), position == self.n - 1) if self.ubatch > 1 else position >= i64(0)
        known = self.t - self.n + position + 1 if self.ubatch is not None else self.t
        cells = T.floordiv(known + (CELLS - 1), i64(CELLS)) * CELLS
        is_divided = T.And(alone, cells >= i64(DIVIDED_CELLS))
        each = T.floordiv(cells + (self.threads - 1), i64(self.threads))
        return T.Select(is_divided, i64(self.threads), i64(1)), T.Select(is_divided, each, self.t)

    def _count(self, name: str) -> int:
        value = {**DEFAULTS, **self.request.attrs}[name]
        assert isinstance(value, int)
        return value
