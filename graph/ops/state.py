"""State: values that an op keeps from one pass of a run to the next, such as a KV cache.

Whether an op has a state, and of which kind, is a trait (``Traits.state``). There are two kinds: appended and fixed.
Sessions allocate it, programs pass it to the kernel, and the reference updates it. None of them knows the op.
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
    """A state with one row for each position. Every pass appends the rows of its positions, as in a KV cache.

    The op has one operand [n, …], and its result is the state, [t, …]. The kernel writes the last n rows and leaves
    the others alone. In a run of a single pass, the state equals the operand, and the pass `one-pass` removes the op.
    """

    #: Whether the op's result is the state.
    is_result: ClassVar[bool] = True

    def type_of(self, result: TensorType, _operands: Types, _attrs: Attrs) -> TensorType:
        """The type of the state, for a node with these types of result and operands."""
        return result

    def advance(self, operands: Sequence[Array], _attrs: Attrs, earlier: Array | None) -> tuple[Array, Array]:
        """The float64 result of a pass, and the state after it. ``earlier`` is the state before it, if any."""
        value = operands[0] if earlier is None else np.concatenate([earlier, operands[0]])
        return value, value


@dataclass(frozen=True)
class Fixed:
    """A state of a fixed shape. It is zero before the first position, and each position updates it in turn.

    Mamba (arXiv:2312.00752), gated delta nets (arXiv:2412.06464) and short convolutions have such a state. ``dims``
    gives the shape from the types of the operands and the attributes. ``step(operands, attrs, state)`` gives the
    result of a pass in float64 and the state after it. The arguments of the kernel are the operands, then the state,
    in f32, which it updates in place, then the result.

    A position must have the same bits however the text is divided into passes. So a kernel goes from position to
    position. It must not work by blocks whose borders depend on where a pass begins.
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
        """The result of a first pass. An op with this state has this method as its ``reference``."""
        return self.advance(operands, attrs, None)[0]


State = Appended | Fixed
