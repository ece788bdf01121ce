"""Which tolerances two traces are held to, as their manifests say: in what arithmetic each was computed, and from which weights.

A manifest may hold ``"arithmetic"`` (one of ``ARITHMETICS``; the targets of this project compute in float32; what says nothing is
taken for what its values were kept in, see runtime/readings/precision.py) and ``"weights": "float"``, where a capture ran the float
model that a quantised file was made of.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

from aprgraph.graph.arguments import PROFILE
from aprgraph.graph.block_format import BlockFormat
from aprgraph.graph.block_formats import find_format
from aprgraph.graph.errors import ComparisonError, shown
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import weights_of
from aprgraph.runtime.diff.tolerances import PROFILES
from aprgraph.runtime.readings.precision import RecordedPrecision, recorded_precision
from aprgraph.runtime.trace.manifest import ARITHMETICS, TraceInfo
from aprgraph.runtime.trace.manifest_graph import graph_of_text
from aprgraph.runtime.trace.reader import Trace

#: The keys of a manifest.
ARITHMETIC = "arithmetic"
WEIGHTS = "weights"

# FLOAT16 is TF32 too: it has the same 10 bits of mantissa.
FLOAT64, FLOAT32, FLOAT16, BFLOAT16, Q8_ACTIVATIONS = ARITHMETICS

#: What this project computes on, all of it in float32.
_OWN_TARGETS = ("reference", "llvm", "cuda")

FLOAT_WEIGHTS = "float"
QUANTISED_WEIGHTS = "quantised"

#: The profile that covers each arithmetic, the finest first. Two traces need that of the coarser.
_PROFILE_OF: Mapping[str, str] = {
    FLOAT64: "same-graph-f32",  # what is recorded is float32
    FLOAT32: "same-graph-f32",
    FLOAT16: "same-graph-f16",
    BFLOAT16: "same-graph-bf16",
    Q8_ACTIVATIONS: "cross-engine-q8act",
}

QUANT_VS_FLOAT = "quant-vs-float"
#: The profile of two sides that round alike.
EXACT_PROFILE = _PROFILE_OF[FLOAT32]
_Q8_K = "cross-engine-q8k"
_IN_WORDS: Mapping[str, str] = {
    FLOAT64: "computes in float64",
    FLOAT32: "computes in float32",
    FLOAT16: "computes in float16 or TF32",
    BFLOAT16: "computes in bfloat16",
    Q8_ACTIVATIONS: "rounds activations to 8 bits",
}


def kept_in(trace: Trace) -> RecordedPrecision | None:
    """What the values of a trace were kept in, where its manifest does not say what it was computed in and that is not float32.

    Raises TraceError that names a damaged file.
    """
    return None if states_arithmetic(trace.info) else recorded_precision(trace)


def choose_profile(a: TraceInfo | None, b: TraceInfo | None, kept: tuple[str | None, str | None] = (None, None)) -> tuple[str, str]:
    """The profile for two traces (None: no manifest), and why, in words. The order of the two does not change the profile.

    ``kept`` are the formats that the values of each were kept in, None for float32; they count where a manifest says nothing.

    Raises ComparisonError for a manifest that names an arithmetic or weights that are not known.
    """
    sides = {"A": a, "B": b}
    float_weights = {name: _has_float_weights(info) for name, info in sides.items()}
    steps = {name: ARITHMETICS.index(_arithmetic(info, seen)) for (name, info), seen in zip(sides.items(), kept, strict=True)}
    if float_weights["A"] != float_weights["B"]:
        name, other = ("A", "B") if float_weights["A"] else ("B", "A")
        if not _is_plain(sides[other]):
            return QUANT_VS_FLOAT, f"{name} has the float weights of a model that {other} has quantised"
    for name, other in (("A", "B"), ("B", "A")):
        if _has_quantised_itself(sides[name]) and _is_plain(sides[other]):
            return QUANT_VS_FLOAT, f"{name} has quantised the weights that {other} has in float"
    files = None if any(float_weights.values()) else _other_formats(a, b)
    if files is not None:
        return files
    coarser = max(steps.values())
    if ARITHMETICS[coarser] == Q8_ACTIVATIONS and any(_multiplies_super_blocks(info) for info in sides.values()):
        names = [name for name, step in steps.items() if step == coarser]
        return (
            _Q8_K,
            f"{' and '.join(names)} {'rounds' if len(names) == 1 else 'round'} activations to 8 bits, in blocks of 256 beside K-quants",
        )
    names = [name for name, step in steps.items() if step == coarser]
    arithmetic = ARITHMETICS[coarser]
    if a is None and b is None and kept == (None, None):
        return _PROFILE_OF[arithmetic], "no manifest says how either side was computed, so both are taken to compute in float32"
    if len(names) == 2:
        words = _IN_WORDS[arithmetic].replace("computes", "compute").replace("rounds", "round")
        silent = [name for name, info in sides.items() if info is None]
        return _PROFILE_OF[arithmetic], f"both sides {words}" + (f", as far as is known: {silent[0]} has no manifest" if silent else "")
    return _PROFILE_OF[arithmetic], f"{names[0]} {_IN_WORDS[arithmetic]}"


def _other_formats(a: TraceInfo | None, b: TraceInfo | None) -> tuple[str, str] | None:
    """The profile of two traces whose files hold the weights in other formats, and why; None where they do not, or nobody knows.

    Where nothing is quantised, what the weights of one side have lost is a rounding of the arithmetics' own kind.
    """
    known = [_dtypes(info) for info in (a, b)]
    pairs = Counter(
        (known[0][tensor], known[1][tensor]) for tensor in known[0] if known[0][tensor] != known[1].get(tensor, known[0][tensor])
    )
    if not pairs:
        return None
    (ours, theirs), _ = pairs.most_common(1)[0]
    why = f"weights lie in {ours} in A, in {theirs} in B"
    formats = [found for pair in pairs for name in pair if (found := find_format(name)) is not None]
    if not all(fmt.is_plain for fmt in formats):
        return QUANT_VS_FLOAT, why
    rounded = _PROFILE_OF[BFLOAT16 if any(fmt.name == "BF16" for fmt in formats) else FLOAT16]
    return max([rounded, *arithmetic_profiles((a, b))], key=list(PROFILES).index), why


def _dtypes(info: TraceInfo | None) -> Mapping[str, str]:
    """The format of each tensor of the model file, as the graph in a manifest says."""
    return {} if info is None or not info.graph_text else _dtypes_in(info.graph_text)


@lru_cache(maxsize=8)  # one trace is compared with several
def _dtypes_in(graph_text: str) -> Mapping[str, str]:
    graph = graph_of_text(graph_text)
    return {} if graph is None else {weight.attr_str("tensor"): weight.attr_str("dtype").upper() for weight in weights_of(graph)}


def arithmetic_profiles(infos: Sequence[TraceInfo | None], kept: Sequence[str | None] = (None, None)) -> tuple[str, ...]:
    """The profiles that cover the arithmetic of traces, whatever their weights; ``kept`` is as in ``choose_profile``. Where it is not
    stated, or not known, it may be the coarsest that engines use: bfloat16, and activations in 8 bits.
    """
    found: list[str] = []
    for info, seen in zip(infos, kept, strict=True):
        named = FLOAT32 if info is None else info.extra.get(ARITHMETIC, FLOAT32)
        if info is None or not states_arithmetic(info) or named not in ARITHMETICS:
            found += [_PROFILE_OF[BFLOAT16], _PROFILE_OF[Q8_ACTIVATIONS]] if seen is None else [_PROFILE_OF[seen]]
        else:
            found.append(_Q8_K if named == Q8_ACTIVATIONS and _multiplies_super_blocks(info) else _PROFILE_OF[str(named)])
    return tuple(dict.fromkeys(found))


def states_float_weights(info: TraceInfo | None) -> bool:
    """Whether a manifest says that the weights were float ones."""
    return info is not None and info.extra.get(WEIGHTS) == FLOAT_WEIGHTS


def own_profile(info: TraceInfo | None, graph: Graph, kept: str | None = None) -> str:
    """The profile that covers one trace against an exact replay of the model file, whose graph is ``graph``.

    ``kept`` is as in ``choose_profile``. Raises ComparisonError as ``choose_profile`` does.
    """
    arithmetic = _arithmetic(info, kept)
    if _has_float_weights(info) and not _has_plain_weights(graph):
        return QUANT_VS_FLOAT
    if _has_quantised_itself(info) and _has_plain_weights(graph):
        return QUANT_VS_FLOAT
    if arithmetic == Q8_ACTIVATIONS and _has_super_blocks(graph):
        return _Q8_K
    return _PROFILE_OF[arithmetic]


def computes_in_float16(profile: str, info: TraceInfo | None, kept: str | None) -> bool:
    """Whether a trace that is held to ``profile`` was computed in float16, which ends at 65504; ``kept`` is as in ``choose_profile``."""
    return profile == _PROFILE_OF[FLOAT16] or _named_arithmetic(info, kept) == FLOAT16


def overruled(profile: str, info: TraceInfo | None, graph: Graph) -> str | None:
    """What a manifest says that would be another profile than ``profile``, and which, in words; None where it says nothing else.

    ``graph`` is that of the model file.
    """
    if info is None:
        return None
    named = info.extra.get(ARITHMETIC)
    target = (info.target.split() or [""])[0]
    if named is None and target not in _OWN_TARGETS and WEIGHTS not in info.extra:
        return None
    try:
        own = own_profile(info, graph)
    except ComparisonError:  # the manifest says what is not known; that is why a profile was asked for
        return f"its manifest names {shown(named)}, which is not known" if named not in ARITHMETICS else None
    if own == profile:
        return None
    says = (
        f"names {named}"
        if named is not None
        else f"names the target {target}"
        if target in _OWN_TARGETS
        else f"speaks of {info.extra[WEIGHTS]} weights"
    )
    return f"its manifest {says}, which would be {own}"


def states_arithmetic(info: TraceInfo | None) -> bool:
    """Whether a manifest says in what arithmetic its trace was computed: by name, or by being of a target of this project."""
    return info is not None and (ARITHMETIC in info.extra or (info.target.split() or [""])[0] in _OWN_TARGETS)


def _named_arithmetic(info: TraceInfo | None, kept: str | None) -> object:
    return (kept or FLOAT32) if info is None or not states_arithmetic(info) else info.extra.get(ARITHMETIC, FLOAT32)


def _arithmetic(info: TraceInfo | None, kept: str | None) -> str:
    value = _named_arithmetic(info, kept)
    if value not in ARITHMETICS:
        raise ComparisonError(
            f"a manifest's {ARITHMETIC} is {shown(value)}, expected one of {', '.join(ARITHMETICS)}; name the tolerances with ",
            PROFILE,
        )
    return str(value)


def _has_float_weights(info: TraceInfo | None) -> bool:
    """Whether the manifest says that the weights were float ones."""
    value = None if info is None else info.extra.get(WEIGHTS)
    if value not in (None, FLOAT_WEIGHTS, QUANTISED_WEIGHTS):
        raise ComparisonError(
            f"a manifest's {WEIGHTS} are {shown(value)}, expected {FLOAT_WEIGHTS} or {QUANTISED_WEIGHTS}; name the tolerances with ",
            PROFILE,
        )
    return value == FLOAT_WEIGHTS


def _has_quantised_itself(info: TraceInfo | None) -> bool:
    """Whether a manifest of another program says that the weights were quantised: where the file has them in float, by that program."""
    return info is not None and not info.graph_text and info.extra.get(WEIGHTS) == QUANTISED_WEIGHTS


def _is_plain(info: TraceInfo | None) -> bool:
    """Whether the model file of a trace holds no quantised weight, as the graph in the manifest says: nothing was lost then."""
    if info is None or not info.graph_text or info.extra.get(WEIGHTS) == QUANTISED_WEIGHTS:
        return False
    graph = graph_of_text(info.graph_text)
    return graph is not None and _has_plain_weights(graph)


def _multiplies_super_blocks(info: TraceInfo | None) -> bool:
    graph = graph_of_text(info.graph_text) if info is not None and info.graph_text else None
    return graph is not None and _has_super_blocks(graph)


def _formats(graph: Graph) -> list[BlockFormat]:
    found = [find_format(weight.attr_str("dtype").upper()) for weight in weights_of(graph)]
    return [fmt for fmt in found if fmt is not None]


def _has_plain_weights(graph: Graph) -> bool:
    formats = _formats(graph)
    return bool(formats) and all(fmt.is_plain for fmt in formats)


def _has_super_blocks(graph: Graph) -> bool:
    """Whether some weight lies in blocks of 256 (K-quants and most IQ formats)."""
    return any(fmt.elements == 256 for fmt in _formats(graph))
