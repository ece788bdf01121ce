"""The classes of Hugging Face transformers that can be captured, and where in such a model things are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from aprgraph.graph.errors import UnsupportedModelError


@dataclass(frozen=True)
class ModelClass:
    """One class. ``architecture`` is that of its GGUF files.

    ``pairs_neighbours``: these files hold the rows of q and k in another order than transformers, in which RoPE pairs neighbours.
    ``decoder`` is the way from the model to its decoder.
    """

    name: str
    architecture: str
    pairs_neighbours: bool = False
    decoder: str = "model"


MODEL_CLASSES: tuple[ModelClass, ...] = (
    ModelClass("LlamaForCausalLM", "llama", pairs_neighbours=True),
    ModelClass("MistralForCausalLM", "llama", pairs_neighbours=True),
    ModelClass("MixtralForCausalLM", "llama", pairs_neighbours=True),
    ModelClass("Qwen2ForCausalLM", "qwen2"),
    ModelClass("Qwen2MoeForCausalLM", "qwen2moe"),
    ModelClass("Qwen3ForCausalLM", "qwen3"),
    ModelClass("Qwen3MoeForCausalLM", "qwen3moe"),
    ModelClass("Gemma3ForCausalLM", "gemma3"),
    ModelClass("Gemma3ForConditionalGeneration", "gemma3", decoder="model.language_model"),
    ModelClass("Phi3ForCausalLM", "phi3"),
)

#: The functions of a model's own Python module that every attention layer calls.
ROPE_FUNCTION, ATTENTION_FUNCTION = "apply_rotary_pos_emb", "eager_attention_forward"


@dataclass(frozen=True)
class CapturedModel:
    """A model and its parts. ``functions`` is the Python module that its attention layers are defined in."""

    model: Any
    model_class: ModelClass
    decoder: Any
    functions: ModuleType

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
    """Find the parts of ``model``. Raises UnsupportedModelError for a class that is not in the table, and for a version before 5."""
    import transformers  # noqa: PLC0415

    if int(transformers.__version__.partition(".")[0]) < 5:
        raise UnsupportedModelError(
            f"transformers {transformers.__version__} is here, expected 5 or later; install with pip install -U transformers"
        )
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("transformers.")]
    found = next((one for name in names for one in MODEL_CLASSES if one.name == name), None)
    if found is None:
        supported = ", ".join(one.name for one in MODEL_CLASSES)
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot be captured, expected one of {supported}; write other models' tensors with aprgraph.Trace.write"
        )
    decoder = model
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
    return CapturedModel(model, found, decoder, functions)
