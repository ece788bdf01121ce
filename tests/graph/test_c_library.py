"""expf and tanhf as glibc computes them: where it does not give the nearest float32, recorded of glibc 2.36 on x86-64."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.ops.c_library import expf, tanhf

#: The bits of an argument, and of what glibc gives for it.
EXPF = (
    (0xC1854A7A, 0x337978AE), (0xBE8860D9, 0x3F442315), (0xC03C07D6, 0x3D58F9EC), (0xBF71F0E4, 0x3EC6FCD6),
    (0xC0B1FEB0, 0x3B7BA4D9), (0xC0B32A1B, 0x3B729CC5), (0xC07B34F3, 0x3CA1B5D8), (0xC02FD705, 0x3D83408D),
)  # fmt: skip
TANHF = (
    (0x3F2A980D, 0x3F1524F7), (0x3F33E056, 0x3F1B2592), (0x3ED244C4, 0x3EC731A7), (0xBE5BDFA3, 0xBE588E42),
    (0xBF5CC8BE, 0xBF329020), (0xBF61A0D5, 0xBF350483), (0xBF255A73, 0xBF11A428), (0x3F55F46A, 0x3F2EFD9A),
)  # fmt: skip


@pytest.mark.contract("ARITHMETIC-GGML-1")
@pytest.mark.parametrize(("function", "exact", "recorded"), [(expf, np.exp, EXPF), (tanhf, np.tanh, TANHF)], ids=["expf", "tanhf"])
def test_the_neighbours_that_glibc_gives(function, exact, recorded) -> None:  # type: ignore[no-untyped-def]
    x, due = np.array(recorded, np.uint32).T.copy().view(np.float32)
    assert function(x).tobytes() == due.tobytes()
    nearest = exact(x.astype(np.float64)).astype(np.float32)
    assert (nearest != due).all()
    assert (np.abs(nearest.view(np.int32) - due.view(np.int32)) == 1).all()


@pytest.mark.parametrize(("function", "exact"), [(expf, np.exp), (tanhf, np.tanh)], ids=["expf", "tanhf"])
def test_everywhere_at_most_the_second_neighbour(function, exact) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-60, 60, 20000), rng.standard_normal(20000), 1e-3 * rng.standard_normal(2000), [0.0, -0.0, 1.0, 22.0]])
    single = x.astype(np.float32)
    nearest, found = exact(single.astype(np.float64)).astype(np.float32), function(single)
    assert found.dtype == np.float32
    assert np.abs(nearest.view(np.int32) - found.view(np.int32)).max() <= 2
    special = function(np.array([np.inf, -np.inf, np.nan], np.float32))
    assert special[:2].tolist() == exact(np.array([np.inf, -np.inf])).tolist()
    assert np.isnan(special[2])
