"""Weights that hold NaN or Inf, in words: what a run's NaN comes from, and what `aprgraph check` lists."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.arguments import CHECK
from aprgraph.graph.ir import Graph
from aprgraph.graph.message import Message
from aprgraph.graph.ops import weights_of
from aprgraph.graph.sources.source import Source
from aprgraph.runtime.check.describe import describe_nonfinite, runs_in_words
from aprgraph.runtime.check.survey import LONGEST_ROW, Surveyor
from aprgraph.runtime.check.vector_rules import divides_frequencies


@dataclass(frozen=True)
class NonfiniteWeight:
    """A tensor of the file that holds NaN or Inf, or 0 where something is divided by it; ``what`` says how many and where."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} holds {self.what}"


def find_nonfinite(file: Source, names: Iterable[str]) -> Iterator[NonfiniteWeight]:
    """Those of the tensors ``names`` that hold NaN or Inf, or 0 by which RoPE's frequencies are divided, as they are found; reads all of
    each. Raises ModelFileError.
    """
    infos = [file.tensors[name] for name in dict.fromkeys(names) if name in file.tensors and file.tensors[name].row_bytes <= LONGEST_ROW]
    surveyor = Surveyor(file)
    for info in infos:
        found = surveyor.survey(info)
        if found.nan or found.inf:
            yield NonfiniteWeight(info.name, describe_nonfinite(found))
        elif found.values is not None and divides_frequencies(info.name) and (zeros := np.flatnonzero(found.values == 0)).size:
            yield NonfiniteWeight(info.name, f"0 in {runs_in_words('element', zeros)}, by which RoPE's frequencies are divided")


def weights_behind(graph: Graph, name: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """The tensors that the node ``name`` is computed from, back to the nodes ``known``, in execution order."""
    seen: set[str] = set()
    open_ends = [name]
    while open_ends:
        for operand in graph.operand_names(open_ends.pop()):
            if operand not in seen and operand not in known:
                seen.add(operand)
                open_ends.append(operand)
    return tuple(node.attr_str("tensor") for node in weights_of(graph) if node.name in seen)


def source_of_nan(file: Source, graph: Graph, name: str, known: Collection[str] = ()) -> str | None:
    """Which weight makes the node ``name`` NaN or Inf, and what to do; None if it is no weight behind it, back to the nodes ``known``.

    Reads weights up to the first that does. Raises ModelFileError.
    """
    found = next(find_nonfinite(file, weights_behind(graph, name, known)), None)
    if found is None:
        return None
    check = CHECK.given(file.path, f"aprgraph.check({str(file.path)!r})")
    return Message(f"the model file is broken: {found}; `", check, "` lists all that is wrong with it")
