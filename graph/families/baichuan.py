"""The `baichuan` architecture: the models with RoPE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families.conversion import Conversion
from aprgraph.graph.families.decoder import Decoder

#: By which alone files of the 13B models are known from those of the 7B ones.
_LAYERS_WITH_ALIBI = 40
#: What tells Baichuan 2, whose code gives the rows of the head length 1.
_OF_BAICHUAN_2, _VOCABULARY_OF_BAICHUAN_2 = "z_loss_weight", 125696
_SHORTEST = 1e-12


def _with_length_1(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Each row divided by its length, as torch.nn.functional.normalize does."""
    values = rows.astype(np.float32)
    lengths = np.sqrt(np.square(values.astype(np.float64)).sum(-1, keepdims=True)).astype(np.float32)
    return np.asarray(values / np.maximum(lengths, np.float32(_SHORTEST)), np.float32)


class Baichuan(Decoder):
    """Baichuan 7B and Baichuan 2 7B (arXiv:2309.10305): a Llama whose checkpoints have q, k and v as one tensor.

    Checkpoints are of the code that came with them: transformers has no class of it. Baichuan 2 gives the rows of the head
    length 1. The 13B models have ALiBi in place of RoPE, and are refused.
    """

    architecture = "baichuan"
    hf_classes = "BaichuanForCausalLM BaiChuanForCausalLM"
    checked_against = "transformers 5.24, llama.cpp 0.5.0"
    pairing = "interleaved"
    hf_names = dict.fromkeys(("qkv_matmul", "q", "k", "v"), "self_attn.W_pack")
    absent_keys = ("rope.freq_base",)

    @classmethod
    def made_fields(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """With the context under the usual name."""
        made = {name: value for name, value in fields.items() if name not in ("model_max_length", _OF_BAICHUAN_2)}
        if "model_max_length" in fields:
            made.setdefault("max_position_embeddings", fields["model_max_length"])
        return made

    @classmethod
    def conversions(cls, slot: str, config: Mapping[str, Any], what: Literal["weight", "bias"] = "weight") -> Mapping[str, Conversion]:
        """GGUF has q, k and v apart; a head has rows of length 1 where the code makes them so."""
        hidden = config.get("hidden_size")
        if slot == "lm_head" and (_OF_BAICHUAN_2 in config or config.get("vocab_size") == _VOCABULARY_OF_BAICHUAN_2):
            return {slot: Conversion(values=_with_length_1)}
        if slot != "qkv_matmul" or not isinstance(hidden, int) or hidden <= 0:
            return super().conversions(slot, config, what)
        return {part: Conversion(rows) for part, rows in zip("qkv", np.arange(3 * hidden).reshape(3, hidden), strict=True)}

    def check(self) -> None:
        """Raise UnsupportedModelError for a model with ALiBi."""
        super().check()
        if self.layers == _LAYERS_WITH_ALIBI:
            raise UnsupportedModelError(
                f"{self.metadata.path}: {self.named('block_count')} is {self.layers}, as of Baichuan 13B, which has ALiBi in place of "
                "RoPE; supported are the 7B models, of 32 layers"
            )
