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
#: Passes of 70 positions at most, and keys that are divided among three threads, with what else there is. Positions and keys of each
#: run, and the first that is computed from key to key.
DIVIDED: dict[str, tuple[int, int, int, dict[str, Attr]]] = {
    "threads": (8, 64, 64, {"threads": 3, "ubatch": 70}),
    "threads, a window": (0, 20, 20, {"threads": 3, "ubatch": 70, "window": 150}),
    "threads, sinks": (16, 64, 64, {"threads": 3, "ubatch": 70}),
    "short passes": (8, 32, 32, {"threads": 3, "ubatch": 9}),
}
ALWAYS = "threads, a window"
FEW_RUNS = ((1, 300, 0), (71, 80, 70))
DIVIDED_RUNS = ((1, 300, 0), (1, 256, 0), (3, 300, 0), (71, 300, 70), (71, 71, 70), (100, 100, 70), (140, 140, 140), (135, 150, 135))


def flash(name: str, request: Callable[..., KernelRequest]) -> KernelRequest:
    """The request of one of ``SHAPES`` or ``DIVIDED``, as ``request`` makes it."""
    lanes, size, values, attrs = (SHAPES | DIVIDED)[name]
    q, k, v = f32("n", HEADS * size), f32("t", KV_HEADS * size), f32("t", KV_HEADS * values)
    given: dict[str, Attr] = {"heads": HEADS, "kv_heads": KV_HEADS, "scale": size**-0.5, "lanes": lanes, "window": 0, **attrs}
    return request("flash_attention", [q, k, v, *([f32(HEADS)] if "sinks" in name else [])], **given)


def activations(rng: np.random.Generator, n: int, t: int, what: KernelRequest) -> list[npt.NDArray[np.float32]]:
    """q, k, v and perhaps sinks of ``n`` positions, the last of ``t``."""
    found = [rng.standard_normal((count, int(kind.dims[1]))).astype(np.float32) for count, kind in zip((n, t, t), what.operands)]  # noqa: B905 -- sinks are apart
    found[0] *= 3  # so that a new largest score comes now and then
    return found + [rng.standard_normal(HEADS).astype(np.float32) for _ in what.operands[3:]]


def assert_divided(name: str, what: KernelRequest, run: Callable[..., npt.NDArray[np.float32]]) -> None:
    """What ``run(request, operands, shape)`` computes, each position as it is in its pass: in few runs of the case that is always tested."""
    rng, values = np.random.default_rng(6), DIVIDED[name][2]
    for n, t, first in FEW_RUNS if name == ALWAYS else DIVIDED_RUNS:
        online = 0 if name == "short passes" else first
        operands = activations(rng, n, t, what)
        wanted, got = reference(what, operands).astype(np.float32), run(what, operands, (n, HEADS * values))
        _assert_same(got[online:], wanted[online:], what)
        assert online == 0 or nmse(got[:online], wanted[:online]) < 1e-12


def assert_online(got: npt.NDArray[np.float32], what: KernelRequest, operands: list[npt.NDArray[np.float32]]) -> None:
    """To the bit but where glibc's expf is the neighbour of the nearest float32, which kernels take, and its tanhf, as it often is."""
    _assert_same(got, reference(what, operands).astype(np.float32), what)


def _assert_same(got: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], what: KernelRequest) -> None:
    if not got.size:
        return
    same = (got == wanted).mean()
    assert same == 1 or (("cap" in what.attrs or same > 0.98) and nmse(got, wanted) < 1e-8), (same, nmse(got, wanted))


def assert_tiles(got: npt.NDArray[np.float32], what: KernelRequest, operands: list[npt.NDArray[np.float32]]) -> None:
    """As near as float32 is."""
    assert nmse(got, reference(what, operands)) < 1e-12
