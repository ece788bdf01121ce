"""Tensors that one file has one after the other in a single one, and the other file each by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.graph.words import joined
from aprgraph.runtime.weights.fit import sample_of
from aprgraph.runtime.weights.model_numbers import head_counts
from aprgraph.runtime.weights.rows import Index, RememberedRows, ReorderedRows, Rows, TransposedRows, rows_of
from aprgraph.runtime.weights.tensor_names import layer_and_slot
from aprgraph.runtime.weights.tensor_pair import TensorPair
from aprgraph.runtime.weights.two_files import TwoFiles

Side = Literal["A", "B"]

#: Stems of tensors that are also found in one, and of that one. Experts may also be one by one, under the stem and their number.
_FUSED = (
    ("attn_qkv", ("attn_q", "attn_k", "attn_v")),
    ("ffn_up", ("ffn_gate", "ffn_up")),
    ("ffn_gate_up_exps", ("ffn_gate_exps", "ffn_up_exps")),
)
#: Latent attention's matrices of k and v of all heads in one, and by themselves.
_LATENT, _PARTS_OF_LATENT = "attn_kv_b", ("attn_k_b", "attn_v_b")
_EXPERT = re.compile(r"(ffn_(?:gate|up|down))\.(\d+)\.(weight|bias)")
#: So alike some rows of a part are to those that it should be.
_ALIKE = 0.5


@dataclass(frozen=True)
class FusedParts:
    """``whole`` is the tensor of ``side`` that has all ``parts`` of the other side, whose rows are ``orders`` of its own.

    ``how``: in which order, empty where they are simply one after the other.
    """

    side: Side
    whole: TensorInfo
    parts: tuple[TensorInfo, ...]
    orders: tuple[Index, ...]
    how: str = ""

    @property
    def sentence(self) -> str:
        """Which tensor of which side is which of the other, in words that are the same for every layer."""
        slots = [layer_and_slot(part.name)[1] for part in self.parts]
        names = joined(slots) if len(slots) < 4 else f"{slots[0]} to {slots[-1]}"
        other = "B" if self.side == "A" else "A"
        return f"{layer_and_slot(self.whole.name)[1]} of {self.side} is {names} of {other}, {self.how or 'one after the other'}"

    def pairs(self, files: TwoFiles) -> Iterator[TensorPair]:
        """A pair for each part."""
        for part, order in zip(self.parts, self.orders, strict=True):
            some = replace(self.whole, name=part.name, dims=part.dims)
            turned = files.alignment.order(part.name, len(order))
            if self.side == "A":
                rows = ReorderedRows(rows_of(files.a, self.whole), order)
                yield TensorPair(files, some, part, RememberedRows(rows), RememberedRows(files.rows_of_b(part)), is_part=True)
            else:
                rows = ReorderedRows(rows_of(files.b, self.whole), order if turned is None else order[turned])
                yield TensorPair(files, part, some, RememberedRows(rows_of(files.a, part)), RememberedRows(rows), is_part=True)


@dataclass(frozen=True)
class PartsOfHeads(FusedParts):
    """The matrices of latent attention, of k and v of all heads: in one, or by themselves, where those of k are transposed."""

    @property
    def sentence(self) -> str:
        """See ``FusedParts.sentence``."""
        return f"{super().sentence.partition(',')[0]}, head by head, with the matrices of k transposed"

    def pairs(self, files: TwoFiles) -> Iterator[TensorPair]:
        """See ``FusedParts.pairs``."""
        one, other = (files.a, files.b) if self.side == "A" else (files.b, files.a)
        for index, (part, order) in enumerate(zip(self.parts, self.orders, strict=True)):
            info = part if index else replace(part, dims=(part.dims[0], part.dims[2], part.dims[1]))
            rows: Rows = rows_of(other, part) if index else TransposedRows(other, part)
            some = replace(self.whole, name=part.name, dims=info.dims)
            of_whole = RememberedRows(ReorderedRows(rows_of(one, self.whole), order))
            sides = [(some, of_whole), (info, RememberedRows(rows))]
            (a, rows_a), (b, rows_b) = sides if self.side == "A" else sides[::-1]
            yield TensorPair(files, a, b, rows_a, rows_b, is_part=True)


def find_fused(files: TwoFiles) -> list[FusedParts]:
    """What is one tensor in one file and several in the other."""
    return [*_found(files, "A"), *_found(files, "B")]


def _found(files: TwoFiles, side: Side) -> Iterator[FusedParts]:
    one, other = (files.a, files.b) if side == "A" else (files.b, files.a)
    experts = _experts_by_stack(other.tensors)
    for whole in one.tensors.values():
        layer, slot = layer_and_slot(whole.name)
        if layer is None or _has_same(whole, other):
            continue
        stem, _, what = slot.partition(".")
        parts = experts.get(whole.name, ())
        if parts and _is_stack(whole, parts):
            yield FusedParts(side, whole, parts, tuple(np.split(np.arange(math.prod(whole.dims[:-1])), len(parts))))
            continue
        if stem == _LATENT and (of_heads := _of_heads(side, whole, other, layer)) is not None:
            yield of_heads
            continue
        for fused, stems in _FUSED:
            found = tuple(other.tensors.get(f"blk.{layer}.{part}.{what}") for part in stems)
            if stem == fused and all(found):
                infos = tuple(info for info in found if info is not None)
                yield from _as_laid_out(files, side, whole, infos)


def _of_heads(side: Side, whole: TensorInfo, other: Source, layer: int) -> FusedParts | None:
    """The matrices of k and v of each head that the tensor ``whole`` holds; None where the dims do not fit."""
    k, v = (other.tensors.get(f"blk.{layer}.{part}.weight") for part in _PARTS_OF_LATENT)
    if k is None or v is None or (len(whole.dims), len(k.dims), len(v.dims)) != (2, 3, 3):
        return None
    heads, rank, plain = k.dims
    if v.dims[0] != heads or v.dims[2] != rank or whole.dims != (heads * (plain + v.dims[1]), rank):
        return None
    by_head = np.arange(whole.dims[0]).reshape(heads, -1)
    return PartsOfHeads(side, whole, (k, v), (by_head[:, :plain].reshape(-1), by_head[:, plain:].reshape(-1)))


def _has_same(whole: TensorInfo, other: Source) -> bool:
    info = other.tensors.get(whole.name)
    return info is not None and info.has_dims(whole.dims)


def _experts_by_stack(tensors: Mapping[str, TensorInfo]) -> dict[str, tuple[TensorInfo, ...]]:
    """The experts that are one by one, by the name of the tensor that has all."""
    found: dict[str, dict[int, TensorInfo]] = {}
    for info in tensors.values():
        layer, slot = layer_and_slot(info.name)
        expert = _EXPERT.fullmatch(slot)
        if layer is not None and expert is not None:
            found.setdefault(f"blk.{layer}.{expert[1]}_exps.{expert[3]}", {})[int(expert[2])] = info
    return {name: tuple(of[number] for number in sorted(of)) for name, of in found.items() if sorted(of) == list(range(len(of)))}


def _is_stack(whole: TensorInfo, parts: tuple[TensorInfo, ...]) -> bool:
    return whole.dims[0] == len(parts) and all(part.dims == whole.dims[1:] for part in parts)


def _as_laid_out(files: TwoFiles, side: Side, whole: TensorInfo, parts: tuple[TensorInfo, ...]) -> Iterator[FusedParts]:
    """The parts in the first order in which they are alike; one after the other if none is."""
    counts = [math.prod(part.dims[:-1]) if len(part.dims) > 1 else part.dims[-1] for part in parts]
    is_matrix = len(whole.dims) > 1
    total = math.prod(whole.dims[:-1]) if is_matrix else whole.dims[-1]
    if sum(counts) != total or any(len(part.dims) != len(whole.dims) or (is_matrix and part.dims[-1] != whole.dims[-1]) for part in parts):
        return
    matrices = whole.dims[0] if len(whole.dims) == 3 else 1
    layouts = [FusedParts(side, whole, parts, orders, how) for orders, how in _orders(files, counts, matrices)]
    found = next((one for one in layouts if _is_alike(files, one)), layouts[0])
    yield found


def _orders(files: TwoFiles, counts: list[int], matrices: int) -> Iterator[tuple[tuple[Index, ...], str]]:
    """By part which rows of the whole are its."""
    total = sum(counts) // matrices
    starts = np.cumsum([0, *(count // matrices for count in counts)])
    by_matrix = np.arange(matrices)[:, None] * total
    yield tuple((by_matrix + np.arange(start, stop)).reshape(-1) for start, stop in pairwise(starts)), ""
    rows = np.arange(sum(counts))
    if len(counts) == 2:
        yield (rows[0::2], rows[1::2]), "row by row"
        half = total // 2
        yield ((by_matrix + np.arange(half, total)).reshape(-1), (by_matrix + np.arange(half)).reshape(-1)), "the second one first"
        return
    for groups in dict.fromkeys(head_counts((files.a, files.b))):
        if all(count % groups == 0 for count in counts):
            each = np.cumsum([0, *(count // groups for count in counts)])
            by_group = rows.reshape(groups, -1)
            yield tuple(by_group[:, start:stop].reshape(-1) for start, stop in pairwise(each)), f"in {groups} groups"


def _is_alike(files: TwoFiles, one: FusedParts) -> bool:
    return all(_cosine(pair.rows_a, pair.rows_b) >= _ALIKE for pair in one.pairs(files))


def _cosine(a: Rows, b: Rows) -> float:
    rows = sample_of(a)
    ours, theirs = (side.fetch(rows).values.reshape(-1).astype(np.float64) for side in (a, b))
    size = float(np.linalg.norm(ours) * np.linalg.norm(theirs))
    return float(ours @ theirs) / size if size else 0.0
