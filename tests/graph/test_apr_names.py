"""`.apr` files with the names of a checkpoint: the checkpoint, or the GGUF file, that they were made from gives the same trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.runtime.check import check
from tests.graph.test_apr_file import trace_of
from tests.support.apr_bytes import AprBytes, from_checkpoint, from_gguf
from tests.support.checkpoints import write_checkpoint
from tests.support.golden import GOLDEN

#: Checkpoints, and what a run has to be told that an .apr file cannot say.
UNSAID: dict[str, tuple[str, ...]] = {
    "llama-f16": (), "llama-bf16": (), "mixtral-f32": (), "qwen3-f32": (), "qwen3moe-f32": (), "olmo2-f32": (),
    "qwen2moe-f32": ("--override-kv", "shared_expert_intermediate_size=int:28"),
}  # fmt: skip
IN_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def packed(file: AprBytes, folder: Path) -> Path:
    path = folder / "model.apr"
    path.write_bytes(file.pack())
    return path


@pytest.mark.contract("FILE-APR-5")
@pytest.mark.parametrize("name", UNSAID)
def test_the_trace_is_that_of_the_checkpoint(tmp_path: Path, name: str) -> None:
    checkpoint = write_checkpoint(name, tmp_path)
    path = packed(from_checkpoint(checkpoint), tmp_path)
    found = trace_of(path, tmp_path / "apr", *UNSAID[name])
    assert len(found) > 15
    assert found == trace_of(checkpoint, tmp_path / "theirs")


@pytest.mark.contract("FILE-APR-5")
@pytest.mark.parametrize("name", ["qwen2-f32", "qwen3-f32", "qwen3moe-f32", "qwen2moe-f32"])
def test_the_trace_of_renamed_tensors_is_that_of_the_gguf_file(tmp_path: Path, name: str) -> None:
    """`apr` gives the tensors of Qwen's GGUF files the names that they have in a checkpoint, but for those of experts."""
    file = from_gguf(GOLDEN / f"{name}.gguf")
    renamed = {}
    for of_gguf, tensor in file.tensors.items():
        *_, layer, stem, end = ("", *of_gguf.removeprefix("blk.").split("."))
        own = f"model.layers.{layer}.{IN_LAYER.get(stem, stem)}" if layer else OTHERS[stem]
        renamed[f"{own}.{end}"] = tensor
    file.tensors = renamed
    file.metadata["original_format"] = "gguf"
    path = packed(file, tmp_path)
    assert trace_of(path, tmp_path / "apr", *UNSAID.get(name, ())) == trace_of(GOLDEN / f"{name}.gguf", tmp_path / "gguf")


@pytest.mark.contract("FILE-APR-5")
def test_whose_rows_they_are(tmp_path: Path) -> None:
    checkpoint = load_model(packed(from_checkpoint(write_checkpoint("llama-bf16", tmp_path)), tmp_path))
    assert (checkpoint.family.row_order, checkpoint.metadata.dialect) == ("halves", "hf")
    assert any("rotates neighbours" in notice for notice in checkpoint.notices)
    of_gguf = load_model(packed(from_gguf(GOLDEN / "llama-bf16.gguf"), tmp_path))
    assert (of_gguf.family.row_order, of_gguf.metadata.dialect) == ("interleaved", "gguf")
    assert not any("rotates neighbours" in notice for notice in of_gguf.notices)


@pytest.mark.contract("FILE-APR-5")
def test_gemma_s_norms_hold_what_is_added_to_1(tmp_path: Path) -> None:
    checkpoint = write_checkpoint("gemma2-f32", tmp_path)
    path = packed(from_checkpoint(checkpoint), tmp_path)
    ours, theirs = load_model(path).file, load_model(checkpoint).file
    assert set(theirs.tensors) <= set(ours.tensors)
    for name, info in theirs.tensors.items():
        assert (ours.tensor_bytes(ours.tensors[name]) == theirs.tensor_bytes(info)).all(), name


def test_what_config_json_says_is_not_ignored(tmp_path: Path) -> None:
    """`apr` writes no such fields; a file that has them all the same means them."""
    file = from_checkpoint(write_checkpoint("llama-bf16", tmp_path))
    file.metadata |= {"sliding_window": None, "logit_scale": 2.0}
    with pytest.raises(UnsupportedModelError, match="logit_scale"):
        load_model(packed(file, tmp_path))


def test_check_reads_all_of_it(tmp_path: Path) -> None:
    report = check(packed(from_checkpoint(write_checkpoint("mixtral-f32", tmp_path)), tmp_path))
    assert report.exit_code == 0
    assert report.tensors_read == report.tensors > 0


def test_an_expert_that_is_missing_is_named(tmp_path: Path) -> None:
    file = from_checkpoint(write_checkpoint("mixtral-f32", tmp_path))
    del file.tensors["model.layers.1.block_sparse_moe.experts.2.w1.weight"]
    path = packed(file, tmp_path)
    with pytest.raises(Exception, match="moe_expert_gate of expert 2 in layer 1 is missing"):
        load_model(path)
    assert check(path).exit_code == 1
