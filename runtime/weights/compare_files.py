"""Two model files compared tensor by tensor, and what they say beside the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.graph.words import counted
from aprgraph.runtime.weights.compare_tensor import Progress, compare_tensor
from aprgraph.runtime.weights.finding import SAME, Status, TensorFinding
from aprgraph.runtime.weights.fused_parts import FusedParts, find_fused
from aprgraph.runtime.weights.metadata_differences import hyperparameter_differences, tokenizer_differences
from aprgraph.runtime.weights.report import WeightsReport
from aprgraph.runtime.weights.same_function import mark_reordered
from aprgraph.runtime.weights.tensor_pair import whole_pair
from aprgraph.runtime.weights.two_files import TwoFiles

#: A head that a file lacks is the embedding table: the two are tied.
_HEAD, _TABLE = "output.weight", "token_embd.weight"


def compare_files(a: Source, b: Source, progress: Progress | None = None) -> WeightsReport:
    """Whether two files are the same model; ``progress`` is called with the bytes of both that were read.

    Tensors are taken in the order in which they lie in A, a piece at a time. Raises ModelFileError for a file that can
    no longer be read.
    """
    files = TwoFiles(a, b)
    fused = find_fused(files)
    findings = tuple(mark_reordered(list(_findings(files, fused, progress)), files))
    notes = (files.alignment.sentence, *dict.fromkeys(one.sentence for one in fused), *_of_rounding(findings))
    return WeightsReport(
        (a.path, b.path),
        (a.kind, b.kind),
        findings,
        tuple(hyperparameter_differences(a.metadata, b.metadata)),
        tuple(tokenizer_differences(a.metadata, b.metadata)),
        tuple(note for note in notes if note),
    )


def bytes_to_read(a: Source, b: Source) -> int:
    """The bytes of the tensors of both, for a bar of progress."""
    return sum(info.nbytes for side in (a, b) for info in side.tensors.values())


def _findings(files: TwoFiles, fused: Sequence[FusedParts], progress: Progress | None) -> Iterator[TensorFinding]:
    a, b = files.a, files.b
    by_whole = {(one.side, one.whole.name): one for one in fused}
    parts = {(one.side, part.name) for one in fused for part in one.parts}
    for info in sorted(a.tensors.values(), key=lambda info: (info.part, info.offset)):
        if ("A", info.name) in by_whole:
            yield from _of_parts(files, by_whole["A", info.name], progress)
            continue
        if ("B", info.name) in parts:
            continue
        other = b.tensors.get(info.name)
        if other is None and info.name == _HEAD:
            other = b.tensors.get(_TABLE)
        if other is None:
            yield _missing(Status.ONLY_A, info)
        else:
            found = compare_tensor(whole_pair(files, info, other), progress)
            yield found if other.name == info.name else _as_head(found, "B")
            _release(a, b)
    for info in b.tensors.values():
        if ("B", info.name) in by_whole:
            yield from _of_parts(files, by_whole["B", info.name], progress)
            continue
        if info.name in a.tensors or ("A", info.name) in parts:
            continue
        table = a.tensors.get(_TABLE) if info.name == _HEAD else None
        if table is None:
            yield _missing(Status.ONLY_B, info)
        else:
            found = compare_tensor(whole_pair(files, table, info), progress)
            yield _as_head(replace(found, name=info.name), "A")
            _release(a, b)


def _of_parts(files: TwoFiles, fused: FusedParts, progress: Progress | None) -> Iterator[TensorFinding]:
    """What is found of the parts of a tensor; where they do not lie one after the other, that is a difference."""
    for pair in fused.pairs(files):
        found = compare_tensor(pair, progress)
        if fused.how and found.status in SAME:
            found = replace(found, status=Status.TRANSFORMED, kind="fused-order", text=fused.sentence, summary=fused.sentence)
        yield found
    _release(files.a, files.b)


def _as_head(found: TensorFinding, side: str) -> TensorFinding:
    """What was found of a head and the table of the ``side`` that has no head, which is its head as well."""
    if found.status in SAME:
        return found
    text = f"{side} has no head, so that its embedding table is one: "
    return replace(found, text=text + found.text, summary=text + found.summary)


def _of_rounding(findings: Sequence[TensorFinding]) -> Iterator[str]:
    """What is to be said of how tensors were rounded."""
    of_text: dict[str, int] = {}
    for one in findings:
        if one.status is Status.ROUNDED and one.text:
            of_text[one.text] = of_text.get(one.text, 0) + 1
    yield from (f"{text}, in {counted(count, 'tensor')}" for text, count in of_text.items())


def _missing(status: Status, info: TensorInfo) -> TensorFinding:
    """A tensor that the other side lacks."""
    in_a = status is Status.ONLY_A
    name, dims = info.format.name, info.dims
    formats, both = ((name, None), (dims, None)) if in_a else ((None, name), (None, dims))
    other = "B" if in_a else "A"
    return TensorFinding(info.name, status, formats, both, "missing", f"{other} has no such tensor", f"{other} has no such tensors")


def _release(*files: Source) -> None:
    """Give back what was made of a tensor: some kinds of file hold it otherwise than it is read."""
    for file in files:
        file.release()
