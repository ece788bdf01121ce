"""Weights of integers in groups with a scale and a zero point each, as GPTQ, AWQ, compressed-tensors and MLX have them.

Beside the weight there is what a reader gets who makes one mistake with it: whose values are exactly those has made it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from aprgraph.graph.sources.checkpoint.quantized_modules import MOST_STEPS, Decoding, Reals
from aprgraph.graph.sources.source import Misreading

Index = npt.NDArray[np.int64]
#: Of rows from a first to an end: codes [rows, columns], or a number for each group, [rows, groups].
Codes = Callable[[int, int], npt.NDArray[np.number]]
Numbers = Callable[[int, int], npt.NDArray[np.number]]

_WORD, _IN_WORD = 32, 8
#: The places of the eight codes of a word, from the lowest bits on: in order, as AWQ has them, and as readers have taken them to be.
IN_ORDER = (0, 1, 2, 3, 4, 5, 6, 7)
OF_AWQ = (0, 2, 4, 6, 1, 3, 5, 7)
_ORDERS = (IN_ORDER, OF_AWQ, (7, 6, 5, 4, 3, 2, 1, 0), (1, 0, 3, 2, 5, 4, 7, 6), (0, 4, 1, 5, 2, 6, 3, 7), (7, 5, 3, 1, 6, 4, 2, 0))


@dataclass(frozen=True)
class Affine:
    """The weight (code − zero) · scale, or code · scale + bias, of ``rows`` and ``columns``; ``groups`` gives the group of each column.

    ``along_rows``: codes are packed with those of the next rows in a word, else with those of the next columns. ``by_group``: scales
    lie group after group in the file, else row after row. Zero points are packed along the rows. ``order`` is that of eight codes in
    a word.
    """

    rows: int
    columns: int
    bits: int
    codes: Codes
    scales: Numbers
    zeros: Numbers | None
    groups: Callable[[], npt.NDArray[np.integer]]
    biases: Numbers | None = None
    along_rows: bool = False
    by_group: bool = False
    packed: bool = True
    order: tuple[int, ...] = IN_ORDER

    def decoding(self, dims: tuple[int, ...]) -> Decoding:
        """The weight, and what it is by mistake."""
        return Decoding(dims, self.decode, self.radius, self._misreadings)

    def decode(self, start: int, stop: int) -> Reals:
        """The weight's rows from ``start`` to ``stop``."""
        values = self.codes(start, stop).astype(np.float32)
        if self.zeros is not None:
            values -= self._of_columns(self.zeros, start, stop)
        values *= self._of_columns(self.scales, start, stop)
        if self.biases is not None:
            values += self._of_columns(self.biases, start, stop)
        return values

    def radius(self, start: int, stop: int) -> Reals:
        """How far the elements of these rows may have been moved."""
        return np.asarray(np.abs(self._of_columns(self.scales, start, stop)) * np.float32(MOST_STEPS))

    def _of_columns(self, numbers: Numbers, start: int, stop: int) -> Reals:
        return np.asarray(numbers(start, stop).astype(np.float32)[:, self.groups()])

    # -- mistakes -----------------------------------------------------------------------------------------------------

    def _misreadings(self) -> Sequence[Misreading]:
        return [Misreading(words, layer.decode, layer.radius) for words, layer in self._mistakes()]

    def _mistakes(self) -> Iterator[tuple[str, Affine]]:
        yield from self._other_groups()
        yield from self._other_zeros()
        if self.biases is not None:
            biases = self.biases
            yield "without its biases", replace(self, biases=None)
            yield "with its biases subtracted", replace(self, biases=lambda start, stop: -biases(start, stop))
        if self.packed and self.bits < 8:
            yield from self._signed()
        if self.packed and _WORD // self.bits == _IN_WORD and not self.rows % _IN_WORD and not self.columns % _IN_WORD:
            yield from self._other_orders()
        if self.scales(0, 1).shape[1] > 1 and self.rows > 1:
            yield "with its scales transposed", replace(self, scales=self._transposed(self.scales))

    def _other_groups(self) -> Iterator[tuple[str, Affine]]:
        count, groups = self.scales(0, 1).shape[1], self.groups()
        size = -(-self.columns // count)
        columns = np.arange(self.columns)
        if not np.array_equal(groups, columns // size):
            yield "with the groups of its inputs in order, without g_idx", replace(self, groups=lambda: columns // size)
            return
        for wrong in (size * 2, size // 2):
            if count > 1 and wrong:
                made = np.minimum(columns // wrong, count - 1)
                yield f"in groups of {wrong} inputs in place of {size}", replace(self, groups=partial(np.copy, made))

    def _other_zeros(self) -> Iterator[tuple[str, Affine]]:
        zeros, levels = self.zeros, 1 << self.bits
        if zeros is None:
            return

        def moved(by: int, *, in_range: bool) -> Numbers:
            def made(start: int, stop: int) -> npt.NDArray[np.number]:
                found = zeros(start, stop).astype(np.int32) + by
                return found % levels if in_range else found

            return made

        for by, words in ((-1, "one less"), (1, "one more")):
            yield f"with zero points {words}", replace(self, zeros=moved(by, in_range=False))
            if self.packed:
                yield f"with zero points {words}, modulo {levels}", replace(self, zeros=moved(by, in_range=True))
        if self.packed:
            half = np.int32(levels // 2)
            yield f"with zero points of {half}", replace(self, zeros=lambda start, stop: np.full_like(zeros(start, stop), half, np.int32))
        yield "without zero points", replace(self, zeros=None)

    def _signed(self) -> Iterator[tuple[str, Affine]]:
        half = 1 << (self.bits - 1)

        def codes(start: int, stop: int) -> npt.NDArray[np.number]:
            own = self.codes(start, stop).astype(np.int32)
            return np.where(own >= half, own - 2 * half, own)

        if self.zeros is not None:
            yield "with signed codes", replace(self, codes=codes)
            yield "with signed codes and without zero points", replace(self, codes=codes, zeros=None)
        elif self.biases is not None:
            yield "with signed codes", replace(self, codes=codes)

    def _other_orders(self) -> Iterator[tuple[str, Affine]]:
        for taken in _ORDERS:
            if taken == self.order:
                continue
            places = [0] * _IN_WORD
            for own, other in zip(self.order, taken, strict=True):
                places[other] = own
            orders = " ".join(map(str, taken)), " ".join(map(str, self.order))
            words = f"of each word as {orders[0]} in place of {orders[1]}"
            of_codes = _in_words(self.rows if self.along_rows else self.columns, places)
            codes = _by_rows(self.codes, of_codes) if self.along_rows else _by_columns(self.codes, of_codes)
            yield f"with the codes {words}", replace(self, codes=codes)
            if self.zeros is not None:
                zeros = _by_rows(self.zeros, _in_words(self.rows, places))
                yield f"with the codes and zero points {words}", replace(self, codes=codes, zeros=zeros)
                yield f"with the zero points {words}", replace(self, zeros=zeros)

    def _transposed(self, numbers: Numbers) -> Numbers:
        """The numbers in the order of the file, taken for rows and groups the other way round."""

        def made(start: int, stop: int) -> npt.NDArray[np.number]:
            whole = numbers(0, self.rows)
            if self.by_group:
                return whole.T.reshape(whole.shape)[start:stop]
            return whole.reshape(whole.shape[::-1]).T[start:stop]

        return made


def _in_words(count: int, places: Sequence[int]) -> Index:
    """By each of ``count`` codes the one that is taken for it."""
    return np.asarray((np.arange(0, count, _IN_WORD)[:, None] + np.array(places)).reshape(-1))


def _by_columns(codes: Codes, order: Index) -> Codes:
    return lambda start, stop: codes(start, stop)[:, order]


def _by_rows(numbers: Numbers, order: Index) -> Numbers:
    """The rows of these places; words of eight of them hold all of each other's."""

    def made(start: int, stop: int) -> npt.NDArray[np.number]:
        first, last = start // _IN_WORD * _IN_WORD, -(-stop // _IN_WORD) * _IN_WORD
        return numbers(first, last)[order[start:stop] - first]

    return made
