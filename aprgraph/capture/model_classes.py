"""The classes of Hugging Face transformers that can be captured, and where in such a model things are."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aprgraph.graph.errors import UnsupportedModelError


@dataclass(frozen=True)
class ModelClass:
    """One class. ``architecture`` is that of its GGUF files.

    ``pairs_neighbours``: these files hold the rows of q and k in another order than transformers, in which RoPE pairs neighbours.
    ``decoder`` is the way from the model to its decoder, whose class is ``base``: that of the model without its head.
    """

    name: str
    architecture: str
    base: str
    pairs_neighbours: bool = False
    decoder: str = "model"


MODEL_CLASSES: tuple[ModelClass, ...] = (
    ModelClass("LlamaForCausalLM", "llama", "LlamaModel", pairs_neighbours=True),
    ModelClass("MistralForCausalLM", "llama", "MistralModel", pairs_neighbours=True),
    ModelClass("MixtralForCausalLM", "llama", "MixtralModel", pairs_neighbours=True),
    ModelClass("Qwen2ForCausalLM", "qwen2", "Qwen2Model"),
    ModelClass("Qwen2MoeForCausalLM", "qwen2moe", "Qwen2MoeModel"),
    ModelClass("Qwen3ForCausalLM", "qwen3", "Qwen3Model"),
    ModelClass("Qwen3MoeForCausalLM", "qwen3moe", "Qwen3MoeModel"),
    ModelClass("Gemma3ForCausalLM", "gemma3", "Gemma3TextModel"),
    ModelClass("Gemma3ForConditionalGeneration", "gemma3", "Gemma3TextModel", decoder="model.language_model"),
    ModelClass("Phi3ForCausalLM", "phi3", "Phi3Model"),
)

#: The functions of a model's own Python module that every attention layer calls.
ROPE_FUNCTION, ATTENTION_FUNCTION = "apply_rotary_pos_emb", "eager_attention_forward"


@dataclass(frozen=True)
class CapturedModel:
    """A model and its parts. ``functions`` is the Python module that its attention layers are defined in.

    ``given`` is what was given: the model, or what it lies in, such as PEFT's. ``model`` is the decoder where there is no head.
    """

    given: Any
    model: Any
    model_class: ModelClass
    decoder: Any
    functions: ModuleType

    @property
    def head(self) -> Any | None:
        """The layer that gives the logits; None of a model without one."""
        return getattr(self.model, "lm_head", None)

    @property
    def layers(self) -> Sequence[Any]:
        """The decoder's layers."""
        return list(self.decoder.layers)

    @property
    def is_eager(self) -> bool:
        """Whether attention is computed step by step, so that scores and weights exist."""
        return bool(self.decoder.config._attn_implementation == "eager")  # noqa: SLF001 -- there is no public name

    @property
    def description(self) -> str:
        """The class and how it computes, for the manifest."""
        import transformers  # noqa: PLC0415

        config = self.decoder.config
        how = [self.model_class.name, str(config._attn_implementation)]  # noqa: SLF001
        if any(hasattr(layer.mlp, "experts") for layer in self.layers):
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
    inner, found = _find_model(model)
    decoder = inner
    if _name_in(inner, [found.base]) is None:
        for part in found.decoder.split("."):
            decoder = getattr(decoder, part)
    functions = sys.modules[type(decoder.layers[0].self_attn).__module__]
    missing = [name for name in (ROPE_FUNCTION, ATTENTION_FUNCTION) if not hasattr(functions, name)]
    if missing:
        raise UnsupportedModelError(
            f"{functions.__name__} has no {' and no '.join(missing)}, expected as in transformers 5.24: this model has other attention"
        )
    if getattr(decoder.config, "final_logit_softcapping", None) is not None:
        raise UnsupportedModelError(f"{found.name} with final_logit_softcapping cannot be captured: its logits are not what lm_head gives")
    return CapturedModel(model, inner, found, decoder, functions)


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


def _find_model(model: Any) -> tuple[Any, ModelClass]:
    """``model`` itself, or the one that it is wrapped around, and its class. Raises UnsupportedModelError."""
    by_name = {one.base: one for one in reversed(MODEL_CLASSES)} | {one.name: one for one in MODEL_CLASSES}
    found: list[tuple[str, Any, ModelClass]] = []
    for path, part in model.named_modules():
        name = _name_in(part, by_name)
        inside_another = any(not outer or path.startswith(f"{outer}.") for outer, _, _ in found)
        if name is not None and not inside_another:
            found.append((path, part, by_name[name]))
    if not found:
        supported = ", ".join(one.name for one in MODEL_CLASSES)
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be captured, expected one of {supported}, or what is built around one; "
            "write other models' tensors with aprgraph.Trace.write"
        )
    if len(found) > 1:
        places = " and ".join(f"model.{path}" for path, _, _ in found)
        raise UnsupportedModelError(f"{type(model).__name__} holds several models, {places}; capture one of them")
    return found[0][1:]


def _name_in(model: Any, names: Collection[str]) -> str | None:
    """The one of ``names`` that is the name of the class of ``model``, or of a class of transformers that it derives from."""
    return next(
        (kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.") and kind.__name__ in names), None
    )
