"""`aprgraph inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from aprgraph.cli.inspect_artifact import describe_artifact
from aprgraph.cli.inspect_model import describe_model
from aprgraph.cli.inspect_traces import describe_dump, describe_trace, holds_weights
from aprgraph.cli.options import Families, Json, Map
from aprgraph.cli.terminal import one_line
from aprgraph.cli.verbosity import Quiet, Verbose

_EXPECTED = "an APRT or .npy file, a GGUF file, an .apr file, a checkpoint, or the directory of a trace or an artifact"


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE_OR_DIR", help="An APRT or .npy file, a trace, an artifact, or a model.")],
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="I,J,…", help="Of one tensor, print the element there, an index for each axis. Repeatable."),
    ] = None,
    top: Annotated[
        int | None, typer.Option("--top", min=1, max=100_000, metavar="N", help="Of one tensor, print the N elements of largest magnitude.")
    ] = None,
    names: Map = None,
    json: Json = False,
    _family: Families = None,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Say what a file or directory is, and what is in it.

    \b
    Example:
      aprgraph inspect model-trace/layer-0/qkv_matmul.bin
      aprgraph inspect model-trace/layer-0/qkv_matmul.bin --at 3,17 --top 5
      aprgraph inspect guilty/actual.npy --top 5

    Exit code: 0, 1 where files of a trace are damaged, 2 could not be looked at. Of a model only `aprgraph check` says by
    its exit code what is wrong with it.
    """
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.input_file import special_kind  # noqa: PLC0415
    from aprgraph.graph.near_names import did_you_mean_path  # noqa: PLC0415
    from aprgraph.graph.sources.checkpoint import is_checkpoint  # noqa: PLC0415

    if (at is not None or top is not None) and (path.is_dir() or not _holds_one_tensor(path)):
        raise AprgraphError(f"{path}: --at and --top are of one tensor; give an APRT file (.bin) or a .npy file")
    if is_checkpoint(path):
        document = describe_model(path)
    elif path.is_dir():
        document = _describe_folder(path, names or [])
    elif path.is_file():
        document = _describe_file(path, names or [], at or [], top)
    else:
        raise AprgraphError(f"{path}: {special_kind(path) or f'not there{did_you_mean_path(path)}'}; expected {_EXPECTED}")
    if json:
        import json as json_module  # noqa: PLC0415

        typer.echo(json_module.dumps(document, indent=1, allow_nan=False))
    else:
        typer.echo(_as_text(document))
    if document.get("damaged"):
        raise typer.Exit(1)


def _describe_folder(path: Path, names: list[str]) -> dict[str, Any]:
    """A folder that is no checkpoint. Raises AprgraphError for one that is neither a trace, nor a dump, nor an artifact."""
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.sources.file_kind import kind_of_folder  # noqa: PLC0415
    from aprgraph.runtime.trace.foreign import holds_arrays  # noqa: PLC0415

    kind, is_dump = kind_of_folder(path), holds_arrays(path)
    if kind is not None and kind.name not in ("trace", "artifact") and (not is_dump or holds_weights(path)):
        raise AprgraphError(f"{path}: {kind.what}; ", kind.advice, f"; expected {_EXPECTED}")
    if (path / "artifact.json").is_file():
        return describe_artifact(path)
    return describe_dump(path) if is_dump and not names else describe_trace(path, names)


def _describe_file(path: Path, names: list[str], at: list[str], top: int | None) -> dict[str, Any]:
    """A file, by what it begins with and by its name. Raises AprgraphError for one that is of no known kind."""
    from aprgraph.cli.inspect_elements import describe_aprt, describe_npy  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.message import Message  # noqa: PLC0415
    from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_file  # noqa: PLC0415
    from aprgraph.graph.sources.open import begins_a_model  # noqa: PLC0415
    from aprgraph.runtime.trace.foreign import is_foreign_file  # noqa: PLC0415
    from aprgraph.runtime.trace.gguf_arrays import is_gguf_of_arrays  # noqa: PLC0415

    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise AprgraphError(f"{path}: cannot be read: {error.strerror}") from None
    if begins_a_model(head) and not is_gguf_of_arrays(path):
        return describe_model(path)
    if head.startswith(b"APRT"):
        return describe_aprt(path, at, top)
    suffix = path.suffix.lower()
    if suffix == ".npy" and not names:
        return describe_npy(path, at, top)
    if is_foreign_file(path) and (names or suffix != ".safetensors" or not holds_weights(path)):
        return describe_trace(path, names) if names else describe_dump(path)
    kind = kind_of_file(path, head)
    what = f"begins with {head[:4]!r}" if kind is None else Message(f"{kind.what}; ", kind.advice)
    raise AprgraphError(f"{path}: ", what, f"; expected {_EXPECTED}")


def _holds_one_tensor(path: Path) -> bool:
    """Whether a file is of one tensor, by its beginning or its name; one that is not there may be."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"APRT" or path.suffix.lower() == ".npy"
    except OSError:
        return True


def _as_text(document: dict[str, Any]) -> str:
    """Keys and values, one a line; nested objects indented."""
    lines: list[str] = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines.append(f"{key}:" if value else f"{key}: none")
            lines += [f"  {one_line(name)}: {one_line(item)}" for name, item in value.items()]
        else:
            lines.append(f"{key}: {one_line(value)}")
    return "\n".join(lines)
