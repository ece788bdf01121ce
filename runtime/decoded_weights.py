"""Weights as the reference reads them: decoded to float64, whole where they are small and in parts where they are not."""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np

from aprgraph.graph.block_formats import decode_minima, decode_reference
from aprgraph.graph.ir import Node
from aprgraph.graph.model import Model
from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.ops.sources import MINIMA
from aprgraph.graph.weight_pieces import InPieces, decode_piece, rows_of
from aprgraph.runtime.weight_scales import row_scales

#: A matrix of more elements is decoded in the parts that are asked for: the table of a large vocabulary is gigabytes in float64.
_WHOLE = 1 << 26
#: A matrix of no more elements, 8 MB in float64, is decoded whole for ids that pick some of its rows too, if it is kept.
_SMALL = 1 << 20


def decode_weight(model: Model, node: Node) -> Array:
    """The weight of a `weight` node, decoded to float64 in its dims."""
    return decode_rows(model, node).reshape(node.type.bind())


def decode_rows(model: Model, node: Node, start: int = 0, stop: int | None = None) -> Array:
    """The rows start .. stop - 1 of the weight of a `weight` node in float64; of experts, the rows of all, one after the other."""
    info = model.tensor(node.attr_str("tensor"))
    if info.in_pieces is not None:
        return _rows_of_pieces(info.in_pieces, start, stop)
    raw = model.file.tensor_bytes(info)[start:stop]
    if node.attrs.get("part") == MINIMA:
        return decode_minima(info.format, raw)
    decoded = decode_reference(info.format, raw, (len(raw), info.dims[-1]))
    scales = row_scales(model, node, start, start + len(raw))
    return decoded if scales is None else decoded * scales


def _rows_of_pieces(tensor: InPieces, start: int, stop: int | None) -> Array:
    """The rows start .. stop - 1 of all pieces, one after the other."""
    rows = rows_of(tensor.format, tensor.finders[0]())
    end = len(tensor.finders) * rows if stop is None else stop
    parts = [
        decode_piece(tensor.format, tensor.finders[number](), max(start - number * rows, 0), min(end - number * rows, rows))
        for number in range(start // rows, -(-end // rows))
    ]
    return np.concatenate(parts)


class _Parts:
    """A weight [R, C] or [X, R, C] of which rows, by slice or by ids, or one expert, are decoded when they are asked for."""

    def __init__(self, model: Model, node: Node) -> None:
        self._model, self._node = model, node
        self.shape = tuple(node.type.bind())

    def __getitem__(self, part: int | slice | Array) -> Array:
        if isinstance(part, slice):
            start, stop, _ = part.indices(self.shape[0])
            return decode_rows(self._model, self._node, start, stop)
        if isinstance(part, np.ndarray):
            return self._rows(part)
        rows = self.shape[1]
        return decode_rows(self._model, self._node, part * rows, (part + 1) * rows)

    def _rows(self, ids: Array) -> Array:
        info = self._model.tensor(self._node.attr_str("tensor"))
        if info.in_pieces is not None:
            return np.concatenate([_rows_of_pieces(info.in_pieces, row, row + 1) for row in ids.tolist()])
        decoded = decode_reference(info.format, self._model.file.tensor_bytes(info)[ids], (len(ids), info.dims[-1]))
        scales = row_scales(self._model, self._node, 0, self.shape[0])
        return decoded if scales is None else decoded * scales[ids]


class DecodedWeights:
    """The weights of a model by node. ``keep`` is how many bytes of those decoded last stay, for whoever reads them next."""

    def __init__(self, model: Model, keep: int = 0) -> None:
        self._model = model
        self._keep = keep
        self._kept: OrderedDict[tuple[str, object], Array] = OrderedDict()

    def read(self, node: Node, user: Node) -> Array:
        """The weight ``node`` in float64 for the node ``user``, or something of its shape that decodes what it is indexed by.

        That is, of ids that pick rows or experts, what they pick, and of a large matrix the rows that are asked for.
        """
        if self._in_parts(node, user):
            parts: Array = _Parts(self._model, node)  # type: ignore[assignment]
            return parts
        kept_as = (node.attr_str("tensor"), node.attrs.get("part"))
        if kept_as in self._kept:
            self._kept.move_to_end(kept_as)
            return self._kept[kept_as]
        value = decode_weight(self._model, node)
        if value.nbytes <= self._keep:
            self._kept[kept_as] = value
            while sum(kept.nbytes for kept in self._kept.values()) > self._keep:
                self._kept.popitem(last=False)
        return value

    def _in_parts(self, node: Node, user: Node) -> bool:
        """Whether the user of a weight reads it in parts, each of which is decoded when it is asked for."""
        traits, size = traits_of(user), math.prod(node.type.bind())
        if traits.picks_rows_by is not None:
            return size > _SMALL or not self._keep
        return traits.is_matmul and len(node.type.dims) > 1 and size > _WHOLE
