"""What config.json says of quantised weights: those that are decoded, and those that are named and refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.awq import read_awq
from aprgraph.graph.sources.checkpoint.gptq import read_gptq
from aprgraph.graph.sources.checkpoint.quantized_modules import ModuleFormat

_BLOCK = (128, 128)
_ORIGINAL = "give the checkpoint that it was quantised from"
_CONVERT = "convert it to GGUF with llama.cpp's convert_hf_to_gguf.py, which decodes it, or " + _ORIGINAL
_DECODED = "weights of {} are decoded to float32 in memory, exactly: no kernel decodes them"
#: Kinds that are not decoded here, and what to do.
_REFUSED = {
    "compressed-tensors": ("compressed-tensors", _CONVERT),
    "bitsandbytes": ("bitsandbytes", _ORIGINAL),
}


@dataclass(frozen=True)
class Quantization:
    """``block``: rows and columns that share a scale of FP8. ``modules``: how linear layers are stored as several
    tensors, if they are. ``notices`` are sentences.
    """

    block: tuple[int, int] = _BLOCK
    notices: tuple[str, ...] = ()
    modules: ModuleFormat | None = None


def read_quantization(config: Mapping[str, Any], where: Path) -> Quantization:
    """How the weights are quantised. Raises UnsupportedModelError for a kind that is not decoded here."""
    given = config.get("quantization_config") or config.get("compression_config")
    if not given:
        return Quantization()
    if not isinstance(given, dict):
        raise ModelError(f"{where}: quantization_config is {shown(given)}, expected an object; download the file again")
    kind = given.get("quant_method", "bitsandbytes" if given.get("load_in_4bit") or given.get("load_in_8bit") else None)
    if kind == "mxfp4":
        return Quantization()
    if kind == "gptq":
        return Quantization(modules=read_gptq(given, where), notices=(_DECODED.format("GPTQ"),))
    if kind == "awq":
        return Quantization(modules=read_awq(given, where), notices=(_DECODED.format("AWQ"),))
    if kind != "fp8":
        name, advice = _REFUSED.get(kind, (shown(kind), _ORIGINAL)) if isinstance(kind, str) else (shown(kind), _ORIGINAL)
        raise UnsupportedModelError(
            f"{where}: the weights are quantised by {name}, which aprgraph does not decode (it does FP8, MXFP4, GPTQ and AWQ); {advice}"
        )
    block = given.get("weight_block_size") or _BLOCK
    if not isinstance(block, (list, tuple)) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise ModelError(f"{where}: quantization_config.weight_block_size is {shown(block)}, expected two sizes; correct it")
    scheme = given.get("activation_scheme")
    notice = (
        f"the weights are FP8 and are decoded to F32; activations are not rounded to 8 bits, as {where.name} asks for "
        f"(activation_scheme {shown(scheme)})"
    )
    return Quantization((block[0], block[1]), (notice,) if scheme else ())
