"""What each family makes of its files: the graph's ops and stages, hyperparameters, and files that contradict themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.families.command_r import CommandR
from aprgraph.graph.families.glm4 import Glm4
from aprgraph.graph.families.rope_scaling import Rope
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.outline import SMALL_NUMBERS, outline, small_outline
from tests.support.changed_model import changed_model
from tests.support.golden import GOLDEN

Tiny = Callable[..., Path]


class Sections:
    """An array of metadata."""

    def __init__(self, *values: int) -> None:
        self._values = list(values)

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> list[Any]:
        return self._values


DENSE = ["ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"]
UNGATED = ["ffn_norm", "ffn_up", "ffn_swigl", "ffn_out"]
EXPERTS = [
    "moe_router_logits", "moe_router_indices", "moe_router", "moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out",
    "moe_ffn_out",
]  # fmt: skip
LATENT = [
    "attn_norm", "q_a", "q_a_norm", "q_matmul", "kv_a", "kv_a_norm", "q_pe", "k_pe", "q_absorbed", "attn_scores", "attn_softmax",
    "attn_latent", "attention", "attn_out",
]  # fmt: skip
ATTENTION = ["q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention", "attn_out"]
DELTA = [
    "attn_norm", "conv_in", "delta_gate", "delta_beta", "conv_out", "conv_silu", "delta_q", "delta_k", "delta_decay", "delta_rule",
    "delta_gated",
]  # fmt: skip
CONVOLUTION = [
    "attn_norm", "conv_bcx", "conv_bx", "conv_out", "conv_gated", "attn_out", "post_attn_residual", *DENSE, "post_ffn_residual",
]  # fmt: skip
NEMOTRON_SPACE = [
    "attn_norm", "ssm_gate", "conv_in", "conv_out", "conv_silu", "ssm_step", "ssm_scan", "ssm_norm", "attn_out", "post_ffn_residual",
]  # fmt: skip
LAYER: dict[str, list[str]] = {
    "llama": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "qwen2": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "qwen2moe": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual"],
    "qwen3": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", *DENSE, "post_ffn_residual",
    ],
    "qwen3moe": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", "ffn_norm", *EXPERTS,
        "post_ffn_residual",
    ],
    "qwen3next": [
        "attn_norm", "qkv_matmul", "attn_gate", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:-1], "attn_gated", ATTENTION[-1],
        "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual",
    ],
    "qwen35": [
        "attn_norm", "qkv_matmul", "attn_gate", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:-1], "attn_gated", ATTENTION[-1],
        "post_attn_residual", *DENSE, "post_ffn_residual",
    ],
    "qwen35moe": [
        "attn_norm", "qkv_matmul", "attn_gate", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:-1], "attn_gated", ATTENTION[-1],
        "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual",
    ],
    "gemma3": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "attn_post_norm", "post_attn_residual", *DENSE,
        "ffn_post_norm", "post_ffn_residual",
    ],
    "gemma4": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", "k_post_rope", "v_norm", *ATTENTION[2:], "attn_post_norm",
        "post_attn_residual", *DENSE, "ffn_post_norm", "post_ffn_residual", "per_layer_input", "per_layer_gate", "per_layer_gated",
        "per_layer_out", "per_layer_norm", "layer_out",
    ],
    "gemma3n": [
        "altup_predict_norm", "altup_predict_router", "altup_predict_coefs", "altup_predicted", "altup_active", "attn_norm", "laurel_left",
        "laurel_right", "laurel_norm", "laurel_out", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", "k_post_rope", "v_norm",
        *ATTENTION[2:], "attn_post_norm", "post_attn_residual", "laurel_residual", *DENSE,
        "ffn_post_norm", "post_ffn_residual", "altup_correct_norm", "altup_correct_router", "altup_correct_coefs", "altup_corrected",
        "altup_scaled", "per_layer_input", "per_layer_gate", "per_layer_gated", "per_layer_out", "per_layer_norm", "altup_out",
    ],
    "gemma2": [
        "attn_norm", "qkv_matmul", *ATTENTION, "attn_post_norm", "post_attn_residual", *DENSE, "ffn_post_norm", "post_ffn_residual",
    ],
    "lfm2": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", *DENSE, "post_ffn_residual",
    ],
    "lfm2moe": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", "ffn_norm", EXPERTS[0],
        "moe_router_scores", *EXPERTS[1:], "post_ffn_residual",
    ],
    "granitehybrid": [
        "attn_norm", "qkv_matmul", *ATTENTION[2:], "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual",
    ],
    "jamba": [
        "attn_norm", "qkv_matmul", *ATTENTION[2:], "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual",
    ],
    "mamba": [
        "attn_norm", "ssm_gate", "conv_in", "conv_out", "conv_silu", "ssm_dt_b_c", "ssm_dt_norm", "ssm_b_norm", "ssm_c_norm", "ssm_step",
        "ssm_scan", "ssm_gated", "attn_out", "post_ffn_residual",
    ],
    "mamba2": [
        "attn_norm", "ssm_gate", "conv_in", "conv_out", "conv_silu", "ssm_step", "ssm_scan", "ssm_norm", "attn_out", "post_ffn_residual",
    ],
    "gpt-oss": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual"],
    "glm4moe": [
        "attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, EXPERTS[0], "moe_router_scores", *EXPERTS[1:],
        "post_ffn_residual",
    ],
    "deepseek2": [
        *LATENT, "post_attn_residual", *DENSE, EXPERTS[0], "moe_router_scores", *EXPERTS[1:], "post_ffn_residual",
    ],
    "hunyuan-dense": [
        "attn_norm", "qkv_matmul", "q_post_rope", "q_norm", "k_post_rope", "k_norm", *ATTENTION[2:], "post_attn_residual", *DENSE,
        "post_ffn_residual",
    ],
    "hunyuan-moe": [
        "attn_norm", "qkv_matmul", "q_post_rope", "q_norm", "k_post_rope", "k_norm", *ATTENTION[2:], "post_attn_residual", *DENSE, *EXPERTS,
        "post_ffn_residual",
    ],
    "apertus": [
        "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", *UNGATED, "post_ffn_residual",
    ],
    "starcoder2": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *UNGATED, "post_ffn_residual"],
    "stablelm": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "phi2": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, *UNGATED[1:], "post_ffn_residual"],
    "gpt2": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION[2:], "post_attn_residual", *UNGATED, "post_ffn_residual"],
    "nemotron": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *UNGATED, "post_ffn_residual"],
    "granite": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "phi3": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "olmo2": [
        "qkv_matmul", "q_norm", "k_norm", *ATTENTION, "attn_post_norm", "post_attn_residual", *DENSE[1:], "ffn_post_norm",
        "post_ffn_residual",
    ],
    "mistral3": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "smollm3": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "command-r": ["attn_norm", "qkv_matmul", *ATTENTION, *DENSE[1:], "post_ffn_residual"],
    "cohere2": ["attn_norm", "qkv_matmul", *ATTENTION, *DENSE[1:], "post_ffn_residual"],
    "exaone4": [
        "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "attn_post_norm", "post_attn_residual", *DENSE[1:],
        "ffn_post_norm", "post_ffn_residual",
    ],
    "seed_oss": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "ernie4_5": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "arcee": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *UNGATED, "post_ffn_residual"],
    "llama4": [
        "attn_norm", "qkv_matmul", "q_post_rope", "q_norm", "k_post_rope", "k_norm", *ATTENTION[2:], "post_attn_residual", *DENSE,
        *EXPERTS[:3], "moe_expert_in", *EXPERTS[3:], "post_ffn_residual",
    ],
    "ernie4_5-moe": [
        "attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, EXPERTS[0], "moe_router_scores", *EXPERTS[1:],
        "post_ffn_residual",
    ],
    "glm4": [
        "attn_norm", "qkv_matmul", *ATTENTION, "attn_post_norm", "post_attn_residual", *DENSE, "ffn_post_norm", "post_ffn_residual",
    ],
}  # fmt: skip
LAYER["gemma-embedding"] = LAYER["gemma3"]
LAYER["gemma"] = LAYER["granite"]
LAYER["phimoe"] = ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual"]
LAYER["falcon-h1"] = [
    "attn_norm", "ssm_gate", "conv_in", "conv_out", "conv_silu", "ssm_step", "ssm_scan", "ssm_gated", "ssm_out", "qkv_matmul", *ATTENTION,
    "post_attn_residual", *DENSE, "post_ffn_residual",
]  # fmt: skip
LAYER["nemotron_h"] = ["attn_norm", "qkv_matmul", *ATTENTION[2:], "post_ffn_residual"]
LAYER["nemotron_h_moe"] = LAYER["nemotron_h"]
LAYER["jais2"] = ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *UNGATED, "post_ffn_residual"]
LAYER["exaone"] = LAYER["llama"]
LAYER["minicpm3"] = [
    *("kv_b" if stage == "q_absorbed" else stage for stage in LATENT if stage != "attn_latent"),
    "post_attn_residual",
    *DENSE,
    "post_ffn_residual",
]
LAYER["olmo"] = LAYER["baichuan"] = LAYER["llama"]
LAYER["dbrx"] = ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual"]
LAYER["starcoder"] = LAYER["gpt2"]
LAYER["falcon"] = ["attn_norm", "qkv_matmul", *ATTENTION, *UNGATED, "post_ffn_residual"]
LAYER["gptneox"] = ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, *UNGATED, "post_ffn_residual"]
LAYER["qwen2vl"], LAYER["qwen3vl"], LAYER["qwen3vlmoe"] = LAYER["qwen2"], LAYER["qwen3"], LAYER["qwen3moe"]
LAYER["granitemoe"] = ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual"]
LAYER["olmoe"] = [
    "attn_norm", "qkv_matmul", "q_norm", "k_norm", *ATTENTION, "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual",
]  # fmt: skip
LAYER["minimax-m2"] = [*LAYER["olmoe"][:-9], EXPERTS[0], "moe_router_scores", *EXPERTS[1:], "post_ffn_residual"]
LAYER["dots1"] = [
    "attn_norm", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:], "post_attn_residual", *DENSE, EXPERTS[0],
    "moe_router_scores", *EXPERTS[1:], "post_ffn_residual",
]  # fmt: skip
LAYER["afmoe"] = [
    "attn_norm", "attn_gate", "qkv_matmul", "q_norm", "q_post_rope", "k_norm", *ATTENTION[1:-1], "attn_gated", ATTENTION[-1],
    "attn_post_norm", "post_attn_residual", *DENSE, EXPERTS[0], "moe_router_scores", *EXPERTS[1:], "ffn_post_norm", "post_ffn_residual",
]  # fmt: skip
LAYER["bitnet"] = [
    "attn_norm", "qkv_matmul", *ATTENTION[:-1], "attn_sub_norm", ATTENTION[-1], "post_attn_residual", *DENSE[:-1], "ffn_sub_norm",
    DENSE[-1], "post_ffn_residual",
]  # fmt: skip
LAYER["minicpm"] = LAYER["internlm2"] = LAYER["llama"]
LAYER["bailingmoe2"] = LAYER["exaone-moe"] = LAYER["dots1"]
LAYER["deci"] = [*DENSE, "post_ffn_residual"]
LAYER["mimo2"] = [
    "attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", "ffn_norm", EXPERTS[0], "moe_router_scores", *EXPERTS[1:],
    "post_ffn_residual",
]  # fmt: skip
LAYER["deepseek"] = ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual"]
LAYER["chatglm"] = ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"]
LAYER["bert"] = [
    "qkv_matmul", "qkv_bias", *ATTENTION[2:], "post_attn_residual", *UNGATED, "post_ffn_residual", "layer_out_norm",
]  # fmt: skip

LAYER["nomic-bert"] = ["qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual", "layer_out_norm"]
LAYER["modern-bert"] = ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"]

#: Of dots1 and those like it, without experts.
DENSE_DOTS = [stage for stage in LAYER["dots1"] if not stage.startswith("moe_")]
#: Where the first layer is another.
FIRST_LAYER: dict[str, list[str]] = {
    "nemotron_h": NEMOTRON_SPACE,
    "nemotron_h_moe": NEMOTRON_SPACE,
    "bert": ["embedding_norm", *LAYER["bert"]],
    "nomic-bert": ["embedding_norm", *LAYER["nomic-bert"]],
    "modern-bert": ["embedding_norm", *LAYER["modern-bert"][1:]],
    "dots1": DENSE_DOTS,
    "bailingmoe2": DENSE_DOTS,
    "exaone-moe": DENSE_DOTS,
    "afmoe": [stage for stage in LAYER["afmoe"] if not stage.startswith("moe_")],
    "deepseek": LAYER["llama"],
    **dict.fromkeys(("mimo2", "deci"), LAYER["llama"]),
    "gemma3n": [
        "altup_embedding",
        *(stage for one in LAYER["gemma3n"] for stage in (("ffn_gate_sparse", one) if one == "ffn_silu" else (one,))),
    ],
    "glm4moe": ["attn_norm", "qkv_matmul", "qkv_bias", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "deepseek2": [*LATENT, "post_attn_residual", *DENSE, "post_ffn_residual"],
    "qwen3next": [*DELTA, "attn_out", "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual"],
    "granitehybrid": [
        "attn_norm",
        "ssm_gate",
        "conv_in",
        "conv_out",
        "conv_silu",
        "ssm_step",
        "ssm_scan",
        "ssm_norm",
        "attn_out",
        "post_attn_residual",
        *DENSE,
        *EXPERTS,
        "post_ffn_residual",
    ],
    "lfm2": CONVOLUTION,
    "lfm2moe": CONVOLUTION,
    "jamba": [
        "attn_norm",
        "ssm_gate",
        "conv_in",
        "conv_out",
        "conv_silu",
        "ssm_dt_b_c",
        "ssm_dt_norm",
        "ssm_b_norm",
        "ssm_c_norm",
        "ssm_step",
        "ssm_scan",
        "ssm_gated",
        "attn_out",
        "post_attn_residual",
        "ffn_norm",
        *EXPERTS,
        "post_ffn_residual",
    ],
    "qwen35": [*DELTA, "attn_out", "post_attn_residual", *DENSE, "post_ffn_residual"],
    "qwen35moe": [*DELTA, "attn_out", "post_attn_residual", *DENSE, *EXPERTS, "post_ffn_residual"],
    "ernie4_5-moe": ["attn_norm", "qkv_matmul", *ATTENTION, "post_attn_residual", *DENSE, "post_ffn_residual"],
}


def built(path: Path, **overrides: Any) -> Graph:
    return build_graph(load_model(path, {key.replace("__", "."): value for key, value in overrides.items()}))


def test_every_family_is_tested() -> None:
    assert set(FAMILIES) == set(LAYER)


@pytest.mark.contract("STAGES-ORDER-1")
@pytest.mark.parametrize("family", FAMILIES)
def test_stages_of_a_layer_in_execution_order(family: str, tiny_model: Tiny) -> None:
    graph = built(tiny_model(family=family, layers=2))
    for layer in range(2):
        own = [node.stage for node in graph.staged() if node.layer == layer and node.stage != "embedding"]
        assert own == (LAYER if layer else {**LAYER, **FIRST_LAYER})[family]


def test_mixtral_comes_under_the_name_of_llama(tiny_model: Tiny) -> None:
    graph = built(tiny_model(experts=4, layers=1))
    assert [node.stage for node in graph.staged() if node.layer == 0 and node.stage != "embedding"] == [
        *LAYER["llama"][:8], "post_attn_residual", "ffn_norm", *EXPERTS, "post_ffn_residual",
    ]  # fmt: skip
    assert graph["layer0.moe_router"].attrs == {"normalise": True, "scale": 1.0}
    assert graph["layer0.moe_router_indices"].attrs == {"k": 2}


def test_the_weights_of_qwen2moes_experts_are_not_normalised_and_its_shared_expert_is_added(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="qwen2moe", layers=1))
    assert graph["layer0.moe_router"].attrs == {"normalise": False, "scale": 1.0}
    assert graph.operand_names("layer0.moe_ffn_out") == ("layer0.moe_expert_sum", "layer0.shared_expert")
    assert graph.operand_names("layer0.shared_expert") == ("layer0.ffn_out", "layer0.shared_gate")
    assert graph.operand_names("layer0.ffn_gate") == ("layer0.ffn_norm", "blk.0.ffn_gate_shexp.weight")
    assert graph["layer0.shared_gate_logit"].type.dims == ("n", 1)


def test_a_layer_that_shares_keys_reads_the_cache_of_an_earlier_one(tiny_model: Tiny) -> None:
    path = tiny_model(family="gemma4", layers=2, sliding_window=0)
    plain, model = load_model(path), load_model(path, {"gemma4.attention.shared_kv_layers": 1})
    graph = build_graph(model)
    assert graph.operand_names("layer1.attn_scores") == ("layer1.q_post_rope", "layer0.k_cache")
    assert graph.operand_names("layer1.attention") == ("layer1.attn_softmax", "layer0.v_cache")
    assert graph["layer1.qkv_matmul"].type.dims == graph["layer1.q_norm"].type.dims
    left_out = "tensors of keys and values that a layer shares with an earlier one are left out (3): "
    assert (left_out in "".join(model.notices), left_out in "".join(plain.notices)) == (True, False)
    with pytest.raises(ModelError, match=r"shared_kv_layers is 1, but no layer before these has attention to all positions"):
        built(tiny_model(family="gemma4", layers=2), gemma4__attention__shared_kv_layers=1)


def test_gemma4_needs_the_factors_of_its_rope(tiny_model: Tiny, tmp_path: Path) -> None:
    model = changed_model(tiny_model(family="gemma4"), tmp_path / "other.gguf", lambda tensors: tensors.pop("rope_freqs.weight"))
    with pytest.raises(ModelError, match=r"tensor 'rope_freqs.weight' of 16 is missing"):
        built(model)
    with pytest.raises(ModelError, match=r"value_length_swa is 8; expected the same"):
        built(tiny_model(family="gemma4"), gemma4__attention__value_length_swa=8)


def test_gemma3n_takes_from_files_what_no_key_says(tiny_model: Tiny) -> None:
    """The rank of the second residual connection are the rows of a weight; a gate is cut off where its number is no infinity."""
    path = tiny_model(family="gemma3n")
    graph = build_graph(load_model(path))
    assert graph["layer0.laurel_left"].type.dims == ("n", 8)
    assert [node.layer for node in graph.with_op("gaussian_top_k")] == [0]
    everywhere = small_outline(FAMILIES["gemma3n"], activation_sparsity_scale=1.5).graph
    assert [node.attrs for node in everywhere.with_op("gaussian_top_k")] == [{"factor": 1.5}] * 2
    second = built(path, gemma3n__altup__active_idx=1)
    assert (second["layer0.altup_active"].attrs, second["layer0.altup_corrected"].attrs) == ({"start": 64, "stop": 128}, {"active": 1})
    assert second["altup_first"].attrs == {"start": 0, "stop": 64}
    with pytest.raises(ModelError, match=r"altup.active_idx is 4, but there are 4 streams \(gemma3n.altup.num_inputs\), from 0 on"):
        built(path, gemma3n__altup__active_idx=4)
    with pytest.raises(ModelError, match=r"tensor 'altup_proj.weight' is 3 x 64 x 64, expected 4 x 64 x 64"):
        built(path, gemma3n__altup__num_inputs=5)


def test_gemmas_layers_slide_but_for_every_sixth(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="gemma3", layers=13, sliding_window=4))
    windows = [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(13)]
    assert windows == [0 if layer in (5, 11) else 4 for layer in range(13)]
    assert {graph[f"layer{layer}.{op}"].attrs["window"] for layer in (0, 5) for op in ("attn_softmax", "attention")} == {0, 4}
    angles = [graph.operand_names(f"layer{layer}.q_post_rope")[1] for layer in range(13)]
    assert angles == ["rope_angles" if layer in (5, 11) else "rope_angles_sliding" for layer in range(13)]
    assert (graph["rope_angles"].attrs["base"], graph["rope_angles_sliding"].attrs["base"]) == (1e6, 1e4)
    assert graph["layer0.embedding"].attrs["scale"] == math.sqrt(64)
    assert graph["layer0.ffn_silu"].op == "gelu"


def test_gemma2_caps_scores_and_logits_in_layers_with_a_window_and_without(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="gemma2", layers=3))
    assert [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(3)] == [5, 0, 5]
    assert {graph[f"layer{layer}.attn_scores"].attrs["cap"] for layer in range(3)} == {2.0}
    assert (graph["lm_head"].op, graph["lm_head"].attrs) == ("soft_cap", {"cap": 5.0})
    assert graph.operand_names("lm_head") == ("lm_head_raw",)
    assert graph["layer0.embedding"].attrs["scale"] == math.sqrt(64)


def test_the_largest_gemma2_divides_scores_by_another_number(tiny_model: Tiny) -> None:
    sizes = {"heads": 2, "kv_heads": 1, "hidden": 36, "ffn": 8, "head_size": 4}
    assert built(tiny_model(family="gemma2", layers=45, **sizes))["layer0.attn_scores"].attrs["scale"] == 0.5
    assert built(tiny_model(family="gemma2", layers=46, **sizes))["layer0.attn_scores"].attrs["scale"] == 1 / math.sqrt(18)


def test_granite_scales_four_things(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="granite", layers=1))
    assert graph["layer0.embedding"].attrs == {"scale": 6.0}
    assert graph["layer0.attn_scores"].attrs["scale"] == 0.125
    assert [graph[f"layer0.{part}_out_scaled"].attrs for part in ("attn", "ffn")] == [{"factor": 0.25}] * 2
    assert (graph["lm_head"].op, graph["lm_head"].attrs) == ("scale", {"factor": 0.25})
    assert graph.operand_names("lm_head") == ("lm_head_raw",)


def test_layers_without_kv_heads_are_recurrent(tiny_model: Tiny) -> None:
    for family in ("lfm2", "granitehybrid"):
        graph = built(tiny_model(family=family, layers=4))
        assert [node.layer for node in graph.with_op("short_conv")] == [0, 2]
        assert [node.layer for node in graph.with_op("attn_scores")] == [1, 3]


def test_granite_may_have_no_rope(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="granite", layers=1), granite__rope__scaling__finetuned=False)
    assert not graph.with_op("rope")
    assert not graph.with_op("rope_angles")
    assert graph.operand_names("layer0.attn_scores") == ("layer0.q", "layer0.k_cache")


def test_glm4_turns_half_of_each_head_in_neighbours_or_halves_where_pairs_divide_among_axes(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="glm4", layers=1))
    assert graph["rope_angles"].attrs["dims"] == 8
    assert graph["layer0.q_post_rope"].attrs["pairing"] == "interleaved"
    sections = {"rope.dimension_sections": Sections(4, 2, 2, 0)}
    assert small_outline(Glm4, **sections).graph["layer0.q_post_rope"].attrs["pairing"] == "halves"
    none = {"rope.dimension_sections": Sections(8, 0, 0, 0)}
    assert small_outline(Glm4, **none).graph["layer0.q_post_rope"].attrs["pairing"] == "interleaved"


def test_olmo3_is_olmo2_with_windows_whose_layers_turn_by_unstretched_angles(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="olmo2", layers=5, rope_yarn_factor=8.0, original_context=8))
    assert [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(5)] == [5, 5, 5, 0, 5]
    angles = [graph.operand_names(f"layer{layer}.q_post_rope")[1] for layer in range(5)]
    assert angles == ["rope_angles" if layer == 3 else "rope_angles_sliding" for layer in range(5)]
    assert (graph["rope_angles"].attrs["scale"], graph["rope_angles_sliding"].attrs["scale"]) == (0.125, 1.0)
    assert graph["rope_angles_sliding"].attrs["base"] == graph["rope_angles"].attrs["base"] == 500000.0
    olmo2 = built(tiny_model(family="olmo2", layers=2, sliding_window=0))
    assert {olmo2[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(2)} == {0}


def test_gpt_oss_has_sinks_windows_and_a_ramp_that_begins_between_two_pairs(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="gpt-oss", layers=2, rope_yarn_factor=32.0, original_context=4096, context=131072))
    assert graph.operand_names("layer0.attn_softmax") == ("layer0.attn_scores", "blk.0.attn_sinks.weight")
    assert [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(2)] == [5, 0]
    assert graph["rope_angles"].attrs["ramp_start"] % 1
    assert graph.operand_names("layer0.ffn_norm")[1] == "blk.0.post_attention_norm.weight"
    assert graph["layer0.moe_expert_swigl"].attrs == {"limit": 7.0, "alpha": 1.702}
    assert graph["layer0.moe_expert_up"].op == "expert_bias_add"


def test_mistral3_scales_queries_by_their_position_from_the_original_context_on(tiny_model: Tiny) -> None:
    path = tiny_model(family="mistral3", layers=1, rope_yarn_factor=8.0, original_context=4)
    graph = built(path, mistral3__attention__temperature_scale=0.5)
    assert graph["query_temperature"].attrs == {"strength": 0.5, "span": 4}
    assert graph.operand_names("layer0.attn_scores") == ("layer0.q_scaled", "layer0.k_cache")
    assert graph.operand_names("layer0.q_scaled") == ("layer0.q_post_rope", "query_temperature")
    assert graph.operand_names("layer0.k_cache") == ("layer0.k_post_rope",)
    assert not built(path, mistral3__attention__temperature_scale=0.0).with_op("query_temperature")


@pytest.mark.parametrize("family", ["smollm3", "cohere2", "exaone4", "exaone-moe", "afmoe"])
def test_layers_without_rope(family: str, tiny_model: Tiny) -> None:
    graph = built(tiny_model(family=family, layers=5))
    assert [layer for layer in range(5) if f"layer{layer}.q_post_rope" in graph] == [0, 1, 2, 4]
    windows = [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(5)]
    assert windows == ([0] * 5 if family == "smollm3" else [5, 5, 5, 0, 5])
    assert [f"layer{layer}.q_norm" in graph for layer in range(5)] == [family in ("exaone4", "exaone-moe", "afmoe")] * 5


def test_layers_with_a_window_of_mimo2_have_sinks_and_v_is_scaled(tiny_model: Tiny) -> None:
    path = tiny_model(family="mimo2", layers=6)
    graph = built(path)
    assert [len(graph.operand_names(f"layer{layer}.attn_softmax")) for layer in range(6)] == [2] * 5 + [1]
    assert [graph.operand_names(f"layer{layer}.q_post_rope")[1] for layer in (4, 5)] == ["rope_angles_sliding", "rope_angles"]
    assert (graph["rope_angles"].attrs["base"], graph["rope_angles_sliding"].attrs["base"]) == (10000.0, 5000.0)
    assert graph["layer0.v_scaled"].attrs["factor"] == pytest.approx(0.707)
    assert "layer0.v_scaled" not in built(path, mimo2__attention__value_scale=1.0)


def test_layers_of_deci_may_do_without_attention_or_a_network() -> None:
    """Each gives `post_ffn_residual`: the sum of its only part, or what it is given."""
    graph = built(GOLDEN / "families" / "deci-f32.gguf")
    stages = [[node.stage for node in graph.staged() if node.layer == layer and node.stage != "embedding"] for layer in range(5)]
    assert stages[0] == stages[4] == LAYER["llama"]
    assert stages[1] == LAYER["deci"]
    assert stages[2] == ["attn_norm", "attn_out", "post_attn_residual", *LAYER["deci"]]
    assert stages[3] == ["post_ffn_residual"]
    assert graph.operand_names("layer3.post_ffn_residual") == ("layer2.post_ffn_residual",)


@pytest.mark.parametrize("family", ["exaone4", "exaone-moe"])
def test_an_exaone_without_windows_has_rope_in_every_layer(family: str, tiny_model: Tiny) -> None:
    """As EXAONE 4.0 1.2B."""
    graph = built(tiny_model(family=family, layers=4, sliding_window=0))
    assert len(graph.with_op("rope")) == 8
    assert not any(node.attrs["window"] for node in graph.with_op("attn_scores"))


def test_experts_of_nemotron_h_read_a_latent_and_the_router_and_the_shared_expert_do_not(tiny_model: Tiny) -> None:
    path = tiny_model(family="nemotron_h_moe", layers=3)
    graph = built(path)
    operands = {name: graph.operand_names(f"layer2.{name}")[0].removeprefix("layer2.") for name in (
        "moe_router_logits", "ffn_up", "moe_latent", "moe_expert_up", "moe_latent_sum", "moe_latent_out", "moe_ffn_out",
    )}  # fmt: skip
    assert operands == {
        **dict.fromkeys(("moe_router_logits", "ffn_up", "moe_latent"), "attn_norm"), "moe_expert_up": "moe_latent",
        "moe_latent_sum": "moe_expert_out", "moe_latent_out": "moe_latent_sum", "moe_ffn_out": "moe_latent_out",
    }  # fmt: skip
    assert graph.operand_names("layer2.moe_ffn_out")[1] == "layer2.ffn_out"
    assert [graph[f"layer2.{name}"].type.dims[-1] for name in ("moe_latent", "moe_expert_out", "moe_latent_out")] == [32, 32, 64]
    with pytest.raises(ModelError, match=r"ffn_up_exps.weight"):
        built(path, nemotron_h_moe__moe_latent_size=0)


def test_the_gate_and_the_embedding_of_afmoe(tiny_model: Tiny) -> None:
    """Without windows it is still every fourth layer that has no RoPE; with others, the layers without one."""
    path = tiny_model(family="afmoe", layers=4, sliding_window=0)
    graph = built(path)
    assert graph.operand_names("layer0.attn_gated") == ("layer0.attention", "layer0.attn_gate_open")
    assert graph.operand_names("layer0.attn_gate") == ("layer0.attn_norm", "blk.0.attn_gate.weight")
    assert graph.operand_names("layer0.attn_out")[0] == "layer0.attn_gated"
    assert graph["layer0.embedding"].attrs["scale"] == math.sqrt(graph["layer0.embedding"].type.dims[1])
    assert built(path, afmoe__mup_enabled=False)["layer0.embedding"].attrs["scale"] == 1.0
    assert [f"layer{layer}.q_post_rope" in graph for layer in range(4)] == [True, True, True, False]
    assert not any(node.attrs["window"] for node in graph.with_op("attn_scores"))
    graph = built(tiny_model(family="afmoe", layers=4), afmoe__attention__sliding_window_pattern=2)
    assert [f"layer{layer}.q_post_rope" in graph for layer in range(4)] == [True, False, True, False]


def test_attention_and_network_of_command_r_read_one_layer_norm(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="command-r", layers=1))
    assert (graph["layer0.attn_norm"].op, graph["layer0.attn_norm"].attr_int("groups")) == ("layer_norm", 1)
    assert graph["layer0.attn_norm"].attr_float("eps") == pytest.approx(1e-5)
    assert {graph.operand_names(f"layer0.{part}")[0] for part in ("qkv_matmul", "ffn_gate", "ffn_up")} == {"layer0.attn_norm"}
    assert graph.operand_names("layer0.parallel_sum") == ("layer0.attn_out", "layer0.ffn_out")
    assert graph.operand_names("layer0.post_ffn_residual") == ("layer0.embedding", "layer0.parallel_sum")
    assert (graph["lm_head"].op, graph["lm_head"].attrs) == ("scale", {"factor": 0.25})


def test_command_r_plus_normalises_each_head_by_weights_of_its_own() -> None:
    norms = {"attn_q_norm.weight", "attn_k_norm.weight"}
    numbers = {key: value for key, value in SMALL_NUMBERS.items() if not key.startswith(("expert", "attention.layer_norm_rms"))}
    model = outline(CommandR, numbers, vocabulary=9, optional=lambda name: name.removeprefix("blk.0.").removeprefix("blk.1.") in norms)
    assert (model.graph["layer1.q_norm"].op, model.graph["layer1.q_norm"].attrs["groups"]) == ("layer_norm", 4)
    assert model.weights["blk.1.attn_q_norm.weight"].dims == (4, 16)
    assert model.weights["blk.1.attn_k_norm.weight"].dims == (2, 16)


def test_gemmas_rope_scaling_is_of_the_layers_that_see_everything(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="gemma3", layers=6, rope_linear_factor=8.0))
    assert (graph["rope_angles"].attrs["scale"], graph["rope_angles_sliding"].attrs["scale"]) == (0.125, 1.0)


def test_the_largest_gemma_divides_scores_by_another_number(tiny_model: Tiny) -> None:
    sizes = {"heads": 2, "kv_heads": 1, "hidden": 36, "ffn": 8, "head_size": 4}
    assert built(tiny_model(family="gemma3", layers=61, **sizes))["layer0.attn_scores"].attrs["scale"] == 0.5
    assert built(tiny_model(family="gemma3", layers=62, **sizes))["layer0.attn_scores"].attrs["scale"] == pytest.approx(18**-0.5)


def test_qwen3moe_without_a_rope_base_has_a_million(tiny_model: Tiny) -> None:
    assert load_model(tiny_model(family="qwen3moe", rope_base=None)).family.rope.base == 1_000_000.0
    assert load_model(tiny_model(family="qwen2", rope_base=None)).family.rope.base == 10_000.0


def test_phi3s_fused_tensors_are_one_product_each(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="phi3", layers=1))
    assert graph.operand_names("layer0.qkv_matmul") == ("layer0.attn_norm", "blk.0.attn_qkv.weight")
    assert graph.operand_names("layer0.ffn_gate") == graph.operand_names("layer0.ffn_up") == ("layer0.ffn_gate_up",)
    assert (graph["layer0.ffn_gate"].attrs["start"], graph["layer0.ffn_up"].attrs["start"]) == (0, 96)
    assert [graph[f"layer0.{stage}"].attrs["window"] for stage in ("attn_scores", "attention")] == [0, 0]


def test_phi3s_window_is_every_layers(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="phi3", layers=3, sliding_window=7))
    assert [graph[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(3)] == [7, 7, 7]
    assert not [node for node in graph if node.name == "rope_angles_sliding"]


def test_longrope_has_two_sets_of_factors_to_choose_from(tiny_model: Tiny) -> None:
    graph = built(tiny_model(family="phi3", rope_long_and_short=True, original_context=8, context=64))
    assert graph.operand_names("rope_factors") == ("rope_factors_short.weight", "rope_factors_long.weight")
    assert graph["rope_factors"].attrs == {"limit": 8}
    # LongRoPE's magnitude, sqrt(1 + ln(stretch) / ln(original context)), comes from the file.
    assert graph["rope_angles"].attrs["magnitude"] == pytest.approx(math.sqrt(1 + math.log(8) / math.log(8)))


def test_yarn_goes_from_unscaled_to_scaled_pairs(tiny_model: Tiny) -> None:
    """Peng et al. 2023: pairs that turn more than 32 times over the original context stay, those that turn less than once are scaled."""
    path = tiny_model(family="qwen2", head_size=64, heads=1, kv_heads=1, rope_base=10000.0, rope_yarn_factor=4.0, original_context=4096)
    rope = load_model(path).family.rope
    assert (rope.dims, rope.base, rope.scale) == (64, 10000.0, 0.25)
    turns = [4096 / (2 * math.pi) * 10000.0 ** (-2 * pair / 64) for pair in rope.ramp]
    assert turns[0] >= 32
    assert turns[1] <= 1
    assert rope.ramp == (10.0, 23.0)
    assert rope.magnitude == pytest.approx(1 + 0.1 * math.log(4))


def test_yarn_keys_of_newer_files(tiny_model: Tiny) -> None:
    path = tiny_model(family="qwen2", head_size=64, heads=1, kv_heads=1, rope_yarn_factor=4.0, original_context=4096)
    keys = {"qwen2.rope.scaling.yarn_log_multiplier": 1.0, "qwen2.rope.scaling.yarn_beta_fast": 64.0, "qwen2.rope.scaling.attn_factor": 2.0}
    rope = load_model(path, keys).family.rope
    assert rope.magnitude == pytest.approx(2.0)
    assert rope.ramp[0] < load_model(path).family.rope.ramp[0]
    assert load_model(path, {"qwen2.rope.scaling.type": "none"}).family.rope == Rope(64, 1e6)


@pytest.mark.parametrize(
    ("options", "overrides", "error", "message"),
    [
        ({"family": "qwen3moe"}, {"expert_used_count": 9}, ModelError, "expert_used_count is 9, but there are 8 experts"),
        ({"family": "qwen3moe"}, {"expert_used_count": 0}, ModelError, "'qwen3moe.expert_used_count' is 0"),
        ({"family": "qwen3moe"}, {"expert_count": 0}, ModelError, "'qwen3moe.expert_count' is 0"),
        ({"family": "qwen3moe"}, {"expert_count": 9}, ModelError, r"'blk\.0\.ffn_gate_inp\.weight' is 8 x 64, expected 9 x 64 from the metadata"),
        ({"family": "qwen3moe"}, {"expert_count": 1 << 20}, ModelError, "expert_count is 1048576, expected a number from 1 to 65536"),
        ({"family": "qwen3moe"}, {"expert_feed_forward_length": 48}, ModelError, r"'blk\.0\.ffn_gate_exps\.weight' is 8 x 32 x 64, expected 8 x 48 x 64"),
        ({"family": "qwen3moe"}, {"expert_gating_func": 2}, UnsupportedModelError, "expert_gating_func is 2; supported is 1, the softmax"),
        ({"family": "qwen2moe"}, {"expert_shared_feed_forward_length": 32}, ModelError, r"'blk\.0\.ffn_gate_shexp\.weight' is 64 x 64, expected 32 x 64"),
        ({"family": "qwen2"}, {"expert_count": 4}, UnsupportedModelError, "qwen2.expert_count is 4 \\(the number of experts\\), which the family 'qwen2' does not apply here"),
        ({"experts": 4}, {"expert_count": 0}, ModelError, r"'blk\.0\.ffn_gate\.weight' of 96 x 64 is missing"),
        ({}, {"expert_count": 4, "expert_used_count": 2}, ModelError, r"'blk\.0\.ffn_gate_inp\.weight' of 4 x 64 is missing"),
        ({"family": "gemma3"}, {"attention.sliding_window": -1}, ModelError, "sliding_window is -1, expected a number of positions"),
        ({"family": "gemma3"}, {"attention.sliding_window_pattern": -1}, ModelError, "gemma3.attention.sliding_window_pattern is -1"),
        ({"family": "gemma3"}, {"rope.freq_base_swa": -5.0}, ModelError, "rope.freq_base_swa is -5.0, expected a positive number"),
        ({"family": "gemma3"}, {"attention.key_length": 30}, ModelError, r"'blk\.0\.attn_q\.weight' is 128 x 64, expected 120 x 64"),
        ({"family": "gemma3"}, {"attention.key_length": 30, "attention.value_length": 30}, ModelError,
         r"'blk\.0\.attn_q\.weight' is 128 x 64, expected 120 x 64"),
        ({"family": "qwen3"}, {"attention.head_count": 8}, ModelError, r"'blk\.0\.attn_q\.weight' is 128 x 64, expected 256 x 64"),
        ({"family": "qwen3"}, {"attention.head_count_kv": 3}, ModelError, "4 query heads .* do not divide among 3 KV heads"),
        ({"family": "qwen3"}, {"rope.dimension_count": 34}, ModelError, "rope.dimension_count is 34, expected an even number of at most the head size 32"),
        ({"family": "phi3", "rope_long_and_short": True, "original_context": 8}, {"rope.dimension_count": 8}, ModelError,
         r"'rope_factors_short\.weight' is 8, expected 4"),
        ({"family": "qwen2", "rope_yarn_factor": 4.0}, {"rope.freq_base": 1.0}, ModelError, "rope.freq_base is 1, with which YaRN"),
        ({"family": "qwen2", "rope_yarn_factor": 4.0}, {"rope.scaling.yarn_beta_fast": 0.0}, ModelError, "expected a positive number"),
        ({"family": "qwen2"}, {"rope.scaling.attn_factor": 0.0}, ModelError, "attn_factor is 0.0, expected a positive number"),
        ({"family": "qwen2"}, {"rope.scaling.type": "dynamic"}, UnsupportedModelError, "is 'dynamic'; supported are none, linear, yarn, longrope"),
    ],
)  # fmt: skip
def test_metadata_that_contradicts_tensors(
    options: dict[str, Any], overrides: dict[str, Any], error: type[Exception], message: str, tiny_model: Tiny
) -> None:
    family = options.get("family", "llama")
    with pytest.raises(error, match=message) as caught:
        build_graph(load_model(tiny_model(**options), {f"{family}.{key}": value for key, value in overrides.items()}))
    assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("family", "missing"),
    [
        ("qwen2", "blk.0.attn_q.bias"), ("qwen3", "blk.1.attn_k_norm.weight"), ("gemma3", "blk.0.post_ffw_norm.weight"),
        ("qwen2moe", "blk.1.ffn_gate_inp_shexp.weight"), ("qwen3moe", "blk.0.ffn_gate_inp.weight"), ("phi3", "blk.1.ffn_up.weight"),
    ],
)  # fmt: skip
def test_a_tensor_of_the_family_that_is_missing_is_named(family: str, missing: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Its name is overwritten by one of the same length, so the file is sound and lacks it."""
    data = tiny_model(family=family).read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(data.replace(missing.encode(), missing.replace("blk", "bla").encode()))
    with pytest.raises(ModelError, match=f"{missing}' .*is missing|{missing.replace('_q', '_k')}' is there, but '{missing}' is missing"):
        build_graph(load_model(path))


def test_qwen2_without_any_bias_is_refused(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_model(family="qwen2").read_bytes().replace(b".bias", b".bbbb"))
    with pytest.raises(ModelError, match=r"tensor 'blk\.0\.attn_q\.bias' of 64 is missing"):
        build_graph(load_model(path))


def test_ernies_experts_are_chosen_by_a_softmax_with_a_bias_in_every_so_many_layers(tiny_model: Tiny) -> None:
    path = tiny_model(family="ernie4_5-moe", layers=3)
    graph = built(path)
    assert graph.operand_names("layer1.moe_router_scores") == ("layer1.moe_router_shares", "blk.1.exp_probs_b.bias")
    assert (graph["layer1.moe_router_shares"].op, graph["layer1.moe_router"].attrs) == ("softmax", {"normalise": True, "scale": 1.0})
    assert graph.operand_names("layer1.moe_router") == ("layer1.moe_router_logits", "layer1.moe_router_indices")
    numbers = {"interleave_moe_layer_step": 2, "leading_dense_block_count": 2, "moe_layer_end_index": 6}
    model = outline(FAMILIES["ernie4_5-moe"], {**SMALL_NUMBERS, **numbers, "block_count": 9}, vocabulary=9)
    assert [layer for layer in range(9) if f"layer{layer}.moe_router" in model.graph] == [3, 5]


def _llama4(**numbers: Any) -> Graph:
    whole = {**SMALL_NUMBERS, "block_count": 8, **{key.replace("__", "."): value for key, value in numbers.items()}}
    return outline(FAMILIES["llama4"], whole, vocabulary=9).graph


def test_llama4_attends_within_chunks_and_in_every_fourth_layer_to_all_without_rope() -> None:
    graph = _llama4()
    masks = [{name: graph[f"layer{layer}.attn_scores"].attrs.get(name) for name in ("window", "chunked")} for layer in range(8)]
    chunk, whole = {"window": 8192, "chunked": True}, {"window": 0, "chunked": None}
    assert masks == [chunk, chunk, chunk, whole] * 2
    assert [f"layer{layer}.q_post_rope" in graph for layer in range(8)] == [True, True, True, False] * 2
    assert [f"layer{layer}.q_norm" in graph for layer in range(8)] == [True, True, True, False] * 2
    assert graph.operand_names("layer0.q_norm") == ("layer0.q_post_rope",)
    assert graph["query_temperature"].attrs == {"strength": 0.1, "span": 8192, "offset": 1}
    assert graph.operand_names("layer3.q_scaled")[1] == "query_temperature"
    assert graph["layer0.q_post_rope"].attrs["pairing"] == "interleaved"


def test_llama4_of_a_file_that_says_that_there_are_no_chunks_has_rope_everywhere() -> None:
    graph = _llama4(attention__sliding_window=0)
    assert {node.attrs["window"] for node in graph.with_op("attn_scores")} == {0}
    assert all(f"layer{layer}.q_post_rope" in graph for layer in range(8))
    assert "query_temperature" not in graph


def test_minicpm_has_the_scales_of_its_first_models_where_a_file_does_not_say() -> None:
    graph = small_outline(FAMILIES["minicpm"]).graph  # of two layers, and a hidden size of 64
    assert graph["layer0.embedding"].attrs["scale"] == 12.0
    assert graph["layer0.attn_out_scaled"].attrs["factor"] == 1.4 / math.sqrt(2)
    assert graph["lm_head"].attrs["factor"] == 256 / 64


def test_llama4s_experts_read_their_input_times_its_weight() -> None:
    graph = _llama4(interleave_moe_layer_step=2)
    assert [layer for layer in range(8) if f"layer{layer}.moe_router" in graph] == [1, 3, 5, 7]
    assert graph["layer1.moe_router"].attrs == {"normalise": False, "scale": 1.0, "gating": "sigmoid"}
    assert graph.operand_names("layer1.moe_expert_in") == ("layer1.ffn_norm", "layer1.moe_router")
    for part in ("gate", "up"):
        assert graph.operand_names(f"layer1.moe_expert_{part}")[0] == "layer1.moe_expert_in"
    assert graph.operand_names("layer1.moe_expert_sum") == ("layer1.moe_expert_out",)
    assert graph.operand_names("layer1.moe_ffn_out") == ("layer1.moe_expert_sum", "layer1.ffn_out")
    assert [layer for layer in range(8) if f"layer{layer}.moe_router" in _llama4(moe_layers=Sections(0, 5))] == [0, 5]
    assert not [node for node in _llama4(interleave_moe_layer_step=0) if node.stage == "moe_router"]


def test_llama4_of_128_experts_normalises_no_heads() -> None:
    assert "layer0.q_norm" not in _llama4(expert_count=128)
    assert "layer0.q_norm" in _llama4(expert_count=128, use_qk_norm=True)
    assert "layer0.q_norm" not in _llama4(use_qk_norm=False)


def test_modern_bert_has_windows_in_two_of_three_layers_the_first_without(tiny_model: Tiny) -> None:
    """As converters write it, the first of every three layers sees everything; so do the layers that an array or another period says."""
    path = tiny_model(family="modern-bert", layers=4)

    def windows(**overrides: Any) -> list[Any]:
        graph = built(path, **overrides)
        return [graph[f"layer{layer}.attn_scores"].attrs.get("window", 0) for layer in range(4)]

    assert windows() == [0, 5, 5, 0]
    graph = built(path)
    assert graph["layer1.attn_scores"].attrs["symmetric"]
    assert graph["rope_angles_sliding"].attrs["base"] != graph["rope_angles"].attrs["base"]
    assert graph.operand_names("layer0.qkv_matmul")[0] == "layer0.embedding_norm"
    assert windows(**{"modern-bert.attention.sliding_window_pattern": 2}) == [0, 5, 0, 5]
    for name, op in (("gelu", "gelu_erf"), ("gelu_pytorch_tanh", "gelu"), ("silu", "silu")):
        assert built(path, **{"modern-bert.hidden_activation": name})["layer0.ffn_silu"].op == op


def test_bert_has_gelu_by_tanh_unless_told_and_positions_for_its_context(tiny_model: Tiny) -> None:
    path = tiny_model(family="bert", layers=1)
    graph = built(path)
    assert graph["layer0.ffn_swigl"].op == "gelu"
    assert built(path, bert__hidden_activation="gelu")["layer0.ffn_swigl"].op == "gelu_erf"
    assert graph["layer0.embedding_of_types"].attrs == {"row": 0}
    assert not graph["layer0.attn_scores"].attrs["causal"]
    assert graph.outputs == ("pooled_normed",)
    with pytest.raises(UnsupportedModelError, match="bert.hidden_activation is 'relu'; supported are gelu_new, gelu_pytorch_tanh, gelu, "):
        built(path, bert__hidden_activation="relu")
