"""The guilty stage alone: its inputs, its weights, what it should have given and what it gave, and a script that shows the error."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aprgraph.graph.errors import AprgraphError, ComparisonError, TraceError
from aprgraph.graph.input_file import read_input
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.json_documents import Document, Exactly, MapOf, Record, Text
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, Role, has_state, is_input, is_own_state, is_weight, operand_named, traits_of
from aprgraph.graph.ops.lookup import rows_taken
from aprgraph.graph.passes.prune import Prune
from aprgraph.graph.passes.replay_recorded import PREFIX
from aprgraph.graph.whole_folder import whole_folder
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor
from aprgraph.runtime.blame.local_errors import LocalError
from aprgraph.runtime.decoded_weights import decode_rows
from aprgraph.runtime.output_file import probe
from aprgraph.runtime.trace.reader import Trace

SCRIPT = "repro.py"
#: The digests of what was written.
_SIGNATURE = "repro.json"


class _SignatureError(AprgraphError):
    """The file of digests is not one."""


SIGNATURE_FILE = Document(
    "list of a repro's files",
    Record(
        {
            "format": Exactly(("aprgraph-repro",)),
            "version": Exactly((1,)),
            "files": MapOf(Text(128), about="The SHA-256 of each file, in hexadecimal digits; of large weights the size."),
        },
        about="What was written beside it, so that it can be replaced as long as nobody changed it.",
    ),
    _SignatureError,
    "write it somewhere else",
    "aprgraph-repro",
    1,
)

#: What ends the name of a state that earlier passes left, where that is not the node's value.
_STATE = ".state"

_TEMPLATE = '''"""{title}

{origin}
"""

from aprgraph.runtime.blame.stage_alone import StageAlone

stage = StageAlone(__file__)
{body}
stage.compare(expected, {name!r}, {profile!r}, limit={limit!r})
'''


def write_repro(
    directory: Path, trace: Trace, model: Model, local: LocalError, *, profile: str | None = None, tokens: Sequence[int] | None = None
) -> Path:
    """Write the stage of ``local`` into ``directory``, which must not exist, be empty, or be as this left it. Returns the script's path.

    ``profile`` is the one that the audit held the trace to (default: that of its manifest).

    Arrays are .npy: recorded inputs, decoded weights (f32, and their blocks as the file has them, u8), ``expected`` and
    ``actual`` (f32). Raises TraceError if the directory cannot be written, ComparisonError for a stage that was not replayed.
    """
    if not local.region:
        raise ComparisonError(f"{local.label} of {trace.directory} was not replayed, so there is nothing to show: ", local.reason or "")
    check_repro_place(directory)
    try:
        with whole_folder(directory) as part:
            _write(part, Auditor(trace, model, AuditOptions(tokens, profile)), local)
            _sign(part)
    except OSError as error:
        raise TraceError.unwritable(directory, error) from None
    return directory / SCRIPT


def check_repro_place(directory: Path) -> None:
    """Raise TraceError unless ``directory`` is not there, empty, or as ``write_repro`` left it: a changed ``actual.npy`` is somebody's."""
    try:
        names = {path.name for path in directory.iterdir() if not path.name.startswith((".", "__"))} if directory.is_dir() else set()
        if not names and (directory.is_dir() or not os.path.lexists(directory)):
            probe(directory)
            return
        signed = SIGNATURE_FILE.read(directory / _SIGNATURE)["files"] if _SIGNATURE in names else None
        if signed is None:
            raise TraceError.at_place(f"{directory}: is not an empty folder, nor one that aprgraph wrote")
        changed = sorted(name for name in names - {_SIGNATURE} if signed.get(name) != _digest(directory / name))
    except OSError as error:
        raise TraceError.unwritable(directory, error) from None
    except _SignatureError:
        raise TraceError.at_place(f"{directory / _SIGNATURE}: is not what aprgraph wrote there") from None
    if changed:
        raise TraceError.at_place(f"{directory}: {', '.join(changed[:3])} is not as aprgraph wrote it")
    probe(directory)


def _sign(part: Path) -> None:
    """Note what is there, so that it can be replaced as long as nobody changed it."""
    files = {path.name: _digest(path) for path in sorted(part.iterdir())}
    document = {"format": SIGNATURE_FILE.format, "version": SIGNATURE_FILE.version, "files": files}
    (part / _SIGNATURE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _digest(path: Path) -> str:
    """Of the contents; of weights, which nobody edits and which can be of gigabytes, the size."""
    if path.stat().st_size > _MOST_BLOCK_BYTES:
        return f"{path.stat().st_size} bytes"
    return hashlib.sha256(read_input(path, _MOST_BLOCK_BYTES)).hexdigest()


def _write(part: Path, auditor: Auditor, local: LocalError) -> None:
    trace, model = auditor.recorded.trace, auditor.model
    step, layer, stage = local.key
    target = next(node for node in auditor.graph.staged() if (node.layer, node.stage) == (layer, stage))
    replay = auditor.replayer.replay_of(step)
    graph = replay.graph.copy()
    graph.outputs = (target.name,)
    graph = Prune()(graph)
    body = []
    value: Array | None = None
    for node, value in auditor.replayer.run(replay, graph=graph):
        if _is_saved(node):
            name = node.name.removeprefix(PREFIX)
            np.save(part / f"{name}.npy", value if is_input(node) else value.astype(np.float32))
        elif has_state(node) and node.name in replay.states:
            np.save(part / f"{node.name}{_STATE}.npy", replay.states[node.name])
    assert value is not None
    cached = {node.name for node in graph if is_own_state(node)}
    needed = _behind_caches(graph, target.name, cached)
    for node in graph:
        if node.name not in needed:
            continue
        if is_weight(node):
            _save_weight(part, model, graph, node)
        body.append(_line(graph, node, target.name, has_earlier=node.name in replay.states))
    tensor = auditor.recorded.of_step(step)[target.name]
    expected: Array = value
    if tensor.last_axis is not None:
        expected = expected.take([-1], axis=tensor.last_axis)
        body.append(f"expected = expected.take([-1], axis={tensor.last_axis})")
    with np.errstate(over="ignore", invalid="ignore"):
        np.save(part / "expected.npy", expected.astype(np.float32))
    np.save(part / "actual.npy", np.asarray(auditor.recorded.load(tensor)))
    inputs = [node.name.removeprefix(PREFIX) for node in graph if node.name in needed and _is_saved(node)]
    script = _TEMPLATE.format(
        title=_printable(f"{local.label} of {trace.directory}, alone: what it should have given, and what it gave."),
        origin=_printable(
            f"{', '.join(inputs) or 'No tensor'}: as {trace.directory} recorded them; weights: those of {model.path}, decoded."
        ),
        profile=auditor.profile,
        limit=local.limit,
        name=stage,
        body="\n".join(body),
    )
    (part / SCRIPT).write_text(script, encoding="utf-8")


def _printable(text: str) -> str:
    """``text`` as it may stand in a docstring, whatever characters a path holds."""
    return text.encode("unicode_escape").decode("ascii").replace('"', "'")


def _behind_caches(graph: Graph, target: str, cached: set[str]) -> set[str]:
    """What the target is computed from, as far as the caches, whose rows are saved."""
    needed, waiting = set(), [target]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            if name not in cached:
                waiting.extend(graph.operand_names(name))
    return needed


def _is_saved(node: Node) -> bool:
    """Whether the node's value is an array of the folder: what the stage is given, and the rows that earlier passes left too."""
    return traits_of(node).role in (Role.INPUT, Role.RECORDED) or is_own_state(node)


def _line(graph: Graph, node: Node, target: str, *, has_earlier: bool) -> str:
    """The statement that gives a node its value; ``has_earlier``: earlier passes left it a state."""
    left = "expected" if node.name == target else _identifier(node.name)
    if is_weight(node) or _is_saved(node):
        shape = f"  # {node.type}" if is_weight(node) else ""
        return f"{left} = stage.load({node.name.removeprefix(PREFIX)!r}){shape}"
    operands = [_identifier(name) for name in graph.operand_names(node.name)]
    attrs = [f"{name}={value!r}" for name, value in node.attrs.items()]
    if has_state(node) and has_earlier:
        attrs.append(f"earlier=stage.load({node.name + _STATE!r})")
    return f"{left} = stage.op({', '.join([repr(node.op), *operands, *attrs])})"


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name.removeprefix(PREFIX))


def _save_weight(part: Path, model: Model, graph: Graph, node: Node) -> None:
    """The weight decoded to f32; of the rows or experts that are read, the others stay zeros, which take no room on the disk."""
    info = model.tensor(node.attr_str("tensor"))
    columns = node.type.bind()[-1]
    rows = math.prod(info.dims[:-1])
    with (part / f"{node.name}.npy").open("wb") as file:  # not mapped: a full disk would end the process
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": node.type.bind()})
        begin = file.tell()
        for start, stop in _rows_read(part, graph, node, rows):
            file.seek(begin + 4 * columns * start)
            file.write(decode_rows(model, node, start, stop).astype("<f4").tobytes())
        file.truncate(begin + 4 * columns * rows)
    if not info.format.is_plain and rows * info.row_bytes < _MOST_BLOCK_BYTES:
        np.save(part / f"{node.name}.{info.format.name.lower()}-blocks.npy", np.asarray(model.file.tensor_bytes(info)))


#: Blocks are for those who debug a decoder; of larger weights the model file itself serves.
_MOST_BLOCK_BYTES = 64 << 20
#: Rows decoded at once.
_ROWS = 4096


def _rows_read(part: Path, graph: Graph, node: Node, rows: int) -> Iterator[tuple[int, int]]:
    """The ranges of rows that the stage reads: those of the tokens, or of the chosen experts, if that is all."""
    users = graph.users(node.name)
    picked_by = traits_of(users[0]).picks_rows_by if len(users) == 1 else None
    ids = None if picked_by is None else operand_named(graph, users[0], picked_by)
    if ids is not None and _is_saved(ids):
        chosen = np.load(part / f"{ids.name.removeprefix(PREFIX)}.npy")
        count = node.type.bind()[0]
        each = rows // count
        for one in np.unique(rows_taken(users[0].attrs, chosen[np.isfinite(chosen)], count)).astype(int):
            yield int(one) * each, (int(one) + 1) * each
        return
    for start in range(0, rows, _ROWS):
        yield start, min(start + _ROWS, rows)
