"""What quantised weights cost against float ones: by block format, in one matmul, and what reaches each tensor of a trace of it.

In a model the noise grows with the depth: the limit of a tensor in layer l, which all layers up to its own have gone into, is

    (``DEPTH_BASE`` + ``DEPTH_STEP`` · (l + 1)) · what the coarsest weights before it cost one matmul

and no more than what ``quant-vs-float`` allows any weights, or ``UNRELATED`` if they are of 4 bits. Nothing is too much if they are of
less, or MXFP4, or the run is of fewer than ``CROWDED_FROM`` positions: these can cost a small model all that it knows. Measured: at most 47
times in the first layers, 105 at layer 8, 275 from layer 12 on (SmolLM2-135M, Gemma 3 270M; 15 formats; 1 to 200 tokens).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from aprgraph.graph.block_formats import find_format
from aprgraph.graph.stages import STAGE_BY_NAME, StageKind
from aprgraph.runtime.diff.dependencies import Dependencies, Value
from aprgraph.runtime.diff.tolerance_rules import CROWDED_FROM
from aprgraph.runtime.diff.tolerances import PROFILES, Tolerance, kind_of
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace

#: NMSE of one matmul whose weights lie in a block format, against the weights as they were: normal weights and activations, K = 256 to
#: 4096, quantised by ggml without an importance matrix. Heavy tails (Student's t with 4 degrees of freedom) cost up to twice that.
FORMAT_NOISE: Mapping[str, float] = {
    "F32": 0.0,
    "F16": 4.3e-8,
    "BF16": 2.8e-6,
    "Q8_0": 2.9e-5,
    "Q6_K": 3.2e-4,
    "Q5_K": 1.3e-3,
    "Q5_1": 1.4e-3,
    "Q5_0": 1.9e-3,
    "Q4_K": 5.2e-3,
    "Q4_1": 6.2e-3,
    "IQ4_NL": 6.0e-3,
    "IQ4_XS": 6.0e-3,
    "Q4_0": 7.4e-3,
    "NVFP4": 8.6e-3,
    "MXFP4": 1.3e-2,
    "Q3_K": 2.3e-2,
    "IQ3_S": 2.6e-2,
    "IQ3_XXS": 4.3e-2,
    "IQ2_S": 5.8e-2,
    "Q2_K": 8.4e-2,
    "IQ2_XS": 8.4e-2,
    "IQ2_XXS": 1.1e-1,
    "IQ1_M": 1.8e-1,
    "IQ1_S": 2.1e-1,
    "TQ1_0": 5.6e-1,
    "TQ2_0": 5.6e-1,
}
#: Of a format that is not known: the coarsest that counts as of 4 bits; of one that is known and not in the table, the coarsest of all.
UNKNOWN_FORMAT = FORMAT_NOISE["NVFP4"]
_COARSEST = max(FORMAT_NOISE.values())

#: The coarsest that count as of 5 and of 4 bits.
FIVE_BITS = 2.5e-3
FOUR_BITS = 1e-2
#: Weights of 4 bits can cost SmolLM2-135M an NMSE of 1.7 in its last layers (MXFP4 2.1, so it counts as of less); what is unrelated, and
#: of the same size, gives 2.
UNRELATED = 1.9
#: NMSEs end at 4, where one side is the other with its sign turned: nothing is beyond.
NO_LIMIT = 4.0
DEPTH_BASE = 150.0
DEPTH_STEP = 25.0
#: Of what a format costs one matmul: rows of an embedding (2.7 measured, of one row), and a matmul (2.4 measured, of a small one).
LOOKUP_FACTOR = 5.0
OWN_FACTOR = 4.0


@dataclass(frozen=True)
class WeightNoise:
    """``own`` is what the weights of each value's own operation cost, ``upstream`` the largest of its own and all before it.

    ``formats`` are those of the quantised weights, the coarsest first; empty where they are not known.
    """

    value_of: Mapping[Place, Value]
    own: Mapping[Value, float]
    upstream: Mapping[Value, float]
    formats: tuple[str, ...]

    @property
    def note(self) -> str:
        """Which formats the limits are for, in words."""
        if not self.formats:
            return "no manifest tells the block formats of the quantised weights: they are taken to be of 4 bits or more"
        costs = ", ".join(f"{name} ({format_noise(name):.1e})" for name in self.formats)
        return f"limits are those of the block formats of the weights, and what these cost one matmul: {costs}"

    def of(self, values: Iterable[Value]) -> float:
        """What the weights of a computation cost."""
        return max((self.own.get(value, 0.0) for value in values), default=0.0)

    def tolerance(self, key: Place, tolerance: Tolerance, positions: int, arithmetics: Iterable[str]) -> Tolerance:
        """``tolerance`` of quant-vs-float as the formats and the depth of a tensor have it, in a run of ``positions`` (0: not known).

        ``arithmetics`` are the profiles that cover what else the two sides round.
        """
        kind, noise = kind_of(key.stage), self.upstream.get(self.value_of[key], UNKNOWN_FORMAT)
        if kind is StageKind.INDEX:
            return tolerance
        rounding = [PROFILES[profile][kind] for profile in arithmetics]
        inherited, own = (max(side) for side in zip(*((one.limit, one.own) for one in rounding), strict=True))
        if kind is StageKind.LOOKUP:
            return replace(tolerance, limit=LOOKUP_FACTOR * noise + own, own=LOOKUP_FACTOR * noise + own)
        layers = 1 + (key.layer if key.layer is not None else max((layer for _, layer, _ in self.value_of if layer is not None), default=0))
        most = tolerance.limit if noise <= FIVE_BITS else UNRELATED
        if noise > FOUR_BITS or 0 < positions < CROWDED_FROM:
            most = NO_LIMIT
        limit = min(most, (DEPTH_BASE + DEPTH_STEP * layers) * noise + inherited)
        if kind is StageKind.MATMUL:
            own = OWN_FACTOR * noise + own
        elif kind is not StageKind.NORM or not self._reads_floats(key):
            own = max(tolerance.own, own)
        return replace(tolerance, limit=limit, own=min(own, limit))

    def _reads_floats(self, key: Place) -> bool:
        """Whether nothing that a tensor's own operation reads of the file was quantised, as norms' weights are not."""
        return bool(self.formats) and not self.own.get(self.value_of[key], 0.0)


def find_weight_noise(a: Trace, b: Trace, dependencies: Dependencies, float_sides: Sequence[bool]) -> WeightNoise:
    """The noise of every value; ``float_sides`` says of A and of B whether it has float weights, whatever its file holds."""
    graphs = [None if is_float else trace.graph() for trace, is_float in zip((a, b), float_sides, strict=True)]
    formats: set[str] = set()
    of_weight: dict[Value, float] = {}
    for value in dependencies.weights:
        names = {graph[value[1]].attr_str("dtype").upper() for graph in graphs if graph is not None and value[1] in graph}
        of_weight[value] = sum(format_noise(name) for name in names)
        formats |= {name for name in names if not is_plain(name)}
    if formats:
        operands_of = dependencies.operands.items()
        own = {value: max((of_weight.get(operand, 0.0) for operand in operands), default=0.0) for value, operands in operands_of}
    else:
        own = {value: UNKNOWN_FORMAT for (_, _, stage), value in dependencies.value_of.items() if _is_of_weights(stage)}
    return WeightNoise(dependencies.value_of, own, _upstream(dependencies, own), tuple(sorted(formats, key=format_noise, reverse=True)))


def _is_of_weights(stage: str) -> bool:
    """Whether a stage is a product with weights that may be quantised, where no graph says so."""
    known = STAGE_BY_NAME.get(stage)
    return known is not None and known.kind in (StageKind.MATMUL, StageKind.LOOKUP) and known.quantisable


def format_noise(name: str) -> float:
    """What weights in a block format cost one matmul."""
    return FORMAT_NOISE.get(name, _COARSEST)


def is_plain(name: str) -> bool:
    """Whether a format holds elements side by side, so that nothing but their own rounding is lost."""
    known = find_format(name)
    return known is not None and known.is_plain


def _upstream(dependencies: Dependencies, own: Mapping[Value, float]) -> Mapping[Value, float]:
    found: dict[Value, float] = {}
    for value, operands in dependencies.operands.items():
        found[value] = max([own.get(value, 0.0), *(found[operand] for operand in operands)])
    return found
