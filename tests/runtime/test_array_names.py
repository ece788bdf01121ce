"""What other programs call their arrays, and the rules that are suggested for them: every value has the place where it belongs, or none."""

from __future__ import annotations

import re

import numpy as np
import pytest

from aprgraph.runtime.trace.array_names import survey_names
from aprgraph.runtime.trace.onnx_names import module_of

#: Names of one layer and of the whole model -> their places, None for values within a module.
TORCH_ONNX = {
    "/model/layers.{}/input_layernorm/Mul_output_0": None,  # before its weight
    "/model/layers.{}/input_layernorm/Mul_1_output_0": "attn_norm",
    "/model/layers.{}/self_attn/q_proj/MatMul_output_0": "qkv_matmul[q]",
    "/model/layers.{}/self_attn/k_proj/MatMul_output_0": "qkv_matmul[k]",
    "/model/layers.{}/self_attn/v_proj/MatMul_output_0": "qkv_matmul[v]",
    "/model/layers.{}/self_attn/v_proj/Add_output_0": "qkv_bias[v]",
    "/model/layers.{}/self_attn/q_norm/Mul_1_output_0": "q_norm",
    "/model/layers.{}/self_attn/Add_output_0": None,  # q after RoPE, or scores and their mask
    "/model/layers.{}/self_attn/Softmax_output_0": "attn_softmax",
    "/model/layers.{}/self_attn/Reshape_4_output_0": None,
    "/model/layers.{}/self_attn/o_proj/MatMul_output_0": "attn_out",
    "/model/layers.{}/Add_output_0": "post_attn_residual",
    "/model/layers.{}/post_attention_layernorm/Mul_1_output_0": "ffn_norm",
    "/model/layers.{}/mlp/gate_proj/MatMul_output_0": "ffn_gate",
    "/model/layers.{}/mlp/act_fn/Sigmoid_output_0": None,
    "/model/layers.{}/mlp/act_fn/Mul_output_0": "ffn_silu",
    "/model/layers.{}/mlp/Mul_output_0": "ffn_swigl",
    "/model/layers.{}/mlp/down_proj/MatMul_output_0": "ffn_out",
    "/model/layers.{}/Add_1_output_0": "post_ffn_residual",
    "/model/embed_tokens/Gather_output_0": "embedding",
    "/model/norm/Mul_1_output_0": "final_norm",
    "/lm_head/MatMul_output_0": "lm_head",
}
ONNX_RUNTIME = {
    "/model/layers.{}/input_layernorm/output_0": "attn_norm",
    "/model/layers.{}/input_layernorm/output_3": None,  # what the layer before gives
    "/model/layers.{}/attn/q_proj/MatMul/output_0": "qkv_matmul[q]",
    "/model/layers.{}/attn/q_proj/Add/output_0": "qkv_bias[q]",
    "/model/layers.{}/attn/q_rotary/RotaryEmbedding/output_0": "q_post_rope",
    "/model/layers.{}/attn/k_rotary/RotaryEmbedding/output_0": "k_post_rope",
    "/model/layers.{}/attn/GroupQueryAttention/output_0": "attention",
    "/model/layers.{}/attn/o_proj/MatMulNBits/output_0": "attn_out",
    "/model/layers.{}/post_attention_layernorm/output_0": "ffn_norm",
    "/model/layers.{}/post_attention_layernorm/output_3": "post_attn_residual",
    "/model/layers.{}/mlp/up_proj/MatMul/output_0": "ffn_up",
    "/model/layers.{}/mlp/Mul/output_0": "ffn_swigl",
    "logits": "lm_head",
}
TENSORRT = {
    "transformer.layers.{}.input_layernorm.output": "attn_norm",
    "transformer.layers.{}.attention.qkv.output": "qkv_matmul",
    "transformer.layers.{}.attention.dense.output": "attn_out",
    "transformer.layers.{}.post_layernorm.output": "ffn_norm",
    "transformer.layers.{}.mlp.fc.output": "ffn_gate",  # which is activated; `gate` is what that is multiplied by
    "transformer.layers.{}.mlp.gate.output": "ffn_up",
    "transformer.layers.{}.mlp.proj.output": "ffn_out",
    "transformer.ln_f.output": "final_norm",
}
TRANSFORMER_LENS = {
    "hook_embed": "embedding",
    "blocks.{}.hook_resid_pre": None,
    "blocks.{}.ln1.hook_normalized": None,  # before its weight
    "blocks.{}.attn.hook_q": "qkv_matmul[q]",
    "blocks.{}.attn.hook_k": "qkv_matmul[k]",
    "blocks.{}.attn.hook_v": "qkv_matmul[v]",
    "blocks.{}.attn.hook_rot_q": "q_post_rope",
    "blocks.{}.attn.hook_rot_k": "k_post_rope",
    "blocks.{}.attn.hook_attn_scores": "attn_scores",
    "blocks.{}.attn.hook_pattern": "attn_softmax",
    "blocks.{}.attn.hook_z": "attention",
    "blocks.{}.hook_attn_out": "attn_out",
    "blocks.{}.hook_resid_mid": "post_attn_residual",
    "blocks.{}.mlp.hook_pre": "ffn_gate",
    "blocks.{}.mlp.hook_pre_linear": "ffn_up",
    "blocks.{}.mlp.hook_post": "ffn_swigl",
    "blocks.{}.hook_mlp_out": "ffn_out",
    "blocks.{}.hook_resid_post": "post_ffn_residual",
}


def places(names: list[str]) -> dict[str, str]:
    """Where the suggested rules put arrays of these names, of two layers where they are of a layer."""
    array = np.ones((3, 8), np.float32)
    arrays = dict.fromkeys((name.format(layer) for name in names for layer in ((0, 1) if "{}" in name else (0,))), array)
    found = {}
    for one in survey_names(arrays):
        if one.rule is not None:
            expression, _, place = one.rule.rpartition("=")
            found |= {name: re.sub(f"(?:.*[./])?{expression}", place, name) for name in one.names}
    return found


@pytest.mark.contract("CAPTURE-FILES-4")
@pytest.mark.parametrize("wanted", [TORCH_ONNX, ONNX_RUNTIME, TENSORRT, TRANSFORMER_LENS])
def test_names_of_other_programs(wanted: dict[str, str | None]) -> None:
    expected = {}
    for name, stage in wanted.items():
        if stage is not None and "{}" in name:
            expected |= {name.format(layer): f"layer{layer}.{stage}" for layer in (0, 1)}
        elif stage is not None:
            expected[name] = "layer0.embedding" if stage == "embedding" else stage
    assert places(list(wanted)) == expected


@pytest.mark.contract("CAPTURE-FILES-4")
def test_what_is_not_gated_has_no_gate() -> None:
    names = {"blocks.{}.mlp.hook_pre": "ffn_up", "blocks.{}.mlp.hook_post": "ffn_silu"}
    assert places(list(names)) == {name.format(layer): f"layer{layer}.{stage}" for name, stage in names.items() for layer in (0, 1)}


@pytest.mark.contract("CAPTURE-FILES-4")
def test_hidden_states_of_transformers() -> None:
    """One by one they have places, which are read as counted from the embedding; of all in one array it is said what they need."""
    assert places(["hidden_states.{}"]) == {f"hidden_states.{layer}": f"layer{layer}.post_ffn_residual" for layer in (0, 1)}
    (stacked,) = survey_names({"hidden_states": np.ones((3, 1, 5, 8), np.float32)})
    assert stacked.rule is None
    assert "of all layers in one array each needs a name of its own, such as hidden_states.3" in (stacked.remark or "")


@pytest.mark.parametrize("name", ["model.layers.0.mlp", "layer0/output_0", "attn_norm-0", "/output_0", "/a/b", "MatMul_output_0"])
def test_other_names_stay_as_they_are(name: str) -> None:
    assert module_of(name) == name
