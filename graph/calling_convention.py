"""What compiled code and the runtime agree on, without either importing the other."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import weight_storage
from aprgraph.graph.ir import Graph, Node, TensorType
from aprgraph.graph.ops import has_state, is_computed, is_input, is_own_state, is_received, is_tap, is_weight, weights_of

#: The one function of a program. It takes what ``program_parameters`` lists, in that order, each weight
#: in pieces (graph/weight_pieces.py) followed by its table of places, then
#: the states of ``graph.ops.states_of``, of those that grow the first t rows, then on a CPU the half table, then the sizes
#: of ``computed_types``, and returns the tuple of those outputs that have no state and are no taps.
ENTRY = "main"
#: The packed function that a tap calls, with the tensor and the tap node's name.
TAP_FUNCTION = "aprgraph.tap"
#: The packed function that is given the ids which a node chose, with the node's name: NaN where nothing could be.
CHOICE_FUNCTION = "aprgraph.choice"

#: The packed function that is given the names of nodes whose weights have just been read, in programs of ``is_large`` graphs.
USED_FUNCTION = "aprgraph.used"
#: How many bytes of weights the first pass of a run may have read before their pages are given back, which then cost no memory of its own.
RESIDENT_WEIGHTS = 1 << 30

#: A CPU kernel that decodes blocks takes, before its operands, the f32 value of every half-precision bit pattern.
HALF_TABLE_SIZE = 1 << 16

#: The kernel that summarises a tensor: x [count] f32 -> [chunks, columns] f64, one row per STATISTICS_CHUNK elements,
#: with NaN count, Inf count, min, max, sum and sum of squares (of the finite elements).
STATISTICS_KERNEL = "tensor_statistics"
STATISTICS_CHUNK = 16384
#: On a CPU, the kernel that summarises such chunks of several tensors: x [count] f32, which is all memory that they lie in, the first
#: element and the number of elements of each chunk, i64 [chunks] -> [chunks, columns] f64, the bits that STATISTICS_KERNEL gives.
CHUNKS_KERNEL = "chunk_statistics"
STATISTICS_COLUMNS = 6

#: On a CPU, the kernel that makes files that are not there: bounds [groups + 1] i64, files [count, FILE_COLUMNS] i64, the flags of
#: open(2) -> states [count] i64. Threads make the files of a group each, from its bound to the next. Of a file: the address of its path,
#: which ends with a NUL, then the two pieces of it for writev(2), each an address and a number of bytes. Its state: 0, it is whole; 1,
#: it could not be opened; 2, it is there, and not whole.
FILES_KERNEL = "make_files"
FILE_COLUMNS = 5
#: The kernels of a CPU that no node of a graph asks for.
OWN_KERNELS = (STATISTICS_KERNEL, CHUNKS_KERNEL, FILES_KERNEL)


def half_table() -> npt.NDArray[np.float32]:
    """The f32 value of every half-precision bit pattern, f32 [HALF_TABLE_SIZE]."""
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.arange(HALF_TABLE_SIZE, dtype=np.uint16).view(np.float16).astype(np.float32)


def computed_types(graph: Graph) -> list[TensorType]:
    """The distinct types of computed values, in order of first appearance.

    A program's last parameter is the shape of these types' sizes in bytes: the caller, who knows n, does the arithmetic
    that the program would otherwise need code of its own for.
    """
    return list(dict.fromkeys(node.type for node in graph if is_computed(node) and not is_own_state(node)))


def weight_nbytes(weight: Node) -> int:
    """Bytes of a `weight` node as kernels take it."""
    dtype, dims = weight_storage(weight.type)
    return math.prod(dims) * np.dtype(dtype).itemsize


def is_large(graph: Graph) -> bool:
    """Whether one pass over ``graph`` may read more weights than should stay in memory."""
    return sum(weight_nbytes(node) for node in weights_of(graph)) > RESIDENT_WEIGHTS


def program_parameters(graph: Graph) -> list[Node]:
    """The inputs, received values and weights that the program of ``graph`` takes, in the order of its parameters."""
    return [node for node in graph if is_input(node) or is_received(node) or is_weight(node)]


def returned_nodes(graph: Graph) -> list[Node]:
    """The outputs that a program returns: taps have been delivered, and nodes with a state are outputs to keep that up to date."""
    return [graph[name] for name in graph.outputs if not is_tap(graph[name]) and not has_state(graph[name])]
