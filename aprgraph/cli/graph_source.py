"""What `aprgraph graph` draws: the graph of a model, an artifact or a trace."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aprgraph.cli.notices import print_notices

if TYPE_CHECKING:
    from aprgraph.graph.ir import Graph


def open_graph(source: Path, override_kv: list[str] | None = None, ignore: list[str] | None = None) -> Graph:
    """The graph of a model, whose notices are printed, an artifact directory or a trace directory. Raises AprgraphError."""
    from aprgraph.graph.errors import AprgraphError, TraceError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415
    from aprgraph.graph.near_names import did_you_mean_path  # noqa: PLC0415
    from aprgraph.graph.sources.checkpoint import is_checkpoint  # noqa: PLC0415
    from aprgraph.graph.sources.file_kind import kind_of_folder  # noqa: PLC0415

    overrides = parse_overrides(override_kv or [])
    if source.is_dir() and not is_checkpoint(source):
        if overrides or ignore:
            option = "--override-kv" if overrides else "--ignore"
            raise AprgraphError(f"{source}: {option} needs the model; artifacts and traces have their graph already; give the model")
        if (source / "artifact.json").is_file():
            return _graph_of_artifact(source)
        kind = kind_of_folder(source)
        if kind is not None and kind.name != "trace":
            raise AprgraphError(f"{source}: {kind.what}, neither an artifact nor a trace; ", kind.advice)
        from aprgraph.runtime.trace.reader import Trace  # noqa: PLC0415

        found = Trace.open(source).graph()
        if found is None:
            raise TraceError(f"{source}: has no graph: no manifest, or one of another program; give the model as the source instead")
        return found
    if not source.exists():
        raise AprgraphError(
            f"{source}: not there{did_you_mean_path(source)}; "
            "expected a GGUF file, an .apr file, a checkpoint, or the directory of an artifact or a trace"
        )
    from aprgraph.graph.model import load_model  # noqa: PLC0415
    from aprgraph.graph.model_graph import build_graph  # noqa: PLC0415

    model = load_model(source, overrides, ignore or [])
    built = build_graph(model)
    print_notices(model.notices)
    return built


def _graph_of_artifact(directory: Path) -> Graph:
    """From the text alone, so that an artifact for another CPU, or whose model has gone, can be drawn too."""
    from aprgraph.graph.errors import ArtifactError, GraphError  # noqa: PLC0415
    from aprgraph.graph.input_file import read_input_text  # noqa: PLC0415
    from aprgraph.graph.ops import OPS  # noqa: PLC0415
    from aprgraph.graph.text import MOST_GRAPH_BYTES, parse_graph  # noqa: PLC0415
    from aprgraph.graph.verify import verify  # noqa: PLC0415

    path = directory / "graph.txt"
    try:
        found = parse_graph(read_input_text(path, MOST_GRAPH_BYTES))
        if all(node.op in OPS for node in found):  # those of a family's file may be unknown, and can be drawn all the same
            verify(found)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}; compile the model again") from None
    except GraphError as error:
        raise ArtifactError(f"{path}: not the graph of an artifact ({error}); compile the model again") from None
    return found
