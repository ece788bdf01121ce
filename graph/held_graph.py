"""The graph that a trace or an artifact holds, in place of one that the model's family would write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aprgraph.graph.arguments import FAMILY, OVERRIDES
from aprgraph.graph.errors import AprgraphError, GraphError, ModelError, UnsupportedModelError, shown
from aprgraph.graph.ir import Attr, Graph, Node, TensorType, renamed
from aprgraph.graph.metadata import Scalar
from aprgraph.graph.ops import OPS, is_weight
from aprgraph.graph.sources.source import Source
from aprgraph.graph.verify import verify


@dataclass(frozen=True)
class HeldGraph:
    """A graph without taps, as it was built for an earlier run. That of a trace may lack what its taps did not need.

    ``holder`` is the path of what holds it. ``overrides`` are the metadata keys that were replaced for it, and
    ``unapplied`` what had to be said then of keys that were not applied.
    """

    graph: Graph
    holder: str
    overrides: Mapping[str, Scalar | str]
    unapplied: tuple[str, ...] = ()


#: Gives the graph that is held of a model of the architecture that it is called with, None where there is none.
FindHeld = Callable[[str], "HeldGraph | None"]


def check_same_overrides(held: HeldGraph, overrides: Mapping[str, Scalar | str], read_later: str) -> None:
    """Raise ModelError if ``overrides`` are not those of the graph: without the family no other graph can be built.

    Keys that begin with ``read_later`` do not shape graphs.
    """
    wanted, there = ({key: value for key, value in some.items() if not key.startswith(read_later)} for some in (overrides, held.overrides))
    for key in sorted({*wanted, *there}):
        if key not in wanted or key not in there or wanted[key] != there[key]:
            built = f"with {key} = {shown(there[key])}" if key in there else f"without an override of {key}"
            raise ModelError(
                f"{held.holder}: its graph was built {built}, and no other can be built where the family is not known: give the same ",
                OVERRIDES,
                ", or ",
                FAMILY,
            )


def require_known_ops(graph: Graph, holder: str, kind: type[AprgraphError] = UnsupportedModelError) -> None:
    """Raise an error of ``kind`` for an op that is not known: what it computes is code, and a graph holds none."""
    unknown = next((node.op for node in graph if node.op not in OPS), None)
    if unknown is not None:
        raise kind(
            f"{holder}: the op {unknown!r} of its graph is not known; a family's file brought it, so give that file as well, with ", FAMILY
        )


def bind_to_file(held: HeldGraph, file: Source) -> Graph:
    """The graph with the weights of ``file``, which are found by name and may be of other formats, verified.

    Raises ModelError for a tensor that is missing or has other dims, and UnsupportedModelError for an unknown op.
    """
    require_known_ops(held.graph, held.holder)
    graph = held.graph.rebuild(_bound(node, held, file) if is_weight(node) else node for node in held.graph)
    try:
        verify(graph)
    except GraphError as error:
        raise ModelError(f"{held.holder}: its graph does not hold together: {str(error).partition(chr(10))[0]}; run it again") from None
    return graph


def _bound(node: Node, held: HeldGraph, file: Source) -> Node:
    """The weight ``node`` in the format of the file's tensor."""
    name, dims = node.attr_str("tensor"), node.type.bind()
    info, size = file.tensors.get(name), " x ".join(map(str, dims))
    if info is None:
        raise ModelError(f"{file.path}: tensor {name!r} of {size} is missing, which the graph of {held.holder} reads; another model's?")
    if not info.has_dims(dims):
        raise ModelError(
            f"{file.path}: tensor {name!r} is {' x '.join(map(str, info.dims))}, but the graph of {held.holder} has {size} (outermost "
            "dimension first); another model's?"
        )
    scale = f"{name.removesuffix('.weight')}.scale"
    if (scale in file.tensors) != ("scale" in node.attrs):
        where = file.path if scale in file.tensors else held.holder
        raise ModelError(f"{where}: the tensor {scale!r} scales {name!r} here alone; where the family is not known, both must have it")
    dtype = info.format.name.lower()
    attrs: dict[str, Attr] = {**node.attrs, "dtype": dtype, "layout": info.layout}
    if not info.layout:
        attrs.pop("layout")
    return renamed(node, type=TensorType(info.layout or dtype, dims), attrs=attrs)
