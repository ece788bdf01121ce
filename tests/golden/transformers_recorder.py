"""Runs a model of Hugging Face transformers and records every stage, in the shapes and row orders of the stage table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.golden.bert_recorder import ENCODERS
from tests.golden.dbrx_recorder import hook_dbrx
from tests.golden.deci_layers import hook_matrix
from tests.golden.falcon_recorder import groups_of_falcon, hook_falcon
from tests.golden.gemma_recorder import hook_gemma3n, hook_gemma4
from tests.golden.latent_hooks import ROPE_FUNCTIONS, hook_latent_attention, turned
from tests.golden.llama4_hooks import hook_norm_of_heads, hook_weighed_experts
from tests.golden.recurrent_recorder import (
    hook_delta_net,
    hook_gated_convolution,
    hook_selective_space,
    hook_state_space,
    hook_state_space_beside,
    in_gguf_order,
    recorded_functions,
)
from tests.golden.transformers_models import LoadedModel

F64 = npt.NDArray[np.float64]
#: transformers' norms of a layer, by stage, where a family has others than input_layernorm and post_attention_layernorm.
_NORMS = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
_BOTH_SIDES = {
    "attn_norm": "input_layernorm", "attn_post_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm", "ffn_post_norm": "post_feedforward_layernorm",
}  # fmt: skip
_BEHIND = {"attn_post_norm": "post_attention_layernorm", "ffn_post_norm": "post_feedforward_layernorm"}
_ONE = {"attn_norm": "input_layernorm"}
_MIXER = {"attn_norm": "norm"}
_NUMBERED = {"attn_norm": "ln_1", "ffn_norm": "ln_2"}
_LFM = {"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}
_NORMS_OF = {
    "gemma2": _BOTH_SIDES,
    "gemma3": _BOTH_SIDES,
    "gemma-embedding": _BOTH_SIDES,
    "glm4": _NORMS | {"attn_post_norm": "post_self_attn_layernorm", "ffn_post_norm": "post_mlp_layernorm"},
    "olmo2": _BEHIND,
    "afmoe": _BOTH_SIDES | {"ffn_norm": "pre_mlp_layernorm", "ffn_post_norm": "post_mlp_layernorm"},
    "apertus": {"attn_norm": "attention_layernorm", "ffn_norm": "feedforward_layernorm"},
    "phi2": _ONE,
    "lfm2": _LFM,
    "lfm2moe": _LFM,
    "mamba": _MIXER,
    "mamba2": _MIXER,
    "nemotron_h": _MIXER,
    "nemotron_h_moe": _MIXER,
    "gpt2": _NUMBERED,
    "starcoder": _NUMBERED,
    "exaone4": _BEHIND,
    "command-r": _ONE,
    "cohere2": _ONE,
    "jamba": {"attn_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm"},
    "falcon-h1": {"attn_norm": "input_layernorm", "ffn_norm": "pre_ff_layernorm"},
}
#: Families that cap or scale what the head gives.
_CHANGE_LOGITS = ("granite", "granitemoe", "granitehybrid", "minicpm", "command-r", "cohere2")
#: Families that call RoPE for q and for k.
_TURN_APART = ("gemma3n", "gemma4")
#: Families that normalise [1, heads, n, D].
_HEADS_FIRST = ("gemma3", "gemma-embedding", "exaone4", "exaone-moe", "apertus", "hunyuan-dense", "hunyuan-moe", "stablelm")


#: What experts are chosen by, the first that there is.
_CHOSEN_BY = ("moe_router_scores", "moe_router_logits")
_ROPE_FUNCTION, _ATTENTION_FUNCTION = "apply_rotary_pos_emb", "eager_attention_forward"


class Recorder:
    """Hooks into one model; ``stages`` holds float64 arrays by (layer, stage), ``logits`` those of all positions."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.stages: dict[tuple[int | None, str], F64] = {}
        self.logits: F64 | None = None
        self.layer = -1
        model = loaded.model
        if loaded.architecture in ENCODERS:
            ENCODERS[loaded.architecture](model, self._put, lambda layer: setattr(self, "layer", layer))
            return
        if loaded.architecture == "falcon":
            hook_falcon(model, self._put, self.stages, lambda layer: setattr(self, "layer", layer))
            return
        if loaded.architecture == "dbrx":
            hook_dbrx(model, self._put, lambda layer: setattr(self, "layer", layer))
            return
        decoder = _first(model, "transformer", "backbone", "model", "gpt_neox") or model
        decoder = _first(decoder, "language_model") or decoder  # of a model with images too
        layers = decoder.h if loaded.architecture in ("gpt2", "starcoder") else decoder.layers
        if loaded.architecture == "gemma3n":
            hook_gemma3n(self._put, decoder)
        else:  # some families scale the rows outside of the module that looks them up
            self._before(layers[0], 0, "embedding")
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda _module, _inputs, index=index: setattr(self, "layer", index))
            if loaded.architecture == "gemma3n":
                continue
            if loaded.architecture == "gemma4":
                hook_gemma4(self._put, index, layer)
                if hasattr(layer, "experts"):
                    self._hook_experts(index, layer.experts)
                continue
            self._hook_attention(index, layer)
            self._hook_networks(index, layer)
            self._after(layer, index, "post_ffn_residual")
        self._after(_first(decoder, "norm", "final_layernorm", "final_layer_norm", "ln_f", "embedding_norm", "norm_f"), None, "final_norm")
        if loaded.architecture in _CHANGE_LOGITS or getattr(decoder.config, "final_logit_softcapping", None):
            model.lm_head.register_forward_hook(lambda _module, _inputs, output: self._put(None, "lm_head_raw", output[0, -1]))

    def run(self, tokens: Sequence[int], *, causal: bool = True) -> dict[tuple[int | None, str], F64]:
        """Run a prefill of ``tokens`` and return its stages; without a mask if it is not to be ``causal``."""
        functions = self.loaded.functions
        # Gemma 3n and Gemma 4 turn q and k one by one: what attention is given says both.
        rope = () if self.loaded.architecture in _TURN_APART else (_ROPE_FUNCTION, *ROPE_FUNCTIONS)
        names = [name for name in (*rope, _ATTENTION_FUNCTION) if hasattr(functions, name)]
        originals = {name: getattr(functions, name) for name in names}
        attention = originals.get(_ATTENTION_FUNCTION)

        def recorded_rope(name: str) -> Callable[..., Any]:
            def turn(*args: Any, **kwargs: Any) -> Any:
                q, k = originals[name](*args, **kwargs)
                if self.loaded.architecture == "llama4":  # whose function is given [1, n, heads, D]
                    self._turned(q.transpose(1, 2), k.transpose(1, 2), partial=True)
                elif name in ROPE_FUNCTIONS:
                    self._put(self.layer, "q_pe", turned(q, ROPE_FUNCTIONS[name]))
                    self._put(self.layer, "k_pe", turned(k, ROPE_FUNCTIONS[name]))
                elif self.loaded.architecture == "minicpm3":
                    self._put(self.layer, "q_pe", turned(q, halves=False))
                    self._put(self.layer, "k_pe", turned(k, halves=False))
                elif self.loaded.architecture == "falcon":  # whose heads of k are there once for each of q
                    self._turned(
                        q, k[:, :: q.shape[1] // groups_of_falcon(self.loaded.model.config) if k.shape[1] > 1 else 1], partial=True
                    )
                else:
                    self._turned(q, k, partial=True)
                return q, k

            return turn

        def recorded_attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **kwargs: Any) -> Any:
            mask = torch.zeros(()) if attention_mask is None else attention_mask if causal else torch.zeros_like(attention_mask)
            if self.loaded.architecture in ("stablelm", "phi2"):
                self._turned(query, key, partial=False)
            if self.loaded.architecture in _TURN_APART:
                self._put(self.layer, "q_post_rope", self._in_file_order(query))
                if not module.is_kv_shared_layer:
                    self._put(self.layer, "k_post_rope", self._in_file_order(key))
            output, weights = attention(module, query, key, value, mask, scaling=scaling, **kwargs)
            keys = functions.repeat_kv(key, module.num_key_value_groups) if hasattr(functions, "repeat_kv") else key
            scores = query @ keys.transpose(2, 3) * scaling
            if kwargs.get("softcap") is not None:
                scores = torch.tanh(scores / kwargs["softcap"]) * kwargs["softcap"]
            self._put(self.layer, "attn_scores", torch.where(mask == 0, scores, 0.0)[0])
            self._put(self.layer, "attn_softmax", weights[0])
            if self._is_gated(module):
                self._put(self.layer, "attention", output[0].reshape(output.shape[1], -1))
            return output, weights

        for name in names:
            setattr(functions, name, recorded_attention if name == _ATTENTION_FUNCTION else recorded_rope(name))
        try:
            with torch.no_grad(), recorded_functions(functions, lambda stage, values: self._put(self.layer, stage, values)):
                output = self.loaded.model(input_ids=torch.tensor([list(tokens)]))
        finally:
            for name, function in originals.items():
                setattr(functions, name, function)
        if self.loaded.pooling:
            self._pool(output.last_hidden_state[0])
            return self.stages
        logits = output.logits[0].double()  # Mamba 2 rounds them to float32
        self._put(None, "lm_head", logits[-1])
        self.logits = np.array(logits.numpy())
        return self.stages

    def _pool(self, rows: torch.Tensor) -> None:
        """As the modules Pooling, Dense and Normalize of sentence-transformers do of a text without padding."""
        pooled = {"mean": rows.mean(0), "first": rows[0], "last": rows[-1]}[self.loaded.pooling]
        self._put(None, "pooled", pooled)
        for stage, matrix in zip(("pooled_up", "pooled_down")[-len(self.loaded.dense) :], self.loaded.dense, strict=False):
            pooled = torch.from_numpy(matrix).double() @ pooled
            self._put(None, stage, pooled)
        self._put(None, "pooled_normed", torch.nn.functional.normalize(pooled, p=2, dim=0))

    def _turned(self, q: torch.Tensor, k: torch.Tensor, *, partial: bool) -> None:
        """What RoPE gives; where that is a part of each head, what attention is given says the whole."""
        if not (partial and self.loaded.architecture in ("stablelm", "phi2")):
            self._put(self.layer, "q_post_rope", self._in_file_order(q))
            self._put(self.layer, "k_post_rope", self._in_file_order(k))

    def _put(self, layer: int | None, stage: str, values: torch.Tensor) -> None:
        assert values.dtype == torch.float64, f"{stage} is {values.dtype}"
        assert (layer, stage) not in self.stages, f"{stage} is recorded twice"
        if self.loaded.architecture.startswith("qwen35"):
            values = in_gguf_order(self.loaded.model.config, stage, values)
        self.stages[layer, stage] = np.array(values.numpy())

    def _after(self, module: Any, layer: int | None, stage: str) -> None:
        """Record what ``module`` returns, as rows."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self._put(layer, stage, _rows(output))

        module.register_forward_hook(hook)

    def _before(self, module: Any, layer: int | None, stage: str) -> None:
        """Record what ``module`` is given, as rows."""

        def hook(_module: Any, inputs: Any) -> None:
            self._put(layer, stage, _rows(inputs[0]))

        module.register_forward_pre_hook(hook)

    def _in_file_order(self, values: torch.Tensor) -> torch.Tensor:
        """Heads of q or k [1, heads, n, D] to [n, heads · D] with rows in the file's order."""
        heads = values[0].transpose(0, 1)
        n, count, size = heads.shape
        if self.loaded.pairs_neighbours:
            heads = heads.reshape(n, count, 2, size // 2).transpose(2, 3)
        return heads.reshape(n, count * size)

    def _is_gated(self, attention: Any) -> bool:
        """Whether attention has a gate of what it gives: a projection of its own, or one that comes with q."""
        if getattr(attention, "q_proj", None) is None or not hasattr(attention, "o_proj"):
            return False
        if hasattr(attention, "gate_proj"):
            return True
        return bool(attention.q_proj.out_features == 2 * attention.o_proj.in_features)

    def _hook_attention(self, index: int, layer: Any) -> None:
        if self.loaded.architecture == "falcon-h1":
            hook_state_space_beside(self._put, index, layer)
            self._hook_heads(index, layer.self_attn)
        elif self.loaded.architecture.startswith("nemotron_h"):
            if hasattr(layer.mixer, "conv1d"):
                hook_state_space(self._put, index, layer.mixer)
            elif hasattr(layer.mixer, "q_proj"):
                self._hook_heads(index, layer.mixer)
            else:
                self._hook_feed_forward(index, layer.mixer)
        elif hasattr(layer, "linear_attn"):
            hook_delta_net(self._put, index, layer.linear_attn)
        elif (mixer := getattr(layer, "mixer", None) or getattr(layer, "mamba", None)) is not None:
            (hook_selective_space if hasattr(mixer, "x_proj") else hook_state_space)(self._put, index, mixer)
        elif hasattr(layer, "conv"):
            hook_gated_convolution(self._put, index, layer.conv)
        elif hasattr(attention := _first(layer, "self_attn", "attn", "attention"), "linear_attn"):
            hook_matrix(self._put, index, layer)
        elif attention is not None:  # which a layer may do without
            self._hook_heads(index, attention)
        norms = {
            stage: getattr(layer, name, None) if self.loaded.architecture == "deci" else getattr(layer, name)
            for stage, name in _NORMS_OF.get(self.loaded.architecture, _NORMS).items()
        }
        norms = {stage: norm for stage, norm in norms.items() if norm is not None}
        for stage, module in norms.items():
            self._after(module, index, stage)
        if self.loaded.architecture == "deci" and len(norms) < len(_NORMS):
            return  # the sum of the only part is what the layer gives
        if ("ffn_norm" in norms or "attn_post_norm" in norms) and not getattr(
            layer, "use_parallel_residual", False
        ):  # else attention and network stand side by side
            self._before(norms.get("ffn_norm", _first(layer, "mlp", "feed_forward")), index, "post_attn_residual")

    def _hook_heads(self, index: int, attention: Any) -> None:
        if hasattr(attention, "kv_a_proj_with_mqa"):
            hook_latent_attention(attention, index, self.stages, self._put, absorbed=self.loaded.absorbed)
        else:
            self._hook_projections(index, attention)
        if hasattr(attention, "gate_proj"):
            self._after(attention.gate_proj, index, "attn_gate")
        output = _first(attention, "o_proj", "dense", "c_proj", "out_proj")
        norm = getattr(attention, "attn_sub_norm", None)
        if norm is not None:
            self._before(norm, index, "attention")
        self._before(output, index, "attn_gated" if self._is_gated(attention) else "attention" if norm is None else "attn_sub_norm")
        factor = getattr(attention.config, "attention_out_multiplier", 1.0) if self.loaded.architecture == "falcon-h1" else 1.0
        output.register_forward_hook(lambda _module, _args, given: self._put(index, "attn_out", factor * _rows(given)))

    def _hook_projections(self, index: int, attention: Any) -> None:
        is_gated = self._is_gated(attention) and not hasattr(attention, "gate_proj")

        def projections(_module: Any, args: Any, kwargs: Any) -> None:
            x = (args[0] if args else kwargs["hidden_states"])[0]
            if hasattr(attention, "c_attn"):
                matrix = attention.c_attn.weight
                product = x @ (matrix.T if self.loaded.architecture == "starcoder" else matrix)
                side_by_side = lambda rows: rows  # noqa: E731
                if not getattr(attention, "multi_query", True):  # of each head by itself
                    side_by_side = lambda rows: rows.unflatten(-1, (attention.num_heads, 3, -1)).transpose(-3, -2).flatten(-3)  # noqa: E731
                self._put(index, "qkv_matmul", side_by_side(product))
                self._put(index, "qkv_bias", side_by_side(product + attention.c_attn.bias))
                return
            if hasattr(attention, "query_key_value"):  # of each head by itself
                of_all = lambda rows: rows.unflatten(-1, (-1, 3, attention.head_size)).transpose(-3, -2).flatten(-3)  # noqa: E731
                product = of_all(x @ attention.query_key_value.weight.T)
                self._put(index, "qkv_matmul", product)
                self._put(index, "qkv_bias", product + of_all(attention.query_key_value.bias))
                return
            if hasattr(attention, "qkv_proj"):
                self._put(index, "qkv_matmul", x @ attention.qkv_proj.weight.T)
                return
            parts = {name: getattr(attention, f"{name}_proj") for name in "qkv"}

            def side_by_side(values: dict[str, torch.Tensor]) -> torch.Tensor:
                heads = {name: values[name].reshape(1, len(x), -1, attention.head_dim).transpose(1, 2) for name in "qk"}
                return torch.cat([*(self._in_file_order(heads[name]) for name in "qk"), values["v"]], dim=1)

            products = {name: x @ module.weight.T for name, module in parts.items()}
            products["k"] = products["k"] * getattr(attention, "key_multiplier", 1.0)
            sums = {} if attention.q_proj.bias is None else {name: products[name] + module.bias for name, module in parts.items()}
            if is_gated:
                q_and_gate = [part["q"].reshape(len(x), -1, 2, attention.head_dim).unbind(2) for part in (products, sums) if part]
                self._put(index, "attn_gate", q_and_gate[-1][1].reshape(len(x), -1))
                for part, (q, _) in zip((products, sums), q_and_gate, strict=False):
                    part["q"] = q.reshape(len(x), -1)
            self._put(index, "qkv_matmul", side_by_side(products))
            if sums:
                self._put(index, "qkv_bias", side_by_side(sums))

        def normed_heads(stage: str) -> Any:
            def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                # OLMo 2 normalises [1, n, heads · D], Gemma 3 [1, heads, n, D], Qwen 3 [1, n, heads, D].
                if output.ndim == 3:
                    self._put(index, stage, output[0])
                else:
                    self._put(
                        index, stage, self._in_file_order(output if self.loaded.architecture in _HEADS_FIRST else output.transpose(1, 2))
                    )

            return hook

        attention.register_forward_pre_hook(projections, with_kwargs=True)
        if hasattr(attention, "qk_norm"):
            hook_norm_of_heads(self._put, index, attention.qk_norm)
        for part in ("q", "k"):
            norm = _first(attention, f"{part}_norm", f"{part}_layernorm", "query_layernorm" if part == "q" else "key_layernorm")
            if norm is not None:
                norm.register_forward_hook(normed_heads(f"{part}_norm"))

    def _hook_networks(self, index: int, layer: Any) -> None:
        if getattr(layer, "shared_mlp", None) is not None:
            self._hook_beside(index, layer.block_sparse_moe, layer.shared_mlp)
        elif (network := _first(layer, "mlp", "feed_forward", "block_sparse_moe")) is not None:
            self._hook_feed_forward(index, network)

    def _hook_beside(self, index: int, experts: Any | None, shared: Any) -> None:
        """A network, and experts beside it if there are some, to which the layer adds what it gives."""
        self._hook_dense(index, shared)
        if experts is not None:
            found: list[torch.Tensor] = []
            self._hook_mixture(index, experts)
            experts.register_forward_hook(lambda _module, _args, output: found.append(_rows(output)))
            shared.register_forward_hook(lambda _module, _args, output: self._put(index, "moe_ffn_out", found.pop() + _rows(output)))

    def _hook_feed_forward(self, index: int, mlp: Any) -> None:
        if not hasattr(mlp, "experts"):
            self._hook_dense(index, mlp)
            return
        for name in ("shared_expert", "shared_experts", "shared_mlp"):
            if hasattr(mlp, name):
                self._hook_dense(index, getattr(mlp, name))
        self._after(mlp, index, "moe_ffn_out")
        if isinstance(getattr(mlp, "fc1_latent_proj", None), torch.nn.Linear):
            self._after(mlp.fc1_latent_proj, index, "moe_latent")
            self._before(mlp.fc2_latent_proj, index, "moe_latent_sum")
            self._after(mlp.fc2_latent_proj, index, "moe_latent_out")
        if self.loaded.architecture == "llama4":
            hook_weighed_experts(self._put, index, mlp)
            return
        self._hook_mixture(index, mlp)

    def _hook_mixture(self, index: int, mlp: Any) -> None:
        router = mlp.router if hasattr(mlp, "router") else mlp.gate
        router.register_forward_hook(lambda module, _inputs, output: self._record_scores(index, mlp, module, output[0].double()))
        self._hook_experts(index, mlp.experts)

    def _hook_experts(self, index: int, experts: Any) -> None:
        experts.register_forward_hook(lambda module, inputs, output: self._record_experts(index, module, inputs, output))

    def _hook_dense(self, index: int, mlp: Any) -> None:
        if hasattr(mlp, "input_linear"):
            for place, stage in enumerate(("ffn_gate", "ffn_up")):
                mlp.input_linear.register_forward_hook(
                    lambda _module, _args, output, place=place, stage=stage: self._put(index, stage, _rows(output).chunk(2, dim=1)[place])
                )
            self._after(mlp.activation, index, "ffn_silu")
            self._before(mlp.output_linear, index, "ffn_swigl")
            self._after(mlp.output_linear, index, "ffn_out")
            return
        if hasattr(mlp, "w1"):
            for name, stage in (("w1", "ffn_gate"), ("w3", "ffn_up"), ("w2", "ffn_out")):
                self._after(getattr(mlp, name), index, stage)
            mlp.w1.register_forward_hook(
                lambda _module, _args, output: self._put(index, "ffn_silu", torch.nn.functional.silu(_rows(output)))
            )
            self._before(mlp.w2, index, "ffn_swigl")
            return
        if hasattr(mlp, "gate_up_proj"):

            def gate_and_up(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
                gate, up = output[0].chunk(2, dim=-1)
                self._put(index, "ffn_gate", gate)
                self._put(index, "ffn_up", up)

            mlp.gate_up_proj.register_forward_hook(gate_and_up)
            self._after(mlp.activation_fn, index, "ffn_silu")
        else:
            self._after(_first(mlp, "up_proj", "c_fc", "fc1", "dense_h_to_4h"), index, "ffn_up")
            if hasattr(mlp, "gate_proj"):
                factor_of_gate = getattr(mlp, "gate_multiplier", 1.0)
                mlp.gate_proj.register_forward_hook(
                    lambda _module, _args, given: self._put(index, "ffn_gate", factor_of_gate * _rows(given))
                )
                self._after(_first(mlp, "act_fn", "activation_fn"), index, "ffn_silu")
        down = _first(mlp, "down_proj", "c_proj", "fc2", "dense_4h_to_h")
        if hasattr(mlp, "ffn_sub_norm"):
            self._before(mlp.ffn_sub_norm, index, "ffn_swigl")
        self._before(down, index, "ffn_sub_norm" if hasattr(mlp, "ffn_sub_norm") else "ffn_swigl")
        factor = getattr(mlp, "down_multiplier", 1.0)
        down.register_forward_hook(lambda _module, _args, given: self._put(index, "ffn_out", factor * _rows(given)))

    def _record_scores(self, index: int, mlp: Any, router: Any, logits: torch.Tensor) -> None:
        self._put(index, "moe_router_logits", logits)
        if hasattr(router, "e_score_correction_bias"):
            self._put(index, "moe_router_scores", logits.sigmoid() + router.e_score_correction_bias)
        if hasattr(mlp, "e_score_correction_bias"):
            self._put(index, "moe_router_scores", logits.sigmoid() + mlp.e_score_correction_bias)
        if hasattr(mlp, "expert_bias"):
            self._put(index, "moe_router_scores", logits.sigmoid() + mlp.expert_bias)
        if hasattr(router, "moe_statics"):
            self._put(index, "moe_router_scores", logits.softmax(-1) + router.moe_statics.e_score_correction_bias)

    def _record_experts(self, index: int, experts: Any, inputs: Any, output: torch.Tensor) -> None:
        """What goes on inside the experts happens in one call: it is computed again, and its sum has to be the call's."""
        x, chosen, weights = inputs
        weights = weights.double()  # the softmax over the experts is in float32; that leaves 1e-15
        chosen_by = next((name for name in _CHOSEN_BY if (index, name) in self.stages), None)
        if self.loaded.architecture != "gpt-oss" and chosen_by is not None:  # they may be in no order
            scores = torch.from_numpy(self.stages[index, chosen_by])
            order = torch.gather(scores, 1, chosen).argsort(dim=1, descending=True)
            chosen, weights = torch.gather(chosen, 1, order), torch.gather(weights, 1, order)
        if self.loaded.architecture == "gpt-oss":
            both = torch.einsum("ne,nkef->nkf", x, experts.gate_up_proj[chosen]) + experts.gate_up_proj_bias[chosen]
            gate, up = both[..., ::2], both[..., 1::2]
            inner, linear = gate.clamp(max=experts.limit), up.clamp(-experts.limit, experts.limit)
            product = inner * torch.sigmoid(experts.alpha * inner) * (linear + 1)
            out = torch.einsum("nkf,nkfe->nke", product, experts.down_proj[chosen]) + experts.down_proj_bias[chosen]
        elif not hasattr(experts, "gate_up_proj"):
            gate, up = None, torch.einsum("ne,nkfe->nkf", x, experts.up_proj[chosen])
            product = experts.act_fn(up)
            out = torch.einsum("nkf,nkef->nke", product, experts.down_proj[chosen])
        else:
            gate, up = torch.einsum("ne,nkfe->nkf", x, experts.gate_up_proj[chosen]).chunk(2, dim=-1)
            product = experts.act_fn(gate) * up
            out = torch.einsum("nkf,nkef->nke", product, experts.down_proj[chosen])
        near = 1e-10 if hasattr(experts, "gate_up_proj") else 1e-6  # the experts of Nemotron 3 are added in float32
        assert torch.allclose((out * weights[..., None]).sum(1), output, rtol=near, atol=near)
        stages = {"gate": gate, "up": up, "swigl": product, "out": out}
        self._put(index, "moe_router", weights)
        self._put(index, "moe_router_indices", chosen.double())
        for name, values in stages.items():
            if values is not None:  # a gate there may not be
                self._put(index, f"moe_expert_{name}", values)


def _rows(values: Any) -> torch.Tensor:
    """What a module takes or returns, [n, columns]."""
    values = values[0] if isinstance(values, tuple) else values
    return values.reshape(-1, values.shape[-1])


def _first(module: Any, *names: str) -> Any:
    """The attribute of the first of these names that a module has; None if it has none of them."""
    return next((getattr(module, name) for name in names if hasattr(module, name)), None)
