"""A model written again with its weights, its keys or its block formats changed, as conversions change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from tests.support.tiny_blocks import block_elements, encode

F32 = npt.NDArray[np.float32]
Tensors = dict[str, F32]


def read_tensors(path: Path) -> Tensors:
    """Every tensor of a file in F32, decoded by the gguf package."""
    return _decoded(gguf.GGUFReader(path))


def _decoded(reader: gguf.GGUFReader) -> Tensors:
    return {one.name: np.array(gguf.dequantize(one.data, one.tensor_type), np.float32) for one in reader.tensors}


def changed_model(
    source: Path,
    target: Path,
    change: Callable[[Tensors], None] | None = None,
    *,
    format: str = "F32",  # noqa: A002 -- the word of the field
    keys: Mapping[str, object] | None = None,
) -> Path:
    """Write the model of ``source`` as ``target``; ``change`` edits its decoded tensors, ``keys`` replace metadata (None: left out).

    ``format`` is that of every matrix whose rows it fits; the others, vectors and routers are F32.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = (keys or {}).get(name, field.contents())
        if value is not None:
            writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    tensors = _decoded(reader)
    if change is not None:
        change(tensors)
    for name, values in tensors.items():
        fits = values.ndim > 1 and values.shape[-1] % block_elements(format) == 0 and "gate_inp" not in name
        fmt = format if fits else "F32"
        writer.add_tensor(name, encode(values, fmt), raw_dtype=gguf.GGMLQuantizationType[fmt])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
