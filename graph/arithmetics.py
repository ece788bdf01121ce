"""The arithmetics of engines: what each rounds, and where, as data that the pass apply-arithmetic goes by.

Those of ggml are llama.cpp's at 0c1e57098, read in ggml/src; docs/arithmetic.md says what was measured against it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.ops.gelu_half import GELU_HALF
from aprgraph.graph.ops.rope_chained import ROPE_ANGLES_CHAINED

#: The arithmetic of a run that names none.
PLAIN = "plain"
#: What the KV cache holds.
CACHES = ("f16", "f32")


@dataclass(frozen=True)
class EngineArithmetic:
    """How one engine computes.

    ``activations`` names the rounding (graph/roundings.py) of what is multiplied by weights of a block format; "" is
    none, and of a format that is not there nothing is known. ``instead`` names the op that the engine computes in place
    of another. ``cache`` is the type of the KV cache, and ``flash`` says whether attention is flash attention: both are
    options of its user. ``rounds_queries``: with a float16 cache, what meets keys and values is rounded to float16 too. In models of
    the families ``scales_queries`` the scale of the scores multiplies the queries, before they are rounded.
    With flash attention ``ubatch`` is how many positions a pass has at most, and ``threads`` how many threads share the keys
    of one position: options of the user too, and None where he says nothing of them.
    ``lanes`` is how many elements its vectors have in flash attention, 0 where it has none, None where that is not
    known. ``was_run``: measured against the engine; otherwise only read in its source.
    """

    name: str
    summary: str
    activations: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    cache: str = "f32"
    flash: bool = False
    threads: int | None = None
    ubatch: int | None = None
    rounds_queries: bool = True
    scales_queries: tuple[str, ...] = ()
    lanes: int | None = None
    was_run: bool = True

    @property
    def is_exact(self) -> bool:
        """Whether nothing is rounded but to float32."""
        return not self.activations

    @property
    def label(self) -> str:
        """A name for files: that of the arithmetic, with the user's options where they are not the engine's own."""
        return self.name if self == ARITHMETICS[self.name] else re.sub("[,=]", "-", self.text)

    @property
    def text(self) -> str:
        """The name with the user's options: what ``parse_arithmetic`` takes."""
        if self.is_exact:
            return self.name
        counts = "".join(f",{key}={getattr(self, key)}" for key in _COUNTS if getattr(self, key) is not None)
        return f"{self.name},cache={self.cache},flash={'on' if self.flash else 'off'}{counts}"


#: What ggml multiplies by is rounded to this, by the format of the weights: `vec_dot_type` of ggml-cpu/ggml-cpu.c.
_VEC_DOT_TYPES = {
    "": ("F32",),
    "f16": ("F16",),
    "bf16": ("BF16",),
    "q8_0": ("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "MXFP4", "NVFP4", "Q1_0", "Q2_0"),
    "q8_1": ("Q4_1", "Q5_1"),
    "q8_k": (
        "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS",
        "TQ1_0", "TQ2_0",
    ),
}  # fmt: skip

#: Ops of which ggml's CPU backend computes another: GELU by a table of float16, RoPE's angles by products in float32.
_CPU_OPS = {op.traits.variant_of: op.name for op in (GELU_HALF, ROPE_ANGLES_CHAINED) if op.traits.variant_of is not None}


#: Families in which llama.cpp multiplies the queries by the scale of the scores: `ggml_scale` of Qcur in src/models.
_SCALED_QUERIES = ("gemma", "gemma2", "gemma3", "gemma-embedding", "phi2", "phi3")

#: ggml's CUDA backend in passes of up to 8 positions: mmvq.cu and vecdotq.cuh of ggml-cuda. Not there: Q4_1, Q5_1 and
#: IQ1_S, of which products of scales are rounded to float16, and F16 and BF16, which depend on the GPU.
_CUDA = {
    "F32": "",
    **dict.fromkeys(("Q4_0", "Q5_0"), "q8_cuda_sums"),
    **dict.fromkeys(
        ("Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"), "q8_cuda"
    ),
}  # fmt: skip


def _fused(activations: Mapping[str, str]) -> dict[str, str]:
    """``activations`` where the compiler fuses a product and a sum in the code for every CPU (-march=native)."""
    return {fmt: "q8_k_fused" if scheme == "q8_k" else scheme for fmt, scheme in activations.items()}


def _without(activations: Mapping[str, str], *formats: str) -> dict[str, str]:
    return {fmt: scheme for fmt, scheme in activations.items() if fmt not in formats}


def _ggml(variant: str) -> dict[str, str]:
    """The roundings by block format, with those of Q8_0 and Q8_1 as ``variant`` has them."""
    own = {"q8_0", "q8_1"}
    return {fmt: f"{scheme}_{variant}" if scheme in own else scheme for scheme, formats in _VEC_DOT_TYPES.items() for fmt in formats}


ARITHMETICS: dict[str, EngineArithmetic] = {
    arithmetic.name: arithmetic if arithmetic.is_exact else replace(arithmetic, scales_queries=_SCALED_QUERIES)
    for arithmetic in (
        EngineArithmetic(PLAIN, "float32 throughout, nothing rounded to less"),
        EngineArithmetic(
            "ggml-avx2", "llama.cpp on x86-64 with AVX2 and FMA", _ggml("avx"), _CPU_OPS, cache="f16", flash=True, lanes=8
        ),
        EngineArithmetic(
            "ggml-avx512", "llama.cpp on x86-64 with AVX-512", _ggml("avx"), _CPU_OPS, cache="f16", flash=True, lanes=16
        ),
        EngineArithmetic(
            "ggml-avx2-native", "llama.cpp on x86-64 with AVX2, compiled for its own machine", _fused(_ggml("avx")), _CPU_OPS, cache="f16",
            flash=True, lanes=8,
        ),
        EngineArithmetic(
            "ggml-avx512-native", "llama.cpp on x86-64 with AVX-512, compiled for its own machine", _fused(_ggml("avx")), _CPU_OPS,
            cache="f16", flash=True, lanes=16,
        ),
        EngineArithmetic(
            "ggml-scalar", "llama.cpp on a CPU without code of its own there", _ggml("scalar"), _CPU_OPS, cache="f16", flash=True, lanes=0
        ),
        EngineArithmetic(
            "ggml-neon", "llama.cpp on ARM with NEON", _without(_ggml("neon"), "F16"), _CPU_OPS, cache="f16", was_run=False
        ),
        EngineArithmetic(
            "ggml-cuda", "llama.cpp on a GPU of NVIDIA, in passes of up to 8 positions", _CUDA, cache="f16", rounds_queries=False,
            was_run=False,
        ),
    )
}  # fmt: skip

#: The options of a user, as in ``ggml-avx2,cache=f32,flash=off``, and the values of each.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cache": {cache: cache for cache in CACHES},
    "flash": {"on": True, "off": False},
}
#: Those that are numbers, of flash attention alone, and the largest that is taken.
_COUNTS: Mapping[str, int] = {"threads": 1 << 10, "ubatch": 1 << 20}
assert {*_OPTIONS, *_COUNTS} <= {each.name for each in fields(EngineArithmetic)}


def parse_arithmetic(text: str) -> EngineArithmetic:
    """The arithmetic that ``text`` names: ``NAME``, or ``NAME,cache=f32,flash=on,threads=4,ubatch=512``. Raises GraphError."""
    name, *options = text.split(",")
    if name not in ARITHMETICS:
        raise GraphError(f"arithmetic {shown(text)}: there is no {shown(name)}; expected one of {', '.join(ARITHMETICS)}")
    found = ARITHMETICS[name]
    for option in options:
        key, value = _parsed(text, option)
        if found.is_exact:
            raise GraphError(f"arithmetic {shown(text)}: {name} rounds nothing, so it has no options; expected {name} alone")
        found = replace(found, **{key: value})
        if found.flash and found.lanes is None:
            raise GraphError(f"arithmetic {shown(text)}: nothing is known of {name}'s flash attention; expected flash=off")
    for key in _COUNTS:
        if getattr(found, key) is not None and not found.flash:
            raise GraphError(f"arithmetic {shown(text)}: {key} changes flash attention alone; expected flash=on, or no {key}")
    return found


def _parsed(text: str, option: str) -> tuple[str, Any]:
    """An option of ``text``, as KEY=VALUE: the field that it sets, and to what."""
    key, _, value = option.partition("=")
    if value in _OPTIONS.get(key, ()):
        return key, _OPTIONS[key][value]
    if key in _COUNTS and re.fullmatch(r"[1-9][0-9]{0,9}", value) and int(value) <= _COUNTS[key]:
        return key, int(value)
    known = [*(f"{key}={'|'.join(values)}" for key, values in _OPTIONS.items()), *(f"{key}=1 to {most}" for key, most in _COUNTS.items())]
    raise GraphError(f"arithmetic {shown(text)}: {shown(option)} is no option of it; expected {', '.join(known)}")
