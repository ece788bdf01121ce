"""What stands in for a family that is not known: the numbers that the graph of an earlier run bears."""

from __future__ import annotations

from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.families.base import MAX_LAYERS, Family
from aprgraph.graph.ir import Graph
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.ops.attention import is_causal


class StandIn(Family):
    """A family that cannot write a graph, and knows of a model what the graph of an earlier run says."""

    def __init__(self, metadata: Metadata, graph: Graph, holder: str) -> None:
        """``holder`` is the path of what holds the graph. Raises ModelError if the graph is of another architecture."""
        self.metadata = metadata
        architecture, found = metadata.text("general.architecture"), graph.attrs.get("architecture")
        if found != architecture:
            raise ModelError(
                f"{holder}: its graph is of the architecture {shown(found)}, but that of {metadata.path} is {shown(architecture)}; "
                "another model's?"
            )
        # In place of what the class would read: only the family knows under which keys.
        own = vars(self)
        own.update(architecture=architecture, context=_number(graph, holder, "context", (1 << 31) - 1), hidden=0, eps=0.0)
        own.update(causal=all(is_causal(node.attrs) for node in graph))
        own.update(blocks=_number(graph, holder, "layers", MAX_LAYERS) + (0 if metadata.dialect == "hf" else self.extra_layers))
        super().__init__(metadata)


def _number(graph: Graph, holder: str, name: str, most: int) -> int:
    value = graph.attrs.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ModelError(f"{holder}: its graph says {name} = {shown(value)}, expected a number from 1 to {most}")
    return value
