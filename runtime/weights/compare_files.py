"""Two model files compared tensor by tensor, and what they say beside the tensors."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.sources import Source, TensorInfo
from aprgraph.runtime.weights.compare_tensor import Progress, compare_tensor
from aprgraph.runtime.weights.finding import Status, TensorFinding
from aprgraph.runtime.weights.metadata_differences import hyperparameter_differences, tokenizer_differences
from aprgraph.runtime.weights.own_order import RowAlignment
from aprgraph.runtime.weights.report import WeightsReport
from aprgraph.runtime.weights.tensor_pair import TensorPair, rows_of

#: A head that a file lacks is the embedding table: the two are tied.
_HEAD, _TABLE = "output.weight", "token_embd.weight"


def compare_files(a: Source, b: Source, progress: Progress | None = None) -> WeightsReport:
    """Whether two files are the same model; ``progress`` is called with the bytes of both that were read.

    Tensors are taken in the order in which they lie in A, a piece at a time. Raises ModelFileError for a file that can
    no longer be read.
    """
    alignment = RowAlignment(a.metadata, b.metadata)
    findings = tuple(_findings(a, b, alignment, progress))
    return WeightsReport(
        (a.path, b.path),
        (a.kind, b.kind),
        findings,
        tuple(hyperparameter_differences(a.metadata, b.metadata)),
        tuple(tokenizer_differences(a.metadata, b.metadata)),
        (alignment.sentence,) if alignment.sentence else (),
    )


def bytes_to_read(a: Source, b: Source) -> int:
    """The bytes of the tensors of both, for a bar of progress."""
    return sum(info.nbytes for side in (a, b) for info in side.tensors.values())


def _findings(a: Source, b: Source, alignment: RowAlignment, progress: Progress | None) -> Iterator[TensorFinding]:
    for info in sorted(a.tensors.values(), key=lambda info: (info.part, info.offset)):
        other = b.tensors.get(info.name)
        if other is None and info.name == _HEAD:
            other = b.tensors.get(_TABLE)
        if other is None:
            yield _missing(Status.ONLY_A, info)
        else:
            order = alignment.order(info.name, rows_of(b, other).count)
            yield compare_tensor(TensorPair(a, b, info, other, order), progress)
            _release(a, b)
    for info in b.tensors.values():
        if info.name in a.tensors:
            continue
        table = a.tensors.get(_TABLE) if info.name == _HEAD else None
        if table is None:
            yield _missing(Status.ONLY_B, info)
        else:
            yield _of_head(compare_tensor(TensorPair(a, b, table, info), progress), info)
            _release(a, b)


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


def _of_head(found: TensorFinding, head: TensorInfo) -> TensorFinding:
    """What was found of A's table, which is its head as well."""
    return TensorFinding(
        head.name, found.status, found.formats, found.dims, found.kind, found.text, found.summary, found.measures, found.also
    )
