"""GGUF files of tensors that a run left, and that are no weights: ``gguf.GGUFWriter.add_tensor``, or ggml's ``gguf_add_tensor``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import ModelFileError, TraceError
from aprgraph.graph.sources.file_kind import ARRAYS_IN_GGUF
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.graph.sources.gguf_kind import kind_in_gguf
from aprgraph.graph.sources.source import TensorFault

GGUF = ".gguf"


def is_gguf_of_arrays(path: Path) -> bool:
    """Whether a file is GGUF, and none of its tensors, of which there are some, is called as a weight is."""
    if path.suffix.lower() != GGUF:
        return False
    kind = kind_in_gguf(path)
    return kind is not None and kind.name == ARRAYS_IN_GGUF


def read_gguf_arrays(path: Path) -> Mapping[str, Callable[[], Any]]:
    """The arrays of such a file by name, each of which is read when it is called. Raises TraceError."""
    import gguf  # noqa: PLC0415 -- slow import

    faults: list[TensorFault] = []
    GGUFFile(path, faults)
    damage = next((fault.error for fault in faults if isinstance(fault.error, ModelFileError)), None)
    if damage is not None:  # and not of a type that no weight has
        raise TraceError(str(damage))
    try:
        tensors = gguf.GGUFReader(path).tensors
    except Exception as error:  # noqa: BLE001 -- of a damaged file the reader raises anything
        raise TraceError(f"{path}: is damaged, or not whole ({type(error).__name__}); save it again") from None
    return {tensor.name: partial(_numbers, tensor) for tensor in tensors}


def _numbers(tensor: Any) -> np.ndarray[Any, Any]:
    import gguf  # noqa: PLC0415 -- slow import

    # Numbers that NumPy has come in their own shape, blocks and bfloat16 as bytes.
    return np.asarray(tensor.data if tensor.data.dtype != np.uint8 else gguf.dequantize(tensor.data, tensor.tensor_type))
