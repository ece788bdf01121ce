"""What is known of a wrong stage, of which the search looks for an explanation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.ops import Array, is_computed
from aprgraph.runtime.explain.site import Around


@dataclass(frozen=True)
class Evidence:
    """A wrong stage: the ``node``, what was ``recorded`` of it, and ``error(value)``: the NMSE of a value that it may have had, None where
    tolerances do not allow what is left.

    ``recorded`` is None where not all positions were.
    ``part`` is the graph from recorded tensors to the node, ``values`` of its nodes by a right computation; weights are read by ``around``.
    """

    node: Node
    recorded: Array | None
    error: Callable[[Array], float | None]
    part: Graph
    values: dict[str, Array]
    around: Around

    @cached_property
    def computed(self) -> Sequence[tuple[Node, tuple[str, ...]]]:
        """The nodes of ``part`` that are computed, in execution order, with the names of what each reads."""
        return [(node, self.part.operand_names(node.name)) for node in self.part if is_computed(node)]
