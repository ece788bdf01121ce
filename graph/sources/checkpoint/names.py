"""Names of a checkpoint's tensors in GGUF: from the families' own names of weights, and what files call otherwise."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from aprgraph.graph.families import Family
from aprgraph.graph.families.pooling import DENSE_SLOTS
from aprgraph.graph.families.weight_names import GGUF_NAMES, HF_NAMES, WITHOUT_END

#: What stands before the decoder's own names, longest first: models with images or sound have the text model inside.
_PREFIXES = ("model.language_model.", "language_model.model.", "language_model.", "model.", "transformer.", "roberta.", "bert.", "")
_GGUF = re.compile(r"(?:blk\.(\d+)\.)?(.+)")
#: One of several modules that GGUF holds as one tensor: norms of heads, projections of streams.
_ONE_OF = re.compile(r"(.+?)(?:\.norms)?\.(\d+)\.(weight|bias)")
_IN = r"(?:(?:mlp|mixer|block_sparse_moe|feed_forward)\.)?experts"
_EXPERT = re.compile(rf"{_IN}\.(\d+)\.(\w+)\.(\w+)")
_FUSED = re.compile(
    rf"(?:{_IN}\.(gate_up_proj|up_proj|down_proj)|block_sparse_moe\.(input|output)_linear)(_bias|_blocks|_scales|\.weight|\.bias)?"
)
#: Of one expert: the slot of each matrix, and Mixtral's names.
_EXPERT_SLOTS = {
    "gate_proj": "moe_expert_gate", "up_proj": "moe_expert_up", "down_proj": "moe_expert_out",
    "w1": "moe_expert_gate", "w3": "moe_expert_up", "w2": "moe_expert_out",
}  # fmt: skip
#: Of all experts in one tensor: the slot, that of gate where up lies behind it.
_FUSED_SLOTS = {
    "gate_up_proj": "moe_expert_gate", "input": "moe_expert_gate", "up_proj": "moe_expert_up",
    "down_proj": "moe_expert_out", "output": "moe_expert_out",
}  # fmt: skip
#: Weights that are no module's, and modules that files call otherwise than transformers does: to the slot.
_OTHERS = {
    "self_attn.sinks": "attn_sinks", "block_sparse_moe.gate": "moe_router_logits",
    "block_sparse_moe.router.layer": "moe_router_logits",
    "mlp.moe_statics.e_score_correction_bias": "moe_router_scores",
}  # fmt: skip
#: What mlx-lm calls all experts in one tensor, [experts, rows, columns], and where.
_OF_MLX = {
    f"{where}.switch_mlp.{name}": _EXPERT_SLOTS[name]
    for where in ("mlp", "block_sparse_moe")
    for name in ("gate_proj", "up_proj", "down_proj")
}
#: What wrappers put into the names of a model's modules: torch.compile, DataParallel, FSDP, checkpointing, DeepSpeed, PEFT.
_AT_THE_FRONT, _ANYWHERE = (
    ("module", "base_model.model", "_forward_module"),
    ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"),
)
_WRAPPERS = re.compile(rf"^(?:(?:{'|'.join(map(re.escape, _AT_THE_FRONT))})\.)+|(?:(?<=\.)|^)(?:{'|'.join(_ANYWHERE)})\.")
#: Ends of the names of what belongs to a weight.
_SCALES = {"weight_scale_inv": "scale_inv", "weight_scale": "scale"}

#: What the head is called, whatever stands before it; the second by GPT-NeoX's published files.
_HEADS = ("lm_head", "embed_out")

#: What a tensor is: a weight or bias, what a weight was divided by, or a part of MXFP4.
Part = Literal["weight", "bias", "scale", "scale_inv", "blocks", "scales"]


@dataclass(frozen=True)
class Place:
    """Where a tensor belongs: ``slot`` of ``layer``, and the ``expert``, or the head, that it is of.

    ``fused``: it is of all experts, and of gate and up together where the slot is that of gate.
    """

    slot: str
    part: Part
    layer: int | None = None
    expert: int | None = None
    fused: bool = False


class Names:
    """The names of a family's tensors. ``tensors`` are the names in the file, by which its prefix is known."""

    def __init__(self, family: type[Family], tensors: Collection[str]) -> None:
        self._family = family
        # Codestral Mamba has its own root inside another.
        prefixes = (*_PREFIXES[:-1], f"model.{family.hf_root}.", f"{family.hf_root}.", "")
        there = {self._renamed(name) for name in tensors}
        self._prefix = next((prefix for prefix in prefixes if f"{prefix}{family.hf_name('embedding')}.weight" in there), "model.")
        slots = dict.fromkeys((*family.hf_names, *HF_NAMES, *family.gguf_names, *GGUF_NAMES))
        modules = {module: slot for slot in reversed(slots) if (module := family.hf_name(slot)) is not None}
        by_mlx = {name: slot for name, slot in _OF_MLX.items() if slot not in family.hf_transposed}
        self._modules = {**_OTHERS, **by_mlx, **modules}
        self._layer = re.compile(rf"{re.escape(family.hf_layers)}\.(\d+)\.(.+)")

    def place(self, name: str) -> Place | None:
        """Where the tensor of that name belongs; None for one that has no place in the family."""
        name = self._renamed(name)
        module, _, end = name.rpartition(".")
        if module.endswith(_HEADS) and (end in ("weight", "bias") or end in _SCALES):
            return Place("lm_head", _part(end) or "weight")
        if module in DENSE_SLOTS:  # of modules behind the checkpoint's own
            part = _part(end)
            return None if part is None else Place(module, part)
        if not name.startswith(self._prefix):
            return None
        inner = name.removeprefix(self._prefix)
        layer = self._layer.fullmatch(inner)
        if layer is None:
            return self._module(inner, None)
        number, rest = int(layer[1]), layer[2]
        expert, fused = _EXPERT.fullmatch(rest), _FUSED.fullmatch(rest)
        if expert is not None and expert[2] in _EXPERT_SLOTS:
            part = _part(expert[3])
            return None if part is None else Place(_EXPERT_SLOTS[expert[2]], part, number, int(expert[1]))
        if fused is not None:
            slot = _FUSED_SLOTS[fused[1] or fused[2]]
            return Place(slot, _part((fused[3] or "weight").lstrip("_.")) or "weight", number, fused=True)
        return self._module(rest, number)

    def _renamed(self, name: str) -> str:
        """With the modules' own names in place of those that files have otherwise."""
        for theirs, module in self._family.hf_renamed.items():
            name = name.replace(theirs, module)
        return name

    def _module(self, name: str, layer: int | None) -> Place | None:
        one = _ONE_OF.fullmatch(name)
        if one is not None and one[1] in self._modules:
            return Place(self._modules[one[1]], _part(one[3]) or "weight", layer, int(one[2]))
        if name in self._modules:
            return Place(self._modules[name], "bias" if name.endswith("bias") else "weight", layer)
        module, _, end = name.rpartition(".")
        part, slot = _part(end), self._modules.get(module)
        return None if part is None or slot is None else Place(slot, part, layer)

    def gguf_name(self, slot: str, layer: int | None, part: Literal["weight", "bias"]) -> str:
        """The name in GGUF."""
        name = self._family.tensor_name(slot, part)
        return name if layer is None else f"blk.{layer}.{name}"


def without_wrappers(name: str) -> str:
    """``name`` without what programs that wrap a model put in front of, or into, the names of its tensors."""
    shorter = _WRAPPERS.sub("", name)
    return shorter if shorter == name else without_wrappers(shorter)


def own_name(family: type[Family], name: str) -> str | None:
    """The name in a checkpoint of the tensor ``name`` of GGUF; None where there is none, or several could be meant."""
    found = _GGUF.fullmatch(name)
    if found is None:
        return None
    layer, own = found.groups()
    slots = dict.fromkeys((*family.gguf_names, *GGUF_NAMES, *family.hf_names, *HF_NAMES))
    tensors = {
        module
        if family.gguf_name(slot) in WITHOUT_END or module.endswith("bias")
        else f"{module}.{what}"  # a module's own, or all there is
        for slot in slots
        for what in ("weight", "bias")
        if family.tensor_name(slot, what) == own and (module := family.hf_name(slot)) is not None
    }
    if len(tensors) != 1:
        return None
    (tensor,) = tensors
    root = f"{family.hf_root}." if family.hf_root else ""
    where = "" if tensor.startswith("lm_head.") else root if layer is None else f"{root}{family.hf_layers}.{layer}."
    return f"{where}{tensor}"


def _part(end: str) -> Part | None:
    if end in ("weight", "bias", "blocks", "scales"):
        return end  # type: ignore[return-value]
    return _SCALES.get(end)  # type: ignore[return-value]
