"""Copies of GGUF files, read and written by the gguf package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np

#: A tensor: its name, its bytes or numbers as the gguf package has them, its type.
Copied = tuple[str, np.ndarray[Any, Any], gguf.GGMLQuantizationType]


def copy_in_parts(
    source: Path,
    target: Path,
    tensors: int = 0,
    *,
    empty_first: bool = False,
    change: Callable[[Sequence[Copied]], Sequence[Copied]] = lambda tensors: tensors,
) -> list[Path]:
    """Write ``source`` again as ``target``, at most ``tensors`` tensors a part (0: in one file); the files.

    ``empty_first``: the first part has metadata alone. ``change`` gives the tensors that are written.
    """
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture, split_max_tensors=tensors, small_first_shard=empty_first)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for name, data, kind in change([(tensor.name, tensor.data, tensor.tensor_type) for tensor in reader.tensors]):
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob(f"{target.stem}*{target.suffix}"))


def write_gguf_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Path:
    """A GGUF file of arrays that are no weights; bfloat16 as the package has it, of the numbers themselves."""
    writer = gguf.GGUFWriter(path, "a-run")
    for name, array in arrays.items():
        kind = gguf.GGMLQuantizationType.BF16 if array.dtype == ml_dtypes.bfloat16 else None
        writer.add_tensor(
            name, np.ascontiguousarray(array if kind is None else gguf.quantize(array.astype(np.float32), kind)), raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
