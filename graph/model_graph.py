"""Build the graph of a model."""

from __future__ import annotations

from aprgraph.graph.arguments import IGNORE
from aprgraph.graph.builder import GraphBuilder
from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.held_graph import bind_to_file
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model
from aprgraph.graph.ops import weights_of
from aprgraph.graph.side_tensors import pattern_of
from aprgraph.graph.verify import verify
from aprgraph.graph.words import and_more


def build_graph(model: Model) -> Graph:
    """The computation graph of ``model``, verified; its one output is the logits of the last position, f32[1, V],
    of an embedding model the embedding of the text, f32[1, Y], or of a model without either the last stage of all positions.

    Raises ModelError for a tensor that is missing or does not fit the metadata, and UnsupportedModelError for one that
    the graph would leave out: numbers traced without it would be silently wrong. A graph that an earlier run left
    (``Model.held``) was looked at then, and may have other outputs.
    """
    if model.held is not None:
        return bind_to_file(model.held, model.file)
    graph = GraphBuilder(model, model.family, _name_of(model)).build()
    _refuse_unused(graph, model)
    verify(graph)
    return graph


def _name_of(model: Model) -> str:
    return "".join(c if (c.isascii() and c.isalnum()) or c in "_.-" else "_" for c in model.stem)


def _refuse_unused(graph: Graph, model: Model) -> None:
    """Raise UnsupportedModelError if the file has a tensor that no node uses and that may not be left out, or the reverse."""
    left_out = {name for group in model.left_out for name in group.names}
    used = {str(name): node for node in weights_of(graph) for name in (node.name, node.attrs.get("scale")) if name}
    needed = next((name for name in used if name in left_out), None)
    if needed is not None:
        user = graph.users(used[needed].name)[0]
        raise UnsupportedModelError(
            f"{model.path}: ",
            IGNORE,
            f" leaves out the tensor {needed!r}, which %{user.name} needs; expected a pattern of tensors that nothing uses",
        )
    unused = [name for name in model.file.tensors if name not in used and name not in left_out]
    if unused:
        raise UnsupportedModelError(
            f"{model.path}: tensor {unused[0]!r}{and_more(unused[1:])} has no place in a {model.family.architecture!r} model of "
            f"{model.family.layers} layers; expected a file all of whose tensors are used, for without them the numbers would be wrong; if "
            "yours does without, leave them out with ",
            IGNORE.given("REGEX", "[REGEX]"),
            ", such as ",
            IGNORE.given(f"'{pattern_of(unused[0])}'", f"[r'{pattern_of(unused[0])}']"),
        )
