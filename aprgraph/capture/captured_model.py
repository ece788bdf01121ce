"""A model of Hugging Face transformers that can be captured, and where in it things are."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aprgraph.capture.family_graph import Modules, outline_of
from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families import FAMILIES, Family
from aprgraph.graph.families.registry import find_family_of_kind, load_installed_families
from aprgraph.graph.ops import traits_of
from aprgraph.graph.outline import Outline
from aprgraph.graph.sources.checkpoint.config_class import text_config
from aprgraph.graph.stages import EMBEDDING, EMBEDDING_NORM

#: The functions of a model's own Python module that every attention layer calls: for RoPE one of several.
ATTENTION_FUNCTION = "eager_attention_forward"
_ROPE_FUNCTION, _OTHER_ROPE_FUNCTION = "apply_rotary_pos_emb", "apply_rotary_emb"
#: The one of them that takes pairs of neighbours, and gives the first elements of all pairs, then the second ones.
SPLITTING_ROPE_FUNCTION = "apply_rotary_pos_emb_interleave"
#: Where classes of transformers are, and those of code that came with a checkpoint.
_MODULES = ("transformers.", "transformers_modules.")
#: A key of configurations that changes the logits behind the head.
_LOGIT_CAP = "final_logit_softcapping"


@dataclass(frozen=True)
class CapturedModel:
    """A model and its parts. ``functions`` is the Python module that its attention layers are defined in.

    ``given`` is what was given: the model, or what it lies in, such as PEFT's. ``model`` is the decoder where there is no head.
    ``name`` is that of the class, ``outline`` what the model computes.
    """

    given: Any
    model: Any
    name: str
    family: type[Family]
    decoder: Any
    functions: ModuleType
    modules: Modules
    outline: Outline

    @property
    def head(self) -> Any | None:
        """The layer that gives the logits; None of a model without one."""
        return getattr(self.model, "lm_head", None)

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder's layers."""
        return list(self.decoder.get_submodule(self.family.hf_layers))

    @property
    def has_rope(self) -> bool:
        """Whether any layer has RoPE."""
        return getattr(self.decoder, self.family.hf_rope, None) is not None

    @property
    def embedding(self) -> Any:
        """The module that looks tokens up."""
        return self.modules.find(EMBEDDING, None)

    @property
    def embedding_norm(self) -> Any | None:
        """The module that normalises the embedding; None of a model whose first layer is given the embedding itself."""
        return self.modules.find(EMBEDDING_NORM, None)

    @property
    def of_positions(self) -> Any | None:
        """The module that is given the positions: RoPE, or the embedding of positions. None of a model that knows no positions."""
        return getattr(self.decoder, self.family.hf_rope, None) or self.modules.find("position_embedding", None)

    @property
    def first_position(self) -> int:
        """The number of a text's first position: RoBERTa counts from the one after the padding's."""
        padding = getattr(self.of_positions, "padding_idx", None)
        return 0 if padding is None else int(padding) + 1

    @property
    def attentions(self) -> Mapping[int, Any]:
        """The attention module of each layer that has one: what its output projection is a part of."""
        scored = {node.layer for node in self.outline.graph.with_op("attn_scores")}
        return {layer: module for layer, module in self._mixers("attn_out").items() if layer in scored}

    @property
    def recurrent(self) -> Mapping[int, Any]:
        """The module of each layer that has a state of fixed size in place of attention, or beside it."""
        scored = {node.layer for node in self.outline.graph.with_op("attn_scores")}
        return {**{layer: module for layer, module in self._mixers("attn_out").items() if layer not in scored}, **self._mixers("ssm_out")}

    def _mixers(self, stage: str) -> Mapping[int, Any]:
        """The module in each layer that mixes positions, which the output projection of ``stage`` is a part of."""
        graph, found = self.outline.graph, {}
        for node in graph:
            if node.stage != stage or node.layer is None:
                continue
            slots = [self.outline.weights[name].slot for name in graph.operand_names(node.name) if name in self.outline.weights]
            # In BERT the output projection is beside what attends, and q is in it.
            slots = (["q"] if stage == "attn_out" and self.modules.find("q", node.layer) is not None else []) + slots
            module = next((one for slot in slots if (one := self.modules.around(slot, node.layer)) is not None), None)
            if module is None:
                raise UnsupportedModelError(
                    f"layer {node.layer} has no attention where its family says; write its tensors with aprgraph.Trace.write"
                )
            found[node.layer] = module
        return found

    @property
    def is_gated(self) -> bool:
        """Whether what attention gives is multiplied by a gate before its output projection."""
        return any(node.stage == "attn_gated" for node in self.outline.graph)

    @property
    def rope_functions(self) -> Sequence[str]:
        """The names of the functions that RoPE may go through."""
        return _rope_functions(self.functions)

    @property
    def rope_stages(self) -> tuple[str, ...]:
        """The stages of q and of k that they give."""
        stages = dict.fromkeys(node.stage for node in self.outline.graph.with_op("rope") if node.stage is not None)
        return tuple(stages) or ("q_post_rope", "k_post_rope")

    @property
    def rope_head_size(self) -> int:
        """How many elements a head has in these stages, also where RoPE turns only a part of them."""
        return max((node.attr_int("head_size") for node in self.outline.graph.with_op("rope")), default=0)

    @property
    def is_eager(self) -> bool:
        """Whether attention, if there is any, is computed step by step, so that scores and weights exist."""
        return not self.attentions or bool(self.decoder.config._attn_implementation == "eager")  # noqa: SLF001 -- there is no public name

    @property
    def experts(self) -> Mapping[int, tuple[str, Any]]:
        """Of each layer that has experts, the module of all of them, and the slot of one of its weights."""
        found: dict[int, tuple[str, Any]] = {}
        for node in self.outline.graph:
            if node.layer is None or not (traits_of(node).is_matmul and traits_of(node).picks_rows_by):
                continue
            weights = (self.outline.weights[name] for name in self.outline.graph.operand_names(node.name) if name in self.outline.weights)
            slot = next(weight.slot for weight in weights)
            module = self.modules.find(slot, node.layer)
            if module is not None:
                found[node.layer] = slot, module
        return found

    def weighs_inputs(self, layer: int) -> bool:
        """Whether the experts of a layer are given their inputs times their weights."""
        return any(node.layer == layer for node in self.outline.graph.with_op("expert_inputs"))

    @property
    def description(self) -> str:
        """The class and how it computes, for the manifest."""
        import transformers  # noqa: PLC0415

        config = self.decoder.config
        how = [self.name, *([str(config._attn_implementation)] if self.attentions else [])]  # noqa: SLF001
        if self.experts:
            how.append(f"experts {config._experts_implementation}")  # noqa: SLF001
        return f"transformers {transformers.__version__}, {', '.join(how)}"


def open_model(model: Any) -> CapturedModel:
    """Find the parts of ``model``, or of the one model that lies in it. Raises UnsupportedModelError for one that cannot be captured."""
    import transformers  # noqa: PLC0415

    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} is here, expected 5 or later; install with pip install -U transformers"
        )
    if not hasattr(model, "modules"):
        raise UnsupportedModelError(f"{type(model).__name__} is no model of torch; write its tensors with aprgraph.Trace.write")
    _check_not_compiled(model)
    inner, name, family = _find_model(model)
    decoder = next(part for part in inner.modules() if _is_decoder(part, family))
    # The head may be that of a text model inside.
    inner = next((part for part in inner.modules() if hasattr(part, "lm_head") and decoder in part.children()), inner)
    head = getattr(inner, "lm_head", None)
    modules = Modules(family, decoder, head)
    functions = sys.modules[type(decoder.get_submodule(family.hf_layers)[0]).__module__]
    outline = outline_of(family, decoder, modules)
    missing = [_ROPE_FUNCTION] if hasattr(decoder, family.hf_rope) and not _rope_functions(functions) else []
    missing += [] if hasattr(functions, ATTENTION_FUNCTION) or not outline.graph.with_op("attn_scores") else [ATTENTION_FUNCTION]
    if missing:
        raise UnsupportedModelError(
            f"{functions.__name__} has no {' and no '.join(missing)}, expected as in transformers 5.24: this model has other attention"
        )
    captured = CapturedModel(model, inner, name, family, decoder, functions, modules, outline)
    if getattr(decoder.config, _LOGIT_CAP, None) is not None and _LOGIT_CAP not in {one.hf for one in family.readings().values()}:
        raise UnsupportedModelError(f"{name} with {_LOGIT_CAP} cannot be captured: its logits are not what lm_head gives")
    return captured


def _rope_functions(functions: ModuleType) -> list[str]:
    found = [name for name in (_ROPE_FUNCTION, SPLITTING_ROPE_FUNCTION) if hasattr(functions, name)]
    return found or [_OTHER_ROPE_FUNCTION] * hasattr(functions, _OTHER_ROPE_FUNCTION)


def _check_not_compiled(model: Any) -> None:
    """Raise UnsupportedModelError where torch.compile has been at work: its code may leave out hooks."""
    for name, part in model.named_modules():
        original = f"{name}._orig_mod".removeprefix(".") if hasattr(part, "_orig_mod") else None
        if original is not None:
            raise UnsupportedModelError(
                f"{type(part).__name__} is a model under torch.compile, whose hooks may not be called; capture the original, "
                f"model.{original}, and call that inside the block"
            )
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise UnsupportedModelError(
                f"{name or type(part).__name__} was compiled with compile(), and its hooks may not be called; capture a model that was not"
            )


def _classes() -> Mapping[str, type[Family]]:
    """The families by the names of the classes that compute them."""
    return {name: family for family in FAMILIES.values() for name in family.own_hf_classes()}


def _find_model(model: Any) -> tuple[Any, str, type[Family]]:
    """``model`` itself, or the one that it is wrapped around, its class and family. Raises UnsupportedModelError."""
    classes = _classes()
    found = _models_in(model, classes)
    if not found:
        load_installed_families()
        classes = _classes()
        found = _models_in(model, classes)
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be captured, expected one of {', '.join(classes)}, or what is built around one; "
            "write other models' tensors with aprgraph.Trace.write"
        )
    if len(found) > 1:
        places = " and ".join(f"model.{path}" for path, _, _ in found)
        raise UnsupportedModelError(f"{type(model).__name__} holds several models, {places}; capture one of them")
    _, part, name = found[0]
    family = find_family_of_kind(getattr(part.config, "model_type", None)) or classes[name]
    return part, name, family.of_config(text_config(part.config.to_dict()))


def _models_in(model: Any, classes: Mapping[str, type[Family]]) -> list[tuple[str, Any, str]]:
    """The outermost models in ``model`` that are of ``classes``, each with its path and its class."""
    found: list[tuple[str, Any, str]] = []
    for path, part in model.named_modules():
        name = _class_of(part, classes)
        inside_another = any(not outer or path.startswith(f"{outer}.") for outer, _, _ in found)
        if name is not None and not inside_another:
            found.append((path, part, name))
    return found


def _is_decoder(part: Any, family: type[Family]) -> bool:
    """Whether a module has what a decoder of the family has in itself: all that is in no layer, and the layers."""
    names = (family.hf_name("embedding"), family.hf_layers)
    embedding = family.hf_name("position_embedding")
    positions = [*([family.hf_rope] if family.hf_rope and "rope" in family.readings() else []), *([embedding] if embedding else [])]
    return all(_has(part, str(name)) for name in names) and (not positions or any(_has(part, name) for name in positions))


def _has(part: Any, path: str) -> bool:
    """Whether a module has what ``path`` names, perhaps inside others."""
    for name in path.split("."):
        if not hasattr(part, name):
            return False
        part = getattr(part, name)
    return True


def _class_of(part: Any, classes: Mapping[str, type[Family]]) -> str | None:
    """The one of ``classes`` that is the class of ``part``, or that it derives from; of a decoder by itself, the one it is made for."""
    for kind in type(part).__mro__:
        if not kind.__module__.startswith(_MODULES):
            continue
        if kind.__name__ in classes:
            return kind.__name__
        beside = vars(sys.modules[kind.__module__])
        made_for = [name for name in classes if name in beside and beside[name].__module__ == kind.__module__]
        if made_for and _is_decoder(part, classes[made_for[0]]):
            return made_for[0]
    return None
