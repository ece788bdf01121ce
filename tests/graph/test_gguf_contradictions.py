"""Whole GGUF files whose header breaks a rule, or whose metadata and tensors contradict each other: a table of messages."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, ModelFileError, UnsupportedModelError
from tests.support.damage import failure, write
from tests.support.gguf_bytes import ARRAY, BOOL, F32, F64, I32, STRING, U8, U32, U64, RawGGUF, RawTensor, array, small_llama, text

Change = Callable[[RawGGUF], object]


def key(name: str, kind: int, value: object) -> Change:
    return lambda file: file.set(name, kind, value)


def hyper(name: str, kind: int, value: object) -> Change:
    return key(f"llama.{name}", kind, value)


def without_key(name: str) -> Change:
    return lambda file: file.keys.pop(name)


def without(name: str) -> Change:
    return lambda file: file.tensors.pop(name)


def tensor(name: str, *dims: int, **fields: int) -> Change:
    return lambda file: file.tensors.__setitem__(name, RawTensor(dims, **fields))


def head_size(size: int) -> Change:
    return lambda file: [hyper(f"attention.{name}_length", U32, size)(file) for name in ("key", "value")]


def unpacked_key(name: str, kind: int, packed: bytes) -> Change:
    return lambda file: file.keys.__setitem__(name, (kind, packed))


def twice_key(file: RawGGUF) -> None:
    file.key_count = len(file.keys) + 1
    file.extra_keys = text("llama.block_count") + struct.pack("<II", U32, 2)


def twice_tensor(file: RawGGUF) -> None:
    file.tensor_count = len(file.tensors) + 1
    file.extra_tensors = text("output_norm.weight") + struct.pack("<IQIQ", 1, 8, 0, 0)


def i2_s_of_bitnet(file: RawGGUF) -> None:
    file.set("general.architecture", STRING, "bitnet-b1.58")
    tensor("extra", 128, kind=36)(file)


def tl2_of_bitnet(file: RawGGUF) -> None:
    """Shorter than MXFP4, of which the number is too."""
    file.set("general.architecture", STRING, "bitnet")
    tensor(EMBEDDING, 4, 32, kind=39, offset=0)(file)
    tensor("extra", 32, offset=32)(file)


NAN, INF = float("nan"), float("inf")
EMBEDDING, QUERY, DOWN = "token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"

DAMAGE: dict[str, tuple[Change, type[AprgraphError], str]] = {
    "key of an unknown type": (unpacked_key("odd", 13, b""), ModelFileError, "'odd' has the unknown value type 13"),
    "array of an unknown type": (unpacked_key("odd", ARRAY, struct.pack("<IQ", 99, 1)), ModelFileError, "array of the unknown type 99"),
    "array of arrays": (
        unpacked_key("odd", ARRAY, struct.pack("<IQ", ARRAY, 1) + array(U8, [1])),
        ModelFileError,
        "an array of arrays, expected an array of numbers or strings",
    ),
    "key twice": (twice_key, ModelFileError, "'llama.block_count' appears twice"),
    "tensor twice": (twice_tensor, ModelFileError, "'output_norm.weight' appears twice"),
    "no dims": (tensor("extra"), ModelFileError, "has 0 dimensions, expected 1 to 4"),
    "five dims": (tensor("extra", 1, 1, 1, 1, 8), ModelFileError, "has 5 dimensions, expected 1 to 4"),
    "zero rows": (tensor(EMBEDDING, 0, 8), ModelFileError, "is 0 x 8, expected dimensions of at least 1"),
    "zero columns": (tensor(EMBEDDING, 4, 0), ModelFileError, "is 4 x 0, expected dimensions of at least 1"),
    "misaligned": (tensor("extra", 8, offset=4), ModelFileError, "not a multiple of the file's alignment of 32"),
    "overlap": (tensor("extra", 8, offset=0), ModelFileError, "overlap"),
    "overlap by one row": (tensor("extra", 8, offset=96), ModelFileError, "overlap"),
    "past the end": (tensor("extra", 8, offset=1 << 20), ModelFileError, "past the end of the file"),
    "far past the end": (tensor("extra", 8, offset=(1 << 64) - 32), ModelFileError, "past the end of the file"),
    "rows of part of a block": (tensor("extra", 40, kind=8), ModelFileError, "rows of 40 elements, expected a multiple of 32 for Q8_0"),
    "unknown block type": (tensor("extra", 8, kind=999), UnsupportedModelError, "number 999"),
    "removed block type": (tensor("extra", 8, kind=4), UnsupportedModelError, r"block type Q4_2 \(4\), which llama\.cpp .*in Q4_0"),
    "block type of rows for ARM": (tensor("extra", 32, kind=32), UnsupportedModelError, r"block type Q4_0_4_8 \(32\), .*in Q4_0"),
    "another of these": (tensor("extra", 32, kind=38), UnsupportedModelError, r"block type IQ4_NL_8_8 \(38\), .*in IQ4_NL"),
    "block type of bitnet.cpp": (i2_s_of_bitnet, UnsupportedModelError, r"block type I2_S \(36\) of bitnet\.cpp, whose layout"),
    "one that is ggml's too": (tl2_of_bitnet, UnsupportedModelError, r"block type TL2 \(39\) of bitnet\.cpp"),
    "alignment 0": (key("general.alignment", U32, 0), ModelFileError, "general.alignment is 0, expected a power of two"),
    "alignment 1": (key("general.alignment", U32, 1), ModelFileError, "expected a power of two from 8"),
    "alignment 48": (key("general.alignment", U32, 48), ModelFileError, "expected a power of two"),
    "alignment -32": (key("general.alignment", I32, -32), ModelFileError, "is -32, expected a power of two"),
    "alignment huge": (key("general.alignment", U64, 1 << 63), ModelFileError, "expected a power of two from 8 to 1048576"),
    "alignment text": (key("general.alignment", STRING, "32"), ModelError, "'general.alignment' is '32', expected a whole number"),
    "no architecture": (without_key("general.architecture"), ModelError, "'general.architecture' is missing"),
    "architecture of a number": (key("general.architecture", U32, 1), ModelError, "is 1, expected text"),
    "other architecture": (
        key("general.architecture", STRING, "mamba3"),
        UnsupportedModelError,
        "is 'mamba3', a family .*; by its name nearest is mamba",
    ),
    "architecture named after another": (
        key("general.architecture", STRING, "nemotron_h_dense"),
        UnsupportedModelError,
        "; by its name nearest is nemotron_h, which",
    ),
    "long architecture": (
        key("general.architecture", STRING, "x" * 5000),
        UnsupportedModelError,
        "x{9}.*, a family that aprgraph does not have; `",
    ),
    "zero layers": (hyper("block_count", U32, 0), ModelError, "'llama.block_count' is 0, expected a number from 1"),
    "absurd layers": (hyper("block_count", U32, 2**31 - 1), ModelError, "expected a number from 1 to 4096"),
    "negative layers": (hyper("block_count", I32, -1), ModelError, "is -1, expected a number from 1"),
    "fewer layers than tensors for none": (without("blk.0.attn_norm.weight"), ModelError, "'blk.0.attn_norm.weight' of 8 is missing"),
    "more layers than tensors": (hyper("block_count", U32, 2), ModelError, "'blk.1.attn_norm.weight' of 8 is missing"),
    "fewer layers than tensors": (
        tensor("blk.1.attn_norm.weight", 8),
        UnsupportedModelError,
        "'blk.1.attn_norm.weight' has no place in a 'llama' model of 1 layers",
    ),
    "a tensor that would be left out": (tensor("output.bias", 4), UnsupportedModelError, "'output.bias' has no place"),
    "several tensors that would be left out": (
        lambda file: [tensor(f"odd{i}", 8)(file) for i in range(3)],
        UnsupportedModelError,
        "'odd0' and 2 more has no place",
    ),
    "experts without how many are used": (hyper("expert_count", U32, 8), ModelError, "'llama.expert_used_count' is missing"),
    "layers as text": (hyper("block_count", STRING, "1"), ModelError, "is '1', expected a whole number"),
    "layers as a real number": (hyper("block_count", F32, 1.0), ModelError, "is 1.0, expected a whole number"),
    "layers as a truth value": (hyper("block_count", BOOL, True), ModelError, "is True, expected a whole number"),
    "layers as an array": (
        unpacked_key("llama.block_count", ARRAY, array(U32, [1])),
        ModelError,
        "is an array of 1, expected a whole number",
    ),
    "no hidden size": (without_key("llama.embedding_length"), ModelError, "'llama.embedding_length' is missing"),
    "no FFN size": (without_key("llama.feed_forward_length"), ModelError, "'llama.feed_forward_length' is missing"),
    "no context": (without_key("llama.context_length"), ModelError, "'llama.context_length' is missing"),
    "zero context": (hyper("context_length", U32, 0), ModelError, "is 0, expected a number from 1"),
    "no heads": (without_key("llama.attention.head_count"), ModelError, "'llama.attention.head_count' is missing"),
    "zero heads": (hyper("attention.head_count", U32, 0), ModelError, "is 0, expected a number from 1"),
    "zero KV heads": (hyper("attention.head_count_kv", U32, 0), ModelError, "is 0, expected a number from 1"),
    "heads that do not divide": (hyper("attention.head_count_kv", U32, 3), ModelError, "2 query heads .* do not divide among 3 KV heads"),
    "hidden size that heads do not divide": (hyper("attention.head_count", U32, 3), ModelError, "8 is not a multiple of .* 3"),
    "heads as an array": (
        unpacked_key("llama.attention.head_count", ARRAY, array(U32, [2, 2])),
        ModelError,
        "is an array of 2, expected a number from 1 to 2147483647 for each of 1 layers",
    ),
    "heads as an array of text": (
        unpacked_key("llama.attention.head_count", ARRAY, array(STRING, ["2"])),
        ModelError,
        "is b'2' for layer 0, expected a number from 1 to",
    ),
    "no heads in a layer": (
        unpacked_key("llama.attention.head_count_kv", ARRAY, array(U32, [0])),
        ModelError,
        "'llama.attention.head_count_kv' is 0 for layer 0, expected",
    ),
    "heads of another size": (head_size(6), ModelError, "'blk.0.attn_q.weight' is 8 x 8, expected 12 x 8"),
    "v of another head size": (
        hyper("attention.value_length", U32, 8),
        ModelError,
        "'blk.0.attn_v.weight' is 4 x 8, expected 8 x 8",
    ),
    "odd rope dims": (hyper("rope.dimension_count", U32, 3), ModelError, "is 3, expected an even number of at most the head size 4"),
    "rope dims beyond the head": (
        hyper("rope.dimension_count", U32, 6),
        ModelError,
        "is 6, expected an even number of at most the head size 4",
    ),
    "rope base NaN": (hyper("rope.freq_base", F32, NAN), ModelError, "is nan, expected a finite number"),
    "rope base infinite": (hyper("rope.freq_base", F64, INF), ModelError, "is inf, expected a finite number"),
    "rope base zero": (hyper("rope.freq_base", F32, 0.0), ModelError, "is 0.0, expected a positive number"),
    "rope base as text": (hyper("rope.freq_base", STRING, "10000"), ModelError, "is '10000', expected a number"),
    "epsilon NaN": (hyper("attention.layer_norm_rms_epsilon", F32, NAN), ModelError, "is nan, expected a finite number"),
    "epsilon negative": (hyper("attention.layer_norm_rms_epsilon", F32, -1.0), ModelError, "is -1.0, expected a number of at least 0"),
    "no epsilon": (
        without_key("llama.attention.layer_norm_rms_epsilon"),
        ModelError,
        "'llama.attention.layer_norm_rms_epsilon' is missing",
    ),
    "scale NaN": (hyper("attention.scale", F32, NAN), ModelError, "is nan, expected a finite number"),
    "rope scaling of another type": (
        hyper("rope.scaling.type", STRING, "su"),
        UnsupportedModelError,
        "is 'su'; supported are none, linear, yarn, longrope",
    ),
    "linear rope scaling without a factor": (
        hyper("rope.scaling.type", STRING, "linear"),
        ModelError,
        "'llama.rope.scaling.factor' is missing",
    ),
    "rope factor negative": (hyper("rope.scaling.factor", F32, -2.0), ModelError, "is -2.0, expected a positive number"),
    "rope factor whose inverse is infinite": (hyper("rope.scaling.factor", F64, 1e-310), ModelError, "expected a positive number"),
    "no embedding": (without(EMBEDDING), ModelError, "'token_embd.weight' is missing"),
    "embedding of one dim": (tensor(EMBEDDING, 8), ModelError, "'token_embd.weight' is 8, expected 8 x 8"),
    "embedding of another width": (tensor(EMBEDDING, 4, 9), ModelError, "is 4 x 9, expected 4 x 8"),
    "no output norm": (without("output_norm.weight"), ModelError, "'output_norm.weight' of 8 is missing"),
    "output head of another vocabulary": (tensor("output.weight", 5, 8), ModelError, "'output.weight' is 5 x 8, expected 4 x 8"),
    "no q": (without(QUERY), ModelError, "'blk.0.attn_q.weight' of 8 x 8 is missing"),
    "q transposed": (tensor("blk.0.attn_k.weight", 8, 4), ModelError, "'blk.0.attn_k.weight' is 8 x 4, expected 4 x 8"),
    "down of three dims": (tensor(DOWN, 2, 4, 12), ModelError, "'blk.0.ffn_down.weight' is 2 x 4 x 12, expected 8 x 12"),
    "FFN size that the tensors lack": (
        hyper("feed_forward_length", U32, 16),
        ModelError,
        "'blk.0.ffn_gate.weight' is 12 x 8, expected 16 x 8",
    ),
    "norm of another length": (tensor("blk.0.ffn_norm.weight", 4), ModelError, "'blk.0.ffn_norm.weight' is 4, expected 8"),
    "one bias of three": (
        tensor("blk.0.attn_k.bias", 4),
        ModelError,
        "'blk.0.attn_k.bias' is there, but 'blk.0.attn_q.bias', 'blk.0.attn_v.bias' is missing",
    ),
    "bias of another length": (tensor("blk.0.attn_output.bias", 4), ModelError, "'blk.0.attn_output.bias' is 4, expected 8"),
    "rope factors of another length": (tensor("rope_freqs.weight", 4), ModelError, "'rope_freqs.weight' is 4, expected 2"),
    "names with line breaks": (tensor("a\nb", 8), UnsupportedModelError, r"'a\\nb' has no place"),
    "keys with line breaks": (unpacked_key("a\nb", 77, b""), ModelFileError, r"'a\\nb' has the unknown value type 77"),
}


@pytest.mark.contract("ERR-GGUF-1", "ERR-MODEL-1")
@pytest.mark.parametrize("case", DAMAGE)
def test_damage(tmp_path: Path, case: str) -> None:
    change, expected, message = DAMAGE[case]
    file = small_llama()
    change(file)
    error = failure(write(tmp_path, file))
    assert type(error) is expected, error
    assert re.search(message, str(error)), error
