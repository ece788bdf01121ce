"""One model with float weights and with the same weights in a block format, faults planted in these, and the traces of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import is_tap, is_weight
from aprgraph.graph.passes import InsertTaps, Prune, run_passes
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.graph.text import print_graph
from aprgraph.runtime.decoded_weights import decode_weight
from aprgraph.runtime.trace.manifest import TraceInfo
from tests.support.arithmetic import F64, run_in, through_format
from tests.zoo.runs import MemoryTrace

#: What a fault makes of a decoded weight [rows, columns].
Fault = Callable[[F64], F64]
FLOAT_MANIFEST = {"weights": "float", "arithmetic": "float32"}


def lost_block_column(w: F64, block: int = 32) -> F64:
    """The second block of every row is 0."""
    w = w.copy()
    w[..., block : 2 * block] = 0
    return w


def block_column_doubled(w: F64, block: int = 32) -> F64:
    """The scale of the second block of every row is twice what it was."""
    w = w.copy()
    w[..., block : 2 * block] *= 2
    return w


def lost_row(w: F64) -> F64:
    """A row of blocks is 0."""
    w = w.copy()
    w[..., 5, :] = 0
    return w


def swapped_rows(w: F64) -> F64:
    """Two rows stand in each other's place."""
    w = w.copy()
    w[..., [5, 11], :] = w[..., [11, 5], :]
    return w


FAULTS: Mapping[str, Fault] = {
    "lost block column": lost_block_column,
    "block column doubled": block_column_doubled,
    "lost row": lost_row,
    "swapped rows": swapped_rows,
}


class Quantised:
    """The model of a file whose weights are taken for the float ones; ``quantise(weight, format)`` gives what a block format makes of one.

    Matrices are quantised but for routers, as conversion leaves them.
    """

    def __init__(self, path: Path, quantise: Callable[[F64, str], F64] = through_format) -> None:
        self.model = load_model(path)
        self.layers = self.model.family.layers
        self._quantise = quantise
        self._decoded: dict[tuple[str, str], F64] = {}

    @cached_property
    def graph(self) -> Graph:
        """Everything tapped."""
        return run_passes(build_graph(self.model), [InsertTaps(parse_plan("all", f"0..{self.layers}")), Prune()])

    def weight(self, node: Node, fmt: str = "F32") -> F64:
        """The weight of a node as a format holds it."""
        key = node.name, fmt if self._is_quantised(node) else "F32"
        if key not in self._decoded:
            exact = decode_weight(self.model, node).astype(np.float64) if key[1] == "F32" else self.weight(node)
            self._decoded[key] = exact if key[1] == "F32" else self._quantise(exact, fmt)
        return self._decoded[key]

    def float_trace(self, tokens: Sequence[int], says: Mapping[str, str] = FLOAT_MANIFEST) -> MemoryTrace:
        """As another program records the float model: no graph."""
        return self._trace("float", None, tokens, self.weight, says)

    def trace(
        self, fmt: str, tokens: Sequence[int], faults: Mapping[str, Fault] | None = None, says: Mapping[str, str] | None = None
    ) -> MemoryTrace:
        """A run of the quantised file; ``faults`` maps tensors of the file to what is wrong with them."""

        def weight(node: Node) -> F64:
            value = self.weight(node, fmt)
            fault = (faults or {}).get(node.attr_str("tensor"))
            return value if fault is None else fault(value)

        nodes = [self._in_format(node, fmt) if self._is_quantised(node) else node for node in self.graph]
        return self._trace("quantised", self.graph.rebuild(nodes), tokens, weight, says or {})

    @staticmethod
    def _in_format(node: Node, fmt: str) -> Node:
        dtype = fmt.lower()
        return replace(node, attrs={**node.attrs, "dtype": dtype}, type=replace(node.type, dtype=dtype))

    @staticmethod
    def _is_quantised(node: Node) -> bool:
        return is_weight(node) and len(node.type.dims) > 1 and "gate_inp" not in node.attr_str("tensor")

    def _trace(
        self, name: str, graph: Graph | None, tokens: Sequence[int], weights: Callable[[Node], F64], says: Mapping[str, str]
    ) -> MemoryTrace:
        tensors = {}
        for node, value in run_in(self.graph, self.model, tokens, weights=weights):
            if is_tap(node):
                assert node.stage is not None
                recorded = value.astype(np.float32)
                shape = (recorded.size,) if node.stage == "lm_head" else recorded.shape
                tensors[0, node.layer, node.stage] = (node.name.removeprefix("tap."), recorded.reshape(shape))
        text = "" if graph is None else print_graph(graph)
        info = TraceInfo({"name": name}, "reference" if graph is not None else "other", tuple(tokens), "all", "last", text, says)
        return MemoryTrace(name, graph, tensors, info)
