"""The cells of models and of graphs."""

from __future__ import annotations

import base64
from collections import Counter

from aprgraph.api import CompiledModel, LoadedModel
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.export.svg import export_svg
from aprgraph.graph.export.view import make_view
from aprgraph.graph.ir import Graph
from aprgraph.graph.model import Model
from aprgraph.graph.words import bytes_text, counted
from aprgraph.notebook.cell import LARGEST, cell, facts, line, notes, says, table, text

#: What a picture may take of a cell, in characters; the rest is for its style and words.
_PICTURE = LARGEST - 20_000
#: The largest number of boxes of a picture: some three unlike layers.
_BOXES = 150


def model_cell(loaded: LoadedModel) -> str:
    """What the file is, what has to be known of it, and its stages."""
    return _model_cell(loaded.model, "Model", [])


def compiled_cell(compiled: CompiledModel) -> str:
    """The same, with what it was compiled for."""
    artifact = compiled.artifact
    return _model_cell(compiled.model, "Compiled model", [("target", artifact.target_name), ("artifact", artifact.directory)])


def _model_cell(model: Model, kind: str, more: list[tuple[str, object]]) -> str:
    tensors = model.file.tensors.values()
    formats = Counter(info.format.name for info in tensors)
    return cell(
        says(f"{kind} {model.path.name}: {model.family.architecture}, {counted(model.family.layers, 'layer')}"),
        facts(
            [
                ("file", f"{model.path} ({model.file.kind}, {bytes_text(model.file.size)})"),
                ("vocabulary", f"{model.vocabulary:,}"),
                ("context", f"{model.family.context:,}"),
                ("tensors", f"{len(tensors):,}: {', '.join(f'{count} {name}' for name, count in formats.most_common())}"),
                ("overrides", ", ".join(f"{key} = {value}" for key, value in model.overrides.items())),
                *more,
            ]
        ),
        notes(model.notices),
    )


def graph_cell(graph: Graph) -> str:
    """The picture of the graph, equal layers folded; of one that is too large a layer, and of one that is larger still its stages."""
    said = says(f"Graph @{graph.name}: {counted(len(graph), 'node')}, {counted(len(graph.staged()), 'stage')} of layers and model")
    for layers in (None, range(1)):
        try:
            view = make_view(graph, layers=layers)
        except AprgraphError:  # it has no layer 0
            continue
        if len(view.nodes) > _BOXES:  # which takes long to place, and nobody finds anything in it
            continue
        picture = export_svg(view)
        data = base64.b64encode(picture.encode()).decode("ascii")
        if len(data) <= _PICTURE:
            aside = "" if layers is None else line("the picture shows layer 0; of all layers it would be too large")
            return cell(said, f'<img alt="{text(f"The graph {graph.name}")}" src="data:image/svg+xml;base64,{data}">', aside)
    rows = [(node.stage, "" if node.layer is None else node.layer, node.op, node.type) for node in graph.staged()]
    return cell(said, table(["stage", "layer", "op", "type"], rows, "print(aprgraph.graph.text.print_graph(graph)) has all"))
