"""Checkpoints of the golden llama whose output projections of attention are packed integers, by formulas of their own, and their readers' mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from tests.graph.test_checkpoint_files import change, packed, unpacked
from tests.support.checkpoints import write_checkpoint

Ints = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
NAME = "llama-bf16"
GROUP = 16
_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass(frozen=True)
class Integers:
    """``q`` [inputs, outputs], ``scale`` and ``zero`` [groups, outputs], ``group`` [inputs]."""

    q: Ints
    scale: F32
    zero: Ints
    group: Ints

    @property
    def weight(self) -> F32:
        """[outputs, inputs]."""
        return ((self.q - self.zero[self.group]) * self.scale[self.group]).T.astype(np.float32)


def quantised(w: F32, *, out_of_order: bool = False) -> Integers:
    """The nearest of 16 levels between the least and the largest weight of each group of inputs."""
    inputs = w.shape[1]
    group = np.empty(inputs, np.int64)
    group[np.random.default_rng(1).permutation(inputs) if out_of_order else np.arange(inputs)] = np.arange(inputs) // GROUP
    scale, zero = (np.zeros((inputs // GROUP, len(w)), dtype) for dtype in (np.float32, np.int64))
    for one in range(len(scale)):
        least, most = w[:, group == one].min(axis=1), w[:, group == one].max(axis=1)
        scale[one] = ((most - least) / 15).astype(np.float16)
        zero[one] = np.clip(np.round(-least / scale[one]), 0, 15)
    q = np.clip(np.round(w.T / scale[group]) + zero[group], 0, 15).astype(np.int64)
    return Integers(q, scale, zero, group)


def words(codes: Ints, order: Sequence[int] = range(8)) -> npt.NDArray[np.int32]:
    """Eight codes of 4 bits along the last axis in each word, those of ``order`` from the lowest bits on."""
    parts = codes.reshape(*codes.shape[:-1], -1, 8)[..., list(order)].astype(np.uint32)
    return np.bitwise_or.reduce(parts << (4 * np.arange(8, dtype=np.uint32)), axis=-1).view(np.int32)


def of_gptq(made: Integers) -> dict[str, npt.NDArray[Any]]:
    """As AutoGPTQ stores it."""
    return {
        "qweight": words(made.q.T).T, "qzeros": words((made.zero - 1) & 15), "scales": made.scale.astype(np.float16),
        "g_idx": made.group.astype(np.int32),
    }  # fmt: skip


def of_awq(made: Integers) -> dict[str, npt.NDArray[Any]]:
    """As AutoAWQ stores it."""
    return {"qweight": words(made.q, _AWQ), "qzeros": words(made.zero, _AWQ), "scales": made.scale.astype(np.float16)}


def of_mlx(made: Integers) -> dict[str, npt.NDArray[Any]]:
    """As mlx-lm stores it: weight = q · scale + bias."""
    bias = (-made.zero * made.scale).astype(np.float32)
    return {"weight": words(made.q.T).view(np.uint32), "scales": made.scale.T.copy(), "biases": bias.T.copy()}


def of_compressed(made: Integers) -> dict[str, npt.NDArray[Any]]:
    """As compressed-tensors packs it."""
    shape = np.array(made.q.T.shape, np.int64)
    return {
        "weight_packed": words(made.q.T), "weight_scale": made.scale.T.astype(np.float32).copy(), "weight_shape": shape,
        "weight_zero_point": words(made.zero).T.copy(),
    }  # fmt: skip


_CONFIGS: dict[str, tuple[Callable[[Integers], dict[str, npt.NDArray[Any]]], dict[str, Any]]] = {
    "gptq": (of_gptq, {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True}}),
    "awq": (of_awq, {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}}),
    "mlx": (of_mlx, {"quantization": {"group_size": GROUP, "bits": 4}}),
    "compressed": (of_compressed, {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized"}}),
}
_DTYPES = {"int32": "I32", "int64": "I64", "uint32": "U32", "float16": "F16", "float32": "F32"}
_MODULES = [f"model.layers.{layer}.self_attn.o_proj" for layer in range(2)]


def entry(values: npt.NDArray[Any]) -> tuple[str, list[int], bytes]:
    """A tensor as ``packed`` takes it."""
    return _DTYPES[str(values.dtype)], list(values.shape), np.ascontiguousarray(values).tobytes()


def pair_of(
    kind: str, folder: Path, wrong: Callable[[Integers], Integers], *, out_of_order: bool = False, mispacked: bool = False
) -> tuple[Path, Path]:
    """A checkpoint packed as ``kind``, and one of floats that a reader who makes the mistake ``wrong`` gets of it.

    ``mispacked``: the mistake is that of who packed it, and the floats are those that it was made from.
    """
    pack, config = _CONFIGS[kind]
    (folder / "packed").mkdir()
    (folder / "float").mkdir()
    one, other = (write_checkpoint(NAME, folder / side) for side in ("packed", "float"))
    tensors, floats = (unpacked((path / "model.safetensors").read_bytes()) for path in (one, other))
    for module in _MODULES:
        _, dims, data = tensors.pop(f"{module}.weight")
        w = np.frombuffer(data, ml_dtypes.bfloat16).astype(np.float32).reshape(dims)
        made = quantised(w, out_of_order=out_of_order)
        for name, values in pack(wrong(made) if mispacked else made).items():
            tensors[f"{module}.{name}"] = entry(values)
        if not mispacked:
            floats[f"{module}.weight"] = entry(wrong(made).weight.astype(np.float16))
    (one / "model.safetensors").write_bytes(packed(tensors))
    (other / "model.safetensors").write_bytes(packed(floats))
    change(one, lambda given: given.update(config))
    return one, other


def in_words(codes: Ints, axis: int, places: Sequence[int]) -> Ints:
    """Of each eight codes along an axis those of ``places``."""
    along = np.moveaxis(codes, axis, -1)
    return np.moveaxis(along.reshape(*along.shape[:-1], -1, 8)[..., list(places)].reshape(along.shape), -1, axis)


def in_groups_of(size: int) -> Callable[[Integers], Integers]:
    """Each input takes the numbers of the group that it would be in if groups had ``size``."""
    return lambda made: replace(made, group=np.minimum(np.arange(len(made.q)) // size, len(made.scale) - 1))
