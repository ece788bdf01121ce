"""The tensors of a tiny model, written one after another."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFWriter

from tests.support.tiny_blocks import encode, random_values
from tests.support.tiny_families import TinyFamily


@dataclass(frozen=True)
class TinySizes:
    """Sizes of a model; ``experts`` is 0 for a dense one, ``shared_ffn`` 0 where there is no shared expert."""

    layers: int
    vocabulary: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    rope_dims: int
    experts: int = 0
    experts_used: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0


@dataclass(frozen=True)
class TensorWriter:
    """Writes tensors of random values; two of them never hold the same ones. ``formats`` are as in ``write_tiny_model``."""

    writer: GGUFWriter
    default: str
    formats: Mapping[str, str]
    seed: int

    def matrix(self, name: str, *dims: int, deviation: float | None = None) -> None:
        """Values of mean 0 whose products with a row of deviation 1 have about that, unless ``deviation`` is given."""
        fmt = self._format(name, self.default)
        deviation = dims[-1] ** -0.5 if deviation is None else deviation
        self._add(name, random_values(fmt, dims, deviation, self._generator(name)), fmt)

    def router(self, name: str, *dims: int) -> None:
        """Always F32, and larger than a matrix, so that the choice of experts is clear."""
        values = (self._generator(name).standard_normal(dims) * 2 * dims[-1] ** -0.5).astype(np.float32)
        self._add(name, values, "F32")

    def vector(self, name: str, length: int, mean: float) -> None:
        """A norm or a bias, F32 unless ``formats`` names it."""
        values = mean + 0.2 * self._generator(name).standard_normal(length)
        self.given(name, values.astype(np.float32))

    def given(self, name: str, values: npt.NDArray[np.float32]) -> None:
        """The values themselves."""
        fmt = self._format(name, "F32")
        self._add(name, encode(values, fmt), fmt)

    def _format(self, name: str, default: str) -> str:
        return next((fmt for end, fmt in self.formats.items() if name.endswith(end)), default)

    def _generator(self, name: str) -> np.random.Generator:
        """A generator for one tensor, so that adding a tensor leaves the others as they were."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def _add(self, name: str, values: npt.NDArray[np.generic], fmt: str) -> None:
        self.writer.add_tensor(name, values, raw_dtype=GGMLQuantizationType[fmt])


def write_layer(out: TensorWriter, blk: str, family: TinyFamily, sizes: TinySizes, biases: Mapping[str, bool]) -> None:
    """All tensors of the layer whose names begin with ``blk``; ``biases`` says whether "qkv", "output" and "ffn" have them."""
    hidden = sizes.hidden
    out.vector(f"{blk}.attn_norm.weight", hidden, 1.0)
    _write_attention(out, blk, family, sizes, biases)
    if family.post_norms:
        out.vector(f"{blk}.post_attention_norm.weight", hidden, 1.0)
    out.vector(f"{blk}.ffn_norm.weight", hidden, 1.0)
    if sizes.experts:
        _write_experts(out, blk, sizes)
    elif family.fused:
        out.matrix(f"{blk}.ffn_up.weight", 2 * sizes.ffn, hidden)
        out.matrix(f"{blk}.ffn_down.weight", hidden, sizes.ffn)
    else:
        for part, rows, columns in (("gate", sizes.ffn, hidden), ("up", sizes.ffn, hidden), ("down", hidden, sizes.ffn)):
            out.matrix(f"{blk}.ffn_{part}.weight", rows, columns)
            if biases["ffn"]:
                out.vector(f"{blk}.ffn_{part}.bias", rows, 0.0)
    if family.post_norms:
        out.vector(f"{blk}.post_ffw_norm.weight", hidden, 1.0)


def _write_attention(out: TensorWriter, blk: str, family: TinyFamily, sizes: TinySizes, biases: Mapping[str, bool]) -> None:
    q_rows, kv_rows = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    if family.fused:
        out.matrix(f"{blk}.attn_qkv.weight", q_rows + 2 * kv_rows, sizes.hidden)
    else:
        for part, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
            out.matrix(f"{blk}.attn_{part}.weight", rows, sizes.hidden)
            if biases["qkv"]:
                out.vector(f"{blk}.attn_{part}.bias", rows, 0.0)
    if family.qk_norm:
        out.vector(f"{blk}.attn_q_norm.weight", sizes.head_size, 1.0)
        out.vector(f"{blk}.attn_k_norm.weight", sizes.head_size, 1.0)
    out.matrix(f"{blk}.attn_output.weight", sizes.hidden, q_rows)
    if biases["output"]:
        out.vector(f"{blk}.attn_output.bias", sizes.hidden, 0.0)


def _write_experts(out: TensorWriter, blk: str, sizes: TinySizes) -> None:
    count, ffn, shared, hidden = sizes.experts, sizes.expert_ffn, sizes.shared_ffn, sizes.hidden
    out.router(f"{blk}.ffn_gate_inp.weight", count, hidden)
    out.matrix(f"{blk}.ffn_gate_exps.weight", count, ffn, hidden)
    out.matrix(f"{blk}.ffn_up_exps.weight", count, ffn, hidden)
    out.matrix(f"{blk}.ffn_down_exps.weight", count, hidden, ffn)
    if shared:
        out.router(f"{blk}.ffn_gate_inp_shexp.weight", hidden)
        out.matrix(f"{blk}.ffn_gate_shexp.weight", shared, hidden)
        out.matrix(f"{blk}.ffn_up_shexp.weight", shared, hidden)
        out.matrix(f"{blk}.ffn_down_shexp.weight", hidden, shared)
