"""Weights that hold NaN or Inf, in words: what a run's NaN comes from, and what `aprgraph check` lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from aprgraph.graph.gguf_file import GGUFFile
from aprgraph.graph.ir import Graph
from aprgraph.runtime.check.survey import SurveyedTensor, survey
from aprgraph.runtime.check.surveyed_matrix import Place

#: Places that a sentence names.
_NAMED = 4


@dataclass(frozen=True)
class NonfiniteWeight:
    """A tensor of the file that holds NaN or Inf; ``what`` says how many and where."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} holds {self.what}"


def find_nonfinite(file: GGUFFile, names: Iterable[str]) -> Iterator[NonfiniteWeight]:
    """Those of the tensors ``names`` that hold NaN or Inf, as they are found; reads all of each. Raises ModelFileError."""
    infos = [file.tensors[name] for name in dict.fromkeys(names) if name in file.tensors]
    for found in survey(file, infos):
        if found.nan or found.inf:
            yield NonfiniteWeight(found.info.name, describe_nonfinite(found))


def weights_behind(graph: Graph, name: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """The tensors that the node ``name`` is computed from, back to the nodes ``known``, in execution order."""
    seen: set[str] = set()
    open_ends = [name]
    while open_ends:
        for operand in graph.operand_names(open_ends.pop()):
            if operand not in seen and operand not in known:
                seen.add(operand)
                open_ends.append(operand)
    return tuple(node.attr_str("tensor") for node in graph if node.op == "weight" and node.name in seen)


def source_of_nan(file: GGUFFile, graph: Graph, name: str, known: Collection[str] = ()) -> str | None:
    """Which weight makes the node ``name`` NaN or Inf, and what to do; None if it is no weight behind it, back to the nodes ``known``.

    Reads weights up to the first that does. Raises ModelFileError.
    """
    found = next(find_nonfinite(file, weights_behind(graph, name, known)), None)
    if found is None:
        return None
    return f"the model file is broken: {found}; `aprgraph check {file.path}` lists all that is wrong with it"


def describe_nonfinite(found: SurveyedTensor) -> str:
    """``3 blocks with NaN scales (rows 0, 14, 187)``."""
    parts = [
        _count(number, kind, found.info.format.arrives_in_blocks)
        for number, kind in ((found.nan, "NaN"), (found.inf, "infinite"))
        if number
    ]
    return f"{' and '.join(parts)} ({describe_places(found, [place for matrix in found.matrices for place in matrix.places])})"


def describe_places(found: SurveyedTensor, places: Sequence[Place]) -> str:
    """``row 3, columns 32 to 63``, ``rows 0, 1, 19``, ``elements 5, 9``, or ``expert 2 row 5``, as the tensor has them."""
    first = places[0]
    if len(found.info.dims) == 1:
        return _listed("element", [place.start for place in places])
    if len(found.matrices) > 1:
        named = list(dict.fromkeys(f"expert {place.matrix} row {place.row}" for place in places))
        return ", ".join(named[:_NAMED]) + (" …" if len(named) > _NAMED else "")
    if len(places) == 1:
        columns = f"column {first.start}" if first.stop == first.start + 1 else f"columns {first.start} to {first.stop - 1}"
        return f"row {first.row}, {columns}"
    return _listed("row", [place.row for place in places])


def _listed(noun: str, numbers: Sequence[int]) -> str:
    distinct = list(dict.fromkeys(numbers))
    more = " …" if len(distinct) > _NAMED else ""
    return f"{noun}{'' if len(distinct) == 1 else 's'} {', '.join(map(str, distinct[:_NAMED]))}{more}"


def _count(number: int, kind: str, blocks: bool) -> str:
    if blocks:
        return f"1 block with a{'n' if kind[0] == 'i' else ''} {kind} scale" if number == 1 else f"{number:,} blocks with {kind} scales"
    return f"1 {kind} element" if number == 1 else f"{number:,} {kind} elements"
