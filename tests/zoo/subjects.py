"""The models that faults are planted in: tiny random ones of every family, with what single faults need to show themselves."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from aprgraph.graph.block_formats import decode_reference
from aprgraph.graph.families import FAMILIES as KNOWN
from aprgraph.graph.families import Mixture
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.ops import Array
from aprgraph.graph.passes.pipeline import recorded_graph
from aprgraph.graph.stages import is_logits
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.runtime.blame import ReplayedModel
from aprgraph.runtime.trace.aprt import F32
from tests.support.tiny import write_tiny_model

#: Ten positions: more than the sliding windows, no multiple of any tile; some tokens come twice.
TOKENS = (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)
#: Steps of a run that generates: the prompt, and two tokens.
STEPS = 3

_BASE: dict[str, Any] = {
    "layers": 3, "vocabulary": 40, "tokenizer": False, "context": 32, "format": "Q8_0",
    "formats": {
        "token_embd.weight": "F16", "attn_output.weight": "Q4_0",
        "ffn_down.weight": "Q4_0", "ffn_down_exps.weight": "Q4_0", "ffn_down_shexp.weight": "Q4_0",
    },
}  # fmt: skip
#: What some models need to show a fault.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "deepseek2": {"seed": 1},  # generates two different tokens
    # A hidden size whose root bfloat16 cannot hold.
    "gemma": {"hidden": 96},
    "gemma2": {"hidden": 96},
    "gemma3": {"hidden": 96},
    **{name: {"seed": 1} for name in ("lfm2moe", "minimax-m2", "dbrx")},  # experts of equal scores are chosen in every layer
    "gemma-embedding": {"hidden": 96},
    # What a layer adds to its stream is never small, as what attention reads is part of it.
    "gemma3n": {"eps": 0.01},
    "phi3": {"sliding_window": 5},
    # A chunk that goes on where tokens are generated.
    "llama4": {"sliding_window": 4},
}
#: The models of the zoo, and the options of each: every family of the package, and those that have experts of families whose plain models have none.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    **{name: _OPTIONS.get(name, {}) for name, family in KNOWN.items() if family.__module__.startswith("aprgraph.")},
    "mixtral": {"family": "llama", "experts": 8, "ffn": 32},
    "qwen3-embedding": {"family": "qwen3"},
    "gemma4-experts": {"family": "gemma4", "experts": 8, "ffn": 32, "expert_ffn": 32},
}
#: Metadata in place of a file's own: of Gemma 3's layers every sixth sees everything, of others every fourth, or has no RoPE; here
#: the last.
OVERRIDES: Mapping[str, Mapping[str, int]] = {
    **{
        name: {f"{name}.attention.sliding_window_pattern": 3}
        for name in ("gemma3", "gemma-embedding", "cohere2", "exaone4", "exaone-moe", "afmoe", "mimo2")
    },
    "qwen3-embedding": {"qwen3.pooling_type": 3},
    "smollm3": {"smollm3.no_rope_layer_interval": 3},
    "llama4": {"llama4.no_rope_layer_interval": 3, "llama4.attention.sliding_window_pattern": 3},
}
#: What writes to the stream of hidden states, after its last norm where there is one.
_OUTPUTS = (
    "attn_output.weight",
    "shortconv.out_proj.weight",
    "ssm_out.weight",
    "ffn_down.weight",
    "ffn_down_exps.weight",
    "ffn_down_shexp.weight",
)
_POST_NORMS = ("post_attention_norm.weight", "post_ffw_norm.weight", ".post_norm.weight")


@dataclass(frozen=True)
class Variant:
    """How a model differs from the plain one of its family: ``options`` of ``write_tiny_model``, then ``scales`` (the tensors
    whose names end so, times a number, and times that of ``more`` in some families), then ``edit`` of the tensors by name. ``steps`` are run.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)
    more: Mapping[str, float] = field(default_factory=dict)
    edit: Callable[[Model, dict[str, F32]], None] | None = None
    steps: int = 1


def _tie_experts(model: Model, tensors: dict[str, F32]) -> None:
    """Groups of one expert more than are used have the same router row and bias, so that whoever is left out has an equal."""
    family = model.family
    for name, rows in tensors.items():
        if isinstance(family, Mixture) and name.endswith(("ffn_gate_inp.weight", "ffn_gate_inp.bias", "exp_probs_b.bias")):
            rows[:] = rows[np.arange(family.experts) // (family.chosen + 1)]


def _small_norm_of_embedding(_: Model, tensors: dict[str, F32]) -> None:
    """What goes into the first norm of a layer is small, where that comes before its sum and the embedding has a norm too."""
    if "output_norm.weight" in tensors and "token_embd_norm.weight" in tensors:
        tensors["token_embd_norm.weight"][:] *= 2**-6


def _with_large_scores(layer: int) -> Variant:
    """Scores beyond 88.7 in one layer, whose exp a float32 cannot hold.

    Not much beyond, and in one layer alone: a softmax multiplies the relative noise of scores by their size.
    """
    factors = {"attn_q_norm.weight": 48, "attn_q.weight": 35, "attn_q_b.weight": 35, "attn_q.bias": 35, "attn_qkv.weight": 6.1}
    more = {
        "granite": 2.3,
        "granitemoe": 2.3,
        "granitehybrid": 2.3,
        "ernie4_5": 1.1,
        "mistral3": 0.75,
        "exaone4": 0.8,
        "gpt-oss": 1.25,
        **dict.fromkeys(("gemma4", "gemma4-experts"), 0.25),
        "nemotron": 1.3,
        **dict.fromkeys(("bitnet", "mimo2"), 1.3),
        "gptneox": 1.2,
        "phimoe": 1.3,
        "minicpm3": 1.5,
        "bert": 1.5,
    }  # whose scores are smaller, or larger
    return Variant({"seed": 13}, {f"blk.{layer}.{ending}": factor for ending, factor in factors.items()}, more)


#: The variants whose scores are large, by layer.
LARGE_SCORES = ("large scores in layer 0", "large scores in layer 1", "large scores in layer 2")
VARIANTS: Mapping[str, Variant] = {
    "plain": Variant(),
    "generating": Variant(steps=STEPS),
    # Hidden states of trained models are small in the first layers (rms about 0.01): there, eps counts.
    "faint": Variant(scales={"token_embd.weight": 2**-6, **dict.fromkeys((*_OUTPUTS, *_POST_NORMS), 2**-6)}, edit=_small_norm_of_embedding),
    # Activations of the FFN beyond 65504, the largest float16.
    "large activations": Variant(scales={"ffn_up.weight": 2**17, "ffn_up_exps.weight": 2**17}),
    # Block scales below 2^-14, float16's smallest normal number.
    "small scales": Variant(scales={"attn_output.weight": 2**-11}),
    "tied experts": Variant(edit=_tie_experts),
    "k-quants": Variant({"hidden": 256, "head_size": 16, "ffn": 32, "formats": {"attn_q.weight": "Q4_K", "attn_qkv.weight": "Q4_K"}}),
    "frequency factors": Variant({"rope_freqs": True}),
    "long and short": Variant({"rope_long_and_short": True, "original_context": 16}),
    "yarn": Variant({"rope_yarn_factor": 4.0, "original_context": 16, "context": 64}),
    **{name: _with_large_scores(layer) for layer, name in enumerate(LARGE_SCORES)},
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A model of ``family`` in ``variant``, its graph, and how to read its weights."""

    family: str
    variant: str
    model: Model

    @property
    def steps(self) -> int:
        """How many passes a run has: the prompt, and one for each generated token but the last."""
        return VARIANTS[self.variant].steps

    @cached_property
    def everything(self) -> Plan:
        """Every stage of every layer."""
        return parse_plan("all", f"0..{self.model.family.layers}")

    @property
    def graph(self) -> Graph:
        """The graph with everything tapped."""
        return recorded(self, self.everything)

    @cached_property
    def layers(self) -> tuple[int, int, int]:
        """The first layer, the middle one, the last one."""
        count = self.model.family.layers
        return 0, count // 2, count - 1

    @cached_property
    def replayed(self) -> ReplayedModel:
        """The model, as all its audits share it."""
        return ReplayedModel(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """The model file's."""
        return self.replayed.fingerprint

    def weight(self, tensor: str) -> F32:
        """A tensor of the model, decoded. Not to be changed."""
        if tensor not in self._decoded:
            info = self.model.tensor(tensor)
            value = decode_reference(info.format, self.model.file.tensor_bytes(info), info.dims).astype(np.float32)
            value.flags.writeable = False
            self._decoded[tensor] = value
        return self._decoded[tensor]

    @cached_property
    def _decoded(self) -> dict[str, F32]:
        return {}


@cache
def recorded(subject: Subject, plan: Plan) -> Graph:
    """The graph that a run with the taps of ``plan`` computes."""
    total = len(TOKENS) + subject.steps - 1
    return recorded_graph(subject.replayed.graph, plan, "last", total, keep_outputs=subject.steps > 1)


@lru_cache(maxsize=1)
def _directory() -> Path:
    temporary = tempfile.TemporaryDirectory(prefix="aprgraph-zoo-")
    atexit.register(temporary.cleanup)
    return Path(temporary.name)


@cache
def generates(family: str) -> bool:
    """Whether a text can go on from models of a family: those that give logits."""
    return any(is_logits(node.stage) for node in subject(family).replayed.graph)


@cache
def subject(family: str, variant: str = "plain") -> Subject:
    """The model of a family in a variant, written once."""
    about = VARIANTS[variant]
    options = {"family": family, **_BASE, **FAMILIES[family], **about.options}
    options["formats"] = {**_BASE["formats"], **about.options.get("formats", {})}
    path = _directory() / f"{family}-{variant.replace(' ', '-')}.gguf"
    write_tiny_model(path, **options)
    _change(path, about, about.more.get(family, 1.0))
    return Subject(family, variant, load_model(path, OVERRIDES.get(family)))


def _change(path: Path, about: Variant, more: float) -> None:
    """Apply the scales of a variant, each times ``more``, and its edit to the file at ``path``."""
    if not about.scales and about.edit is None:
        return
    model = load_model(path)
    data = bytearray(path.read_bytes())
    plain: dict[str, F32] = {}
    for info in model.file.tensors.values():
        raw = np.frombuffer(data, np.uint8, info.nbytes, info.offset)
        if info.format.name == "F32":
            plain[info.name] = raw.view(np.float32).reshape(info.dims)
        for ending, factor in about.scales.items():
            if info.name.endswith(ending):
                _scale(raw, info.format.block_bytes, [(info.format.offset(f.name), f) for f in info.format.fields], factor * more)
    if about.edit is not None:
        about.edit(model, plain)
    path.write_bytes(data)


def _scale(raw: Array, block_bytes: int, fields: list[tuple[int, Any]], factor: float) -> None:
    """Multiply the floating-point fields of every block; a power of two keeps them exact unless they become subnormal."""
    blocks = raw.reshape(-1, block_bytes)
    for offset, one in fields:
        if one.dtype in ("float32", "float16", "bfloat16"):
            dtype = ml_dtypes.bfloat16 if one.dtype == "bfloat16" else np.dtype(one.dtype)
            columns = slice(offset, offset + one.itemsize * one.count)
            values = np.ascontiguousarray(blocks[:, columns]).view(dtype)
            blocks[:, columns] = (values.astype(np.float32) * np.float32(factor)).astype(dtype).view(np.uint8)
