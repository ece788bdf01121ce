"""apply-arithmetic: bring a graph into the arithmetic of an engine, by nodes that round what the engine rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import numpy as np

from aprgraph.graph.arithmetics import EngineArithmetic, parse_arithmetic
from aprgraph.graph.errors import GraphError
from aprgraph.graph.ir import Attr, Graph, Node, TensorType, renamed
from aprgraph.graph.ops import OPS, is_own_state, is_weight, traits_of
from aprgraph.graph.ops.elementwise import SCALE
from aprgraph.graph.ops.flash_attention import FLASH_ATTENTION
from aprgraph.graph.ops.gelu_half import GELU_HALF
from aprgraph.graph.ops.rounding import ROUND, ROUND_SUM_ERRORS
from aprgraph.graph.ops.sources import MINIMA
from aprgraph.graph.passes.fuse_attention import Attention, attentions_of
from aprgraph.graph.roundings import ROUNDINGS

#: The attribute of a graph that names the arithmetic which it is in.
OF_GRAPH = "arithmetic"
_ROUNDING_OPS = {ROUND.name, ROUND_SUM_ERRORS.name}
#: Ops that hold something in float16.
_HALF_OPS = {GELU_HALF.name, FLASH_ATTENTION.name}


@dataclass(frozen=True)
class ApplyArithmetic:
    """Inserts `round` nodes before matrix products, by the block format of the weights, and before KV caches, and puts
    the engine's own ops in place of those that it computes otherwise. Stages keep their nodes' names.

    With flash attention the nodes of scores and softmax go, for the engine does not have them. ``arithmetic`` is what
    ``parse_arithmetic`` takes. Raises GraphError for a graph that is in an arithmetic already, for an arithmetic that there is not,
    and for weights of a format of which it is not known what the engine rounds.
    """

    arithmetic: str
    name: ClassVar[str] = "apply-arithmetic"

    def __call__(self, graph: Graph) -> Graph:
        return apply_arithmetic(graph, parse_arithmetic(self.arithmetic))


def apply_arithmetic(graph: Graph, arithmetic: EngineArithmetic) -> Graph:
    """``graph`` in ``arithmetic``; see ApplyArithmetic. Raises GraphError."""
    if OF_GRAPH in graph.attrs:
        raise GraphError(f"apply-arithmetic: graph @{graph.name} is in the arithmetic {graph.attrs[OF_GRAPH]} already")
    return graph if arithmetic.is_exact else _Rewriter(graph, arithmetic).run()


def precisions_of(graph: Graph) -> set[str]:
    """What the engine's nodes of a graph round to, as manifests call it: float16, bfloat16, q8-activations."""
    found = {ROUNDINGS[node.attr_str("scheme")].precision for node in graph if node.op in _ROUNDING_OPS}
    return found | ({"float16"} if any(node.op in _HALF_OPS for node in graph) else set())


def most_positions_of(graph: Graph) -> int | None:
    """Up to how many positions of a pass the arithmetic of a graph is that of its engine; None where any number are."""
    schemes = {node.attr_str("scheme") for node in graph if node.op in _ROUNDING_OPS}
    return min((most for scheme in schemes if (most := ROUNDINGS[scheme].most_rows) is not None), default=None)


class _Rewriter:
    """One application of the pass."""

    def __init__(self, graph: Graph, arithmetic: EngineArithmetic) -> None:
        self._graph, self._arithmetic = graph, arithmetic
        self._result = Graph(graph.name, {**graph.attrs, OF_GRAPH: arithmetic.text})
        self._flash = {found.mix.name: found for found in attentions_of(graph)} if arithmetic.flash else {}

    def run(self) -> Graph:
        """The rewritten graph."""
        skipped = self._without_users()
        for node in self._graph:
            if node.name not in skipped:
                self._rewrite(node, self._graph.operand_names(node.name))
        self._result.outputs = tuple(name for name in self._graph.outputs if name not in skipped)
        return self._result

    def _without_users(self) -> set[str]:
        """The scores and softmaxes of flash attention that nothing else reads."""
        found: set[str] = set()
        for attention in self._flash.values():
            if {user.name for user in self._graph.users(attention.softmax.name)} == {attention.mix.name}:
                found.add(attention.softmax.name)
                if {user.name for user in self._graph.users(attention.scores.name)} == {attention.softmax.name}:
                    found.add(attention.scores.name)
        return found

    def _rewrite(self, node: Node, operands: Sequence[str]) -> None:
        traits = traits_of(node)
        if node.name in self._flash:
            self._add_flash(self._flash[node.name])
        elif traits.is_matmul:
            self._add_product(node, operands)
        elif is_own_state(node) and self._has_half_cache:
            self._result.add(node, [self._rounded(operands[0], "f16"), *operands[1:]])
        elif traits.multiplied is not None and self._has_half_cache and self._arithmetic.rounds_queries:
            index = OPS[node.op].index(traits.multiplied)
            node, x = self._scaled(node, operands[index])
            self._result.add(node, [*operands[:index], self._rounded(x, "f16"), *operands[index + 1 :]])
        else:
            self._result.add(renamed(node, op=self._arithmetic.instead.get(node.op, node.op)), operands)

    @property
    def _has_half_cache(self) -> bool:
        """Whether keys and values are float16 where they are read: flash attention casts those of a float32 cache."""
        return self._arithmetic.cache == "f16" or self._arithmetic.flash

    def _add_flash(self, attention: Attention) -> None:
        arithmetic = self._arithmetic
        assert arithmetic.lanes is not None
        q, *others = attention.operands
        counts = {"threads": arithmetic.threads, "ubatch": arithmetic.ubatch}
        said: dict[str, Attr] = {key: count for key, count in counts.items() if count is not None}
        node, q = self._scaled(attention.as_one(FLASH_ATTENTION.name, lanes=arithmetic.lanes, **said), q)
        self._result.add(node, [q, *others])

    def _scaled(self, node: Node, q: str) -> tuple[Node, str]:
        """A node of attention and its queries, which are multiplied by its scale in float32 where the engine does that first."""
        scale = node.attrs.get("scale", 1.0)
        if self._graph.attrs.get("architecture") not in self._arithmetic.scales_queries or scale == 1.0:
            return node, q
        factor: dict[str, Attr] = {"factor": float(np.float32(node.attr_float("scale")))}
        source = self._result[q]
        scaled = Node(f"{q}_scaled", SCALE.name, source.type, factor, None, node.layer)
        return renamed(node, attrs={**node.attrs, "scale": 1.0}), self._result.add(scaled, [q]).name

    # -- matrix products ----------------------------------------------------------------------------------------------

    def _add_product(self, node: Node, operands: Sequence[str]) -> None:
        """A product as one of each run of weights that want one rounding, side by side."""
        weights = [name for name in operands if is_weight(self._graph[name])]
        runs = [(scheme, list(names)) for scheme, names in groupby(weights, self._scheme_of)]
        if len(runs) == 1:
            self._add_run(node, operands, weights, runs[0][0])
            return
        parts = []
        for index, (scheme, names) in enumerate(runs):
            part = [name for name in operands if name not in weights or name in names]
            type_ = OPS[node.op].result([self._graph[name].type for name in part], node.attrs)
            inner = renamed(node, name=f"{node.name}_part{index}", type=type_, stage=None)
            self._add_run(inner, part, names, scheme)
            parts.append(inner)
        self._join(node, parts)

    def _join(self, node: Node, parts: Sequence[Node]) -> None:
        """``parts`` side by side as ``node``, of which each has one row for a position."""
        left = parts[0]
        for index, part in enumerate(parts[1:], 2):
            is_last = index == len(parts)
            op, attrs = OPS["join_heads"], {"heads": 1}
            type_ = op.result([left.type, part.type], attrs)
            name = node.name if is_last else f"{node.name}_parts0to{index - 1}"
            joined = Node(name, op.name, type_, attrs, node.stage if is_last else None, node.layer)
            left = self._result.add(joined, [left.name, part.name])

    def _add_run(self, node: Node, operands: Sequence[str], weights: Iterable[str], scheme: str) -> None:
        """One product whose weights want the rounding ``scheme``; with that of rounded sums, where they have minima."""
        if not scheme:
            self._result.add(node, operands)
            return
        multiplied = traits_of(node).multiplied
        assert multiplied is not None
        x = operands[OPS[node.op].index(multiplied)]
        rounded = {x: self._rounded(x, scheme)}
        if ROUNDINGS[scheme].sum_errors is None:
            self._result.add(node, [rounded.get(name, name) for name in operands])
            return
        product = renamed(node, name=f"{node.name}_rounded", stage=None)
        self._result.add(product, [rounded.get(name, name) for name in operands])
        of_sums = {x: self._sum_errors(x, scheme), **{name: self._minima(name) for name in weights}}
        error = renamed(node, name=f"{node.name}_of_sums", stage=None)
        self._result.add(error, [of_sums.get(name, name) for name in operands])
        self._result.add(renamed(node, op="add", attrs={}), [product.name, error.name])

    def _scheme_of(self, weight: str) -> str:
        """The rounding of what is multiplied by a weight."""
        dtype = self._graph[weight].attr_str("dtype").upper()
        if dtype not in self._arithmetic.activations:
            raise GraphError(
                f"apply-arithmetic: %{weight} is {dtype}, and it is not known what {self._arithmetic.name} multiplies such weights by; "
                f"expected one of {', '.join(self._arithmetic.activations)}"
            )
        return self._arithmetic.activations[dtype]

    # -- nodes that are added once ------------------------------------------------------------------------------------

    def _rounded(self, x: str, scheme: str) -> str:
        return self._once(f"{x}_as_{scheme}", ROUND.name, x, scheme)

    def _sum_errors(self, x: str, scheme: str) -> str:
        return self._once(f"{x}_sums_as_{scheme}", ROUND_SUM_ERRORS.name, x, scheme)

    def _once(self, name: str, op: str, x: str, scheme: str) -> str:
        if name not in self._result:
            attrs: dict[str, Attr] = {"scheme": scheme}
            type_ = OPS[op].result([self._result[x].type], attrs)
            self._result.add(Node(name, op, type_, attrs, None, self._result[x].layer), [x])
        return name

    def _minima(self, weight: str) -> str:
        """The node of the minima of a weight's blocks."""
        name = f"{weight}_{MINIMA}"
        if name not in self._result:
            node = self._graph[weight]
            attrs: dict[str, Attr] = {**node.attrs, "part": MINIMA}
            type_: TensorType = OPS[node.op].result([], attrs)
            self._result.add(renamed(node, name=name, type=type_, attrs=attrs), [])
        return name
