"""Weights as the reference reads them: decoded to float64, whole where they are small and in parts where they are not."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

import numpy as np

from aprgraph.graph.block_formats import decode_minima, decode_reference
from aprgraph.graph.calling_convention import weight_nbytes
from aprgraph.graph.ir import Node
from aprgraph.graph.ops import Array, traits_of
from aprgraph.graph.ops.sources import MINIMA
from aprgraph.graph.threads import in_threads
from aprgraph.graph.weight_pieces import InPieces, decode_piece, rows_of
from aprgraph.runtime.weight_scales import Tensors, row_scales

#: A matrix of more elements is decoded in the parts that are asked for: the table of a large vocabulary is gigabytes in float64.
_WHOLE = 1 << 26
#: A matrix of no more elements, 8 MB in float64, is decoded whole for ids that pick some of its rows too, if it is kept.
_SMALL = 1 << 20
#: Bytes of a decoded element.
_ITEMSIZE = 8
#: So many elements are decoded at once: what is made on the way is several times as much, and stays in the cache of a processor.
_TILE = 1 << 17
#: Bytes of decoded weights that are held while one stage is computed again and again.
_HELD = 1 << 28
#: Bytes of the file that are read before its pages are given back; the system keeps them in its cache while there is room.
_RESIDENT = 1 << 28


def decode_weight(model: Tensors, node: Node) -> Array:
    """The weight of a `weight` node, decoded to float64 in its dims, by all processors."""
    value = np.empty(_matrix(model, node))
    for _ in in_threads(lambda tile: _decode_into(value[tile], model, node, tile), _tiles(0, *value.shape)):
        pass
    return value.reshape(node.type.bind())


def decode_rows(model: Tensors, node: Node, start: int = 0, stop: int | None = None) -> Array:
    """The rows start .. stop - 1 of the weight of a `weight` node in float64; of experts, the rows of all, one after the other."""
    rows, columns = _matrix(model, node)
    stop = rows if stop is None else stop
    tiles = list(_tiles(start, stop, columns))
    if len(tiles) == 1:
        return _decode_tile(model, node, tiles[0])
    value = np.empty((stop - start, columns))
    for tile in tiles:
        _decode_into(value[tile.start - start : tile.stop - start], model, node, tile)
    return value


def _matrix(model: Tensors, node: Node) -> tuple[int, int]:
    """The rows of a weight as the file has them, which may be other dims than the node's, and the elements of each."""
    *outer, columns = model.tensor(node.attr_str("tensor")).dims
    return math.prod(outer), node.type.bind()[-1] if node.attrs.get("part") == MINIMA else columns


def _tiles(start: int, stop: int, columns: int) -> Iterator[slice]:
    rows = max(1, _TILE // columns)
    return (slice(first, min(first + rows, stop)) for first in range(start, stop, rows))


def _decode_into(value: Array, model: Tensors, node: Node, rows: slice) -> None:
    """Some rows of a weight."""
    decoded = _decode_tile(model, node, rows)
    assert decoded.shape == value.shape  # nothing is to be repeated
    value[...] = decoded


def _decode_tile(model: Tensors, node: Node, rows: slice) -> Array:
    info = model.tensor(node.attr_str("tensor"))
    if info.in_pieces is not None:
        return _rows_of_pieces(info.in_pieces, rows.start, rows.stop)
    raw = model.file.tensor_bytes(info)[rows]
    if node.attrs.get("part") == MINIMA:
        return decode_minima(info.format, raw)
    decoded = decode_reference(info.format, raw, (len(raw), info.dims[-1]))
    scales = row_scales(model, node, rows.start, rows.stop)
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


def held(read: Callable[[Node, Node], Array], names: Collection[str]) -> Callable[[Node, Node], Array]:
    """``read`` with what it gives of the weights ``names`` held as long as the function is, up to _HELD bytes in all."""
    values: dict[tuple[str, str], Array] = {}

    def reading(node: Node, user: Node) -> Array:
        key = (node.name, user.name)
        if key in values:
            return values[key]
        value = read(node, user)
        if node.name in names and isinstance(value, np.ndarray) and value.nbytes + sum(one.nbytes for one in values.values()) <= _HELD:
            values[key] = value
        return value

    return reading


class _Parts:
    """A weight [R, C] or [X, R, C] of which rows, by slice or by ids, or one expert, are decoded when they are asked for."""

    def __init__(self, model: Tensors, node: Node, decode: Callable[[Node, int, int], Array]) -> None:
        self._model, self._node, self._decode = model, node, decode
        self.shape = tuple(node.type.bind())
        self.ndim = len(self.shape)

    def __getitem__(self, part: int | slice | Array) -> Array:
        if isinstance(part, slice):
            start, stop, _ = part.indices(self.shape[0])
            return self._decode(self._node, start, stop)
        if isinstance(part, np.ndarray):
            return self._rows(part)
        rows = self.shape[1]
        return self._decode(self._node, part * rows, (part + 1) * rows)

    def _rows(self, ids: Array) -> Array:
        info = self._model.tensor(self._node.attr_str("tensor"))
        if info.in_pieces is not None:
            return np.concatenate([_rows_of_pieces(info.in_pieces, row, row + 1) for row in ids.tolist()])
        decoded = decode_reference(info.format, self._model.file.tensor_bytes(info)[ids], (len(ids), info.dims[-1]))
        scales = row_scales(self._model, self._node, 0, self.shape[0])
        return decoded if scales is None else decoded * scales[ids]


class DecodedWeights:
    """The weights of a model by node. ``keep`` is how many bytes of those decoded last stay, for whoever reads them next.

    ``keep_parts``: so do the parts of larger ones, for traces that are replayed side by side.
    """

    def __init__(self, model: Tensors, keep: int = 0) -> None:
        self._model = model
        self._keep = keep
        self.keep_parts = False
        self._kept: OrderedDict[tuple[object, ...], Array] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()  # parts are asked for by several threads
        self._touched = 0

    def read(self, node: Node, user: Node) -> Array:
        """The weight ``node`` in float64 for the node ``user``, or something of its shape that decodes what it is indexed by.

        That is, of ids that pick rows or experts, what they pick, and of a very large matrix the rows that are asked for.
        """
        return self._read(node, user, _WHOLE)

    def read_in_parts(self, node: Node, user: Node) -> Array:
        """The same for ``user``'s own reference, which multiplies by some rows at once: of matrices that are not small, too, what
        decodes the rows that are asked for. They are multiplied by while they are in a processor's cache.
        """
        return self._read(node, user, _SMALL)

    def _read(self, node: Node, user: Node, whole: int) -> Array:
        kept_as = (node.attr_str("tensor"), node.attrs.get("part"))
        if self._in_parts(node, user, whole) and kept_as not in self._kept:
            parts: Array = _Parts(self._model, node, self._part)  # type: ignore[assignment]
            return parts
        return self._keeping(kept_as, lambda: self._touch(decode_weight(self._model, node), node))

    def _part(self, node: Node, start: int, stop: int) -> Array:
        """Some rows of a weight, for ``_Parts``."""
        if not self.keep_parts or math.prod(node.type.bind()) * _ITEMSIZE > self._keep:
            return self._touch(decode_rows(self._model, node, start, stop), node)
        kept_as = (node.attr_str("tensor"), node.attrs.get("part"), start, stop)
        return self._keeping(kept_as, lambda: self._touch(decode_rows(self._model, node, start, stop), node))

    def _keeping(self, kept_as: tuple[object, ...], decode: Callable[[], Array]) -> Array:
        with self._lock:
            if kept_as in self._kept:
                self._kept.move_to_end(kept_as)
                return self._kept[kept_as]
        value = decode()
        if value.nbytes <= self._keep:
            with self._lock:
                if kept_as not in self._kept:
                    self._kept[kept_as] = value
                    self._kept_bytes += value.nbytes
                while self._kept_bytes > self._keep:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return value

    def _touch(self, value: Array, node: Node) -> Array:
        """``value``, for which its share of the file's bytes was read."""
        with self._lock:
            self._touched += value.size * weight_nbytes(node) // math.prod(node.type.bind())
            release = self._touched > _RESIDENT
            self._touched = 0 if release else self._touched
        if release:
            self._model.file.release()
        return value

    def _in_parts(self, node: Node, user: Node, whole: int) -> bool:
        """Whether the user of a weight reads it in parts, each of which is decoded when it is asked for."""
        traits, size = traits_of(user), math.prod(node.type.bind())
        if traits.picks_rows_by is not None:
            return size > _SMALL or not self._keep
        return traits.is_matmul and len(node.type.dims) > 1 and size > whole
