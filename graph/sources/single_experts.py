"""Experts that lie one by one in a GGUF file, as conversion wrote them before April 2024: they are read as the one tensor that holds
those of a layer since (ggml-org/llama.cpp#6387, which reads both).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from aprgraph.graph.metadata import Metadata
from aprgraph.graph.sources.source import TensorInfo
from aprgraph.graph.weight_pieces import InPieces, Piece

_ONE = re.compile(r"(blk\.\d+\.ffn_(?:gate|up|down))\.(\d+)\.weight")
#: A matrix of one expert: rows and columns.
_RANK = 2
#: Gives the bytes of a tensor.
View = Callable[[TensorInfo], npt.NDArray[np.uint8]]


def experts_together(tensors: dict[str, TensorInfo], metadata: Metadata, view: View) -> dict[str, TensorInfo]:
    """``tensors`` with those of single experts, where all of a layer's are there and alike, as one that lies in pieces.

    ``view`` gives the bytes of a stored tensor, u8 [rows, bytes of a row].
    """
    groups: dict[str, dict[int, TensorInfo]] = {}
    for name, info in tensors.items():
        if matched := _ONE.fullmatch(name):
            groups.setdefault(matched[1], {})[int(matched[2])] = info
    if not groups:
        return tensors
    count = _count(metadata)
    whole = {f"{name}_exps.weight": [found[index] for index in sorted(found)] for name, found in groups.items() if _are_all(found, count)}
    whole = {name: experts for name, experts in whole.items() if name not in tensors}
    single = {info.name for experts in whole.values() for info in experts}
    others = {name: info for name, info in tensors.items() if name not in single}
    return others | {name: _as_one(name, experts, view) for name, experts in whole.items()}


def why_apart(name: str, tensors: Mapping[str, TensorInfo], metadata: Metadata) -> str | None:
    """Why the tensor ``name`` of all experts could not be made of single ones; None where there is none of these."""
    stem = name.removesuffix("_exps.weight")
    found = {int(matched[2]): info for info in tensors.values() if (matched := _ONE.fullmatch(info.name)) and matched[1] == stem}
    if stem == name or not found:
        return None
    first = found[min(found)]
    other = next((info for info in found.values() if not _is_like(info, first)), None)
    lies = f"experts lie one by one ({first.name!r}), as conversion wrote them before April 2024"
    if other is not None:
        what = (f"{one.name!r} is {' x '.join(map(str, one.dims))} {one.format.name}" for one in (first, other))
        return f"{lies}, and are not alike: {' and '.join(what)}; convert the model again"
    return f"{lies}, and {len(found)} of {_count(metadata)} are there; get the file again, or convert the model again"


def _count(metadata: Metadata) -> object:
    return metadata.get(f"{metadata.get('general.architecture')}.expert_count")


def _are_all(found: Mapping[int, TensorInfo], count: object) -> bool:
    return len(found) == count and sorted(found) == list(range(len(found))) and all(_is_like(info, found[0]) for info in found.values())


def _is_like(info: TensorInfo, other: TensorInfo) -> bool:
    return (info.dims, info.format) == (other.dims, other.format) and len(info.dims) == _RANK


def _as_one(name: str, experts: Sequence[TensorInfo], view: View) -> TensorInfo:
    first = experts[0]
    in_pieces = InPieces(first.format, [partial(_piece, view, info) for info in experts])
    nbytes = len(experts) * first.nbytes
    return TensorInfo(name, (len(experts), *first.dims), first.format, first.offset, nbytes, first.part, in_pieces=in_pieces)


def _piece(view: View, info: TensorInfo) -> Piece:
    return Piece(view(info))
