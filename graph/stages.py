"""The stages of a forward pass: names, order, shapes, meaning. Families may bring some of their own.

The names, their order and the file layout are shared with the Rust tool ``apr`` (``apr trace --save-tensor`` and
``apr diff --values``), except for the stages marked as this project's additions.

Dimension letters: n = positions in this pass, t = positions attended to, H = query heads, K = KV heads, D = head size,
E = hidden size, F = FFN size, V = vocabulary, X = experts, k = experts used per position. In multi-head latent attention
(DeepSeek-V2, arXiv:2405.04434) L = size of the latent that keys and values are made of, M = size of that of queries,
R = elements of a head of q and k that RoPE turns, N = the others, D = head size of v. Of recurrent layers: C = channels of
the short convolution, G = heads of q and k, S = their size, P = heads of v, U = their size; in state spaces B and C stand for k and
q, and x for v. Of embedding models: Y = size of the embedding of a text, Z = size between the two dense layers that some have behind
the pooling. W = size of what a layer is given of the token beside the hidden state. A = streams of a hidden state that has several,
B = size of a projection of low rank, beside attention or for the time steps of Mamba.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from aprgraph.graph.errors import AprgraphError, shown

#: What a stage may be called: its files and `--taps` bear the name.
_NAME = re.compile(r"[a-z][a-z_]*")
#: A dimension: the letters of the module docstring, and what is computed of them.
_DIM = re.compile(r"[ntHKDEFVXkLMRNCGSPUWYZAB0-9()+*]+")


class StageKind(Enum):
    """What arithmetic produces a stage; tolerances are chosen by it."""

    LOOKUP = "lookup"
    MATMUL = "matmul"
    NORM = "norm"
    ELEMENTWISE = "elementwise"
    ROPE = "rope"
    SOFTMAX = "softmax"
    INDEX = "index"


@dataclass(frozen=True)
class Stage:
    """One named point of the forward pass, and what holds of it in every model that has it.

    ``dims`` are the letters of the module docstring; ``per_layer`` is false for whole-model stages, whose file lies at
    the root of a trace. ``first_layer_only`` stages have a layer, but exist in layer 0 alone.

    Where a trace has a graph, that says what a stage was computed from. ``reads`` says it where no graph is at hand:
    the stages of its layer that it is computed from, ``HIDDEN`` being what the layer was given.
    """

    name: str
    dims: tuple[str, ...]
    kind: StageKind
    summary: str
    reads: tuple[str, ...] = ()
    per_layer: bool = True
    first_layer_only: bool = False
    #: This project's own: ``apr`` does not know it.
    addition: bool = False
    #: Whether models may do without it: what reads it then reads what it is computed from.
    optional: bool = False
    #: Which kind of feed-forward network it belongs to.
    network: Literal["dense", "experts"] | None = None
    #: What a model must have to have it: multi-head latent attention, recurrent layers, selective state spaces, gated short convolutions,
    #: a gate of what attention gives, norms before the output projections, experts whose inputs are weighed, experts that read a latent,
    #: embeddings for each layer, a dense network beside the experts of a layer, a hidden state of several streams, or a second residual
    #: connection.
    only_with: (
        Literal[
            "latent",
            "recurrent",
            "selective",
            "convolution",
            "gated",
            "inner norms",
            "weighed inputs",
            "latent experts",
            "per_layer",
            "beside",
            "streams",
            "laurel",
        ]
        | None
    ) = None
    #: Those of ``reads`` that earlier passes left too: the keys and values of a KV cache.
    recalls: tuple[str, ...] = ()
    #: Whether it is a sum, whose terms may cancel.
    is_sum: bool = False
    #: Whether it is a product of two things that were computed, where ``reads`` does not show it: of two parts of one stage.
    is_product: bool = False
    #: Whether a product is with weights that files may quantise. Those of routers, of AltUp and of LAuReL are floats in all files.
    quantisable: bool = True
    #: Whether it is 0 where a position is not attended to.
    is_masked: bool = False
    #: Whether each of its rows sums to 1.
    rows_sum_to_1: bool = False

    @property
    def is_logits(self) -> bool:
        """Whether it is a number for each token id: of the last position alone, unless all are asked for."""
        return self.dims == ("V",)

    @property
    def is_of_text(self) -> bool:
        """Whether it is one row for the whole text, without an axis of positions: an embedding."""
        return "n" not in self.dims and not self.is_logits

    @property
    def is_per_choice(self) -> bool:
        """Whether it holds one value or row for each chosen expert, in the order of the choice."""
        return "k" in self.dims and self.kind is not StageKind.INDEX


_K = StageKind
#: In ``Stage.reads``: the hidden state that a layer was given, or that the last layer gave.
HIDDEN = "hidden"
_DENSE: Final = "dense"
_EXPERTS: Final = "experts"
_LATENT: Final = "latent"
_RECURRENT: Final = "recurrent"
_SELECTIVE: Final = "selective"
_CONVOLUTION: Final = "convolution"
_GATED: Final = "gated"
_INNER: Final = "inner norms"
_WEIGHED: Final = "weighed inputs"
_NARROW: Final = "latent experts"
_PER_LAYER: Final = "per_layer"
_BESIDE: Final = "beside"
_STREAMS: Final = "streams"
_LAUREL: Final = "laurel"

#: What a pass begins with, and what the next token is picked from.
EMBEDDING, LOGITS = "embedding", "lm_head"

# fmt: off
#: In execution order.
STAGES: list[Stage] = [
    Stage("embedding", ("n", "E"), _K.LOOKUP, "token embedding rows, scaled where the model scales them",
          first_layer_only=True),
    Stage("embedding_norm", ("n", "E"), _K.NORM, "embedding after its norm, in models that have one (BERT)",
          ("embedding",), first_layer_only=True, addition=True, optional=True),
    Stage("altup_embedding", ("n", "A*E"), _K.MATMUL,
          "the streams that layers begin with, side by side: the embedding, and projections of it with its magnitude",
          ("embedding",), first_layer_only=True, addition=True, optional=True, only_with=_STREAMS, quantisable=False),
    Stage("altup_predict_norm", ("n", "E"), _K.NORM, "the active stream as the layer is given it, after the norm of the streams' router",
          (HIDDEN,), addition=True, optional=True, only_with=_STREAMS),
    Stage("altup_predict_router", ("n", "A"), _K.MATMUL, "what the prediction is made by: tanh of the router's scores",
          ("altup_predict_norm",), addition=True, optional=True, only_with=_STREAMS, quantisable=False),
    Stage("altup_predict_coefs", ("n", "A*A"), _K.MATMUL, "how much of each stream goes into each: from stream j to stream i at i * A + j",
          ("altup_predict_router",), addition=True, optional=True, only_with=_STREAMS, quantisable=False),
    Stage("altup_predicted", ("n", "A*E"), _K.MATMUL, "the streams as they are predicted, side by side: each plus a sum of all",
          (HIDDEN, "altup_predict_coefs"), addition=True, optional=True, only_with=_STREAMS, quantisable=False, is_sum=True),
    Stage("altup_active", ("n", "E"), _K.ELEMENTWISE, "the active one of these, which the layer works on",
          ("altup_predicted",), addition=True, optional=True, only_with=_STREAMS),
    Stage("attn_norm", ("n", "E"), _K.NORM, "after the norm before attention", (HIDDEN, "altup_active")),
    Stage("laurel_left", ("n", "B"), _K.MATMUL, "the projection to a low rank of the second residual connection",
          ("attn_norm",), addition=True, optional=True, only_with=_LAUREL, quantisable=False),
    Stage("laurel_right", ("n", "E"), _K.MATMUL, "the projection back",
          ("laurel_left",), addition=True, optional=True, only_with=_LAUREL, quantisable=False),
    Stage("laurel_norm", ("n", "E"), _K.NORM, "that after its norm",
          ("laurel_right",), addition=True, optional=True, only_with=_LAUREL),
    Stage("laurel_out", ("n", "E"), _K.ELEMENTWISE, "that plus what attention reads",
          ("attn_norm", "laurel_norm"), addition=True, optional=True, only_with=_LAUREL, is_sum=True),
    Stage("conv_in", ("n", "C"), _K.MATMUL,
          "what the short convolution of a recurrent layer reads: q, k, v side by side, or x, B, C",
          ("attn_norm",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_gate", ("n", "P*U"), _K.MATMUL, "the gate of what a gated delta net gives, before its activation",
          ("attn_norm",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_beta", ("n", "P"), _K.MATMUL, "how far a delta net moves its state towards v, 0 to 1",
          ("attn_norm",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("conv_bcx", ("n", "3*C"), _K.MATMUL, "of a gated short convolution its gate B, the gate C of what it gives, and x, side by side",
          ("attn_norm",), addition=True, optional=True, only_with=_CONVOLUTION),
    Stage("conv_bx", ("n", "C"), _K.ELEMENTWISE, "B · x, what a gated short convolution reads",
          ("conv_bcx",), addition=True, optional=True, only_with=_CONVOLUTION, is_product=True),
    Stage("conv_out", ("n", "C"), _K.MATMUL, "after the short convolution",
          ("conv_in", "conv_bx"), recalls=("conv_in", "conv_bx"), addition=True, optional=True, only_with=_RECURRENT, quantisable=False),
    Stage("conv_gated", ("n", "C"), _K.ELEMENTWISE, "C · what a gated short convolution gives, before the output projection",
          ("conv_bcx", "conv_out"), addition=True, optional=True, only_with=_CONVOLUTION, is_product=True),
    Stage("conv_silu", ("n", "C"), _K.ELEMENTWISE, "act(conv_out)", ("conv_out",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_q", ("n", "G*S"), _K.NORM, "q of a delta net, each head of length 1",
          ("conv_silu",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_k", ("n", "G*S"), _K.NORM, "k of a delta net, each head of length 1",
          ("conv_silu",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_decay", ("n", "P"), _K.MATMUL, "logarithm of the share of its state that a delta net keeps, 0 or less",
          ("attn_norm",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("delta_rule", ("n", "P*U"), _K.MATMUL, "what the delta rule reads from its state",
          ("delta_q", "delta_k", "conv_silu", "delta_decay", "delta_beta"),
          recalls=("delta_q", "delta_k", "conv_silu", "delta_decay", "delta_beta"), addition=True, optional=True, only_with=_RECURRENT,
          quantisable=False),
    Stage("delta_gated", ("n", "P*U"), _K.NORM, "that after its norm, times act(gate), before the output projection",
          ("delta_rule", "delta_gate"), addition=True, optional=True, only_with=_RECURRENT),
    Stage("ssm_gate", ("n", "P*U"), _K.MATMUL, "the gate of what a state space gives, before its activation",
          ("attn_norm",), addition=True, optional=True, only_with=_RECURRENT),
    Stage("ssm_dt_b_c", ("n", "B+2*S"), _K.MATMUL, "what time steps of a selective state space are made of, B and C, side by side (Mamba)",
          ("conv_silu",), addition=True, optional=True, only_with=_SELECTIVE),
    Stage("ssm_dt_norm", ("n", "B"), _K.NORM, "what the time steps are made of, after its norm, in models that have one (Falcon Mamba)",
          ("ssm_dt_b_c",), addition=True, optional=True, only_with=_SELECTIVE),
    Stage("ssm_b_norm", ("n", "S"), _K.NORM, "B after its norm, in these models",
          ("ssm_dt_b_c",), addition=True, optional=True, only_with=_SELECTIVE),
    Stage("ssm_c_norm", ("n", "S"), _K.NORM, "C after its norm, in these models",
          ("ssm_dt_b_c",), addition=True, optional=True, only_with=_SELECTIVE),
    Stage("ssm_step", ("n", "P"), _K.MATMUL, "the time that passes in each head of a state space, 0 or more",
          ("attn_norm", "ssm_dt_norm"), addition=True, optional=True, only_with=_RECURRENT),
    Stage("ssm_scan", ("n", "P*U"), _K.MATMUL, "what a state space reads from its state along C, plus D · x",
          ("conv_silu", "ssm_step", "ssm_b_norm", "ssm_c_norm"), recalls=("conv_silu", "ssm_step", "ssm_b_norm"), addition=True,
          optional=True, only_with=_RECURRENT, quantisable=False),
    Stage("ssm_norm", ("n", "P*U"), _K.NORM, "that times act(gate), after the norm of each group, before the output projection",
          ("ssm_scan", "ssm_gate"), addition=True, optional=True, only_with=_RECURRENT),
    Stage("ssm_gated", ("n", "P*U"), _K.ELEMENTWISE, "what a state space gives times act(gate), where no norm follows",
          ("ssm_scan", "ssm_gate"), addition=True, optional=True, only_with=_RECURRENT),
    Stage("ssm_out", ("n", "E"), _K.MATMUL, "after the output projection of a state space beside attention (Falcon-H1)",
          ("ssm_norm", "ssm_gated"), addition=True, optional=True, only_with=_RECURRENT),
    Stage("qkv_matmul", ("n", "(H+2K)*D"), _K.MATMUL,
          "q, k, v projections side by side, before the bias; those of them that the layer has", ("attn_norm",)),
    Stage("attn_gate", ("n", "H*D"), _K.MATMUL, "the gate of the attention output, before its sigmoid",
          ("attn_norm",), addition=True, optional=True, only_with=_GATED),
    Stage("qkv_bias", ("n", "(H+2K)*D"), _K.ELEMENTWISE, "after the bias, where the model has one",
          ("qkv_matmul",), optional=True, is_sum=True),
    Stage("q_norm", ("n", "H*D"), _K.NORM, "q after its norm",
          ("qkv_bias",), addition=True, optional=True),
    Stage("k_norm", ("n", "K*D"), _K.NORM, "k after its norm",
          ("qkv_bias",), addition=True, optional=True),
    Stage("v_norm", ("n", "K*D"), _K.NORM, "v after its norm, which has no weights",
          ("qkv_bias",), addition=True, optional=True),
    Stage("q_post_rope", ("n", "H*D"), _K.ROPE, "q after RoPE", ("q_norm",)),
    Stage("k_post_rope", ("n", "K*D"), _K.ROPE, "k after RoPE", ("k_norm",)),
    Stage("q_a", ("n", "M"), _K.MATMUL, "latent of the queries, where they have one",
          ("attn_norm",), addition=True, optional=True, only_with=_LATENT),
    Stage("q_a_norm", ("n", "M"), _K.NORM, "latent of the queries after its norm",
          ("q_a",), addition=True, optional=True, only_with=_LATENT),
    Stage("q_matmul", ("n", "H*(N+R)"), _K.MATMUL, "q, from its latent or from the hidden state; RoPE turns the last R elements of a head",
          ("q_a_norm",), addition=True, optional=True, only_with=_LATENT),
    Stage("q_pe", ("n", "H*R"), _K.ROPE, "the last R elements of each head of q after RoPE",
          ("q_matmul",), addition=True, optional=True, only_with=_LATENT),
    Stage("kv_a", ("n", "L+R"), _K.MATMUL, "latent of k and v, and beside it what RoPE turns of k, which all heads share",
          ("attn_norm",), addition=True, optional=True, only_with=_LATENT),
    Stage("kv_a_norm", ("n", "L"), _K.NORM, "latent of k and v after its norm",
          ("kv_a",), addition=True, optional=True, only_with=_LATENT),
    Stage("k_pe", ("n", "R"), _K.ROPE, "the part of k that all heads share, after RoPE",
          ("kv_a",), addition=True, optional=True, only_with=_LATENT),
    Stage("kv_b", ("n", "H*(N+D)"), _K.MATMUL, "of each head k without its shared part, then v; where these are computed",
          ("kv_a_norm",), addition=True, optional=True, only_with=_LATENT),
    Stage("q_absorbed", ("n", "H*L"), _K.MATMUL, "the first N elements of each head of q times its matrix of k, where q meets the latent",
          ("q_matmul",), addition=True, optional=True, only_with=_LATENT),
    Stage("attn_scores", ("H", "n", "t"), _K.MATMUL, "scaled q·k before the softmax, 0 at masked positions",
          ("q_post_rope", "k_post_rope", "q_matmul", "q_pe", "q_absorbed", "kv_a_norm", "kv_b", "k_pe"),
          recalls=("k_post_rope", "kv_a_norm", "kv_b", "k_pe"), quantisable=False, is_masked=True),
    Stage("attn_softmax", ("H", "n", "t"), _K.SOFTMAX, "after the softmax, 0 at masked positions",
          ("attn_scores",), is_masked=True, rows_sum_to_1=True),
    Stage("attn_latent", ("n", "H*L"), _K.MATMUL, "softmax · latent of k and v, where that is not made into v before",
          ("attn_softmax", "kv_a_norm"), recalls=("kv_a_norm",), addition=True, optional=True, quantisable=False, only_with=_LATENT),
    Stage("attention", ("n", "H*D"), _K.MATMUL, "softmax · v, before the output projection",
          ("attn_softmax", "v_norm", "kv_b", "attn_latent"), recalls=("v_norm", "kv_b"), quantisable=False),
    Stage("attn_gated", ("n", "H*D"), _K.ELEMENTWISE, "the attention output times the sigmoid of its gate",
          ("attention", "attn_gate"), addition=True, optional=True, only_with=_GATED),
    Stage("attn_sub_norm", ("n", "H*D"), _K.NORM,
          "the attention output after its norm, in models that have one before the output projection",
          ("attention",), addition=True, optional=True, only_with=_INNER),
    Stage("attn_out", ("n", "E"), _K.MATMUL, "after the output projection",
          ("attention", "attn_sub_norm", "attn_gated", "delta_gated", "conv_gated", "ssm_norm")),
    Stage("attn_post_norm", ("n", "E"), _K.NORM, "after the norm of the attention output",
          ("attn_out",), addition=True, optional=True),
    Stage("post_attn_residual", ("n", "E"), _K.ELEMENTWISE, "hidden state after the attention residual add",
          (HIDDEN, "altup_active", "attn_post_norm", "ssm_out"), is_sum=True),
    Stage("laurel_residual", ("n", "E"), _K.ELEMENTWISE, "that plus the second residual connection, by sqrt(2)",
          ("post_attn_residual", "laurel_out"), addition=True, optional=True, only_with=_LAUREL, is_sum=True),
    Stage("ffn_norm", ("n", "E"), _K.NORM, "after the norm before the FFN", ("post_attn_residual", "laurel_residual")),
    Stage("ffn_gate", ("n", "F"), _K.MATMUL, "gate projection", ("ffn_norm",), network=_DENSE),
    Stage("ffn_up", ("n", "F"), _K.MATMUL, "up projection", ("ffn_norm",), network=_DENSE),
    Stage("ffn_gate_sparse", ("n", "F"), _K.ELEMENTWISE, "what of the gate lies above its mean plus some deviations, and 0 elsewhere",
          ("ffn_gate",), addition=True, optional=True, network=_DENSE, is_sum=True),
    Stage("ffn_silu", ("n", "F"), _K.ELEMENTWISE, "act(gate)", ("ffn_gate_sparse",), network=_DENSE),
    Stage("ffn_swigl", ("n", "F"), _K.ELEMENTWISE, "act(gate) · up", ("ffn_silu", "ffn_up"), network=_DENSE),
    Stage("ffn_sub_norm", ("n", "F"), _K.NORM, "that after its norm, in models that have one before the down projection",
          ("ffn_swigl",), addition=True, optional=True, network=_DENSE, only_with=_INNER),
    Stage("ffn_out", ("n", "E"), _K.MATMUL, "after the down projection", ("ffn_swigl", "ffn_sub_norm"), network=_DENSE),
    Stage("ffn_out_norm", ("n", "E"), _K.NORM, "the output of a dense network that stands beside experts, after its own norm",
          ("ffn_out",), addition=True, optional=True, only_with=_BESIDE),
    Stage("ffn_post_norm", ("n", "E"), _K.NORM, "after the norm of the FFN output",
          ("ffn_out", "moe_ffn_out", "ffn_sum"), addition=True, optional=True),
    Stage("moe_router_norm", ("n", "E"), _K.NORM, "what the router reads, where it has a norm of its own",
          ("post_attn_residual",), addition=True, optional=True, network=_EXPERTS, only_with=_BESIDE),
    Stage("moe_router_logits", ("n", "X"), _K.MATMUL, "router scores before the softmax",
          ("ffn_norm", "moe_router_norm"), addition=True, network=_EXPERTS, quantisable=False),
    Stage("moe_router_scores", ("n", "X"), _K.ELEMENTWISE, "what experts are chosen by, where a bias is added for the choice alone",
          ("moe_router_logits",), addition=True, optional=True, network=_EXPERTS, is_sum=True),
    Stage("moe_router", ("n", "k"), _K.SOFTMAX, "weights of the chosen experts, largest first, as they are applied",
          ("moe_router_logits", "moe_router_indices"), network=_EXPERTS),
    Stage("moe_router_indices", ("n", "k"), _K.INDEX, "ids of the chosen experts, in the same order, as f32",
          ("moe_router_scores",), network=_EXPERTS),
    Stage("moe_norm", ("n", "E"), _K.NORM, "what the experts read, where they have a norm of their own",
          ("post_attn_residual",), addition=True, optional=True, network=_EXPERTS, only_with=_BESIDE),
    Stage("moe_latent", ("n", "W"), _K.MATMUL, "the latent of the layer's input that the experts read, where they do not read it itself",
          ("ffn_norm",), addition=True, optional=True, network=_EXPERTS, only_with=_NARROW),
    Stage("moe_expert_in", ("n", "k", "E"), _K.ELEMENTWISE, "what a chosen expert reads, where its weight goes into that",
          ("ffn_norm", "moe_router"), addition=True, optional=True, network=_EXPERTS, only_with=_WEIGHED),
    Stage("moe_expert_gate", ("n", "k", "F"), _K.MATMUL, "gate projection inside the chosen experts",
          ("ffn_norm", "moe_norm", "moe_latent", "moe_expert_in", "moe_router_indices"), addition=True, network=_EXPERTS),
    Stage("moe_expert_up", ("n", "k", "F"), _K.MATMUL, "up projection inside the chosen experts",
          ("ffn_norm", "moe_norm", "moe_latent", "moe_expert_in", "moe_router_indices"), addition=True, network=_EXPERTS),
    Stage("moe_expert_swigl", ("n", "k", "F"), _K.ELEMENTWISE, "act(gate) · up inside the chosen experts",
          ("moe_expert_gate", "moe_expert_up"), addition=True, network=_EXPERTS),
    Stage("moe_expert_out", ("n", "k", "W"), _K.MATMUL, "each chosen expert's output, before weighting unless its input was weighed",
          ("moe_expert_swigl", "moe_router_indices"), addition=True, network=_EXPERTS),
    Stage("moe_latent_sum", ("n", "W"), _K.MATMUL, "the weighted sum of experts that read a latent",
          ("moe_expert_out", "moe_router"), addition=True, optional=True, network=_EXPERTS, only_with=_NARROW),
    Stage("moe_latent_out", ("n", "E"), _K.MATMUL, "that after the projection back",
          ("moe_latent_sum",), addition=True, optional=True, network=_EXPERTS, only_with=_NARROW),
    Stage("moe_ffn_out", ("n", "E"), _K.MATMUL, "the sum of the experts, weighted unless their inputs were, plus the shared expert if any",
          ("moe_expert_out", "moe_router", "moe_latent_out", "ffn_out"), network=_EXPERTS),
    Stage("moe_post_norm", ("n", "E"), _K.NORM, "the weighted sum of the experts after its own norm",
          ("moe_ffn_out",), addition=True, optional=True, network=_EXPERTS, only_with=_BESIDE),
    Stage("ffn_sum", ("n", "E"), _K.ELEMENTWISE, "the dense network and the experts beside it together, each after its norm",
          ("ffn_out_norm", "moe_post_norm"), addition=True, optional=True, only_with=_BESIDE, is_sum=True),
    Stage("post_ffn_residual", ("n", "E"), _K.ELEMENTWISE, "hidden state after the FFN residual add",
          ("post_attn_residual", "laurel_residual", "ffn_post_norm"), is_sum=True),
    Stage("altup_correct_norm", ("n", "E"), _K.NORM, "what the layer made of the active stream, after the norm of the streams' router",
          ("post_ffn_residual",), addition=True, optional=True, only_with=_STREAMS),
    Stage("altup_correct_router", ("n", "A"), _K.MATMUL, "what the correction is made by: tanh of the router's scores",
          ("altup_correct_norm",), addition=True, optional=True, only_with=_STREAMS, quantisable=False),
    Stage("altup_correct_coefs", ("n", "A"), _K.MATMUL, "how much more than once what the layer changed is added to each stream",
          ("altup_correct_router",), addition=True, optional=True, only_with=_STREAMS, quantisable=False),
    Stage("altup_corrected", ("n", "A*E"), _K.ELEMENTWISE,
          "the streams as they are corrected, side by side: each as predicted, plus (1 + its number) times what the layer changed",
          ("altup_predicted", "post_ffn_residual", "altup_correct_coefs"), addition=True, optional=True, only_with=_STREAMS, is_sum=True),
    Stage("altup_scaled", ("n", "E"), _K.ELEMENTWISE, "the active one of these times a vector, of which the gate of the token is made",
          ("altup_corrected",), addition=True, optional=True, only_with=_STREAMS),
    Stage("per_layer_input", ("n", "W"), _K.MATMUL,
          "what the layer is given of the token: its own embedding of it, plus a projection of the embedding after a norm, by sqrt(2)",
          (EMBEDDING,), addition=True, optional=True, only_with=_PER_LAYER),
    Stage("per_layer_gate", ("n", "W"), _K.MATMUL, "the gate of what the layer is given of the token, before its activation",
          ("post_ffn_residual", "altup_scaled"), addition=True, optional=True, only_with=_PER_LAYER),
    Stage("per_layer_gated", ("n", "W"), _K.ELEMENTWISE, "act(gate) · what the layer is given of the token",
          ("per_layer_gate", "per_layer_input"), addition=True, optional=True, only_with=_PER_LAYER),
    Stage("per_layer_out", ("n", "E"), _K.MATMUL, "that after its projection",
          ("per_layer_gated",), addition=True, optional=True, only_with=_PER_LAYER),
    Stage("per_layer_norm", ("n", "E"), _K.NORM, "that after its norm, as it is added to the hidden state",
          ("per_layer_out",), addition=True, optional=True, only_with=_PER_LAYER),
    Stage("layer_out", ("n", "E"), _K.ELEMENTWISE,
          "what the layer gives, where that is not post_ffn_residual: with what it makes of the token, times the layer's scale",
          ("post_ffn_residual", "per_layer_norm"), addition=True, optional=True, is_sum=True),
    Stage("altup_out", ("n", "A*E"), _K.ELEMENTWISE,
          "the streams that the layer gives, side by side: to all but the first, what it makes of the token is added",
          ("altup_corrected", "per_layer_norm"), addition=True, optional=True, only_with=_STREAMS, is_sum=True),
    Stage("layer_out_norm", ("n", "E"), _K.NORM, "hidden state after the norm that ends a layer, in models that have one (BERT)",
          ("layer_out", "altup_out"), addition=True, optional=True),
    Stage("altup_merged", ("n", "E"), _K.MATMUL,
          "the mean of the first stream behind the last layer and of projections of the others, with the magnitude of the first",
          (HIDDEN,), per_layer=False, addition=True, optional=True, only_with=_STREAMS, quantisable=False, is_sum=True),
    Stage("final_norm", ("n", "E"), _K.NORM, "after the output norm", (HIDDEN, "altup_merged"), per_layer=False),
    Stage("pooled", ("E",), _K.MATMUL, "the embedding of the text: the last norm at the first or the last position, or its mean over all",
          ("final_norm",), per_layer=False, addition=True, optional=True, quantisable=False, is_sum=True),
    Stage("pooled_up", ("Z",), _K.MATMUL, "after the first dense layer behind the pooling, where there are two",
          ("pooled",), per_layer=False, addition=True, optional=True),
    Stage("pooled_up_act", ("Z",), _K.ELEMENTWISE, "act(pooled_up), where that layer has an activation",
          ("pooled_up",), per_layer=False, addition=True, optional=True),
    Stage("pooled_down", ("Y",), _K.MATMUL, "after the last dense layer behind the pooling",
          ("pooled_up_act",), per_layer=False, addition=True, optional=True),
    Stage("pooled_down_act", ("Y",), _K.ELEMENTWISE, "act(pooled_down), where that layer has an activation",
          ("pooled_down",), per_layer=False, addition=True, optional=True),
    Stage("pooled_normed", ("Y",), _K.NORM, "the embedding of the text with length 1",
          ("pooled_down_act",), per_layer=False, addition=True, optional=True),
    Stage("lm_head_raw", ("V",), _K.MATMUL, "what the head gives, in models that cap or scale it",
          ("final_norm",), per_layer=False, addition=True, optional=True),
    Stage("lm_head", ("V",), _K.MATMUL, "logits of the last position (of all positions, n·V, on request)",
          ("lm_head_raw",), per_layer=False),
]
# fmt: on
#: Those that `apr trace` saves, of whichever model has them.
APR_STAGES: Final = tuple(stage.name for stage in STAGES if not stage.addition)

#: What each layer gives to the next, and what is made of what the last one gives. Most models do without the former, see
#: ``end_of_layer``.
END_OF_LAYER, FINAL_NORM = "layer_out_norm", "final_norm"
_ENDS: Final = (END_OF_LAYER, "altup_out", "layer_out", "post_ffn_residual")
#: The embedding of a text, as its positions are pooled.
POOLED: Final = "pooled"
#: The norm of the embedding; and all that may be made of the embedding before the first layer, in order.
EMBEDDING_NORM: Final = "embedding_norm"
OF_EMBEDDING: Final = (EMBEDDING_NORM, "altup_embedding")

STAGE_BY_NAME: dict[str, Stage] = {stage.name: stage for stage in STAGES}

#: Other names that are accepted when a plan is parsed.
STAGE_ALIASES: dict[str, str] = {"layer_output": "post_ffn_residual"}

_ORDER: dict[str, int] = {stage.name: index for index, stage in enumerate(STAGES)}


#: Stages that only the text of a graph has declared, as its family did when it was run.
_DECLARED_BY_GRAPHS: set[str] = set()


def add_stage(stage: Stage, before: str, *, of_graph: bool = False) -> None:
    """Add a stage that a family brings to the table, in front of the stage ``before``. The same stage may be added
    again.

    ``of_graph``: it is a graph's text that declares the stage. A stage of that name that is there already then stays,
    and one that a family declares later takes its place.

    Raises AprgraphError if another stage has the name, or if the name or ``before`` makes no sense.
    """
    there = STAGE_BY_NAME.get(stage.name)
    if there == stage or (there is not None and of_graph):
        return
    replaced = there if stage.name in _DECLARED_BY_GRAPHS else None
    if there is not replaced or stage.name in STAGE_ALIASES:
        raise AprgraphError(f"the stage {stage.name!r} is there already and is another; expected a name of its own")
    if _NAME.fullmatch(stage.name) is None:
        raise AprgraphError(f"the stage {shown(stage.name)}: expected a name of small letters and underscores")
    if not stage.dims or not all(isinstance(dim, str) and _DIM.fullmatch(dim) for dim in stage.dims):
        raise AprgraphError(
            f"the stage {stage.name!r} has the dims {shown(stage.dims)}, expected letters of the stage table "
            "(n t H K D E F V X k L M R N C G S P U W Y Z A B), or sums and products of them"
        )
    if before not in STAGE_BY_NAME or before == stage.name:
        raise AprgraphError(f"the stage {stage.name!r} is to come before {shown(before)}, which is no stage")
    if replaced is not None:
        STAGES.remove(replaced)
    STAGES.insert(STAGES.index(STAGE_BY_NAME[before]), stage)
    (_DECLARED_BY_GRAPHS.add if of_graph else _DECLARED_BY_GRAPHS.discard)(stage.name)
    STAGE_BY_NAME.clear()
    STAGE_BY_NAME.update((each.name, each) for each in STAGES)
    _ORDER.update((each.name, index) for index, each in enumerate(STAGES))


def execution_key(layer: int | None, stage: str) -> tuple[int, int]:
    """Sort key that puts (layer, stage) pairs in execution order; whole-model stages come after every layer."""
    return (layer if layer is not None else 1 << 32, _ORDER.get(stage, len(_ORDER)))


def is_of_text(stage: str | None) -> bool:
    """Whether ``stage`` is known to be one row for a whole text; None and names that are no stage's are not."""
    return stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].is_of_text


def end_of_layer(stages: Container[str]) -> str:
    """The stage that a layer gives to the next, in a model that has ``stages``."""
    return next((stage for stage in _ENDS if stage in stages), _ENDS[-1])


def is_logits(stage: str | None) -> bool:
    """Whether ``stage`` is known to be logits; None and names that are no stage's are not."""
    return stage in STAGE_BY_NAME and STAGE_BY_NAME[stage].is_logits
