"""Checkpoints as transformers saved them, against what it computed: every stage, on the CPU and in the reference."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import aprgraph
from tests.support.checkpoints import NAMES, gguf_of, write_checkpoint
from tests.support.golden import GoldenModel, golden_models, nmse, whole_by_reference_ops_by_others

#: The stages whose rows are q's, k's, or q's, k's and v's.
_ROTATED = {"qkv_matmul": "qkv", "qkv_bias": "qkv", "q_post_rope": "q", "k_post_rope": "k"}


@cache
def golden(name: str) -> GoldenModel:
    return next(model for model in golden_models() if model.name == name)


def in_halves(values: npt.NDArray[Any], parts: str, config: dict[str, Any]) -> npt.NDArray[Any]:
    """Columns of heads from the order in which RoPE pairs neighbours to that in which it pairs halves."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    if kv_heads is None:  # layers have different numbers
        kv_heads = values.shape[1] // size if parts == "k" else (values.shape[1] // size - heads) // 2
    out, start = values.copy(), 0
    for part, count in (("q", heads), ("k", kv_heads)):
        if part in parts:
            columns = values[:, start : start + count * size]
            out[:, start : start + count * size] = columns.reshape(len(values), count, -1, 2).swapaxes(2, 3).reshape(columns.shape)
            start += count * size
    return out


def _format(name: str, target: str) -> set[str]:
    """What the checkpoint's name says beside its family, such as bf16."""
    return {f"{target} {word}" for word in name.split("-")[1:]}


@pytest.mark.contract("FILE-HF-1")
@pytest.mark.each_choice(of=lambda name, target: {*whole_by_reference_ops_by_others(golden(name), target), *_format(name, target)})
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_every_stage_of_a_checkpoint(name: str, target: str, tmp_path: Path) -> None:
    path, expected = write_checkpoint(name, tmp_path), golden(name)
    config = json.loads((path / "config.json").read_text())
    permuted = expected.name.startswith(
        (
            "llama-",
            "mixtral",
            "granite",
            "mistral3",
            "smollm3",
            "arcee",
            "deepseek-f32",
            "minicpm-",
            "internlm2",
            "olmo-",
            "baichuan",
            "deci-",
        )
    )
    model = aprgraph.load(path).compile(target, directory=tmp_path / f"x.{target}.aprg")
    layers = model.model.family.layers
    trace = model.run("all", f"0..{layers}", tokens=expected.tokens, directory=tmp_path / "trace")
    # A checkpoint has latent attention over heads of k and v, its GGUF file perhaps over the latent.
    absorbed = {stage for _, stage in expected.stages} & {"q_absorbed", "attn_latent"}
    entries = [entry for entry in trace.entries if not (absorbed and entry.stage == "kv_b")]
    assert {(entry.layer, entry.stage) for entry in entries} == {key for key in expected.stages if key[1] not in absorbed}
    for entry in entries:
        wanted = expected.stages[entry.layer, entry.stage]
        if permuted and entry.stage in _ROTATED:
            wanted = in_halves(wanted, _ROTATED[entry.stage], config)
        actual = trace.load(entry)
        assert actual.shape == wanted.shape, entry.label
        error = nmse(actual, wanted)
        assert error <= expected.tolerance, f"{entry.label}: NMSE {error:.1e}"
    assert trace.info is not None
    assert trace.info.model["file"] == "Hugging Face checkpoint"
    neighbours = name.startswith(("glm4-", "chatglm", "command-r", "cohere2", "ernie4", "deepseek2", "deepseek3", "llama4"))
    graph = trace.graph()
    assert graph is not None
    order = "interleaved" if neighbours else "halves" if graph.with_op("rope") else None
    assert trace.info.extra.get("qk_rows") == order


@pytest.mark.contract("FILE-HF-1")
@pytest.mark.parametrize("name", ["llama-bf16", "gemma2-f32", "gpt-oss-mxfp4"])
def test_a_checkpoint_and_its_gguf_file_give_equal_logits(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(name, tmp_path)
    logits = [
        aprgraph.load(one).compile("reference", directory=tmp_path / f"{number}.aprg").logits(golden(name).tokens, positions="all")
        for number, one in enumerate((path, gguf_of(name)))
    ]
    assert nmse(*logits) <= 1e-12
    assert np.array_equal(*(one.argmax(axis=1) for one in logits))
