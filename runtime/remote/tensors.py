"""Tensors on a TVM RPC server: values that come and go, states such as KV caches, and as much of the weights as is needed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.block_formats import weight_format, weight_storage
from aprgraph.graph.calling_convention import RESIDENT_WEIGHTS, half_table, weight_nbytes
from aprgraph.graph.ir import Node, TensorType
from aprgraph.graph.model import Model
from aprgraph.graph.weight_pieces import comes_in_pieces, packed_parts, packed_places
from aprgraph.runtime.kernel_values import pieces_in_file, weight_array
from aprgraph.runtime.remote.connection import Connection, Space
from aprgraph.runtime.remote.protocol import Tensor

_ITEMSIZE = 4


@dataclass
class RemoteValue:
    """A tensor on the server, at the start of ``space``."""

    space: Space
    shape: tuple[int, ...]
    dtype: str
    tensor: Tensor
    #: How many nodes have yet to read it.
    uses: int = 0
    #: Whether ``space`` is free for another tensor after the last use: not that of a state.
    passes_on: bool = True


@dataclass
class _Weight:
    """A weight on the server; ``rows`` are those of its outermost dimension that are there, None if all."""

    space: Space
    tensors: list[Tensor]
    rows: set[int] | None = field(default_factory=set)
    #: What its table of places lies in, if it comes in pieces.
    places: Space | None = None


class RemoteTensors:
    """What a model's graphs work on, over one connection. ``capacity`` is the number of rows of states that grow."""

    def __init__(self, connection: Connection, model: Model, capacity: int) -> None:
        self._connection, self._model, self._capacity = connection, model, capacity
        self._free: dict[int, list[Space]] = defaultdict(list)  # spaces that hold nothing now, by size
        self.weights: dict[str, _Weight] = {}
        self._states: dict[str, Space] = {}
        self._halves: tuple[Space, Tensor] | None = None
        self._touched = 0  # bytes of weights that may be in memory here

    def new_value(self, shape: Sequence[int], dtype: str) -> RemoteValue:
        """A tensor with nothing in it yet."""
        size = _size_class(math.prod(shape) * np.dtype(dtype).itemsize)
        space = self._free[size].pop() if self._free[size] else self._connection.allocate(size)
        return RemoteValue(space, tuple(shape), dtype, self._connection.view(space, shape, dtype))

    def send(self, values: npt.NDArray[Any]) -> RemoteValue:
        """A tensor of ``values``."""
        value = self.new_value(values.shape, values.dtype.name)
        self._connection.put(value.space, values)
        return value

    def fetch(self, value: RemoteValue) -> npt.NDArray[Any]:
        """The elements of a tensor, in memory of their own."""
        return self._connection.get(value.space, value.shape, value.dtype)

    def free(self, value: RemoteValue) -> None:
        """The space of ``value`` may hold another tensor from now on."""
        if value.passes_on:
            self._free[value.space.nbytes].append(value.space)
            value.passes_on = False

    def half_table(self) -> Tensor:
        """The half table."""
        if self._halves is None:
            self._halves = self._table(half_table())
        return self._halves[1]

    def _table(self, table: npt.NDArray[Any]) -> tuple[Space, Tensor]:
        """A tensor of ``table``, in space of its own."""
        space = self._connection.allocate(table.nbytes)
        self._connection.put(space, table)
        return space, self._connection.view(space, table.shape, table.dtype.name)

    def state(self, name: str, kind: TensorType, start: int, total: int) -> RemoteValue:
        """The state of the node ``name`` for a pass from position ``start`` on: of one that grows, the first ``total`` rows."""
        shape = kind.bind(t=total)
        if name not in self._states:
            self._states[name] = self._connection.allocate(math.prod(kind.bind(t=self._capacity)) * _ITEMSIZE)
        space = self._states[name]
        if "t" not in kind.dims and start == 0:
            self._connection.put(space, np.zeros(shape, np.float32))
        assert total <= self._capacity
        return RemoteValue(space, shape, "float32", self._connection.view(space, shape, "float32"), passes_on=False)

    def weight(self, node: Node, rows: npt.NDArray[np.int64] | None) -> list[Tensor]:
        """The tensor of a `weight` node, in which at least ``rows`` of its outermost dimension are there (None: all); and the
        table of places of one that comes in pieces.
        """
        dtype, dims = weight_storage(node.type)
        nbytes = weight_nbytes(node)
        with self._connection.doing(f"sending the weight {node.name} ({nbytes:,} bytes)"):
            if node.name not in self.weights:
                space = self._connection.allocate(nbytes)
                in_pieces = comes_in_pieces(node.type)
                weight = _Weight(space, [self._connection.view(space, (math.prod(dims),) if in_pieces else dims, np.dtype(dtype).name)])
                if in_pieces:
                    weight.places, places = self._table(packed_places(node.type))
                    weight.tensors.append(places)
                self.weights[node.name] = weight
            weight = self.weights[node.name]
            if weight.rows is not None:
                if rows is None or weight_format(node.type).is_decoded_when_bound:
                    self._send_all(node, weight)
                    weight.rows = None
                    self._release_pages(nbytes)
                else:
                    self._send_rows(node, weight, sorted(set(rows.tolist()) - weight.rows))
        return weight.tensors

    def _send_all(self, node: Node, weight: _Weight) -> None:
        pieces = pieces_in_file(self._model, node)
        if pieces is None:
            self._connection.put(weight.space, weight_array(self._model, node))
            return
        for _, start, part in packed_parts(node.type, (find() for find in pieces.finders)):
            self._connection.put(weight.space, part, start)

    def _send_rows(self, node: Node, weight: _Weight, rows: list[int]) -> None:
        assert weight.rows is not None
        pieces = pieces_in_file(self._model, node)
        if pieces is None:
            self._connection.put_rows(weight.space, weight_array(self._model, node), rows)
        elif len(pieces.finders) == node.type.bind()[0]:  # the rows are experts
            for number, start, part in packed_parts(node.type, (find() for find in pieces.finders)):
                if number in rows:
                    self._connection.put(weight.space, part, start)
        else:
            self._send_all(node, weight)
            rows = list(range(node.type.bind()[0]))
        weight.rows.update(rows)
        self._release_pages(weight_nbytes(node) // node.type.bind()[0] * len(rows))

    def _release_pages(self, nbytes: int) -> None:
        self._touched += nbytes
        if self._touched > RESIDENT_WEIGHTS:
            self._model.file.release()
            self._touched = 0

    def drop_weight(self, node: Node) -> None:
        """Give back the memory of a weight on the server."""
        self.weights.pop(node.name, None)


def _size_class(nbytes: int) -> int:
    """``nbytes`` and at most a quarter more, so that tensors that grow from token to token find their predecessors' space."""
    step = max(4096, 1 << max(nbytes.bit_length() - 3, 0))
    return -(-nbytes // step) * step
