"""Writes mlx_layers.npz: what MLX itself decodes of random layers in each of its modes.

    python -m tests.golden.make_mlx_layers

in the repository's root. Needs `mlx[cpu]`. Of each layer: the tensors that a checkpoint has of it, `weight`, `scales` and, of the mode
`affine`, `biases`, and `decoded`, f32 [outputs, inputs]: what `mlx.core.dequantize` gives with scales and biases in float32. `experts` are
three layers in one tensor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

INPUTS, OUTPUTS = 64, 32
#: The mode, the bits and the inputs of a group.
LAYERS = {
    **{f"affine{bits}": ("affine", bits, 32) for bits in (2, 3, 4, 5, 6, 8)},
    "experts": ("affine", 4, 64), "mxfp4": ("mxfp4", 4, 32), "mxfp8": ("mxfp8", 8, 32), "nvfp4": ("nvfp4", 4, 16),
}  # fmt: skip


def main() -> None:
    """Decode the layers and write the file."""
    generator, found = np.random.default_rng(11), {}
    for name, (mode, bits, size) in LAYERS.items():
        leading = (3, OUTPUTS) if name == "experts" else (OUTPUTS,)
        parts: dict[str, Any] = {}
        if mode == "affine":
            parts["weight"] = generator.integers(0, 2**32, (*leading, INPUTS * bits // 32), dtype=np.uint32)
            for part in ("scales", "biases"):
                parts[part] = generator.standard_normal((*leading, INPUTS // size)).astype(np.float16)
        else:
            weight = mx.array(generator.standard_normal((*leading, INPUTS)).astype(np.float32))
            parts["weight"], parts["scales"] = (np.array(part) for part in mx.quantize(weight, size, bits, mode))
        given = [mx.array(values.astype(np.float32) if values.dtype == np.float16 else values) for values in parts.values()]
        decoded = mx.dequantize(*given, group_size=size, bits=bits, mode=mode)
        parts["decoded"] = np.array(decoded.astype(mx.float32))
        found |= {f"{name}.{part}": values for part, values in parts.items()}
    np.savez_compressed(Path(__file__).parent / "mlx_layers.npz", **found)


if __name__ == "__main__":
    main()
