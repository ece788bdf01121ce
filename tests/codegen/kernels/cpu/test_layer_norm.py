"""The LayerNorm kernel, on every CPU level."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.codegen.cpu.levels import Cpu
from tests.support.golden import nmse
from tests.support.kernels import RUNNABLE, f32, reference, request, run, weight

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("cpu", RUNNABLE, ids=[cpu.name for cpu in RUNNABLE])
@pytest.mark.parametrize(("columns", "groups", "formats"), [(53, 1, ["F32"]), (60, 5, ["F32", "F32"]), (53, 1, [])])
def test_layer_norm(columns: int, groups: int, formats: list[str], cpu: Cpu) -> None:
    weights = [weight(fmt, columns // groups, seed=seed) for seed, fmt in enumerate(formats)]
    what = request("layer_norm", [f32("n", columns), *(w.type for w in weights)], eps=1e-5, groups=groups)
    for n in (1, 7, 33):
        x = (3 + RNG.standard_normal((n, columns))).astype(np.float32)
        got = run(what, [x, *weights], (n, columns), cpu)
        assert nmse(got, reference(what, [x, *weights])) < 1e-12
        assert run(what, [x[-1:].copy(), *weights], (1, columns), cpu).tobytes() == got[-1].tobytes()


def test_weights_of_each_head_in_other_formats_and_rows_that_hardly_vary() -> None:
    """Of a row of equal numbers the bias is left; a large mean takes no digits from what varies around it."""
    weights = [weight("Q8_0", 3, 32), weight("BF16", 3, 32, seed=1)]
    what = request("layer_norm", [f32("n", 96), *(w.type for w in weights)], eps=1e-6, groups=3)
    x = (1000 + RNG.standard_normal((4, 96))).astype(np.float32)
    x[0] = 2.5
    got = run(what, [x, *weights], (4, 96), RUNNABLE[-1])
    expected = reference(what, [x, *weights])
    np.testing.assert_array_equal(got[0], weights[1].decoded.reshape(-1).astype(np.float32))
    assert nmse(got[1:], expected[1:]) < 1e-8
