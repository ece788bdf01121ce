"""What compiled code and the runtime agree on, without either importing the other."""

from __future__ import annotations

from aprgraph.graph.ir import Graph, Node, TensorType

#: The one function of a program. It takes the inputs and weights that ``program_parameters`` lists, in that order, then
#: the sizes of ``computed_types``, and returns the tuple of those outputs that are not taps.
ENTRY = "main"
#: The packed function that a tap calls, with the tensor and the tap node's name.
TAP_FUNCTION = "aprgraph.tap"

#: The kernel that summarises a tensor: x [count] f32 -> [chunks, columns] f64, one row per STATISTICS_CHUNK elements,
#: with NaN count, Inf count, min, max, sum and sum of squares (of the finite elements).
STATISTICS_KERNEL = "tensor_statistics"
STATISTICS_CHUNK = 16384
STATISTICS_COLUMNS = 6


def computed_types(graph: Graph) -> list[TensorType]:
    """The distinct types of computed values, in order of first appearance.

    A program's last parameter is the shape of these types' sizes in bytes: the caller, who knows n, does the arithmetic
    that the program would otherwise need code of its own for.
    """
    return list(dict.fromkeys(node.type for node in graph if node.op not in ("input", "weight", "tap")))


def program_parameters(graph: Graph) -> list[Node]:
    """The inputs and weights that the program of ``graph`` takes, in the order of its parameters."""
    return [node for node in graph if node.op in ("input", "weight")]
