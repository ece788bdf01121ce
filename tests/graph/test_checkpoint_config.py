"""config.json of every version of transformers says the same model, and no field passes in silence."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, UnsupportedModelError
from aprgraph.graph.families import Decoder, open_family
from aprgraph.graph.families.afmoe import Afmoe
from aprgraph.graph.families.bailingmoe2 import BailingMoe2
from aprgraph.graph.families.dbrx import Dbrx
from aprgraph.graph.families.deci import Deci
from aprgraph.graph.families.exaone_moe import ExaoneMoe
from aprgraph.graph.families.falcon import Falcon
from aprgraph.graph.families.llama4 import Llama4
from aprgraph.graph.families.mamba import Mamba
from aprgraph.graph.families.mimo2 import Mimo2
from aprgraph.graph.families.minicpm import MiniCpm
from aprgraph.graph.families.minicpm3 import MiniCpm3
from aprgraph.graph.families.nemotron_h import NemotronHMoe
from aprgraph.graph.families.olmo import Olmo
from aprgraph.graph.families.starcoder import StarCoder
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.checkpoint.config import ConfigMetadata
from aprgraph.graph.text import print_graph
from aprgraph.graph.unread_keys import account_for_keys
from tests.graph.test_checkpoint_files import change, packed, unpacked
from tests.support.checkpoints import write_checkpoint
from tests.support.golden import golden_json

Edit = Callable[[dict[str, Any]], Any]


def graph_text(path: Path, **options: Any) -> str:
    return print_graph(build_graph(load_model(path, **options)))


def older(config: dict[str, Any]) -> None:
    """RoPE as transformers 4 wrote it."""
    rope = config.pop("rope_parameters")
    if "full_attention" in rope:
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    config["rope_theta"] = rope.pop("rope_theta")
    share = rope.pop("partial_rotary_factor", None)
    if share is not None:
        config["partial_rotary_factor"] = share
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    config["torch_dtype"] = config.pop("dtype")
    for name in ("layer_types", "_sliding_window_pattern"):
        config.pop(name, None)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    "name",
    ["llama-f32-tied-rope-factors", "llama-f32-linear", "qwen2-f32-yarn", "gemma3-f32-linear", "phi3-f32-long-factors", "glm4-f32", "gemma2-f32",
     "gpt-oss-f32"],
)  # fmt: skip
def test_fields_of_older_versions(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    wanted = graph_text(folder)
    change(folder, older)
    assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("qwen2-f32-yarn", lambda config: config.update(sliding_window=4, use_sliding_window=False)),
        ("qwen2-f32-yarn", lambda config: config.update(mlp_only_layers=[], rope_interleaved=False, some_list=[], other=None)),
        ("qwen3moe-f32", lambda config: config.update(num_experts=config.pop("num_local_experts"))),
        ("mixtral-f32", lambda config: config.update(architectures=None)),
        ("gemma2-f32", lambda config: [config.pop(name) for name in ("tie_word_embeddings", "hidden_activation")]),
        ("olmo2-f32", lambda config: [config.pop(name) for name in ("rms_norm_eps", "tie_word_embeddings")]),
        ("qwen3-f32", lambda config: config.update(unsloth_version="1", pad_token_id=3)),
        (
            # As LiquidAI/LFM2-1.2B has them.
            "lfm2-f32",
            lambda config: config.update(
                block_ff_dim=config.pop("intermediate_size"),
                tie_embedding=config.pop("tie_word_embeddings"),
                block_dim=24,
                conv_dim=24,
                conv_dim_out=24,
                num_heads=4,
                block_norm_eps=1e-5,
                block_use_swiglu=True,
                block_use_xavier_init=True,
                use_pos_enc=True,
                block_mlp_init_scale=1.0,
                block_out_init_scale=1.0,
                conv_use_xavier_init=True,
                full_attn_idxs=[layer for layer, kind in enumerate(config.pop("layer_types")) if kind == "full_attention"],
            ),
        ),
        ("lfm2-f32", lambda config: config.update(intermediate_size=32, block_auto_adjust_ff_dim=False)),
        (
            # As Codestral Mamba has them, and as versions before 5 write an infinite number.
            "mamba2-f32",
            lambda config: config.update(
                intermediate_size=40,
                rms_norm=True,
                time_step_limit=[0.0, float("inf")],
                time_step_scale=1.0,
                time_step_init_scheme="random",
            ),
        ),
        ("mamba2-f32", lambda config: config.pop("expand")),
        (
            # As mamba-130m-hf has them beside the fields that the class reads.
            "mamba-f32",
            lambda config: config.update(
                d_inner=40, d_model=20, fused_add_norm=True, n_layer=2, numb_hidden_layers=2, rms_norm=True, ssm_cfg={}
            ),
        ),
        ("mamba-f32", lambda config: config.pop("intermediate_size")),
        ("falcon-mamba-f32", lambda config: config.update(expand=16, time_step_rank="auto")),
        ("falcon-mamba-f32", lambda config: config.pop("mixer_rms_eps")),
        ("jamba-f32", lambda config: config.update(calc_logits_for_entire_prompt=False, mamba_inner_layernorms=True, n_ctx=262144)),
        ("jamba-f32-dense", lambda config: config.update(mamba_dt_rank="auto", num_key_value_heads=2)),
        ("falcon-mamba-f32", lambda config: config.pop("model_type")),
        (
            # As Granite 4 H has them.
            "granitehybrid-f32",
            lambda config: config.update(
                layer_types=["mamba", "attention"],
                position_embedding_type="nope",
                mamba_d_head="auto",
                init_method="mup",
                normalization_function="rmsnorm",
                max_position_embeddings=131072,
            ),
        ),
        ("granitehybrid-f32", lambda config: config.update(layers_block_type=config.pop("layer_types"))),
        ("granitehybrid-f32-dense", lambda config: config.update(intermediate_size=99)),
        (
            "cohere2-f32",
            lambda config: config.update(
                rotary_pct=1.0,
                position_embedding_type="rope_gptj",
                order_of_interleaved_layers="local_attn_first",
                use_parallel_block=True,
                use_gated_activation=True,
                use_embedding_sharing=True,
                use_qk_norm=False,
                layer_switch=4,
                sliding_window_pattern=4,
            ),
        ),
        # As google's checkpoints have them.
        (
            "gemma4-f32",
            lambda config: [
                config.pop("per_layer_config"),
                config.update(global_head_dim=16, num_global_key_value_heads=None, use_bidirectional_attention="vision"),
            ],
        ),
        (
            "gemma4-f32-experts",
            lambda config: [config.pop("per_layer_config"), config.update(global_head_dim=16, num_global_key_value_heads=1)],
        ),
        # As google's checkpoints have them.
        (
            "gemma3n-f32",
            lambda config: config.update(rope_theta=1e6, rope_local_base_freq=10000.0, rope_parameters=None, attn_logit_softcapping=None),
        ),
        ("cohere2-f32", lambda config: config.pop("layer_types")),
        ("smollm3-f32", lambda config: config.update(no_rope_layers=None)),
        ("smollm3-f32", lambda config: [config.pop(name) for name in ("no_rope_layer_interval", "architectures")]),
        ("exaone4-f32", lambda config: config.update(sliding_window_pattern="LLLG")),
        ("mistral3-f32", lambda config: config["rope_parameters"].update(max_position_embeddings=32, type="yarn")),
        ("ernie4-5-f32", lambda config: config.update(architectures=None, use_bias=False)),
        (
            # As nomic-ai/nomic-embed-text-v1.5 has them.
            "nomic-bert-f32",
            lambda config: config.update(
                n_embd=config.pop("hidden_size"),
                n_head=config.pop("num_attention_heads"),
                n_inner=config.pop("intermediate_size"),
                n_layer=config.pop("num_hidden_layers"),
                n_positions=config.pop("max_position_embeddings"),
                layer_norm_epsilon=config.pop("layer_norm_eps"),
                rotary_emb_base=config.pop("rope_parameters")["rope_theta"],
                activation_function="swiglu" if config.pop("hidden_act") and config.pop("head_dim") else "",
                rotary_emb_fraction=1.0,
                rotary_emb_interleaved=False,
                rotary_emb_scale_base=None,
                causal=False,
                prenorm=False,
                qkv_proj_bias=False,
                use_flash_attn=True,
                max_trained_positions=2048,
            ),
        ),
        (
            # As answerdotai/ModernBERT-base has them.
            "modern-bert-f32",
            lambda config: config.update(
                global_rope_theta=config.pop("rope_parameters")["full_attention"]["rope_theta"],
                local_rope_theta=10000.0,
                global_attn_every_n_layers=len(config.pop("layer_types")) - 1,
                layer_norm_eps=1e-5,
                position_embedding_type="absolute",
                repad_logits_with_grad=False,
            ),
        ),
    ],
)
def test_what_changes_nothing(name: str, edit: Edit, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    wanted = graph_text(folder)
    change(folder, edit)
    assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("llama-f32-linear", lambda config: config.update(hidden_act="gelu"), "hidden_act is 'gelu' (the activation)"),
        ("gemma3-f32", lambda config: config.update(final_logit_softcapping=30.0), "final_logit_softcapping is 30.0 (the cap of logits)"),
        ("llama-f32-linear", lambda config: config.update(foo_multiplier=2.0), "foo_multiplier is 2.0 (a key that is not known here"),
        ("qwen3moe-f32", lambda config: config.update(decoder_sparse_step=2), "decoder_sparse_step is 2 (which layers have experts)"),
        ("qwen3moe-f32", lambda config: config.update(mlp_only_layers=[0]), "mlp_only_layers is '[0]'"),
        ("gpt-oss-f32", lambda config: config.update(swiglu_limit=5.0), "swiglu_limit is 5.0"),
        ("cohere2-f32", lambda config: config.update(rotary_pct=0.5), "rotary_pct is 0.5"),
        ("llama-f32-linear", lambda config: config["rope_parameters"].update(llama_4_scaling_beta=0.1), "llama_4_scaling_beta is 0.1 (how queries"),
        ("smollm3-f32", lambda config: config.update(no_rope_layers=[1, 1]), "field 'no_rope_layers' has 2 elements, expected true or false for each"),
        ("command-r-plus-f32", lambda config: config.update(attention_bias=True), "attention_bias is true, and the checkpoint has no such bias"),
        ("gpt-oss-f32", lambda config: config.update(swiglu_alpha=1.0), "swiglu_alpha is 1.0"),
        ("llama-f32-linear", lambda config: config["rope_parameters"].update(rope_type="ntk"), "rope_parameters.rope_type is 'ntk'"),
        ("llama-f32-linear", lambda config: config["rope_parameters"].update(rope_type="dynamic", original_max_position_embeddings=8),
         "rope_parameters.rope_type is 'dynamic', and original_max_position_embeddings is 8; supported is the context itself"),
        ("llama-f32-linear", lambda config: config.update(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}),
         "rope_parameters.factor is missing, expected a positive number"),
        ("qwen2-f32-yarn", lambda config: config["rope_parameters"].pop("factor"), "rope_parameters.factor is missing, expected a positive number"),
        ("llama-f32-linear", lambda config: config.update(tie_word_embeddings="false"), "tie_word_embeddings is 'false', expected true or false"),
        ("qwen2-f32-yarn", lambda config: config.update(use_sliding_window="no"), "use_sliding_window is 'no', expected true or false"),
        ("llama-f32-linear", lambda config: config["rope_parameters"].update(bend=2), "rope_parameters.bend is 2"),
        ("qwen2-f32-yarn", lambda config: config["rope_parameters"].update(truncate=False), "rope_parameters.truncate is false"),
        ("gemma3-f32", lambda config: config.update(layer_types=["chunked_attention"] * 7), "layer_types holds 'chunked_attention'"),
        ("llama-f32-linear", lambda config: config.update(architectures=["FooForCausalLM"]), "architectures is 'FooForCausalLM', a class that aprgraph does not have; `"),
        ("llama-f32-linear", lambda config: config["rope_parameters"].update(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5 beside RoPE"),
        ("gpt-oss-f32", lambda config: config.update(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5 beside RoPE"),
        ("llama-f32-linear", lambda config: config.update(rope_scaling={"type": "linear", "factor": 2.0}), "are both there and differ"),
        ("llama-f32-linear", lambda config: config.update(is_causal=False), "is_causal is false"),
        ("phi3-f32-window", lambda config: config.update(rope_parameters={"rope_type": "linear", "factor": 2.0}), "of the kind 'linear', which"),
        ("phi3-f32-window", lambda config: config.update(rope_scaling={"type": "yarn", "factor": 2.0}, rope_parameters=None), "of the kind 'yarn'"),
        ("qwen2-f32-yarn", lambda config: config.update(hidden_act=None), "hidden_act is null, which the class of transformers (qwen2) refuses"),
        ("gemma2-f32", lambda config: config.update(query_pre_attn_scalar=None), "query_pre_attn_scalar is null, which"),
        ("llama-f32-linear", lambda config: config.update(tie_word_embeddings=None), "tie_word_embeddings is null, which"),
        ("qwen3-f32", lambda config: config.update(use_sliding_window=None), "use_sliding_window is null, which"),
        ("qwen3-f32", lambda config: config.update(head_dim=None), "head_dim is null, which the class of transformers (qwen3) refuses"),
        ("qwen2moe-f32", lambda config: config.update(decoder_sparse_step=None), "decoder_sparse_step is null, which"),
        ("deepseek3-f32", lambda config: config.update(n_group=None), "n_group is null, which the class of transformers (deepseek_v3)"),
        ("granite-f32", lambda config: config.update(residual_multiplier=None), "residual_multiplier is null, which"),
        ("gpt-oss-f32", lambda config: config.update(sliding_window=None), "sliding_window is null, which"),
        ("gemma3-f32", lambda config: config.update(use_bidirectional_attention=True), "use_bidirectional_attention is True"),
        ("gemma2-f32", lambda config: config.update(use_bidirectional_attention=True), "use_bidirectional_attention is True"),
        ("gemma2-f32", lambda config: config.update(hidden_activation="gelu"), "hidden_activation is 'gelu' (the activation)"),
        ("llama-f32-linear", lambda config: config.pop("hidden_size"), "field 'hidden_size' is missing"),
        ("llama-f32-linear", lambda config: config.update(num_hidden_layers="2"), "field 'num_hidden_layers' is '2', expected a whole number"),
        ("granite-f32", lambda config: config.update(residual_multiplier=0.0), "residual_multiplier is 0, which the class of transformers (granite)"),
        ("command-r-f32", lambda config: config.update(logit_scale=0), "logit_scale is 0, which"),
        ("glm4moe-f32", lambda config: config.update(routed_scaling_factor=0.0), "routed_scaling_factor is 0, which"),
        ("exaone4-f32", lambda config: config.update(sliding_window=0), "sliding_window is 0, which"),
        ("gemma4-f32", lambda config: config["per_layer_config"].pop("2"), "(what layers of one kind have otherwise than the rest (config.json))"),
        ("gemma4-f32", lambda config: config.update(use_bidirectional_attention="all"), "use_bidirectional_attention is 'all'"),
        ("gemma4-f32", lambda config: config.update(vocab_size_per_layer_input=90), "vocab_size_per_layer_input is 90 of 96 tokens"),
        ("gemma3n-f32", lambda config: config["activation_sparsity_pattern"].pop(), "activation_sparsity_pattern has 4 elements, expected a "),
        ("gemma3n-f32", lambda config: config.update(activation_sparsity_pattern=[1.0] * 5), "for each of 5 layers, from 0 to below 1"),
        ("gemma3n-f32", lambda config: config.update(activation_sparsity_pattern=0.95), "activation_sparsity_pattern' is 0.95, expected an array"),
        ("gemma3n-f32", lambda config: config.update(altup_active_idx=4), "altup_active_idx is 4, but there are 4 streams (altup_num_inputs)"),
        ("gemma4-f32", lambda config: config.update(num_kv_shared_layers=4), "num_kv_shared_layers is 4, but no layer before these has attention"),
        ("apertus-f32", lambda config: config.update(hidden_act="silu"), "hidden_act is 'silu'; supported for apertus is 'xielu'"),
        ("mamba2-f32", lambda config: config.update(time_step_limit=[0.0, 0.5]), "time_step_limit is [0.0, 0.5]; supported for mamba2 is"),
        ("mamba-f32", lambda config: config.update(hidden_act="relu"), "hidden_act is 'relu' (the activation)"),
        ("falcon-mamba-f32", lambda config: config.update(time_step_rank="all"), "time_step_rank"),
        ("jamba-f32", lambda config: config.update(mamba_inner_layernorms=False, hidden_act="relu"), "hidden_act is 'relu' (the activation)"),
        ("jamba-f32", lambda config: config.update(num_experts_per_tok=6), "num_experts_per_tok is 6, but there are 5 experts (num_experts)"),
        (
            "jamba-f32", lambda config: config.update(expert_layer_offset=0),
            "layer 0 has a dense network, but expert_layer_period 2 and expert_layer_offset 0 say that it has experts",
        ),
        ("mamba2-f32", lambda config: config.update(n_groups=3), "num_heads is 4, expected a multiple of n_groups, 3"),
        ("phi2-f32", lambda config: config.update(qk_layernorm=True), "qk_layernorm is True; supported for phi is false"),
        ("bert-f32", lambda config: config.update(is_decoder=True), "is_decoder is True; supported for bert is false"),
        ("xlm-roberta-f32", lambda config: config.update(add_cross_attention=True), "supported for xlm-roberta is false"),
        ("bert-f32", lambda config: config.update(hidden_act="relu"), "hidden_act is 'relu'; supported are gelu_new, "),
        ("nomic-bert-f32", lambda config: config.update(hidden_act="gelu"), "hidden_act is 'gelu' (the activation)"),
        ("nomic-bert-f32", lambda config: config.update(prenorm=True), "prenorm is True; supported for nomic_bert is false"),
        ("modern-bert-f32", lambda config: config.update(hidden_activation="relu"), "hidden_activation is 'relu'; supported are gelu_new, "),
        ("modern-bert-f32", lambda config: config.update(norm_bias=True), "norm_bias is True; supported for modernbert is false"),
        ("qwen3next-f32", lambda config: config.update(attention_bias=True), "attention_bias is true, and the checkpoint has no such bias"),
        ("deepseek3-f32", lambda config: config.update(rope_interleave=0), "field 'rope_interleave' is 0, expected true or false"),
        (
            "deepseek3-f32", lambda config: config.update(topk_group=1, num_experts_per_tok=config["n_routed_experts"] // config["n_group"] + 1),
            "experts; expected at most that many",
        ),
        *(
            ("llama-f32-linear", lambda config, more=more: config.update(quantization_config={"quant_method": "compressed-tensors", **more}), words)
            for more, words in (
                ({"format": "marlin-24"}, "the format of compressed-tensors is 'marlin-24'; supported are dense, pack-quantized"),
                ({"config_groups": {"a": {"format": "mxfp6-pack-quantized"}}}, "the format of compressed-tensors is 'mxfp6-pack-quantized'"),
                ({"config_groups": [1]}, "config_groups is [1], expected an object of objects"),
                ({"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config.format is 'sparse-24-bitmask'; supported is dense"),
                ({"transform_config": {"config_groups": {}}}, "transform_config is there, whose rotations of activations nothing here applies"),
                ({"config_groups": {"a": {"weights": {"block_structure": [0, 1]}}}}, "block_structure is [0, 1], expected two sizes"),
            )
        ),
        *(
            ("llama-f32-linear", lambda config, kind=kind: config.update(quantization_config={"quant_method": kind}), advice)
            for kind, advice in {
                "gptq": "quantization_config.bits is None; supported for GPTQ are 2, 3, 4 and 8",
                "quark": "by 'quark', which aprgraph does not decode (it does FP8, MXFP4, NVFP4, GPTQ, AWQ, compressed-tensors, "
                "bitsandbytes, BitNet and MLX's); give",
            }.items()
        ),
    ],
)  # fmt: skip
def test_what_is_refused(name: str, edit: Edit, words: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    change(folder, edit)
    with pytest.raises((ModelError, UnsupportedModelError)) as caught:
        build_graph(load_model(folder))
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"{folder}/config.json: ")


@pytest.mark.contract("FILE-HF-3")
def test_what_is_said_and_goes_on(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(foo_multiplier=2.0, bar="x", model_type="mistral", sliding_window=None))
    model = load_model(folder, ignore=["foo_multiplier"])
    assert print_graph(build_graph(model)) == wanted
    said = "\n".join(map(str, model.notices))
    assert "foo_multiplier is 2.0: left out" in said
    assert "bar is 'x': nothing here knows or reads this key" in said
    change(folder, lambda config: [config.pop(name) for name in ("rms_norm_eps", "max_position_embeddings")])
    assert "rms_norm_eps = 1e-06" in load_model(folder, ignore=["foo_multiplier"]).notices[0]


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("llama-f32-linear", {"attention_multiplier": 0.5}, "attention_multiplier is 0.5: ignored"),
        ("llama-f32-linear", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar is 7: ignored"),
        ("llama-f32-linear", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True: ignored"),
        ("llama-f32-linear", {"hidden_activation": "gelu"}, "hidden_activation is 'gelu': ignored"),
        ("qwen3moe-f32", {"routed_scaling_factor": 2.5}, "routed_scaling_factor is 2.5: ignored"),
        ("olmo2-f32", {"sliding_window": 2, "model_type": None}, "sliding_window is 2: ignored"),
        ("llama-f32-linear", {"swiglu_limit": 2.0}, "swiglu_limit is 2.0: ignored"),
        ("olmo2-f32", {"sliding_window": 2}, "sliding_window is 2: ignored"),
        ("qwen3-f32", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5: ignored"),
        ("llama-f32-linear", {"rope_scaling": {"type": "linear", "factor": 4.0, "rope_theta": 10000.0}}, ""),
        ("gemma2-f32", {"hidden_act": "relu"}, "hidden_act is 'relu': ignored"),
        ("gemma2-f32", {"hidden_act": "gelu_pytorch_tanh", "is_causal": True}, ""),
        ("deepseek2-f32", {"norm_topk_prob": True}, "norm_topk_prob is True: ignored"),
        ("deepseek2-f32", {"norm_topk_prob": False, "rope_interleave": True}, ""),
        ("deepseek2-f32", {"rope_interleave": False}, "rope_interleave is False: ignored"),
        ("gemma2-f32", {"sliding_window_pattern": 3}, "sliding_window_pattern is 3: ignored"),
        ("gpt-oss-f32", {"sliding_window_pattern": 3}, "sliding_window_pattern is 3: ignored"),
        ("hunyuan-moe-f32", {"norm_topk_prob": False}, "norm_topk_prob is False: ignored"),
        ("hunyuan-moe-f32", {"norm_topk_prob": True}, ""),
    ],
)  # fmt: skip
def test_what_the_class_does_not_read(name: str, edit: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(edit))
    model = load_model(folder)
    assert print_graph(build_graph(model)) == wanted
    said = "\n".join(map(str, model.notices))
    assert words in said if words else not said


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "edit", "gone", "there"),
    [
        ("deepseek3-f32", lambda config: config.update(rope_interleave=False), '"interleaved"', '"halves"'),
        ("deepseek3-f32", lambda config: config.update(rope_interleave=None), '"interleaved"', '"halves"'),
        ("gpt2-f32", lambda config: config.update(scale_attn_weights=False), "scale = 0.", "scale = 1.0"),
        ("lfm2moe-f32", lambda config: config.update(norm_topk_prob=False), "normalise = true", "normalise = false"),
        ("lfm2moe-f32", lambda config: config.update(routed_scaling_factor=2.5), "scale = 1.0} stage moe_router", "scale = 2.5"),
        (
            "exaone4-f32",
            lambda config: config.update(layer_types=["full_attention"] * len(config["layer_types"])),
            " rope(",
            " attn_scores(",
        ),
        (
            "smollm3-f32",
            lambda config: config.update(
                layer_types=["sliding_attention"] * config["num_hidden_layers"], sliding_window=3, use_sliding_window=False
            ),
            "window = 0",
            "window = 3",
        ),
    ],
)
def test_what_the_class_makes_of_a_field(name: str, edit: Edit, gone: str, there: str, tmp_path: Path) -> None:
    """The logits were compared with those of transformers 5.24."""
    folder = write_checkpoint(name, tmp_path)
    change(folder, edit)
    text = graph_text(folder)
    assert gone not in text
    assert there in text


@pytest.mark.contract("FILE-HF-3")
def test_rope_of_the_class(tmp_path: Path) -> None:
    """gpt-oss stretches RoPE where its file does not say so, and Phi-3 had 4096 positions before."""
    folder = write_checkpoint("gpt-oss-mxfp4", tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: [config.pop("rope_parameters"), config.update(rope_theta=150000.0)])
    model = load_model(folder)
    assert print_graph(build_graph(model)) == wanted
    assert "rope_parameters = {" in "\n".join(map(str, model.notices))
    folder = write_checkpoint("phi3-f32-long-factors", tmp_path)
    change(folder, lambda config: config.pop("original_max_position_embeddings"))
    model = load_model(folder)
    assert model.file.metadata["phi3.rope.scaling.original_context_length"] == 4096
    assert "original_max_position_embeddings = 4096" in "\n".join(map(str, model.notices))


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "edit", "words"),
    [
        ("llama-f32-linear", {"num_key_value_heads": 5}, "3 query heads (num_attention_heads) do not divide among 5 KV heads (num_key_value_heads)"),
        ("qwen3moe-f32", {"num_experts_per_tok": 99}, "num_experts_per_tok is 99, but there are"),
        ("gemma2-f32", {"sliding_window": -2}, "sliding_window is -2, expected"),
        ("llama-f32-linear", {"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0, expected"),
        ("llama-f32-linear", {"num_hidden_layers": 0}, "field 'num_hidden_layers' is 0, expected"),
    ],
)  # fmt: skip
def test_errors_name_fields_as_the_file_does(name: str, edit: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    change(folder, lambda config: config.update(edit))
    with pytest.raises(ModelError) as raised:
        load_model(folder)
    assert words in str(raised.value)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.contract("FILE-HF-1")
@pytest.mark.parametrize(("name", "changed"), [
    ("nemotron-f32", {"head_dim": None}),  # of the heads' number and the hidden size
    ("stablelm-f32", {"head_dim": None}),
    ("qwen3-f32", {"n_group": None, "topk_group": None}),  # which the class does not read
    ("granite-f32", {"use_sliding_window": None}),
    ("qwen2-f32-yarn", {"sliding_window": None}),
])  # fmt: skip
def test_null_is_taken_where_transformers_takes_it(name: str, changed: dict[str, None], tmp_path: Path) -> None:
    """transformers 5.24.0 gives the logits of the unchanged file there."""
    folder = write_checkpoint(name, tmp_path)
    before = print_graph(build_graph(load_model(folder)))
    change(folder, lambda config: config.update(changed))
    assert print_graph(build_graph(load_model(folder))) == before


@pytest.mark.parametrize(("name", "nearest"), [
    ("Qwen3CustomForCausalLM", "; by its name nearest is Qwen3ForCausalLM; `"),
    ("Qwen3ForSequenceClassification", "; by its name nearest is Qwen3ForCausalLM; `"),
    ("Lfm2AudioForCausalLM", "does not have; `"),  # which has no place for most of the tensors
    ("KimiK9ForCausalLM", "does not have; `"),
    ("BloomForCausalLM", "does not have; `"),
])  # fmt: skip
def test_a_class_that_is_not_there_is_told_the_nearest(name: str, nearest: str, tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3-f32", tmp_path)
    change(folder, lambda config: config.update(architectures=[name]))
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert f"architectures is '{name}', a class that aprgraph " in message
    assert nearest in message


def test_of_the_nearest_class_it_is_said_what_it_has_no_place_for(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3-f32", tmp_path)
    path = folder / "model.safetensors"
    tensors = unpacked(path.read_bytes())
    for layer in range(2):
        tensors[f"model.layers.{layer}.mlp.shared_gate.weight"] = ("F32", [4], bytes(16))
    path.write_bytes(packed(tensors))
    change(folder, lambda config: config.update(architectures=["Qwen3GatedForCausalLM"]))
    with pytest.raises(
        UnsupportedModelError, match=r"Qwen3ForCausalLM, which has no place for model\.layers\.\*\.mlp\.shared_gate\.weight; `"
    ):
        load_model(folder)


def test_of_weights_that_are_not_quantised_nothing_else_is_said(tmp_path: Path) -> None:
    """Not that they are FP8, which config.json says of them."""
    folder = write_checkpoint("qwen3-f32", tmp_path)
    change(folder, lambda config: config.update(quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"}))
    (notice,) = load_model(folder).notices
    assert str(notice).startswith(
        "config.json says that weights are quantised by FP8, and none in the files is: they are taken as they are"
    )


def test_groups_of_experts_that_the_class_does_not_read_are_ignored(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3moe-f32", tmp_path)
    before = print_graph(build_graph(load_model(folder)))
    change(folder, lambda config: config.update(n_group=2, topk_group=1))
    model = load_model(folder)
    assert print_graph(build_graph(model)) == before
    assert any("n_group is 2: ignored, as the class" in str(notice) for notice in model.notices)


def test_null_is_no_cap(tmp_path: Path) -> None:
    folder = write_checkpoint("gemma2-f32", tmp_path)
    assert graph_text(folder).count("cap = ") > 1
    change(folder, lambda config: config.update(attn_logit_softcapping=None))
    assert graph_text(folder).count("cap = ") == 1
    change(folder, lambda config: config.update(final_logit_softcapping=None))
    assert "cap" not in graph_text(folder)


@pytest.mark.contract("FILE-HF-3")
def test_overrides_by_the_names_of_fields(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    by_field = graph_text(folder, overrides={"rope_parameters.rope_theta": 5000.0, "rms_norm_eps": 0.5})
    assert graph_text(folder, overrides={"rope_theta": 5000.0, "rms_norm_eps": 0.5}) == by_field
    assert by_field == graph_text(folder, overrides={"llama.rope.freq_base": 5000.0, "llama.attention.layer_norm_rms_epsilon": 0.5})
    assert "base = 5000.0" in by_field
    assert "eps = 0.5" in by_field
    for name, words in {
        "rope_thetta": "nothing reads this key",
        "rope_parameters": "holds no single value there",
        "rope.theta": "has no field theta",
    }.items():
        with pytest.raises(AprgraphError, match=words):
            load_model(folder, {name: 1.0})
    for model, field in (("smollm3-f32", "no_rope_layer_interval"), ("deepseek2-lite-f32", "n_group")):
        folder = write_checkpoint(model, tmp_path)
        change(folder, lambda config: config.update(no_rope_layers=[1, 0] * config["num_hidden_layers"], n_group=1, topk_method="greedy"))
        with pytest.raises(AprgraphError, match="nothing reads this key"):
            load_model(folder, {field: 3})
    folder = write_checkpoint("llama-f32-tied-rope-factors", tmp_path)
    with pytest.raises(ModelError, match="changes RoPE's factors"):
        load_model(folder, {"rope_parameters.factor": 2.0})


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gemma3-f32", "Gemma3ForConditionalGeneration"),
        ("mistral3-f32", "Mistral3ForConditionalGeneration"),
        ("gemma4-f32", "Gemma4ForConditionalGeneration"),
        ("gemma3n-f32", "Gemma3nForConditionalGeneration"),
    ],
)
def test_the_text_model_of_one_with_images(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    wanted = graph_text(folder)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    file.write_bytes(packed({f"language_model.{name}": tensor for name, tensor in tensors.items()}))

    def nest(config: dict[str, Any]) -> None:
        text = dict(config)
        config.clear()
        config.update(
            architectures=[kind],
            text_config=text,
            vision_config={"hidden_size": 3},
            model_type=kind.removesuffix("ForConditionalGeneration").lower(),
        )

    change(folder, nest)
    assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
def test_a_head_that_is_tied_is_the_embedding(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    assert "%output.weight = " in graph_text(folder)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    file.write_bytes(packed({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}))
    change(folder, lambda config: config.update(tie_word_embeddings=True))
    assert "%output.weight = " not in graph_text(folder)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize("name", ["mistral3-f32", "phi2-f32"])
def test_a_tied_head_that_is_left_out(name: str, tmp_path: Path) -> None:
    """The outer field ties that of a model with images; a bias of the head is there in any case."""
    folder = write_checkpoint(name, tmp_path)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    tensors.pop("lm_head.weight", None)
    file.write_bytes(packed(tensors))

    def tie(config: dict[str, Any]) -> None:
        if name == "mistral3-f32":
            text = {**config, "tie_word_embeddings": False}
            config.clear()
            config.update(architectures=["Mistral3ForConditionalGeneration"], text_config=text)
        config["tie_word_embeddings"] = True

    change(folder, tie)
    text = graph_text(folder)
    assert "%output.weight = " not in text
    assert ("%output.bias = " in text) == (name == "phi2-f32")
    change(folder, lambda config: config.update(tie_word_embeddings=False))
    with pytest.raises(ModelError, match=r"'lm_head.weight' is missing, and config.json does not tie it"):
        load_model(folder)


@pytest.mark.contract("FILE-HF-3")
def test_a_tied_head_that_differs_counts(tmp_path: Path) -> None:
    """As in transformers 5.24, which leaves out tying then."""
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(tie_word_embeddings=True))
    model = load_model(folder)
    assert print_graph(build_graph(model)) == wanted
    assert "lm_head.weight differs from the embedding table" in "\n".join(map(str, model.notices))


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("glm4-f32", "attention_bias", False, "attention_bias is false, and the checkpoint has blk.0.attn_"),
        ("llama-f32-linear", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("llama-f32-linear", "mlp_bias", True, "mlp_bias is true, and the checkpoint has no such bias"),
        ("gpt-oss-f32", "attention_bias", False, "attention_bias is false; supported in this family is true"),
        ("qwen2moe-f32", "qkv_bias", False, "qkv_bias is false; supported in this family is true"),
        ("glm4moe-f32", "use_qk_norm", False, "use_qk_norm is false, and the checkpoint has blk.0.attn_"),
        ("command-r-f32", "use_qk_norm", True, "use_qk_norm is true, and the checkpoint has no such norm of q and k"),
        ("command-r-plus-f32", "use_qk_norm", False, "use_qk_norm is false, and the checkpoint has blk.0.attn_"),
        (
            "gemma2-f32",
            "attn_logit_softcapping",
            0.0,
            "attn_logit_softcapping is 0, which the class of transformers (gemma2) takes as it is",
        ),
        ("gemma2-f32", "layer_types", ["full_attention"], "layer_types names 1 layers, and num_hidden_layers is "),
        (
            "llama-f32-linear",
            "layer_types",
            ["full_attention"] * 9,
            "layer_types names 9 layers, and num_hidden_layers is 2, which transformers",
        ),
        ("cohere2-f32", "logit_scale", None, "logit_scale is null, which the class of transformers (cohere2) refuses"),
        ("glm4moe-f32", "topk_group", 0, "topk_group is 0, which the class of transformers (glm4_moe) takes as it is"),
        ("gpt-oss-f32", "swiglu_limit", 0.0, "swiglu_limit is 0, which the class of transformers (gpt_oss) takes as it is"),
        ("apertus-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("arcee-f32", "mlp_bias", True, "mlp_bias is true, and the checkpoint has no such bias"),
        ("deepseek2-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("deepseek2-f32", "mlp_bias", True, "mlp_bias is true, and the checkpoint has no such bias"),
        ("deepseek3-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("ernie4-5-moe-f32", "use_bias", True, "use_bias is true, and the checkpoint has no such bias"),
        ("gemma3n-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("gemma4-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("glm4moe-f32", "attention_bias", False, "attention_bias is false, and the checkpoint has blk.0.attn_"),
        ("hunyuan-dense-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("hunyuan-moe-f32", "attention_bias", True, "attention_bias is true, and the checkpoint has no such bias"),
        ("modern-bert-f32", "mlp_bias", True, "mlp_bias is true, and the checkpoint has no such bias"),
        ("nemotron-f32", "mlp_bias", True, "mlp_bias is true, and the checkpoint has no such bias"),
        ("stablelm-f32", "use_parallel_residual", True, "use_parallel_residual is true, and the checkpoint has blk.0.ffn_norm."),
        (
            "stablelm-f32-parallel",
            "use_parallel_residual",
            False,
            "use_parallel_residual is false, and the checkpoint has no such norm before the",
        ),
        ("stablelm-f32", "use_qkv_bias", False, "use_qkv_bias is false, and the checkpoint has blk.0.attn_"),
        ("starcoder2-f32", "use_bias", False, "use_bias is false, and the checkpoint has blk.0.attn_"),
        ("glm4-f32", "model_type", "phi3", "phi3 has no such bias, and the checkpoint has blk.0.attn_"),
    ],
)
def test_biases_are_those_of_the_configuration(name: str, field: str, value: object, words: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    change(folder, lambda config: config.update({field: value}))
    with pytest.raises((ModelError, UnsupportedModelError)) as caught:
        load_model(folder)
    assert words in str(caught.value)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(("name", "module", "words"), [
    ("apertus-f32", "self_attn.o_proj", "attention_bias is false, and the checkpoint has blk.1.attn_output.bias"),
    ("apertus-f32", "mlp.up_proj", "apertus has no such bias, and the checkpoint has blk.1.ffn_up.bias"),
    ("deepseek3-f32", "self_attn.q_b_proj", "deepseek_v3 has no such bias, and the checkpoint has blk.1.attn_q_b.bias"),
    ("hunyuan-moe-f32", "mlp.shared_mlp.up_proj", "hunyuan_v1_moe has no such bias, and the checkpoint has blk.1.ffn_up_shexp.bias"),
    ("stablelm-f32", "mlp.down_proj", "stablelm has no such bias, and the checkpoint has blk.1.ffn_down.bias"),
])  # fmt: skip
def test_a_bias_that_the_class_drops_is_refused(name: str, module: str, words: str, tmp_path: Path) -> None:
    """What transformers 5.24 makes of each class with its flags off has no such parameter; one of zeros is left out."""
    folder = write_checkpoint(name, tmp_path)
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    rows = tensors[f"model.layers.1.{module}.weight"][1][0]
    wanted = graph_text(folder)
    for value in (0.5, 0.0):
        bias = {f"model.layers.1.{module}.bias": ("F32", [rows], np.full(rows, value, np.float32).tobytes())}
        (folder / "model.safetensors").write_bytes(packed(tensors | bias))
        if value:
            with pytest.raises(ModelError) as caught:
                load_model(folder)
            assert words in str(caught.value)
    assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
def test_biases_that_a_class_has_where_nothing_is_said(tmp_path: Path) -> None:
    """transformers 5.24's Glm4Config takes attention_bias = true, and Starcoder2Config use_bias."""
    for name, field in (("glm4-f32", "attention_bias"), ("starcoder2-f32", "use_bias")):
        folder = write_checkpoint(name, tmp_path)
        wanted = graph_text(folder)
        change(folder, lambda config, field=field: config.pop(field))  # type: ignore[misc]
        assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
def test_rope_that_grows_beyond_the_context_is_rope_within_it(tmp_path: Path) -> None:
    """transformers 5.24 computes the base anew for texts longer than max_position_embeddings alone."""
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    change(folder, lambda config: config.update(rope_parameters={"rope_type": "default", "rope_theta": 1e4}))
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}))
    assert graph_text(folder) == wanted
    (notice,) = load_model(folder).notices
    assert str(notice).startswith(
        "rope_parameters.rope_type is 'dynamic' (factor 4), which is left out: it changes RoPE in texts of more than "
    )


@pytest.mark.contract("FILE-HF-3")
def test_the_private_name_of_a_pattern_counts_for_no_class(tmp_path: Path) -> None:
    """transformers writes `_sliding_window_pattern` beside `layer_types`, and reads it nowhere."""
    folder = write_checkpoint("gemma3-f32", tmp_path)
    change(folder, lambda config: config.pop("layer_types"))
    change(folder, lambda config: config.pop("_sliding_window_pattern", None))
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(_sliding_window_pattern=2))
    assert graph_text(folder) == wanted
    assert any("_sliding_window_pattern is 2: ignored" in str(one) for one in load_model(folder).notices)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(("before", "within"), [
    ("module.", ""), ("_orig_mod.", ""), ("base_model.model.", ""), ("module._orig_mod.", ""), ("_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
    ("", "_checkpoint_wrapped_module."),
])  # fmt: skip
def test_names_that_wrappers_changed(before: str, within: str, tmp_path: Path) -> None:
    """Of state dicts that were saved of a wrapped model; transformers finds none of their tensors."""
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    wanted = graph_text(folder)
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    wrapped = {before + name.replace("layers.1.", f"layers.1.{within}"): tensor for name, tensor in tensors.items()}
    (folder / "model.safetensors").write_bytes(packed(wrapped))
    assert graph_text(folder) == wanted
    (notice,) = load_model(folder).notices
    assert "read without what a wrapper put into the names (" in str(notice)
    (folder / "model.safetensors").write_bytes(packed(wrapped | {"model.norm.weight": tensors["model.norm.weight"]}))
    if before:  # two of one name: nobody knows which is meant
        with pytest.raises(ModelError):
            graph_text(folder)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(("names", "said"), [
    (("model.rotary_emb.inv_freq",), "tensors that repeat RoPE's frequencies are left out (1): model.rotary_emb.inv_freq"),
    (("model.layers.0.self_attn.k_scale", "model.layers.0.self_attn.v_scale"), "tensors that scale the keys and values of a cache in 8 bits"),
    (("model.layers.0.self_attn.k_proj.k_scale", "model.layers.1.self_attn.v_proj.output_scale"), "tensors that scale the keys and values"),
])  # fmt: skip
def test_tensors_beside_the_weights_that_bear_on_no_number(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    wanted = graph_text(folder)
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    more = dict.fromkeys(names, ("F32", [1], np.ones(1, np.float32).tobytes()))
    (folder / "model.safetensors").write_bytes(packed(tensors | more))
    assert graph_text(folder) == wanted
    (notice,) = load_model(folder).notices
    assert str(notice).startswith(said)


@pytest.mark.contract("FILE-HF-3")
def test_another_size_of_the_vocabulary_is_said(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: config.update(vocab_size=90))
    model = load_model(folder)
    assert print_graph(build_graph(model)) == wanted
    assert "says vocab_size 90, and the embedding table has 96 rows" in "\n".join(map(str, model.notices))


@pytest.mark.contract("FILE-HF-1")
@pytest.mark.parametrize("scale", ["block", "row", "tensor"])
def test_fp8_is_decoded(scale: str, tmp_path: Path) -> None:
    """Against the product, element by element, with scales spread out by np.kron."""
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    file, name = folder / "model.safetensors", "model.layers.0.mlp.down_proj.weight"
    tensors = unpacked(file.read_bytes())
    rows, columns = tensors[name][1]
    random = np.random.default_rng(5)
    values = random.standard_normal((rows, columns)).astype(ml_dtypes.float8_e4m3fn)
    shape = {"block": (-(-rows // 16), -(-columns // 8)), "row": (rows, 1), "tensor": (1,)}[scale]
    scales = np.exp(random.standard_normal(shape)).astype(np.float32)
    spread = np.kron(scales, np.ones((16, 8)))[:rows, :columns] if scale == "block" else scales
    end = "_scale_inv" if scale == "block" else "_scale"
    tensors |= {name: ("F8_E4M3", [rows, columns], values.tobytes()), name + end: ("F32", list(shape), scales.tobytes())}
    file.write_bytes(packed(tensors))
    change(
        folder,
        lambda config: config.update(
            quantization_config={"quant_method": "fp8", "weight_block_size": [16, 8], "activation_scheme": "dynamic"}
        ),
    )
    model = load_model(folder)
    info = model.file.tensors["blk.0.ffn_down.weight"]
    actual = model.file.tensor_bytes(info).reshape(-1).view(np.float32).reshape(info.dims)
    assert np.array_equal(actual, (values.astype(np.float64) * spread).astype(np.float32))
    assert "activations are not rounded to 8 bits" in model.notices[0]
    tensors.pop(name + end)
    file.write_bytes(packed(tensors))
    with pytest.raises(UnsupportedModelError, match="F8_E4M3 with no scale; expected one for the tensor, for each row"):
        load_model(folder)


#: Of published checkpoints: the family, RoPE's dims and base, the windows of the first six layers, what is said.
_PUBLISHED: dict[str, tuple[str, int, float, tuple[int, ...], str]] = {
    "Llama-3.1-8B-Instruct": ("llama", 128, 5e5, (0,) * 6, ""),
    "SmolLM2-135M": ("llama", 64, 1e5, (0,) * 6, ""),
    "Mistral-7B-v0.1": ("llama", 128, 1e4, (4096,) * 6, ""),
    "Mixtral-8x7B": ("llama", 128, 1e6, (0,) * 6, ""),
    "Qwen2.5-7B-Instruct-yarn": ("qwen2", 128, 1e6, (0,) * 6, ""),
    "Qwen1.5-MoE-A2.7B": ("qwen2moe", 128, 1e6, (0,) * 6, ""),
    "Qwen3-30B-A3B-FP8": ("qwen3moe", 128, 1e6, (0,) * 6, ""),
    "gemma-2-2b": ("gemma2", 256, 1e4, (4096, 0) * 3, ""),
    "gemma-3-1b": ("gemma3", 256, 1e6, (512,) * 5 + (0,), ""),
    "gemma-3-4b": ("gemma3", 256, 1e6, (1024,) * 5 + (0,), "num_attention_heads = 8, num_key_value_heads = 4, head_dim = 256"),
    "gemma-3-27b": ("gemma3", 128, 1e6, (1024,) * 5 + (0,), "rope_local_base_freq = 10000"),
    "gemma-3n-E4B": ("gemma3n", 256, 1e6, (512,) * 4 + (0, 512), ""),
    "Phi-3.5-mini": ("phi3", 96, 1e4, (262144,) * 6, ""),
    "Phi-4-mini": ("phi3", 96, 1e4, (262144,) * 6, ""),
    "OLMo-2-7B": ("olmo2", 128, 5e5, (0,) * 6, ""),
    "Olmo-3-7B": ("olmo2", 128, 5e5, (4096,) * 3 + (0,) + (4096,) * 2, ""),
    "granite-3.1-8b": ("granite", 128, 1e7, (0,) * 6, ""),
    "GLM-4-9B-0414": ("glm4", 64, 1e4, (0,) * 6, ""),
    "gpt-oss-20b": ("gpt-oss", 64, 15e4, (128, 0) * 3, ""),
    "Qwen3-Next-80B-A3B-Instruct": ("qwen3next", 64, 1e7, (0,) * 6, ""),
    "DeepSeek-V2-Lite": ("deepseek2", 64, 1e4, (0,) * 6, ""),
    "DeepSeek-V3": ("deepseek2", 64, 1e4, (0,) * 6, ""),
    "gemma-7b": ("gemma", 256, 1e4, (0,) * 6, ""),
    "OLMoE-1B-7B-0924": ("olmoe", 128, 1e4, (0,) * 6, ""),
    "MiniMax-M2": ("minimax-m2", 64, 5e6, (0,) * 6, ""),
    "Qwen2.5-VL-7B-Instruct": ("qwen2vl", 128, 1e6, (0,) * 6, ""),
    "Qwen3-VL-8B-Instruct": ("qwen3vl", 128, 5e6, (0,) * 6, ""),
    "Phi-3.5-MoE-instruct": ("phimoe", 128, 1e4, (131072,) * 6, ""),
    "Falcon-H1-0.5B-Base": ("falcon-h1", 64, 1e11, (0,) * 6, ""),
    "NVIDIA-Nemotron-Nano-9B-v2": ("nemotron_h", 128, 1e4, (0,) * 6, ""),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("nemotron_h_moe", 128, 1e4, (0,) * 6, ""),
    "AI21-Jamba-1.5-Mini": ("jamba", 128, 1e4, (0,) * 6, ""),
    "Trinity-Mini": ("afmoe", 128, 1e4, (2048,) * 3 + (0,) + (2048,) * 2, ""),
    "K-EXAONE-236B-A23B": ("exaone-moe", 128, 1e6, (128,) * 3 + (0,) + (128,) * 2, "first_k_dense_replace = 1"),
    "bitnet-b1.58-2B-4T": ("bitnet", 128, 5e5, (0,) * 6, ""),
    "MiMo-V2-Flash": ("mimo2", 64, 5e6, (0,) + (129,) * 4 + (0,), "rms_norm_eps = 1e-05"),
    "EXAONE-3.5-7.8B-Instruct": ("exaone", 128, 1e6, (0,) * 6, ""),
    "Llama-4-Scout-17B-16E-Instruct": ("llama4", 128, 5e5, (8192,) * 3 + (0,) + (8192,) * 2, ""),
    "Llama-4-Maverick-17B-128E-Instruct": ("llama4", 128, 5e5, (8192,) * 3 + (0,) + (8192,) * 2, ""),
}


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize("name", _PUBLISHED)
def test_published_configurations(name: str) -> None:
    """Nothing in them is refused, and there is something to say of few."""
    metadata = ConfigMetadata(Path("config.json"), golden_json("published_configs.json")[name], {})
    family = open_family(metadata)
    said = "\n".join(map(str, (*metadata.notices, *account_for_keys(family, ()))))
    architecture, dims, base, windows, words = _PUBLISHED[name]
    assert isinstance(family, Decoder)
    assert (family.architecture, family.rope.dims, family.rope.base, family.windows[:6]) == (architecture, dims, base, windows)
    assert words in said if words else not said


@pytest.mark.contract("FILE-HF-3")
def test_published_configurations_of_mamba() -> None:
    """Falcon Mamba says the number of columns itself, beside an `expand` that is another; it is the class that normalises."""
    found = []
    for name in ("mamba-130m-hf", "falcon-mamba-7b"):
        metadata = ConfigMetadata(Path("config.json"), golden_json("published_configs.json")[name], {})
        family = open_family(metadata)
        assert isinstance(family, Mamba)
        found.append((family.inner, family.rank, family.state_size, family.normalises_inputs, family.eps, family.inputs_eps))
        assert [str(one) for one in account_for_keys(family, ())] == []
        said = "\n".join(map(str, metadata.notices))
        assert said == (
            "config.json leaves out what the class of transformers then takes: mixer_rms_eps = 1e-06" if "falcon" in name else ""
        )
    assert found == [(1536, 48, 16, False, 1e-5, 1e-6), (8192, 256, 16, True, 1e-5, 1e-6)]


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize("name", ["qwen2moe-f32", "qwen3moe-f32"])
def test_the_size_of_a_dense_network_that_a_mixture_has_not(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    wanted = graph_text(folder)
    change(folder, lambda config: config.pop("intermediate_size"))
    assert graph_text(folder) == wanted


@pytest.mark.contract("FILE-HF-3")
def test_the_layers_of_nemotron_h() -> None:
    """By a pattern, as published files have it, or by their kinds, as transformers writes them."""
    config = golden_json("published_configs.json")["NVIDIA-Nemotron-Nano-9B-v2"]
    pattern = config.pop("hybrid_override_pattern")
    family = open_family(ConfigMetadata(Path("config.json"), config | {"hybrid_override_pattern": pattern}, {}))
    assert isinstance(family, Decoder)
    assert "".join("-" if size else "*" if heads else "M" for heads, size in zip(family.kv_heads, family.ffn, strict=True)) == pattern
    kinds = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
    other = open_family(ConfigMetadata(Path("config.json"), config | {"layers_block_type": [kinds[one] for one in pattern]}, {}))
    assert isinstance(other, Decoder)
    assert (other.kv_heads, other.ffn) == (family.kv_heads, family.ffn)
    with pytest.raises(
        UnsupportedModelError, match="a layer is of the kind 'O'; supported are linear_attention and full_attention, mlp, or moe"
    ):
        ConfigMetadata(Path("config.json"), config | {"hybrid_override_pattern": "MO" * 28}, {})


@pytest.mark.contract("FILE-HF-3")
def test_what_alone_is_computed_of_ling_2(tmp_path: Path) -> None:
    """Experts are chosen by sigmoids with a bias, from groups; a field that says otherwise is refused."""
    config = json.loads((write_checkpoint("bailingmoe2-f32", tmp_path) / "config.json").read_text())
    family = open_family(ConfigMetadata(Path("config.json"), config, {}))
    assert isinstance(family, BailingMoe2)
    assert (family.experts, family.groups, family.used_groups, family.shared_ffn, family.rope.dims) == (6, 3, 2, 12, 4)
    for fields, message in (
        ({"score_function": "softmax"}, "score_function is 'softmax'; supported is 'sigmoid'"),
        ({"num_experts": None}, "field 'num_experts' is missing"),
        ({"topk_group": 4}, "4 \\(topk_group\\) of 3 groups \\(n_group\\) of 6 experts"),
    ):
        with pytest.raises((ModelError, UnsupportedModelError), match=message):
            account_for_keys(open_family(ConfigMetadata(Path("config.json"), config | fields, {})), ())


@pytest.mark.contract("FILE-HF-3")
def test_scales_of_minicpm(tmp_path: Path) -> None:
    """They are made of others, and of 1 where these are left out; a denominator is that of the layers, or not applied."""
    config = json.loads((write_checkpoint("minicpm-f32", tmp_path) / "config.json").read_text())

    def scales(**fields: object) -> tuple[float, ...]:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, MiniCpm)
        return family.embedding_scale, family.residual_scale, family.logit_scale

    assert scales() == scales(mup_denominator=2) == (12.0, 1.4 / math.sqrt(2), 1.5)
    for name in ("scale_emb", "scale_depth", "dim_model_base"):
        config.pop(name)
    assert scales() == (1.0, 1 / math.sqrt(2), 48.0)
    said = account_for_keys(open_family(ConfigMetadata(Path("config.json"), config | {"mup_denominator": 32}, {})), ())
    assert ["mup_denominator is 32" in str(one) for one in said] == [True]
    with pytest.raises(ModelError, match=r"field 'scale_depth / sqrt\(num_hidden_layers\)' is 'deep', expected a number"):
        scales(scale_depth="deep")


@pytest.mark.contract("FILE-HF-3")
def test_the_objects_in_dbrxs_config(tmp_path: Path) -> None:
    """Most of its sizes lie in objects, RoPE's base in one of them in published files; what the classes take counts where they leave one out."""
    config = json.loads((write_checkpoint("dbrx-f32", tmp_path) / "config.json").read_text())
    attention, network = config["attn_config"], config["ffn_config"]

    def read(**fields: object) -> Dbrx:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, Dbrx)
        assert account_for_keys(family, ()) == []
        return family

    family = read()
    assert (family.kv_heads, family.bound, family.experts, family.chosen, family.expert_ffn, family.normalise) == (
        (2, 2),
        1.5,
        5,
        2,
        14,
        True,
    )
    assert (read(attn_config={}).kv_heads, read(attn_config={}).bound, read(ffn_config=network | {"moe_top_k": 3}).chosen) == (
        (1, 1),
        0.0,
        3,
    )
    assert read(ffn_config=network | {"moe_normalize_expert_weights": None}).normalise is False
    assert read(rope_parameters=None, attn_config=attention | {"rope_theta": 3e5}).rope.base == 3e5
    for fields, message in (
        ({"moe_normalize_expert_weights": 2.0}, "'ffn_config.moe_normalize_expert_weights' is 2.0, expected true or false"),
        ({"ffn_act_fn": {"name": "gelu"}}, "hidden_act is 'gelu'"),
    ):
        with pytest.raises((ModelError, UnsupportedModelError), match=message):
            read(ffn_config=network | fields)


@pytest.mark.contract("FILE-HF-3")
def test_kinds_of_layers_and_scale_of_the_embedding_of_afmoe(tmp_path: Path) -> None:
    """Layers without a window have no RoPE, those of a window that no layer has among them; null stands for no scale."""
    folder = write_checkpoint("afmoe-f32", tmp_path)
    config = json.loads((folder / "config.json").read_text())

    def read(**fields: object) -> tuple[Afmoe, Graph]:
        (folder / "config.json").write_text(json.dumps(config | fields))
        model = load_model(folder)
        assert isinstance(model.family, Afmoe)
        return model.family, build_graph(model)

    def turned(graph: Graph) -> list[bool]:
        return [f"layer{layer}.q_post_rope" in graph for layer in range(4)]

    family, graph = read()
    assert (family.windows, family.dense_layers, family.shared_ffn, family.expert_scale) == ((4, 4, 4, 0), 1, 20, 1.5)
    assert (turned(graph), graph["layer0.embedding"].attrs["scale"]) == ([True, True, True, False], math.sqrt(24))
    family, graph = read(layer_types=None, global_attn_every_n_layers=2, mup_enabled=None)
    assert (family.windows, turned(graph), graph["layer0.embedding"].attrs["scale"]) == ((4, 0, 4, 0), [True, False, True, False], 1.0)
    family, graph = read(layer_types=["full_attention"] * 4)
    assert (family.windows, turned(graph)) == ((0,) * 4, [False] * 4)
    for fields, message in (
        ({"sliding_window": None}, "sliding_window is null, which the class of transformers .afmoe. refuses"),
        ({"sliding_window": 0}, "sliding_window is 0, which the class of transformers .afmoe. takes as it is"),
        ({"route_norm": False}, "route_norm is False; supported for afmoe is true"),
        ({"score_func": "softmax"}, "score_func is 'softmax'; supported for afmoe is 'sigmoid'"),
    ):
        with pytest.raises((ModelError, UnsupportedModelError), match=message):
            read(**fields)


@pytest.mark.contract("FILE-HF-3")
def test_the_fields_that_the_first_checkpoints_of_k_exaone_go_by() -> None:
    """The class does not read them: what they say otherwise than it is left out, with a notice."""
    config = golden_json("published_configs.json")["K-EXAONE-236B-A23B"]

    def read(**fields: object) -> tuple[int, list[str]]:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, ExaoneMoe)
        assert (family.groups, family.normalise, family.shared_ffn, family.layers) == (1, True, 2048, 48)
        return family.dense_layers, [str(one) for one in account_for_keys(family, ())]

    assert read() == (1, [])
    assert read(mlp_layer_types=["dense"] + ["sparse"] * 47) == (1, [])
    dense, said = read(first_last_k_dense_replace=2)
    assert (dense, "first_last_k_dense_replace is 2" in "".join(said)) == (1, True)
    dense, said = read(first_k_dense_replace=2)
    assert (dense, "first_last_k_dense_replace is 1" in "".join(said), "is_moe_layer is " in "".join(said)) == (2, True, True)


@pytest.mark.contract("FILE-HF-3")
def test_what_published_files_of_mimo2_say_a_second_time() -> None:
    """It changes nothing where it is what the class makes of the rest, and is left out with a notice or refused elsewhere."""
    config = golden_json("published_configs.json")["MiMo-V2-Flash"]

    def read(**fields: object) -> tuple[Mimo2, list[str]]:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, Mimo2)
        return family, [str(one) for one in account_for_keys(family, ())]

    family, said = read()
    assert (family.kv_heads[:6], family.dense_layers, family.value_size, family.value_scale) == ((4, 8, 8, 8, 8, 4), 1, 128, 0.707)
    assert (family.sliding_rope.base, family.sliding_rope.dims, family.expert_scale, said) == (1e4, 64, 1.0, [])
    assert read(attention_value_scale=None)[0].value_scale == 1
    assert read(sliding_window_size=None)[0].windows[1] == 128
    assert any("swa_rope_theta is 20000" in one for one in read(swa_rope_theta=20000)[1])
    assert any("hybrid_layer_pattern is " in one for one in read(hybrid_layer_pattern=[0] * 48)[1])


@pytest.mark.contract("FILE-HF-1")
def test_tensors_of_mimo2_that_predict_later_tokens_are_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint("mimo2-f32", tmp_path)
    wanted, path = graph_text(folder), folder / "model.safetensors"
    path.write_bytes(packed(unpacked(path.read_bytes()) | {"model.mtp.layers.0.eh_proj.weight": ("F32", [1, 1], bytes(4))}))
    assert graph_text(folder) == wanted
    assert any("tensors that predict later tokens are left out (1)" in str(one) for one in load_model(folder).notices)


@pytest.mark.contract("FILE-HF-3")
def test_the_layers_of_deci() -> None:
    """As the code of Llama-3.3-Nemotron-Super-49B sizes them, and DeciLM 7B by a list."""
    attention, network = {"n_heads_in_group": 8, "no_op": False, "window_length": None}, {"ffn_mult": 5.25, "no_op": False}
    nothing, matrix = {"n_heads_in_group": None, "no_op": True}, {"n_heads_in_group": None, "replace_with_linear": True}
    config = {
        "architectures": ["DeciLMForCausalLM"], "model_type": "nemotron-nas", "hidden_size": 8192, "num_hidden_layers": 5,
        "num_attention_heads": 64, "num_key_value_heads": None, "intermediate_size": None, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "rope_theta": 5e5, "rope_scaling": None, "vocab_size": 128256, "hidden_act": "silu",
        "block_configs": [
            {"attention": attention, "ffn": network}, {"attention": nothing, "ffn": {"ffn_mult": 1.3125}},
            {"attention": matrix, "ffn": {"ffn_mult": 0.5}}, {"attention": nothing, "ffn": {"ffn_mult": None, "no_op": True}},
            {"attention": attention | {"n_heads_in_group": 64}, "ffn": {"ffn_mult": None}},
        ],
    }  # fmt: skip

    def read(**fields: object) -> Deci:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, Deci)
        assert account_for_keys(family, ()) == []
        return family

    family = read()
    assert (family.heads, family.kv_heads, family.head_size) == ((64, 0, 64, 0, 64), (8, 0, 0, 0, 1), 128)
    assert family.ffn == (28672, 7168, 2816, 0, 0)
    of_7b = read(block_configs=None, num_key_value_heads_per_layer=[4, 4, 2, 1, 4], intermediate_size=14336)
    assert (of_7b.heads, of_7b.kv_heads, of_7b.ffn) == ((64,) * 5, (4, 4, 2, 1, 4), (14336,) * 5)
    for part, value, words in (
        ("attention", {"n_heads_in_group": 7}, "n_heads_in_group is 7, of 64 heads"),
        ("attention", attention | {"window_length": 512}, "window_length of attention is 512"),
        ("ffn", {"replace_with_linear": True}, "replace_with_linear of ffn is "),
        ("ffn", {"ffn_mult": "5"}, "ffn_mult is '5', expected a positive number"),
        ("ffn", None, "expected attention and ffn of each layer"),
    ):
        with pytest.raises((ModelError, UnsupportedModelError), match=words):
            read(block_configs=[{"attention": attention, "ffn": network, part: value}] * 5)
    with pytest.raises(ModelError, match="block_configs are 5, but num_hidden_layers is 6"):
        read(num_hidden_layers=6)


@pytest.mark.contract("FILE-HF-3")
def test_heads_of_starcoder(tmp_path: Path) -> None:
    """One head of k and of v, unless the file says otherwise."""
    config = json.loads((write_checkpoint("starcoder-f32", tmp_path) / "config.json").read_text())
    published = {"attention_softmax_in_fp32": True, "inference_runner": 0, "pad_key_length": True, "validate_runner_input": True}

    def read(**fields: object) -> StarCoder:
        family = open_family(ConfigMetadata(Path("config.json"), config | published | fields, {}))
        assert isinstance(family, StarCoder)
        assert account_for_keys(family, ()) == []
        return family

    assert (read().kv_heads, read(multi_query=False).kv_heads, read(n_inner=30).ffn) == ((1, 1), (3, 3), (30, 30))
    assert [read(activation_function=name).activation_op for name in ("gelu", "gelu_fast", "gelu_pytorch_tanh")] == [
        "gelu_erf", "gelu", "gelu",
    ]  # fmt: skip
    assert (read().scale, read(scale_attn_weights=False).scale) == (1 / math.sqrt(8), 1.0)
    with pytest.raises(UnsupportedModelError, match="activation_function is 'relu'; supported are gelu_new"):
        read(activation_function="relu")
    with pytest.raises(UnsupportedModelError, match="add_cross_attention is True; supported for gpt_bigcode is false"):
        read(add_cross_attention=True)


@pytest.mark.contract("FILE-HF-3")
def test_what_baichuans_code_does(tmp_path: Path) -> None:
    """The context may stand under another name, 40 layers are those with ALiBi, and the rows of Baichuan 2's head have length 1."""
    folder = write_checkpoint("baichuan-f32", tmp_path)
    config = json.loads((folder / "config.json").read_text())

    def read_head() -> np.ndarray:
        model = load_model(folder)
        return model.file.tensor_bytes(model.tensor("output.weight")).view(np.float32).reshape(-1, 32)

    plain = read_head()
    for fields, is_normal in (({"model_max_length": 32}, False), ({"z_loss_weight": 0}, True)):
        (folder / "config.json").write_text(json.dumps(config | fields | {"architectures": ["BaichuanForCausalLM"]}))
        expected = plain / np.linalg.norm(plain, axis=1, keepdims=True) if is_normal else plain
        assert np.allclose(read_head(), expected, rtol=1e-6)
    config.pop("max_position_embeddings")
    assert open_family(ConfigMetadata(Path("config.json"), config | {"model_max_length": 32}, {})).context == 32
    with pytest.raises(UnsupportedModelError, match="num_hidden_layers is 40, as of Baichuan 13B, which has ALiBi in place of RoPE"):
        open_family(ConfigMetadata(Path("config.json"), config | {"num_hidden_layers": 40}, {}))


@pytest.mark.contract("FILE-HF-3")
def test_the_bound_of_olmo(tmp_path: Path) -> None:
    """Null is none. The epsilon is the class's own, whatever a file says."""
    config = json.loads((write_checkpoint("olmo-f32", tmp_path) / "config.json").read_text())

    def read(**fields: object) -> Olmo:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, Olmo)
        assert account_for_keys(family, ()) == []
        return family

    assert (read().bound, read(clip_qkv=None).bound, read().eps, read(num_key_value_heads=None).kv_heads) == (1.5, 0.0, 1e-5, (4, 4))
    with pytest.raises(ModelError, match="clip_qkv is -1.0, expected a number of at least 0"):
        read(clip_qkv=-1.0)


@pytest.mark.contract("FILE-HF-3")
def test_scales_of_minicpm3(tmp_path: Path) -> None:
    """As those of MiniCPM, but that the class has defaults, and scales nothing where a field is null. A null rank of q is no latent."""
    config = json.loads((write_checkpoint("minicpm3-f32", tmp_path) / "config.json").read_text())

    def read(**fields: object) -> MiniCpm3:
        family = open_family(ConfigMetadata(Path("config.json"), config | fields, {}))
        assert isinstance(family, MiniCpm3)
        assert account_for_keys(family, ()) == []
        return family

    scales = [(one.embedding_scale, one.residual_scale, one.logit_scale) for one in (read(), read(scale_depth=None, dim_model_base=None))]
    assert scales == [(12.0, 1.4 / math.sqrt(2), 24 / 256), (12.0, 1.0, 1.0)]
    assert (read(v_head_dim=None).value_size, read(v_head_dim=5).value_size, read(q_lora_rank=None).q_rank) == (8, 5, 0)
    for name in ("scale_emb", "scale_depth", "dim_model_base", "q_lora_rank"):
        config.pop(name)
    family = read()
    assert (family.embedding_scale, family.residual_scale, family.logit_scale, family.q_rank) == (12.0, 1.4 / math.sqrt(2), 24 / 256, 768)


@pytest.mark.contract("FILE-HF-3")
def test_kv_heads_and_norms_of_falcon(tmp_path: Path) -> None:
    """They are made of others, of which the class ignores some; the code that came with the first checkpoints calls them otherwise."""
    config = json.loads((write_checkpoint("falcon-f32-groups", tmp_path) / "config.json").read_text())

    def read(*without: str, **fields: object) -> tuple[int, int]:
        left = {name: value for name, value in config.items() if name not in without}
        family = open_family(ConfigMetadata(Path("config.json"), left | fields, {}))
        assert isinstance(family, Falcon)
        assert account_for_keys(family, ()) == []
        return family.kv_heads[0], family.norms

    assert read() == read(multi_query=False, parallel_attn=False) == read(num_ln_in_parallel_attn=None) == (2, 2)
    assert read(num_ln_in_parallel_attn=1) == (2, 1)
    assert read(num_kv_heads=None) == (4, 2)
    assert read(new_decoder_architecture=False) == (1, 1)
    assert read(new_decoder_architecture=False, multi_query=False) == (4, 1)
    ours = ("new_decoder_architecture", "num_kv_heads", "num_attention_heads", "num_hidden_layers", "num_ln_in_parallel_attn", "activation")
    theirs = {"architectures": ["RWForCausalLM"], "n_head": 4, "n_layer": 2, "apply_residual_connection_post_layernorm": False}
    assert read(*ours, **theirs, model_type="RefinedWeb", n_head_kv=2) == (2, 2)
    assert read(*ours, **theirs, model_type="RefinedWebModel", multi_query=True) == (1, 1)
    with pytest.raises(UnsupportedModelError, match="alibi is True; supported for falcon is false"):
        read(alibi=True)
    with pytest.raises(UnsupportedModelError, match="parallel_attn is False; supported for falcon is true"):
        read(new_decoder_architecture=False, parallel_attn=False)
    with pytest.raises(UnsupportedModelError, match="activation is 'relu'; supported are gelu_new"):
        read(activation="relu")


@pytest.mark.contract("FILE-HF-3")
def test_experts_of_nemotron_h_are_of_a_family_of_their_own() -> None:
    """Which the layers tell, for the class has fields of experts in any case. Networks without experts beside them are refused."""
    config = golden_json("published_configs.json")["NVIDIA-Nemotron-3-Nano-30B-A3B-BF16"]
    family = open_family(ConfigMetadata(Path("config.json"), config, {}))
    assert isinstance(family, NemotronHMoe)
    assert (family.experts, family.chosen, family.expert_ffn, family.shared_ffn, family.expert_scale) == (128, 6, 1856, 3712, 2.5)
    kinds = "".join("E" if size else "*" if heads else "M" for heads, size in zip(family.kv_heads, family.ffn, strict=True))
    assert kinds == config["hybrid_override_pattern"]
    assert family.expert_width == family.hidden == 2688
    # As Nemotron 3 Super, whose last field says what predicts later tokens.
    wide = {"moe_latent_size": 1024, "num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}
    family = open_family(ConfigMetadata(Path("config.json"), config | wide, {}))
    assert isinstance(family, NemotronHMoe)
    assert (family.expert_width, family.layers, account_for_keys(family, ())) == (1024, 52, [])
    dense = config | {"hybrid_override_pattern": "M-M*" * 13}
    assert open_family(ConfigMetadata(Path("config.json"), dense, {})).architecture == "nemotron_h"
    for fields, message in (
        (
            {"hybrid_override_pattern": "ME-*" * 13},
            "a layer is of the kind 'mlp'; supported beside moe are linear_attention and full_attention",
        ),
        ({"n_routed_experts": None}, "field 'n_routed_experts' is missing"),
        ({"n_group": 4}, "n_group is 4 .*which the family 'nemotron_h_moe' does not apply"),
    ):
        with pytest.raises((ModelError, UnsupportedModelError), match=message):
            account_for_keys(open_family(ConfigMetadata(Path("config.json"), config | fields, {})), ())


@pytest.mark.contract("FILE-HF-3")
def test_factors_of_falcon_h1() -> None:
    """They are in the weights, so that no head can have both the embedding's and its own; and no norm stands before the gate."""
    config = golden_json("published_configs.json")["Falcon-H1-0.5B-Base"]
    for changed, words in (
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, and embedding_multiplier is not lm_head_multiplier"),
        ({"mamba_rms_norm": True, "mamba_norm_before_gate": True}, "mamba_norm_before_gate is True; supported for falcon_h1 is false"),
    ):
        with pytest.raises(AprgraphError, match=words):
            account_for_keys(open_family(ConfigMetadata(Path("config.json"), config | changed, {})), ())
    tied = config | {"tie_word_embeddings": True, "lm_head_multiplier": config["embedding_multiplier"]}
    assert open_family(ConfigMetadata(Path("config.json"), tied, {})).architecture == "falcon-h1"


@pytest.mark.contract("FILE-HF-3")
def test_magnitudes_of_phi_moe() -> None:
    """The class multiplies cosines and sines by what the file says, and by nothing that follows from the contexts."""
    config = golden_json("published_configs.json")["Phi-3.5-MoE-instruct"]
    family = open_family(ConfigMetadata(Path("config.json"), config, {}))
    assert isinstance(family, Decoder)
    assert family.rope.magnitude == config["rope_scaling"]["short_mscale"]
    for changed, words in (({"long_mscale": 1.0}, "supported is one number for both"), ({"long_mscale": None}, "long_mscale is missing")):
        other = config | {"rope_scaling": config["rope_scaling"] | changed}
        with pytest.raises(AprgraphError, match=words):
            ConfigMetadata(Path("config.json"), other, {})
    with pytest.raises(UnsupportedModelError, match="num_experts_per_tok is 4; supported in this family is 2"):
        open_family(ConfigMetadata(Path("config.json"), config | {"num_experts_per_tok": 4}, {}))


@pytest.mark.contract("FILE-HF-3")
def test_factors_of_llama_3() -> None:
    """Frequencies of waves shorter than 8192 / 4 stay, those of waves longer than 8192 are divided by 8."""
    metadata = ConfigMetadata(Path("config.json"), golden_json("published_configs.json")["Llama-3.1-8B-Instruct"], {})
    factors = metadata.factors["rope_freqs.weight"]
    waves = 2 * np.pi * 500000.0 ** (np.arange(64) / 64)
    assert (factors[waves < 2048] == 1).all()
    assert (factors[waves > 8192] == 8).all()
    assert (np.diff(factors) >= 0).all()
    assert factors[(waves > 2048) & (waves < 8192)].min() > 1
    scout = ConfigMetadata(Path("config.json"), golden_json("published_configs.json")["Llama-4-Scout-17B-16E-Instruct"], {})
    assert (scout.factors["rope_freqs.weight"] == np.where(waves > 8192, 16, 1)).all()  # one bound, and nothing between


def _llama4_config(**fields: Any) -> ConfigMetadata:
    config = golden_json("published_configs.json")["Llama-4-Maverick-17B-128E-Instruct"]
    return ConfigMetadata(Path("config.json"), {**config, "text_config": {**config["text_config"], **fields}}, {})


@pytest.mark.contract("FILE-HF-3")
def test_the_layers_of_llama_4() -> None:
    """Of Maverick every second has experts, and every fourth no RoPE and no chunks; lists say otherwise, as in the class."""
    family = open_family(_llama4_config())
    assert isinstance(family, Llama4)
    assert [layer for layer in range(8) if family.has_experts(layer)] == [1, 3, 5, 7]
    assert not family.normalises_heads
    assert (family.ffn[0], family.expert_ffn, family.growth, family.growth_span) == (16384, 8192, 0.1, 8192)
    listed = open_family(_llama4_config(moe_layers=[0, 2], no_rope_layers=[1, 0] * 24, use_qk_norm=True))
    assert isinstance(listed, Llama4)
    assert [layer for layer in range(8) if listed.has_experts(layer)] == [0, 2]
    assert (listed.has_rope[:4], listed.windows[:4]) == ((True, False, True, False), (8192, 0, 8192, 0))
    assert listed.normalises_heads
    whole = open_family(_llama4_config(attention_chunk_size=None))
    assert isinstance(whole, Llama4)
    assert (set(whole.windows), whole.has_rope[:4]) == ({0}, (True, True, True, False))
    kinds = open_family(_llama4_config(layer_types=["full_attention", "chunked_attention"] * 24))
    assert isinstance(kinds, Llama4)
    assert (kinds.windows[:3], kinds.has_rope[:4]) == ((0, 8192, 0), (True, True, True, False))


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attention_chunk_size": 0}, "attention_chunk_size is 0, which the class of transformers"),
        (
            {"attention_chunk_size": None, "layer_types": ["chunked_attention"] * 48},
            "attention_chunk_size is null, which transformers refuses",
        ),
        ({"layer_types": ["sliding_attention"] * 48}, "layer_types holds 'sliding_attention'"),
        ({"moe_layers": ["two"]}, "moe_layers"),
        ({"attn_scale": None}, "attn_scale is null"),
    ],
)
def test_what_the_class_of_llama_4_does_not_take(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((ModelError, UnsupportedModelError), match=words):
        open_family(_llama4_config(**fields))
