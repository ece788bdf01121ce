"""`aprgraph inspect`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aprgraph.cli.options import Families, Json, Map
from aprgraph.cli.terminal import one_line
from aprgraph.cli.verbosity import Quiet, Verbose
from aprgraph.option_words import in_option_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aprgraph.codegen.artifact import Artifact
    from aprgraph.runtime.trace.array_names import ArrayNames
    from aprgraph.runtime.trace.reader import Trace

#: So many shapes of arrays whose names are alike are told.
_SHAPES = 3
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
    from aprgraph.cli.inspect_elements import describe_aprt, describe_npy  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.graph.input_file import special_kind  # noqa: PLC0415
    from aprgraph.graph.message import Message  # noqa: PLC0415
    from aprgraph.graph.near_names import did_you_mean_path  # noqa: PLC0415
    from aprgraph.graph.sources.checkpoint import is_checkpoint  # noqa: PLC0415
    from aprgraph.graph.sources.file_kind import HEAD_BYTES, kind_of_file, kind_of_folder  # noqa: PLC0415
    from aprgraph.graph.sources.open import begins_a_model  # noqa: PLC0415
    from aprgraph.runtime.trace.foreign import holds_arrays, is_foreign_file  # noqa: PLC0415
    from aprgraph.runtime.trace.gguf_arrays import is_gguf_of_arrays  # noqa: PLC0415

    elements = at is not None or top is not None
    if elements and (path.is_dir() or not _holds_one_tensor(path)):
        raise AprgraphError(f"{path}: --at and --top are of one tensor; give an APRT file (.bin) or a .npy file")
    if is_checkpoint(path):
        document = _model(path)
    elif path.is_dir():
        folder = kind_of_folder(path)
        is_dump = holds_arrays(path)
        if folder is not None and folder.name not in ("trace", "artifact") and not (is_dump and not _holds_weights(path)):
            raise AprgraphError(f"{path}: {folder.what}; ", folder.advice, f"; expected {_EXPECTED}")
        if (path / "artifact.json").is_file():
            document = _artifact(path)
        else:
            document = _dump(path) if is_dump and not names else _trace(path, names or [])
    elif path.is_file():
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except OSError as error:
            raise AprgraphError(f"{path}: cannot be read: {error.strerror}") from None
        if begins_a_model(head) and not is_gguf_of_arrays(path):
            document = _model(path)
        elif head.startswith(b"APRT"):
            document = describe_aprt(path, at or [], top)
        elif path.suffix.lower() == ".npy" and not names:
            document = describe_npy(path, at or [], top)
        elif is_foreign_file(path) and not (path.suffix.lower() == ".safetensors" and not names and _holds_weights(path)):
            document = _trace(path, names) if names else _dump(path)
        else:
            kind = kind_of_file(path, head)
            what = f"begins with {head[:4]!r}" if kind is None else Message(f"{kind.what}; ", kind.advice)
            raise AprgraphError(f"{path}: ", what, f"; expected {_EXPECTED}")
    else:
        raise AprgraphError(f"{path}: {special_kind(path) or f'not there{did_you_mean_path(path)}'}; expected {_EXPECTED}")
    if json:
        import json as json_module  # noqa: PLC0415

        typer.echo(json_module.dumps(document, indent=1, allow_nan=False))
    else:
        typer.echo(_as_text(document))
    if document.get("damaged"):
        raise typer.Exit(1)


def _holds_one_tensor(path: Path) -> bool:
    """Whether a file is of one tensor, by its beginning or its name; one that is not there may be."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"APRT" or path.suffix.lower() == ".npy"
    except OSError:
        return True


def _holds_weights(path: Path) -> bool:
    """Whether the arrays of a file or folder are called as a model's weights are; so are those that cannot be read."""
    from aprgraph.graph.errors import TraceError  # noqa: PLC0415
    from aprgraph.runtime.trace.array_files import open_array_file, open_array_folder  # noqa: PLC0415

    try:
        arrays = open_array_folder(path)[0] if path.is_dir() else open_array_file(path)
    except TraceError:
        return True
    return any(name.endswith(".weight") for name in arrays)


def _dump(path: Path) -> dict[str, Any]:
    """Another program's file; where its arrays have no place yet, what they are called, and the rules that give them one."""
    from aprgraph.graph.errors import TraceError  # noqa: PLC0415
    from aprgraph.runtime.trace.array_files import is_array_file, open_array_file, open_array_folder  # noqa: PLC0415
    from aprgraph.runtime.trace.array_names import survey_names  # noqa: PLC0415
    from aprgraph.runtime.trace.from_arrays import is_place_of_array  # noqa: PLC0415
    from aprgraph.runtime.trace.gguf_arrays import is_gguf_of_arrays  # noqa: PLC0415

    try:
        document = _trace(path, [])
    except TraceError:
        if not path.is_dir() and not is_array_file(path.name) and not is_gguf_of_arrays(path):
            raise
        arrays = open_array_folder(path)[0] if path.is_dir() else open_array_file(path)
        if not arrays or any(is_place_of_array(name) or name.endswith(".weight") for name in arrays):
            raise  # something else is wrong, or it is a model
        kind = "arrays, none of which is called as a stage is: rules (--map, or --map @FILE for a file of them) say where they belong"
        return {"kind": kind, **_by_pattern(survey_names(arrays), "arrays")}
    if document["manifest"] or not (path.is_dir() or is_array_file(path.name) or is_gguf_of_arrays(path)):
        return document
    arrays = open_array_folder(path)[0] if path.is_dir() else open_array_file(path)
    without = [name for name in arrays if name in document.get("unread", {})]
    if without:
        # Those that have places first: no rule is to give one of these again.
        ordered = {name: arrays[name] for name in (*(name for name in arrays if name not in without), *without)}
        patterns = [one for one in survey_names(ordered) if set(one.names) & set(without)]
        document["unread"] = {name: why for name, why in document["unread"].items() if name not in without}
        document |= _by_pattern(patterns, "arrays without a place")
        if not document["unread"]:
            del document["unread"]
    return document


def _by_pattern(found: Sequence[ArrayNames], called: str) -> dict[str, Any]:
    """Arrays by patterns of their names, with their shapes, and the rules that these names suggest."""
    shapes = {one.pattern: " or ".join("x".join(map(str, shape)) or "one number" for shape in one.shapes[:_SHAPES]) for one in found}
    return {
        called: {one.pattern: f"{one.count} of {shapes[one.pattern]}{f' ({one.remark})' if one.remark else ''}" for one in found},
        "rules that their names suggest": {f"--map '{one.rule}'": one.pattern for one in found if one.rule is not None},
    }


def _trace(path: Path, names: list[str]) -> dict[str, Any]:
    from aprgraph.runtime.trace.reader import Trace  # noqa: PLC0415

    trace = Trace.open(path, names=names)
    document: dict[str, Any] = {"kind": "trace", "manifest": trace.has_manifest}
    if trace.info is not None:
        document |= {
            "model": dict(trace.info.model),
            "target": trace.info.target,
            "tokens": list(trace.info.tokens),
            **({"generated": trace.info.extra["generated"]} if "generated" in trace.info.extra else {}),
            "positions": trace.info.positions,
            "plan": trace.info.plan,
        }
    document["tensors"] = {entry.label: f"{'x'.join(map(str, entry.shape))}  {entry.file or 'statistics only'}" for entry in trace.entries}
    damaged = dict(_damaged(trace))
    if damaged:
        document["damaged"] = damaged
    unread = [one for one in trace.unread if not one.damaged]
    if unread:
        document["unread"] = {one.file: one.sentence.removeprefix(f"{one.file}: ") for one in unread}
    if read_as := [*trace.read_as, *([trace.regrouped] if trace.regrouped is not None else [])]:
        document["read as"] = read_as
    if trace.left_out:
        document["left out"] = list(trace.left_out)
    return document


def _damaged(trace: Trace) -> Iterator[tuple[str, str]]:
    """The files that are not the tensors that the manifest describes, each with why, and all are read for that; without one, those
    at the place of a stage whose header is not that of an APRT file of their length.
    """
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    for one in trace.unread:
        if one.damaged:
            yield one.file, one.why
    for entry in trace.entries if trace.has_manifest else ():
        if entry.file is not None:
            try:
                trace.load(entry)
            except AprgraphError as error:
                yield entry.file, str(error)


def _artifact(path: Path) -> dict[str, Any]:
    from aprgraph.codegen.artifact import read_artifact  # noqa: PLC0415
    from aprgraph.codegen.trust.artifacts import is_trusted  # noqa: PLC0415

    artifact = read_artifact(path)
    return {
        "kind": "artifact",
        "target": artifact.target_name,
        "model": str(artifact.model_path),
        "fingerprint": artifact.fingerprint,
        "overrides": dict(artifact.overrides),
        "identity": artifact.identity,
        "trusted": is_trusted(path, artifact.identity) if artifact.library_digest is not None else "needs none, as it has no machine code",
        "programs": len(list((path / "programs").glob("*.vm"))),
        **(_gpu_code(artifact) if artifact.device is not None else {}),
        "kernels": dict(artifact.kernels),
    }


def _gpu_code(artifact: Artifact) -> dict[str, Any]:
    """What the fat binary itself says: its images, and of each kernel what it takes on each architecture."""
    from aprgraph.codegen.cuda.fat_binary import read_fat_binary  # noqa: PLC0415

    assert artifact.device is not None
    images = read_fat_binary(artifact.fat_binary.read_bytes())
    kernels: dict[str, list[str]] = {}
    for image in images:
        for kernel in image.kernels:
            needs = kernels.setdefault(kernel.name, [])
            if kernel.registers is not None:
                needs.append(f"{image}: {kernel.registers} registers, {kernel.shared_bytes} + {kernel.local_bytes} bytes")
    return {
        "compiler": artifact.device.compiler,
        "GPU code": {str(image): f"{len(image.kernels)} kernels, {image.size:,} bytes" for image in images},
        "GPU kernels (registers a thread, shared bytes a block + local bytes a thread)": {
            name: "; ".join(needs) for name, needs in sorted(kernels.items())
        },
    }


def _model(path: Path) -> dict[str, Any]:
    from aprgraph.graph.metadata import ArrayValue  # noqa: PLC0415
    from aprgraph.graph.sources.open import open_source  # noqa: PLC0415
    from aprgraph.graph.sources.whole_digest import sampled_share  # noqa: PLC0415
    from aprgraph.runtime.check import check  # noqa: PLC0415

    file = open_source(path)
    report = check(path, weights=False)
    return {
        "kind": file.kind,
        "findings": {
            f"{group[0].rule.level.value}: {group[0].rule.title}": [f"{one.name} {in_option_words(one.text)}".strip() for one in group]
            for group in report.by_rule.values()
        },
        "weights": f"not read; `aprgraph check {path}` reads them",
        **file.details,
        "bytes": file.size,
        "fingerprint": file.fingerprint(),
        "fingerprint covers": f"the header and {sampled_share(file):.2%} of the weights",
        "metadata": {
            key: f"array of {len(value)}" if isinstance(value, ArrayValue) else _finite(value) for key, value in file.metadata.items()
        },
        "tensors": {info.name: f"{info.format.name} {' x '.join(map(str, info.dims))}" for info in file.tensors.values()},
    }


def _finite(value: object) -> object:
    """``value`` as JSON can hold it: NaN and Inf as text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


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
