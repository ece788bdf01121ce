"""Which arithmetic explains a trace: stages of its first layers computed again as engines round, until one leaves only rounding.

An arithmetic explains a stage to rounding or not at all, so it excuses nothing: what it does not explain is wrong by it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice

import numpy as np

from aprgraph.graph.arithmetics import ARITHMETICS, CACHES, EngineArithmetic
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops.flash_attention import FLASH_ATTENTION
from aprgraph.graph.ops.gelu_half import GELU_HALF
from aprgraph.graph.passes.apply_arithmetic import OF_GRAPH, apply_arithmetic
from aprgraph.graph.passes.prune import part_of
from aprgraph.graph.text import print_graph
from aprgraph.runtime.blame.recorded import Recorded
from aprgraph.runtime.blame.replay import ReadWeight, Replayer, as_recorded_type
from aprgraph.runtime.trace.aprt import F32

#: A stage of llama.cpp is within an NMSE of 1e-11 of what its arithmetic makes of its inputs, and of no other: docs/arithmetic.md.
EXPLAINED = 1e-10
#: What is made of float16 may be off by as much: where a library's exp or tanh gives the neighbour of a float32, a float16 may be another.
_HALF_LIMIT = 1e-7
#: Layers, of those that were recorded, that are tried with every arithmetic.
_LAYERS = 2


@dataclass(frozen=True)
class ArithmeticFit:
    """``arithmetics`` explain the same stages of the sample, the one that is nearest first. ``explained`` is how many of them plain
    float32 does not explain.
    """

    arithmetics: tuple[EngineArithmetic, ...]
    explained: int


def fit_arithmetic(graph: Graph, recorded: Recorded, read: ReadWeight) -> ArithmeticFit | None:
    """The arithmetics that explain most of what plain float32 does not, in the prompt's first layers; None where none explains more
    stages than it spoils.

    ``graph`` is that of the run, with nothing rounded. Raises TraceError for a tensor that cannot be read.
    """
    step = next((step for step in recorded.steps if recorded.of_step(step)), None)
    if step != 0:  # later steps need what earlier ones left
        return None
    sample = _Sample(graph, recorded, read)
    exact = _Stages(sample, sample.graph)
    plain = dict(exact.errors(exact.numbers))
    wrong = [name for name, error in plain.items() if error > EXPLAINED]
    right = [name for name in plain if name not in wrong]
    tried: list[tuple[int, float, EngineArithmetic]] = []
    for arithmetic, changed in _variants(_Printed(print_graph(sample.graph), sample.graph)) if wrong else ():
        stages = _Stages(sample, changed)
        if not plain.keys() <= stages.numbers.keys():  # what an engine has not, such as the scores of flash attention, it has not recorded
            continue
        gained = [error for _, error in stages.errors(wrong) if error <= EXPLAINED]
        if gained and (spoiled := _how_many_wrong(stages.errors(right), len(gained))) < len(gained):
            tried.append((len(gained) - spoiled, sum(gained), arithmetic))
    if not tried:
        return None
    most = max(gain for gain, _, _ in tried)
    best = sorted((off, index) for index, (gain, off, _) in enumerate(tried) if gain == most)
    return ArithmeticFit(tuple(tried[index][2] for _, index in best), most)


def _how_many_wrong(errors: Iterator[tuple[str, float]], enough: int) -> int:
    """How many stages are not explained; of more than are ``enough`` the others are not computed."""
    return sum(1 for _ in islice((error for _, error in errors if error > EXPLAINED), enough))


@dataclass(frozen=True)
class _Printed:
    """A graph that is the same as another where its text is."""

    text: str
    graph: Graph = field(compare=False)


@lru_cache(maxsize=8)  # of both sides of a comparison, and of one read in several ways
def _variants(printed: _Printed) -> Sequence[tuple[EngineArithmetic, Graph]]:
    """The graph in each arithmetic, once where several make the same of it."""
    found: dict[str, tuple[EngineArithmetic, Graph]] = {}
    for arithmetic in candidates():
        try:
            changed = apply_arithmetic(printed.graph, arithmetic)
        except GraphError:  # nothing is known of a format of the weights
            continue
        found.setdefault(print_graph(changed).partition("\n")[2], (arithmetic, changed))
    return tuple(found.values())


def candidates() -> Iterator[EngineArithmetic]:
    """The arithmetics that were tried against their engines, with each choice of their users."""
    for arithmetic in ARITHMETICS.values():
        if arithmetic.is_exact or not arithmetic.was_run:
            continue
        for cache in CACHES:
            for flash in (True, False):
                if cache == arithmetic.cache or not flash:  # flash attention rounds what an f32 cache holds too
                    yield replace(arithmetic, cache=cache, flash=flash)


def limits_of(graph: Graph, stages: Collection[str]) -> tuple[str, ...]:
    """Of ``stages``, the tolerances of those that an engine's arithmetic explains less closely than others, as --tol takes them."""
    halves = [node for node in graph if node.op in (FLASH_ATTENTION.name, GELU_HALF.name)]
    # Of GELU and product, engines that compute them at once record the product alone.
    products = [user for node in halves if node.op == GELU_HALF.name for user in graph.users(node.name)]
    found = {node.stage for node in (*halves, *products)}
    return tuple(f"{stage}=nmse:{_HALF_LIMIT}" for stage in sorted(set(stages) & {stage for stage in found if stage is not None}))


class _Sample:
    """The stages of the prompt's first layers. What arithmetics have in common is computed once.

    ``graph`` is what these layers are computed by, with nothing rounded; ``wanted`` are the names of the stages.
    """

    def __init__(self, graph: Graph, recorded: Recorded, read: ReadWeight) -> None:
        self.recorded, self.read = recorded, read
        self.tensors = recorded.of_step(0)
        layers = sorted({tensor.node.layer for tensor in self.tensors.values() if tensor.node.layer is not None})[:_LAYERS]
        self.wanted = frozenset(name for name, tensor in self.tensors.items() if tensor.node.layer in layers)
        self.graph = _ending_in(graph, self.wanted)
        #: The errors of stages by their numbers.
        self.known: dict[int, float] = {}
        self._numbers: dict[tuple[object, ...], int] = {}

    def numbered(self, graph: Graph) -> Mapping[str, int]:
        """By node of a replay a number, the same in two graphs where the same is computed from the same."""
        numbers: dict[str, int] = {}
        for node in graph:
            # Evaluation rounds the stages of a graph that is in an arithmetic, and those of a plain one not.
            rounded = OF_GRAPH in graph.attrs and node.stage is not None
            operands = tuple(numbers[name] for name in graph.operand_names(node.name))
            told = (node.op, str(node.type), tuple(sorted((key, repr(value)) for key, value in node.attrs.items())), rounded, operands)
            # What has no operands is told from others by its name, as are stages, whose errors are kept by it.
            own = node.name if not operands or node.stage is not None else ""
            numbers[node.name] = self._numbers.setdefault((own, *told), len(self._numbers))
        return numbers


class _Stages:
    """The stages of a sample that can be computed again in one arithmetic: ``numbers`` of them by node; ``graph`` is the sample's in it."""

    def __init__(self, sample: _Sample, graph: Graph) -> None:
        self._sample = sample
        self._replayer = Replayer(graph, sample.recorded, sample.read)
        self._replay = self._replayer.replay(0, {}, frozenset(), keep_states=False)
        numbers = sample.numbered(self._replay.graph)
        self.numbers = {name: numbers[name] for name in self._replay.graph.outputs if name in sample.wanted}

    def errors(self, names: Iterable[str]) -> Iterator[tuple[str, float]]:
        """The NMSE of each of these stages, those that are known first, the others as they are computed."""
        sample, known = self._sample, self._sample.known
        unknown = []
        for name in names:
            if self.numbers[name] in known:
                yield name, known[self.numbers[name]]
            else:
                unknown.append(name)
        for node, value in self._replayer.run(self._replay, graph=part_of(self._replay.graph, unknown)):
            if node.name in unknown:
                tensor = sample.tensors[node.name]
                there: F32 = sample.recorded.value(tensor).astype(np.float32) if tensor.is_whole else sample.recorded.load(tensor)
                known[self.numbers[node.name]] = _nmse(there, as_recorded_type(value, tensor))
                yield node.name, known[self.numbers[node.name]]


def _ending_in(graph: Graph, wanted: Collection[str]) -> Graph:
    """The nodes ``wanted`` and what they are computed from; outputs are those that nothing else of it reads."""
    needed = graph.ancestors(list(wanted))
    ends = [node.name for node in graph if node.name in needed and not any(user.name in needed for user in graph.users(node.name))]
    return part_of(graph, ends)


def _nmse(actual: F32, expected: F32) -> float:
    """The mean square error of ``actual`` relative to ``expected``; inf where that is 0 or either is not finite."""
    with np.errstate(all="ignore"):
        wide = expected.astype(np.float64)
        error, size = float(np.square(actual - wide).sum()), float(np.square(wide).sum())
    if error == 0:
        return 0.0
    return error / size if size > 0 and math.isfinite(error) and math.isfinite(size) else math.inf
