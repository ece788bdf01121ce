"""Writes fp4_layers.npz: what compressed-tensors packs of a random layer in NVFP4 and in MXFP4, and unpacks again.

    python -m tests.golden.make_fp4_layers

in the repository's root. Needs torch and compressed-tensors. Of each layer: the tensors that a checkpoint has of it, float8 as its bytes,
and `decoded`, f32 [outputs, inputs].
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from compressed_tensors.compressors.mxfp4.base import MXFP4PackedCompressor
from compressed_tensors.compressors.nvfp4.base import NVFP4PackedCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

INPUTS, OUTPUTS = 64, 32


def main() -> None:
    """Pack the layers and write the file."""
    found = {}
    for name, packer, group in (("nvfp4", NVFP4PackedCompressor, 16), ("mxfp4", MXFP4PackedCompressor, 32)):
        generator = torch.Generator().manual_seed(group)
        kind = torch.float8_e4m3fn if name == "nvfp4" else torch.uint8
        weights = QuantizationArgs(num_bits=4, type="float", strategy="tensor_group" if name == "nvfp4" else "group", group_size=group,
                                   symmetric=True, scale_dtype=kind)  # fmt: skip
        scheme = QuantizationScheme(targets=["Linear"], weights=weights)
        state = {"weight": torch.randn(OUTPUTS, INPUTS, generator=generator)}
        largest = state["weight"].reshape(OUTPUTS, -1, group).abs().amax(-1) / 6
        if name == "nvfp4":
            state["weight_global_scale"] = torch.tensor([512.0])
            state["weight_scale"] = (largest * 512).to(kind).float()
        else:
            state["weight_scale"] = 2.0 ** largest.log2().ceil()
        packed = packer.compress(state, scheme)
        whole = {**packed, "decoded": packer.decompress(packed, scheme)["weight"].float()}
        for part, values in whole.items():
            found[f"{name}.{part}"] = (values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values).numpy()
    np.savez_compressed(Path(__file__).parent / "fp4_layers.npz", **found)


if __name__ == "__main__":
    main()
