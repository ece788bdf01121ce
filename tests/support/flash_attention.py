"""Flash attentions that tests of every target compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.graph.ir import Attr
from tests.support.golden import nmse
from tests.support.kernels import f32, reference

HEADS, KV_HEADS = 4, 2

#: Lanes, the head size of q and k, that of v, and what else there is.
SHAPES: dict[str, tuple[int, int, int, dict[str, Attr]]] = {
    "vectors": (8, 64, 64, {}),
    "a rest": (8, 80, 40, {}),
    "longer vectors": (16, 64, 64, {}),
    "no vectors": (0, 20, 20, {}),
    "short heads": (8, 16, 24, {}),
    "a cap": (8, 32, 32, {"cap": 5.0}),
    "sinks": (8, 32, 32, {}),
    "a window": (8, 32, 32, {"window": 5}),
}


def flash(name: str, request: Callable[..., KernelRequest]) -> KernelRequest:
    """The request of one of ``SHAPES``, as ``request`` makes it."""
    lanes, size, values, attrs = SHAPES[name]
    q, k, v = f32("n", HEADS * size), f32("t", KV_HEADS * size), f32("t", KV_HEADS * values)
    given: dict[str, Attr] = {"heads": HEADS, "kv_heads": KV_HEADS, "scale": size**-0.5, "lanes": lanes, "window": 0, **attrs}
    return request("flash_attention", [q, k, v, *([f32(HEADS)] if name == "sinks" else [])], **given)


def activations(rng: np.random.Generator, n: int, t: int, what: KernelRequest) -> list[npt.NDArray[np.float32]]:
    """q, k, v and perhaps sinks of ``n`` positions, the last of ``t``."""
    found = [rng.standard_normal((count, int(kind.dims[1]))).astype(np.float32) for count, kind in zip((n, t, t), what.operands)]  # noqa: B905 -- sinks are apart
    found[0] *= 3  # so that a new largest score comes now and then
    return found + [rng.standard_normal(HEADS).astype(np.float32) for _ in what.operands[3:]]


def assert_online(got: npt.NDArray[np.float32], what: KernelRequest, operands: list[npt.NDArray[np.float32]]) -> None:
    """To the bit but where glibc's expf is the neighbour of the nearest float32, which kernels take, and its tanhf, as it often is."""
    wanted = reference(what, operands).astype(np.float32)
    same = (got == wanted).mean()
    assert same == 1 or (("cap" in what.attrs or same > 0.98) and nmse(got, wanted) < 1e-8), (same, nmse(got, wanted))


def assert_tiles(got: npt.NDArray[np.float32], what: KernelRequest, operands: list[npt.NDArray[np.float32]]) -> None:
    """As near as float32 is."""
    assert nmse(got, reference(what, operands)) < 1e-12
