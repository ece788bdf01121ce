"""Kernels for aarch64, run by QEMU: those in which the instructions are chosen here, in every block format. What they share with all
other kernels, vectors of a width and LLVM, whole models have too (tests/aprgraph/test_run_aarch64.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import numpy as np
import pytest

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.arithmetics import ARITHMETICS
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.ops.rounded_linear import WHOLE_FORMATS
from tests.support.aarch64 import PROCESSORS, SAME_BITS, BoardKernels, board, needs_board, needs_same_bits
from tests.support.golden import nmse
from tests.support.kernels import columns_of, f32, reference, request, run, weight

pytestmark = needs_board

#: Rows of three weights side by side, and positions.
ROWS, POSITIONS = (13, 1, 24), 9
_SCHEMES = ARITHMETICS["ggml-avx2"].activations
#: Products, and those of rounded activations, by the scheme that a format has.
PRODUCTS = [("linear", fmt) for fmt in BLOCK_FORMATS] + [("rounded_linear", fmt) for fmt in WHOLE_FORMATS]


def _instructions(op: str, fmt: str, level: str) -> set[str]:
    """What is chosen by hand: the products of whole numbers, of each format. Those of real numbers are LLVM's in all formats."""
    return {level, op if op == "linear" else f"{op} {fmt}"}


@pytest.fixture(scope="module")
def kernels() -> Iterator[Callable[[str, KernelRequest], BoardKernels]]:
    """The kernel of a request on a board that has a level."""
    with ExitStack() as stack:
        boards: dict[str, str] = {}

        def load(level: str, what: KernelRequest) -> BoardKernels:
            if level not in boards:
                boards[level] = stack.enter_context(board(PROCESSORS[level]))
            return BoardKernels(boards[level], level, [what])

        yield load


@needs_same_bits
@pytest.mark.contract("DET-ARM-1")
@pytest.mark.each_choice(of=_instructions)
@pytest.mark.parametrize("level", PROCESSORS)
@pytest.mark.parametrize(("op", "fmt"), PRODUCTS)
def test_products_have_the_bits_of_x86_64_v3(op: str, fmt: str, level: str, kernels: Callable[[str, KernelRequest], BoardKernels]) -> None:
    """Of all positions and of few, which are multiplied otherwise, and in any number of parts."""
    columns = columns_of(fmt)
    weights = [weight(fmt, rows, columns, seed=rows) for rows in ROWS]
    what = request(op, [f32("n", columns), *(w.type for w in weights)], **({"scheme": _SCHEMES[fmt]} if op != "linear" else {}))
    x = np.random.default_rng(11).standard_normal((POSITIONS, columns)).astype(np.float32)
    here = run(what, [x, *weights], (POSITIONS, sum(ROWS)), SAME_BITS)
    if op == "linear":
        assert nmse(here, reference(what, [x, *weights])) < 1e-12
    with closing(kernels(level, what)) as there:
        for n, threads in ((POSITIONS, 2), (POSITIONS, 3), (1, 1), (2, 2), (5, 2)):
            found = there.run(what, [x[-n:].copy(), *weights], (n, sum(ROWS)), threads)
            assert found.tobytes() == here[-n:].tobytes(), (n, threads)
