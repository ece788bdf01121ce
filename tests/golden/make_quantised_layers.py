"""Writes quantised_layers.npz: what the projects that quantise layers decode of random ones.

    python -m tests.golden.make_quantised_layers AUTOGPTQ AUTOAWQ

in the repository's root, with the folders of both projects' sources (github.com/AutoGPTQ/AutoGPTQ at 9f7d370,
github.com/casper-hansen/AutoAWQ at 88e4c76). Needs torch, transformers, compressed-tensors and bitsandbytes. Of each
layer: the tensors that a checkpoint has of it, and `decoded`, f32 [outputs, inputs]: what AutoGPTQ's own layer makes of
a unit matrix, what AutoAWQ's `dequantize_gemm` gives, both with scales in float32, in which no product is rounded, and
what the other two packages decompress of what they compressed.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parent
INPUTS, OUTPUTS, GROUP = 64, 32, 32


def main(auto_gptq: Path, auto_awq: Path) -> None:
    """Decode the layers and write the file."""
    for package in ("auto_gptq", "auto_gptq.nn_modules"):  # without what they import for other purposes
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(auto_gptq / package.replace(".", "/"))]
    layer = importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda").QuantLinear
    dequantize = runpy.run_path(str(auto_awq / "awq/utils/packing_utils.py"))["dequantize_gemm"]
    generator, found = np.random.default_rng(7), {}

    def words(*shape: int) -> Any:
        return generator.integers(-(2**31), 2**31, shape, dtype=np.int64).astype(np.int32)

    def zeros(bits: int) -> Any:
        """Packed zero points less 1. All ones are not among them: AutoGPTQ's layers differ in whether 0 or 2^bits is meant."""
        rows = generator.integers(0, 2**bits - 1, (INPUTS // GROUP, OUTPUTS))
        whole = [sum(int(value) << bits * place for place, value in enumerate(row)) for row in rows]
        return np.array([np.frombuffer(one.to_bytes(OUTPUTS * bits // 8, "little"), np.int32) for one in whole])

    def scales() -> Any:
        return generator.standard_normal((INPUTS // GROUP, OUTPUTS)).astype(np.float16)

    for bits in (2, 3, 4, 8):
        parts = {
            "qweight": words(INPUTS * bits // 32, OUTPUTS), "qzeros": zeros(bits), "scales": scales(),
            "g_idx": generator.permutation(np.arange(INPUTS, dtype=np.int32) // GROUP),
        }  # fmt: skip
        one = layer(bits, GROUP, INPUTS, OUTPUTS, bias=False, weight_dtype=torch.float32)
        for name, values in parts.items():
            setattr(one, name, torch.from_numpy(values).float() if name == "scales" else torch.from_numpy(values))
        parts["decoded"] = one(torch.eye(INPUTS)).T.contiguous().numpy()
        found |= {f"gptq{bits}.{name}": values for name, values in parts.items()}
    parts = {"qweight": words(INPUTS, OUTPUTS // 8), "qzeros": words(INPUTS // GROUP, OUTPUTS // 8), "scales": scales()}
    given = [torch.from_numpy(parts[name]) for name in ("qweight", "qzeros")]
    parts["decoded"] = dequantize(*given, torch.from_numpy(parts["scales"]).float(), 4, GROUP).T.contiguous().numpy()
    found |= {f"awq4.{name}": values for name, values in parts.items()}
    found |= of_compressed_tensors() | of_bitsandbytes()
    np.savez_compressed(HERE / "quantised_layers.npz", **found)


def of_compressed_tensors() -> dict[str, Any]:
    """Layers of compressed-tensors."""
    from compressed_tensors.compressors import IntQuantizationCompressor, PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(5)
    settings: tuple[tuple[str, Any, int, int | None, bool], ...] = (
        ("pack2", PackedQuantizationCompressor, 2, None, True), ("pack4", PackedQuantizationCompressor, 4, GROUP, False),
        ("pack8", PackedQuantizationCompressor, 8, GROUP, True), ("int8", IntQuantizationCompressor, 8, None, False),
    )  # fmt: skip
    for name, packer, bits, group, symmetric in settings:
        strategy = "channel" if group is None else "group"
        weights = QuantizationArgs(num_bits=bits, strategy=strategy, group_size=group, symmetric=symmetric)
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        shape = (OUTPUTS, 1 if group is None else INPUTS // group)
        state = {"weight": torch.randn(OUTPUTS, INPUTS, generator=generator)}
        state["weight_scale"] = torch.rand(shape, generator=generator) / 2**bits + 0.01
        if not symmetric:
            state["weight_zero_point"] = torch.randint(-4, 4, shape, dtype=torch.int8, generator=generator)
        packed = packer.compress(state, scheme)
        whole = {**packed, "decoded": packer.decompress(packed, scheme)["weight"]}
        found |= {f"{name}.{part}": values.numpy() for part, values in whole.items()}
    return found


def of_bitsandbytes() -> dict[str, Any]:
    """Layers of bitsandbytes in 4 and 8 bits."""
    from bitsandbytes import functional

    found: dict[str, Any] = {}
    weight = torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(6))
    for kind, is_nested in (("nf4", True), ("fp4", False)):
        packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type=kind, compress_statistics=is_nested)
        parts = {"weight": packed, **{f"weight.{part}": values for part, values in state.as_dict(packed=True).items()}}
        parts["decoded"] = functional.dequantize_4bit(packed, state)
        found |= {f"{kind}.{part}": values.numpy() for part, values in parts.items()}
    rows, largest, _ = functional.int8_vectorwise_quant(weight.half())
    parts = {"weight": rows, "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    parts["decoded"] = functional.int8_vectorwise_dequant(rows, largest)
    return found | {f"llm_int8.{part}": values.numpy() for part, values in parts.items()}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
