"""State: what an op remembers from one pass of a run to the next.

Which ops have one, and of which kind, is a trait (``Traits.state``). Sessions keep it, programs pass it to the kernel, a
prompt in several parts computes it, and the reference brings it up to date, all by the two kinds here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops.aliases import Array, Attrs, Types


@dataclass(frozen=True)
class Appended:
    """Rows, one for each position: every pass appends its own to those of earlier passes, as in a KV cache.

    The op has one operand [n, …], and its result is the state, [t, …]. Its kernel writes the last n rows of the result and
    leaves the others. In a single pass the state is the operand itself (the pass one-pass).
    """

    #: Whether the op's result is the state.
    is_result: ClassVar[bool] = True

    def type_of(self, result: TensorType, _operands: Types, _attrs: Attrs) -> TensorType:
        """The type of the state of a node with the given types: what is kept between passes."""
        return result

    def advance(self, operands: Sequence[Array], _attrs: Attrs, earlier: Array | None) -> tuple[Array, Array]:
        """The value of a pass, and the state after it; ``earlier`` is the state before it, None in a first pass."""
        value = operands[0] if earlier is None else np.concatenate([earlier, operands[0]])
        return value, value


@dataclass(frozen=True)
class Fixed:
    """Values of a shape that does not grow, zeros before the first position, which each position updates in turn.

    So in Mamba (arXiv:2312.00752), gated delta nets (arXiv:2412.06464), and the window of a short convolution. ``dims``
    gives the shape from the types of the operands and the attributes, and ``step(operands, attrs, state)`` the value of
    one pass in float64 and the state after it. The kernel takes the operands, then the state, f32, which it updates in
    place, then the result. A position must have the same bits however the text is divided into passes: a kernel goes from
    position to position, and never by blocks whose borders depend on where a pass begins.
    """

    dims: Callable[[Types, Attrs], tuple[int, ...]]
    step: Callable[[Sequence[Array], Attrs, Array], tuple[Array, Array]]
    is_result: ClassVar[bool] = False

    def type_of(self, _result: TensorType, operands: Types, attrs: Attrs) -> TensorType:
        """See ``Appended.type_of``."""
        return TensorType("f32", self.dims(operands, attrs))

    def advance(self, operands: Sequence[Array], attrs: Attrs, earlier: Array | None) -> tuple[Array, Array]:
        """See ``Appended.advance``."""
        if earlier is None:
            earlier = np.zeros(self.dims([TensorType("f32", tuple(operand.shape)) for operand in operands], attrs))
        return self.step(operands, attrs, earlier)

    def first_pass(self, operands: Sequence[Array], attrs: Attrs) -> Array:
        """The value of a first pass: what an op with this state has as its ``reference``."""
        return self.advance(operands, attrs, None)[0]


State = Appended | Fixed
