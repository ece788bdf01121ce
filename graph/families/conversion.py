"""What conversion to GGUF makes of a tensor of a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Conversion:
    """``rows`` and ``columns`` are those that it takes, in order, None for all. ``values`` makes float32 of what they hold.

    ``dims`` are those that the elements then have, None for the same; with ``exchanges`` the last two axes then change places.
    """

    rows: Indices | None = None
    columns: Indices | None = None
    values: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None
    dims: tuple[int, ...] | None = None
    exchanges: bool = False

    @property
    def changes_nothing(self) -> bool:
        """Whether the tensor is the same in GGUF."""
        return self.rows is None and self.columns is None and self.values is None and self.dims is None and not self.exchanges
