"""What methods of a module give that are no calls of the module, and streams that are apart: AltUp in Gemma 3n."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

#: By op of the graph: the method of transformers' module, and its parameter that is a stage, if any.
METHODS = {"altup_predict": ("predict", ""), "altup_correct": ("correct", "activated")}


def side_by_side(streams: torch.Tensor) -> torch.Tensor:
    """Streams [A, 1, n, E] as rows, [n, A·E]."""
    return streams[:, 0].transpose(0, 1).reshape(streams.shape[2], -1)


class MethodWatch:
    """Records what a method of ``module`` gives, or the argument ``given``. The layer may change that in place later."""

    def __init__(self, module: Any, name: str, record: Callable[[torch.Tensor], None], given: str = "") -> None:
        self._module, self._name, self._record, self._given = module, name, record, given

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record until ``stack`` closes."""
        before = vars(self._module).get(self._name)  # another watch
        method = getattr(self._module, self._name)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            values = (kwargs[self._given] if self._given in kwargs else args[-1]) if self._given else result
            self._record(values)
            return result

        def restore() -> None:
            vars(self._module).pop(self._name)
            if before is not None:
                vars(self._module)[self._name] = before

        vars(self._module)[self._name] = recorded
        stack.callback(restore)
