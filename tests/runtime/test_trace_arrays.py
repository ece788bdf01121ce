"""Traces from arrays as people have them: their own shapes, and the types of other libraries."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import values

try:
    import torch
except ModuleNotFoundError:
    torch = None  # type: ignore[assignment]

with_torch = pytest.mark.skipif(torch is None, reason="torch is not here")

TOKENS = (5, 6, 7)  # n = 3; H = 2, K = 1, D = 4, E = 6


def write(place: Path, tensors: Any, tokens: Any = TOKENS, **options: Any) -> Trace:
    return Trace.write(place / "t", tensors, tokens=tokens, **options)


# -- shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-ARRAYS-3")
@pytest.mark.parametrize(("stage", "shape", "recorded"), [
    ("attn_norm", (1, 3, 6), (3, 6)), ("attn_norm", (3, 1, 6), (3, 6)), ("attn_norm", (1, 1, 3, 6), (3, 6)), ("attn_norm", (1, 1, 6), (1, 6)),
    ("attention", (3, 2, 4), (3, 8)), ("attention", (1, 3, 2, 4), (3, 8)), ("attention", (1, 3, 8), (3, 8)), ("attention", (3, 8), (3, 8)),
    ("k_post_rope", (3, 1, 4), (3, 4)), ("k_post_rope", (1, 3, 1, 4), (3, 4)), ("qkv_matmul", (3, 4, 4), (3, 16)),
    ("attention", (1, 1, 2, 4), (1, 8)), ("attn_scores", (1, 2, 3, 3), (2, 3, 3)), ("attn_softmax", (1, 3, 3), (1, 3, 3)),
    ("moe_router", (1, 3, 2), (3, 2)), ("moe_expert_gate", (1, 3, 2, 5), (3, 2, 5)), ("moe_expert_gate", (3, 2, 5), (3, 2, 5)),
])  # fmt: skip
def test_natural_shapes(tmp_path: Path, stage: str, shape: tuple[int, ...], recorded: tuple[int, ...]) -> None:
    """Axes of one, and heads apart: the elements lie as they did."""
    array = values(*shape)
    found = write(tmp_path, {(0, stage): array}).tensor(stage, 0)
    assert found.shape == recorded
    assert found.tobytes() == array.tobytes()


@pytest.mark.contract("CAPTURE-ARRAYS-3")
@pytest.mark.parametrize(("shape", "recorded", "positions"), [
    ((9,), (9,), "last"), ((1, 9), (9,), "last"), ((1, 1, 9), (9,), "last"), ((3, 9), (3, 9), "all"), ((1, 3, 9), (3, 9), "all"),
])  # fmt: skip
def test_logits(tmp_path: Path, shape: tuple[int, ...], recorded: tuple[int, ...], positions: str) -> None:
    trace = write(tmp_path, {"lm_head": values(*shape)})
    assert trace.info is not None
    assert (trace.tensor("lm_head").shape, trace.info.positions) == (recorded, positions)


@pytest.mark.contract("CAPTURE-ARRAYS-3")
def test_what_one_shape_leaves_open_others_tell(tmp_path: Path) -> None:
    """1 x 3 x 8 is three positions of a batch, or one position of three heads: without anything else it is an error."""
    tensors = {"layer0.attention": values(1, 3, 8)}
    with pytest.raises(
        TraceError, match="has the shape 1 x 3 x 8, which can be 1 x n x H\\*D or n x H x D; give the tokens, or the shape n x H\\*D"
    ):
        write(tmp_path, tensors, ())
    assert not (tmp_path / "t").exists()
    assert write(tmp_path, tensors).tensor("attention", 0).shape == (3, 8)
    assert write(tmp_path, tensors, (5,)).tensor("attention", 0).shape == (1, 24)
    others = {**tensors, "layer0.ffn_norm": values(3, 6)}
    assert write(tmp_path, others, ()).tensor("attention", 0).shape == (3, 8)
    assert write(tmp_path, {"layer1.attention": values(3, 8), **tensors}, ()).tensor("attention", 0).shape == (3, 8)
    assert write(tmp_path, {"step1.layer0.attention": values(1, 3, 8)}, ()).tensor("attention", 0, 1).shape == (1, 24)


def test_where_heads_and_positions_are_as_many_positions_come_first(tmp_path: Path) -> None:
    """As documented: nothing in the shape tells the two apart."""
    array = values(3, 3, 4)
    assert write(tmp_path, {(0, "attention"): array}).tensor("attention", 0).tobytes() == array.tobytes()


# -- types --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_the_types_of_ml_dtypes(tmp_path: Path, name: str) -> None:
    array = values(3, 6).astype(getattr(ml_dtypes, name))
    assert np.array_equal(write(tmp_path, {(0, "ffn_out"): array}).tensor("ffn_out", 0), array.astype(np.float32))


def test_masked_scores_are_values(tmp_path: Path) -> None:
    """-inf, and the lowest number of each type; float32 has none so low as float64's."""
    for kind in (np.float16, np.float32, np.float64):
        lowest = np.finfo(kind).min
        found = write(
            tmp_path, {(0, "attn_scores"): np.full((2, 3, 3), lowest, kind), (1, "attn_scores"): np.full((2, 3, 3), -np.inf, kind)}
        )
        assert (np.array(found.tensor("attn_scores", 0)) == (lowest if kind is not np.float64 else -np.inf)).all()
        assert (np.array(found.tensor("attn_scores", 1)) == -np.inf).all()


class _Foreign:
    """An array of another library, by one protocol."""

    def __init__(self, array: Any) -> None:
        self._array = array


class _ByArray(_Foreign):
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._array


class _ByDlpack(_Foreign):
    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


class _OnGpu(_Foreign):
    __cuda_array_interface__ = None

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("implicit conversion")

    def get(self) -> Any:
        return self._array


class _Sparse(_Foreign):
    def toarray(self) -> Any:
        return self._array


@pytest.mark.parametrize("wrap", [_ByArray, _ByDlpack, _OnGpu, list, np.ndarray.tolist, lambda array: [_ByArray(row) for row in array]])
def test_arrays_of_other_libraries(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    array = values(3, 6)
    assert np.array_equal(write(tmp_path, {(0, "ffn_out"): wrap(array)}).tensor("ffn_out", 0), array)


@pytest.mark.parametrize(("value", "message"), [
    (_Sparse(values(3, 6)), r"layer 0 ffn_out is a sparse _Sparse; give its toarray\(\)"),
    (_ByArray("text"), "layer 0 ffn_out is no array"),
    (object(), "layer 0 ffn_out is a object, expected float16"),
    ([1, None], "layer 0 ffn_out is a mixture of objects, expected float16"),
])  # fmt: skip
def test_what_is_no_array(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message) as raised:
        write(tmp_path, {(0, "ffn_out"): value})
    assert "\n" not in str(raised.value)


@with_torch
@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64"])
def test_tensors_of_torch(tmp_path: Path, name: str) -> None:
    tensor = torch.from_numpy(values(1, 3, 6) * 4).to(getattr(torch, name))
    found = write(tmp_path, {(0, "ffn_out"): tensor}).tensor("ffn_out", 0)
    assert np.array_equal(found, tensor[0].to(torch.float32).numpy())


@with_torch
def test_whole_numbers_of_few_bits_are_no_numbers_of_a_stage(tmp_path: Path) -> None:
    """They are the bits of something, or were quantised."""
    with pytest.raises(TraceError, match="layer 0 ffn_out is uint16, whole numbers of 16 bits, expected real ones: are they the bits of"):
        write(tmp_path, {(0, "ffn_out"): torch.from_numpy(values(3, 6)).bfloat16().view(torch.uint16)})


@with_torch
def test_tensors_with_gradients_views_and_nan(tmp_path: Path) -> None:
    tensor = torch.nn.Parameter(torch.tensor([[1.0, float("nan"), 3.0], [4.0, 5.0, -float("inf")], [7.0, 8.0, 9.0]]))
    found = write(tmp_path, {(0, "ffn_out"): tensor, (0, "ffn_norm"): tensor.T * 2, (1, "ffn_norm"): list(tensor)})
    assert np.array_equal(found.tensor("ffn_out", 0), tensor.detach().numpy(), equal_nan=True)
    assert np.array_equal(found.tensor("ffn_norm", 0), 2 * tensor.detach().numpy().T, equal_nan=True)
    assert np.array_equal(found.tensor("ffn_norm", 1), tensor.detach().numpy(), equal_nan=True)


@with_torch
@pytest.mark.parametrize(("make", "message"), [
    (lambda: torch.zeros(3, 6, dtype=torch.complex64), "layer 0 ffn_out is complex64, expected real numbers"),
    (lambda: torch.zeros(3, 6).to_sparse(), r"is a sparse tensor \(torch.sparse_coo\); give its to_dense\(\)"),
    (lambda: torch.quantize_per_tensor(torch.zeros(3, 6), 1.0, 0, torch.qint8), r"is a quantised tensor \(qint8\); give its dequantize\(\)"),
    (lambda: torch.zeros(3, 6, device="meta"), "is on the device meta"),
    (lambda: torch.zeros(3, 6, dtype=torch.bool), "is bool, expected float16"),
    (lambda: (torch.zeros(1, 3, 6), torch.zeros(2, 3)), "is a tuple of 2 tensors of different shapes or types; give one of them"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_torch_that_are_not_taken(tmp_path: Path, make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TraceError, match=message) as raised:
        write(tmp_path, {(0, "ffn_out"): make()})
    assert str(raised.value).startswith(str(tmp_path))
    assert not (tmp_path / "t").exists()


def test_torch_is_not_imported_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write(tmp_path, {(0, "ffn_out"): values(3, 6)})


# -- what the types say of the arithmetic -------------------------------------------------------------------------------


@pytest.mark.parametrize(("types", "arithmetic"), [
    ((np.float32, np.float64), None), ((np.float32, np.float16), "float16"), ((ml_dtypes.bfloat16, np.float16), "bfloat16"),
    ((ml_dtypes.float8_e4m3fn, np.float16), "q8-activations"),
])  # fmt: skip
def test_the_coarsest_type_is_taken_for_the_arithmetic(tmp_path: Path, types: Any, arithmetic: str | None) -> None:
    """What was recorded in bfloat16 carries its rounding, whatever it was computed in."""
    tensors = {(layer, "ffn_out"): values(3, 6).astype(kind) for layer, kind in enumerate(types)}
    info = write(tmp_path, {**tensors, (0, "moe_router_indices"): np.zeros((3, 2), np.float16)}).info
    assert info is not None
    assert info.extra.get("arithmetic") == arithmetic
    if arithmetic is not None:
        (note,) = info.extra["notes"]
        assert note.startswith(f"the arithmetic is taken for {arithmetic}, since 1 of 2 tensors were recorded in ")


def test_an_arithmetic_that_was_given_is_kept(tmp_path: Path) -> None:
    info = write(tmp_path, {(0, "ffn_out"): values(3, 6).astype(np.float16)}, arithmetic="float32").info
    assert info is not None
    assert info.extra == {"arithmetic": "float32"}
