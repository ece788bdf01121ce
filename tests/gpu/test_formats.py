"""Every block format in every kernel that decodes it, from one position to more than a tile holds, on the GPU; and sizes of real models."""

from __future__ import annotations

import numpy as np
import pytest

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.ir import TensorType
from aprgraph.runtime.cuda.driver import Gpu
from tests.gpu.device_kernels import DeviceKernels
from tests.support.cuda_kernels import Requests
from tests.support.golden import nmse
from tests.support.kernels import f32, i32, reference, weight

RNG = np.random.default_rng(17)
SIZES = (1, 2, 7, 33, 257)
ROWS, EXPERTS, USED = 133, 5, 2
request = Requests()


def activations(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def choices(n: int) -> np.ndarray:
    return np.stack([RNG.permutation(EXPERTS)[:USED] for _ in range(n)]).astype(np.float32)


def _columns(fmt: str) -> int:
    """An odd number of blocks; for plain formats a width that nothing divides."""
    elements = BLOCK_FORMATS[fmt].elements
    return 331 if elements == 1 else elements * (3 if elements == 256 else 11)


WEIGHTS = {fmt: weight(fmt, ROWS, _columns(fmt)) for fmt in BLOCK_FORMATS}
OF_EXPERTS = {fmt: weight(fmt, EXPERTS, 70, _columns(fmt)) for fmt in BLOCK_FORMATS}
LINEAR = {fmt: request("linear", [f32("n", _columns(fmt)), w.type]) for fmt, w in WEIGHTS.items()}
EMBED = {fmt: request("embed", [i32("n"), w.type], scale=1.0) for fmt, w in WEIGHTS.items()}
EXPERT_LINEAR = {
    (fmt, each): request("expert_linear", [f32("n", USED, w.type.dims[2]) if each else f32("n", w.type.dims[2]), f32("n", USED), w.type])
    for fmt, w in OF_EXPERTS.items()
    for each in (False, True)
}
#: Rows and columns as of models with some billions of parameters, and an attention of a long prompt.
LARGE = dict.fromkeys(("F16", "Q8_0", "Q4_K", "Q6_K", "MXFP4"), (3000, 8192))
LARGE_LINEAR = {fmt: request("linear", [f32("n", dims[1]), TensorType(fmt.lower(), dims)]) for fmt, dims in LARGE.items()}
HEADS = {"heads": 8, "kv_heads": 2, "scale": 0.125}
ATTENTION = {window: request("attention", [f32("n", 512), f32("t", 128), f32("t", 128)], **HEADS, window=window) for window in (0, 300)}
SCORES = {window: request("attn_scores", [f32("n", 512), f32("t", 128)], **HEADS, window=window) for window in (0, 300)}
SOFTMAX = {window: request("attn_softmax", [SCORES[window].result], window=window) for window in (0, 300)}
MIX = {window: request("attn_mix", [SCORES[window].result, f32("t", 128)], kv_heads=2, window=window) for window in (0, 300)}

each_format = pytest.mark.parametrize("fmt", BLOCK_FORMATS)


@pytest.fixture(scope="module")
def kernels(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> DeviceKernels:
    return DeviceKernels(request, gpu, tmp_path_factory.mktemp("formats"))


@pytest.fixture
def real(gpu: Gpu) -> None:
    if gpu.name.startswith("emulated"):
        pytest.skip("takes minutes on an emulated GPU")


@each_format
def test_linear(fmt: str, kernels: DeviceKernels) -> None:
    x, w = activations(257, _columns(fmt)), WEIGHTS[fmt]
    whole = kernels.run(LINEAR[fmt], [x, w], (257, ROWS))
    assert nmse(whole, reference(LINEAR[fmt], [x, w])) < 1e-12
    for n in SIZES:
        got = kernels.run(LINEAR[fmt], [x[:n].copy(), w], (n, ROWS))
        assert got.tobytes() == whole[:n].tobytes(), f"{n} of 257 positions have other bits than all"


@each_format
def test_embed(fmt: str, kernels: DeviceKernels) -> None:
    w = WEIGHTS[fmt]
    for n in SIZES:
        tokens = RNG.integers(0, ROWS, n).astype(np.int32)
        got = kernels.run(EMBED[fmt], [tokens, w], (n, _columns(fmt)))
        assert nmse(got, reference(EMBED[fmt], [tokens, w])) < 1e-13


@pytest.mark.parametrize("each", [False, True], ids=["one row a position", "one row a choice"])
@each_format
def test_expert_linear(fmt: str, each: bool, kernels: DeviceKernels) -> None:
    what, w = EXPERT_LINEAR[fmt, each], OF_EXPERTS[fmt]
    x = activations(257, USED, _columns(fmt)) if each else activations(257, _columns(fmt))
    ids = choices(257)
    whole = kernels.run(what, [x, ids, w], (257, USED, 70))
    assert nmse(whole, reference(what, [x, ids, w])) < 1e-12
    for n in SIZES:
        got = kernels.run(what, [x[:n].copy(), ids[:n].copy(), w], (n, USED, 70))
        assert got.tobytes() == whole[:n].tobytes(), f"{n} of 257 positions have other bits than all"


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("fmt", LARGE)
def test_large_matrices(fmt: str, kernels: DeviceKernels) -> None:
    rows, columns = LARGE[fmt]
    x, w = activations(300, columns), weight(fmt, rows, columns)
    whole = kernels.run(LARGE_LINEAR[fmt], [x, w], (300, rows))
    assert nmse(whole, x.astype(np.float64) @ w.decoded.T) < 1e-12
    for n in (1, 4, 8, 9):
        assert kernels.run(LARGE_LINEAR[fmt], [x[:n].copy(), w], (n, rows)).tobytes() == whole[:n].tobytes()


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("window", [0, 300])
@pytest.mark.parametrize(("n", "t"), [(1500, 1500), (257, 4000), (1, 4000)])
def test_attention_of_a_long_prompt(n: int, t: int, window: int, kernels: DeviceKernels) -> None:
    """The fused kernel against the three, to the bit, and those against the reference."""
    q, k, v = activations(n, 512), activations(t, 128), activations(t, 128)
    scores = kernels.run(SCORES[window], [q, k], (8, n, t))
    weights = kernels.run(SOFTMAX[window], [scores], (8, n, t))
    mix = kernels.run(MIX[window], [weights, v], (n, 512))
    assert kernels.run(ATTENTION[window], [q, k, v], (n, 512)).tobytes() == mix.tobytes()
    assert nmse(scores, reference(SCORES[window], [q, k])) < 1e-12
    assert nmse(weights, reference(SOFTMAX[window], [scores])) < 1e-12
    assert nmse(mix, reference(MIX[window], [weights, v])) < 1e-12
