"""The elements of arrays, whoever made them: as NumPy arrays, and rounded to float32 once."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.words import shape_text
from aprgraph.runtime.trace.aprt import F32

Array = npt.NDArray[Any]

#: What NumPy reads of types of one byte that are not its own.
_ONE_BYTE = np.dtype("V1")
#: What the recorded types say of the arithmetic, the coarsest last. Of float8, activations in 8 bits come nearest.
_COARSE = (("float16", "float16"), ("bfloat16", "bfloat16"), ("float8", "q8-activations"))


def to_numpy(value: Any) -> tuple[Array, str]:
    """``value`` as a NumPy array, and the name of the type that its elements had. Raises TraceError, whose message begins
    with the verb, for what is none.

    Takes NumPy arrays; tensors of torch, of any floating type, on any device, with or without gradients; whatever has
    ``__array__`` or ``__dlpack__`` (jax, TensorFlow); and lists of these or of numbers. It imports none of these libraries.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(value, torch)
    if isinstance(value, list | tuple) and any(hasattr(item, "__array__") or hasattr(item, "__dlpack__") for item in value):
        parts = [to_numpy(item) for item in value]
        shapes = {array.shape for array, _ in parts}
        if len(shapes) > 1 or len({name for _, name in parts}) > 1:
            raise TraceError(f"is a {type(value).__name__} of {len(parts)} tensors of different shapes or types; give one of them")
        return np.stack([array for array, _ in parts]), parts[0][1]
    array = _of_protocols(value)
    if array.dtype.kind == "O":  # whatever it is, NumPy wraps it
        return array, f"a {type(value).__name__}" if array.ndim == 0 else "a mixture of objects"
    return array, str(array.dtype)


def _of_torch(value: Any, torch: Any) -> tuple[Array, str]:
    name = str(value.dtype).removeprefix("torch.")
    if value.layout != torch.strided:
        raise TraceError(f"is a sparse tensor ({value.layout}); give its to_dense()")
    if value.is_quantized:
        raise TraceError(f"is a quantised tensor ({name}); give its dequantize()")
    if value.is_complex():
        raise TraceError(f"is {name}, expected real numbers")
    if value.is_nested:
        raise TraceError("is a nested tensor, whose rows differ in length; give one tensor of one text")
    if value.device.type == "meta":
        raise TraceError("is on the device meta, where tensors have no elements; run the model on another")
    if hasattr(value, "full_tensor"):
        raise TraceError("is distributed over several processes; give its full_tensor()")
    try:
        plain = value.detach().cpu().resolve_neg()
        if plain.is_floating_point() and plain.dtype != torch.float64:
            plain = plain.to(torch.float32)  # every other floating type is exact in it
        return plain.numpy(), name
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TraceError(f"is a tensor of torch of {name} that cannot be read ({_first_line(error)}); give its float()") from None


def _of_protocols(value: Any) -> Array:
    """Whatever NumPy can make an array of; what it would misread is refused."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TraceError("is a masked array, some of whose elements are not there; fill them")
    if hasattr(value, "toarray") or hasattr(value, "todense"):
        raise TraceError(f"is a sparse {type(value).__name__}; give its toarray()")
    try:
        if hasattr(value, "__cuda_array_interface__") and hasattr(value, "get"):
            return np.asarray(value.get())  # cupy, which does not copy from a GPU unasked
        if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError, BufferError, AttributeError) as error:
        what = "a list whose rows differ in length" if "inhomogeneous" in str(error) else f"no array ({_first_line(error)})"
        raise TraceError(f"is {what}; expected one array of numbers") from None


def _first_line(error: Exception) -> str:
    return shown(str(error).partition("\n")[0]) if str(error) else type(error).__name__


def is_float(array: Array) -> bool:
    """Whether the elements are floating-point numbers of at most 8 bytes, those of ml_dtypes (bfloat16, float8) included."""
    if array.dtype.kind == "f":
        return array.dtype.itemsize <= 8
    try:
        ml_dtypes.finfo(array.dtype)
    except (ValueError, TypeError, KeyError):
        return False
    return array.dtype.kind != "c"


def check_values(array: Array, name: str, *, can_be_masked: bool = False, is_index: bool = False) -> None:
    """Raise TraceError, as ``to_numpy`` does, unless the elements are numbers that float32 can hold; ``name`` is their type's.

    Where they are no index (``is_index``), whole numbers of 8 or 16 bits are none of a stage: they stand for something else.
    Where they ``can_be_masked``, the lowest float64 stands for a masked element, and becomes -inf.
    """
    floats = is_float(array)
    if not array.size:
        raise TraceError(f"has the shape {shape_text(array.shape)}, and no elements")
    if array.dtype == _ONE_BYTE:
        raise TraceError(
            "holds elements of one byte and no type, as NumPy writes float8; save it as float32, with numpy.asarray(…, numpy.float32)"
        )
    if not is_index and array.dtype.kind in "iu" and array.dtype.itemsize <= 2:
        raise TraceError(
            f"is {name}, whole numbers of {8 * array.dtype.itemsize} bits, expected real ones: are they the bits of floats? "
            f"give array.view(ml_dtypes.{'bfloat16' if array.dtype.itemsize == 2 else 'float8_e4m3fn'}), or whatever they are of"
        )
    if not floats and array.dtype.kind not in "iu":
        raise TraceError(
            f"is {name}, expected float16, float32, float64, bfloat16, float8 or whole numbers, of NumPy, torch or another library; "
            "convert it with numpy.asarray(…, numpy.float32)"
        )
    if array.dtype.kind in "iu" and not np.array_equal(array.astype(np.float32).astype(np.float64), array.astype(np.float64)):
        raise TraceError("holds whole numbers beyond 2^24, which float32 cannot hold exactly; give floats to round them")
    if floats and array.dtype.itemsize == 8:
        beyond = np.isfinite(array) & ~np.isfinite(to_f32(array))
        if can_be_masked:
            beyond &= array != np.finfo(array.dtype).min
        if beyond.any():
            raise TraceError(f"holds {array[beyond][0]:.3g}, beyond what float32 can hold; scale it")


def to_f32(array: Array) -> F32:
    """Each element rounded to float32, NaN bits kept."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def arithmetic_of(names: Iterable[str]) -> tuple[str, str] | None:
    """The arithmetic that elements of these types show, and a note that says so; None where they show none, as float32 does.

    What was recorded in bfloat16 carries bfloat16's rounding, whatever it was computed in.
    """
    names = list(names)
    for prefix, arithmetic in reversed(_COARSE):
        count = sum(name.startswith(prefix) for name in names)
        if count:
            return arithmetic, (
                f"the arithmetic is taken for {arithmetic}, since {count} of {len(names)} tensors were recorded in {prefix}; "
                "arithmetic= of Trace.write says it otherwise"
            )
    return None
