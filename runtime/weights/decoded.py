"""Rows of a tensor as they are compared: their values, and how far each may have been from them before it was rounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Sums = npt.NDArray[np.float64]


class Decoded:
    """``values`` [rows, columns] in f32, and how far the rounded values may have been, ``radius``, as an array or a function of it.

    ``outer`` are the elements that may have been cut off by more than that; None if there are none. ``squares`` gives the
    sums of the squares of the radius over units of some columns, [rows, units], from the sums of the squares of the values,
    without the radius itself.
    """

    def __init__(
        self,
        values: Values,
        radius: Values | Callable[[], tuple[Values, npt.NDArray[np.bool_] | None]],
        outer: npt.NDArray[np.bool_] | None = None,
        squares: Callable[[int, Sums], Sums] | None = None,
    ) -> None:
        self.values = values
        self._given, self._outer, self._squares = radius, outer, squares

    @property
    def radius(self) -> Values:
        """Of each element."""
        return self._rounding[0]

    @property
    def outer(self) -> npt.NDArray[np.bool_] | None:
        """Whether each element is one of the outermost of its block."""
        return self._rounding[1]

    @cached_property
    def _rounding(self) -> tuple[Values, npt.NDArray[np.bool_] | None]:
        return self._given() if callable(self._given) else (self._given, self._outer)

    def radius_squares(self, unit: int, energies: Sums) -> Sums:
        """The sum of squares of the radius over each unit of columns; ``energies`` are the same sums of the values."""
        return self._squares(unit, energies) if self._squares is not None else sums_of_products(self.radius, self.radius, unit)


def sums_of_products(a: npt.NDArray[Any], b: npt.NDArray[Any], unit: int) -> Sums:
    """The sum of products over each unit of columns, [rows, units]: made in the dtype of the operands."""
    shape = (len(a), -1, unit)
    return np.asarray(np.einsum("rui,rui->ru", a.reshape(shape), b.reshape(shape)), np.float64)
