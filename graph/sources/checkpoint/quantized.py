"""What config.json says of quantised weights, and how they are decoded; other kinds are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelError, UnsupportedModelError, shown
from aprgraph.graph.sources.checkpoint.awq import read_awq
from aprgraph.graph.sources.checkpoint.bitsandbytes import EightBits, FourBits
from aprgraph.graph.sources.checkpoint.compressed_tensors import IntQuantized, PackQuantized, read_compressed_tensors
from aprgraph.graph.sources.checkpoint.fp4 import COMPRESSED, MODELOPT, read_modelopt
from aprgraph.graph.sources.checkpoint.gptq import read_gptq
from aprgraph.graph.sources.checkpoint.mlx import FIELD as MLX_FIELD
from aprgraph.graph.sources.checkpoint.mlx import read_mlx
from aprgraph.graph.sources.checkpoint.places import read_json
from aprgraph.graph.sources.checkpoint.quantized_modules import ModuleFormat, with_decoded_modules
from aprgraph.graph.sources.checkpoint.safetensors import StoredTensor
from aprgraph.graph.sources.checkpoint.ternary import read_bitnet
from aprgraph.graph.words import counted

_BLOCK = (128, 128)
_ORIGINAL = "give the checkpoint that it was quantised from"
#: Files beside config.json in which old checkpoints say it, and the kind that they are of.
_BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
#: What a kind that is not decoded here is told.
_KNOWN = "FP8, MXFP4, NVFP4, GPTQ, AWQ, compressed-tensors, bitsandbytes, BitNet and MLX's"


@dataclass(frozen=True)
class Quantization:
    """``block``: rows and columns that share a scale of FP8. ``modules``: how linear layers are stored as several
    tensors, if they are, by the ``kind`` of quantisation. ``notices`` are sentences.
    """

    block: tuple[int, int] = _BLOCK
    notices: tuple[str, ...] = ()
    modules: tuple[ModuleFormat, ...] = ()
    kind: str = ""
    #: Whether weights are said to be quantised, and not a cache alone.
    of_weights: bool = True

    def decode(self, stored: dict[str, StoredTensor]) -> tuple[dict[str, StoredTensor], tuple[str, ...]]:
        """The tensors with one weight for each layer that is stored as several, and a notice if there are such."""
        for modules in self.modules:
            stored = with_decoded_modules(stored, modules)
        decoded = [tensor for tensor in stored.values() if tensor.is_decoded]
        if self.kind and self.of_weights and not decoded and not any(tensor.dtype.startswith("F8") for tensor in stored.values()):
            none = f"config.json says that weights are quantised by {self.kind}, and none in the files is: they are taken as they are"
            return stored, (f"{none}; some programs quantise such weights as they load them",)  # what else is said is of those
        nbytes = sum(tensor.nbytes for tensor in decoded)
        verb = "is" if len(decoded) == 1 else "are"
        what = f"{counted(len(decoded), 'weight')} of {self.kind} {verb} decoded to float32 in memory ({nbytes:,} bytes)"
        return stored, (*self.notices, *([f"{what}, without rounding: no kernel does that"] if decoded else []))


def read_quantization(config: Mapping[str, Any], where: Path) -> Quantization:
    """How the weights are quantised. Raises UnsupportedModelError for a kind that is not decoded here."""
    by_mlx, other = config.get(MLX_FIELD), config.get("quantization_config")
    if isinstance(by_mlx, dict) and by_mlx and not (isinstance(other, dict) and "quant_method" in other):
        return Quantization(modules=(read_mlx(by_mlx, where),), kind="MLX")
    given = config.get("quantization_config") or config.get("compression_config") or _read_beside(where.parent)
    if not given:
        return Quantization()
    if not isinstance(given, dict):
        raise ModelError(f"{where}: quantization_config is {shown(given)}, expected an object; download the file again")
    kind = given.get("quant_method", "bitsandbytes" if given.get("load_in_4bit") or given.get("load_in_8bit") else None)
    if kind == "mxfp4":
        return Quantization()
    if kind == "gptq":
        return Quantization(modules=(read_gptq(given, where),), kind="GPTQ")
    if kind == "awq":
        return Quantization(modules=(read_awq(given, where),), kind="AWQ")
    if kind == "compressed-tensors":
        fp8_block, notices, asymmetric = read_compressed_tensors(given, where)
        formats = (COMPRESSED, PackQuantized(asymmetric), IntQuantized(asymmetric))
        return Quantization(fp8_block or _BLOCK, notices, formats, kind, of_weights=bool(given.get("config_groups")))
    if kind == "modelopt":
        return Quantization(notices=read_modelopt(given, where), modules=(MODELOPT,), kind="NVFP4")
    if kind == "bitsandbytes":
        return Quantization(modules=(FourBits(), EightBits()), kind=kind)
    if kind == "bitnet":
        modules, notices = read_bitnet(given, where)
        return Quantization(notices=notices, modules=(modules,), kind="BitNet")
    if kind != "fp8":
        raise UnsupportedModelError(
            f"{where}: the weights are quantised by {shown(kind)}, which aprgraph does not decode (it does {_KNOWN}); {_ORIGINAL}"
        )
    block = given.get("weight_block_size") or _BLOCK
    if not isinstance(block, (list, tuple)) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise ModelError(f"{where}: quantization_config.weight_block_size is {shown(block)}, expected two sizes; correct it")
    scheme = given.get("activation_scheme")
    notice = (
        f"the weights are FP8 and are decoded to F32; activations are not rounded to 8 bits, as {where.name} asks for "
        f"(activation_scheme {shown(scheme)})"
    )
    return Quantization((block[0], block[1]), (notice,) if scheme else (), kind="FP8")


def _read_beside(folder: Path) -> dict[str, Any] | None:
    """What a file beside config.json says, as AutoGPTQ and AutoAWQ wrote it before config.json had it."""
    for name, kind in _BESIDE.items():
        if (folder / name).is_file():
            found = read_json(folder / name)
            inner = found.get("quantization")  # where ModelOpt has it
            return {"quant_method": kind, **(inner if isinstance(inner, dict) else found)}
    return None
