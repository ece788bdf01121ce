"""What a model of transformers computes in, and whether its weights are quantised: as it runs, not as its configuration says.

The coarsest of what is seen counts, for that is what the numbers carry: the parameters of what is captured, torch.autocast while a pass
runs, the types of what is recorded, reduced float32 products (TF32), and layers whose kind is known to round activations to 8 bits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from aprgraph.runtime.trace.manifest import ARITHMETICS

FLOAT64, FLOAT32, FLOAT16, BFLOAT16, Q8_ACTIVATIONS = ARITHMETICS
_OF_DTYPE = {torch.float64: FLOAT64, torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
#: Of torch.get_float32_matmul_precision(): float32 in float32's own products, in TF32 (10 bits of mantissa, as float16), or in bfloat16.
_OF_PRECISION = {"highest": FLOAT32, "high": FLOAT16, "medium": BFLOAT16}

#: Names of layers, with their Python module, of quantisers: bitsandbytes, GPTQ, AWQ, HQQ, EETQ, AQLM, quanto, VPTQ, FP8, BitNet, torch.ao …
_QUANTISED = re.compile(
    r"bnb|bitsandbytes|Linear4bit|Linear8bitLt|QuantLinear|QuantizedLinear|WQLinear|HQQLinear|EetqLinear|EETQ|\bQLinear|optimum\.quanto|"
    r"AqlmLinear|VQuantLinear|HiggsLinear|FP8Linear|Fp8Linear|BitLinear|torch\.ao\.nn\.quantized|Mxfp4|FPQuant|auto_round"
)
#: Those of them that round activations to 8 bits as well.
_EIGHT_BITS = re.compile(r"Linear8bitLt|FP8Linear|Fp8Linear|BitLinear|torch\.ao\.nn\.quantized|MarlinQQQ|\bQQQ")


@dataclass(frozen=True)
class Found:
    """The arithmetic (None where it has no name), whether weights are quantised, and how that was found, in sentences."""

    arithmetic: str | None
    quantised: bool
    notes: tuple[str, ...]


class ArithmeticWatch:
    """Gathers what shows the arithmetic while a model runs. ``modules`` are what is captured: its layers and head."""

    def __init__(self, modules: Iterable[Any]) -> None:
        self._modules = tuple(modules)
        self._autocast: set[torch.dtype] = set()
        self._recorded: Counter[torch.dtype] = Counter()

    def at_pass(self, device: torch.device) -> None:
        """Look at the state of torch as a pass begins."""
        if torch.is_autocast_enabled(device.type):
            self._autocast.add(torch.get_autocast_dtype(device.type))

    def see(self, values: torch.Tensor) -> None:
        """Take the type of a recorded tensor into account."""
        if values.is_floating_point():
            self._recorded[values.dtype] += 1

    def finish(self) -> Found:
        """What all of it comes to."""
        own = {parameter.dtype for module in self._modules for parameter in module.parameters() if parameter.is_floating_point()}
        seen = {_name(dtype): f"the parameters are {_words(own)}" for dtype in own}
        if not self._autocast and FLOAT32 in seen and (precision := torch.get_float32_matmul_precision()) != "highest":
            seen[_OF_PRECISION[precision]] = f"float32 products are of {precision} precision (torch.set_float32_matmul_precision)"
        for dtype in self._recorded:
            total = sum(self._recorded.values())
            seen.setdefault(_name(dtype), f"{self._recorded[dtype]} of {total} tensors were recorded in {_plain(dtype)}")
        for dtype in self._autocast:
            seen[_name(dtype)] = f"torch.autocast was on, with {_plain(dtype)}"
        quantised = Counter(kind for module in self._modules for kind in _quantised_kinds(module))
        for kind, is_eight_bits in quantised:
            if is_eight_bits:
                seen[Q8_ACTIVATIONS] = f"{kind} rounds activations to 8 bits"
        known = [name for name in seen if name is not None]
        coarsest = max(known, key=ARITHMETICS.index, default=None)
        notes = []
        if coarsest is not None and own != {dtype for dtype, name in _OF_DTYPE.items() if name == coarsest}:
            others = f"; {seen_words}" if (seen_words := _others(seen, coarsest)) else ""
            notes.append(f"the arithmetic is taken for {coarsest}: {seen[coarsest]}{others}")
        if quantised:
            kinds = ", ".join(sorted({kind for kind, _ in quantised}))
            notes.append(
                f"the weights of {sum(quantised.values())} layers are quantised by transformers ({kinds}), so they are no GGUF file's"
            )
        return Found(coarsest, bool(quantised), tuple(notes))


def _name(dtype: torch.dtype) -> str | None:
    """The arithmetic of a type; numbers of 8 bits come nearest to activations in 8 bits."""
    return _OF_DTYPE.get(dtype, Q8_ACTIVATIONS if dtype.is_floating_point and dtype.itemsize == 1 else None)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _words(dtypes: Iterable[torch.dtype]) -> str:
    return " and ".join(sorted(map(_plain, dtypes)))


def _others(seen: dict[str | None, str], coarsest: str) -> str:
    """What else was seen, in words."""
    return ", ".join(dict.fromkeys(why for name, why in seen.items() if name != coarsest and why != seen[coarsest]))


def _quantised_kinds(module: Any) -> Iterator[tuple[str, bool]]:
    """(what, whether activations are rounded to 8 bits too) of each quantised layer within ``module``."""
    found = _quantised_kind(module)
    if found is not None:
        yield found
        return
    for part in module.children():
        yield from _quantised_kinds(part)


def _quantised_kind(layer: Any) -> tuple[str, bool] | None:
    kind = type(layer)
    name, full = kind.__name__, f"{kind.__module__}.{kind.__qualname__}"
    scheme = getattr(layer, "quantization_scheme", None)
    if getattr(scheme, "weights", None) is not None:
        return f"{name} of compressed-tensors", getattr(scheme, "input_activations", None) is not None
    if _QUANTISED.search(full):
        return f"{name} of {'.'.join(kind.__module__.split('.')[:2])}", _EIGHT_BITS.search(full) is not None
    weight = layer._parameters.get("weight")  # noqa: SLF001 -- as an attribute, a property may compute it
    if not isinstance(weight, torch.Tensor):
        return None
    data = weight.data
    if type(data).__module__.partition(".")[0] != "torchao" and data.dtype.itemsize > 1:
        return None
    return f"{name} with weights of {type(data).__name__} {_plain(data.dtype)}", _rounds_activations(data)


def _rounds_activations(weight: Any) -> bool:
    """Whether a quantised weight is multiplied by activations that are quantised as they come: those of torchao say so."""
    dynamic = any(getattr(weight, name, None) is not None for name in ("act_quant_kwargs", "input_quant_func"))
    return dynamic or "Activation" in type(weight).__name__ or (weight.dtype.is_floating_point and weight.dtype.itemsize == 1)
