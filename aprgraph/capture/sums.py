"""Sums of a value and a tensor of a module that is no weight of a module of its own, such as the bias of a router's choice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class SumWatch:
    """Records what ``module`` gets when it adds its tensor ``name``, each time that it is called."""

    def __init__(self, module: Any, name: str, record: Callable[[torch.Tensor], None]) -> None:
        self._module, self._name, self._record = module, name, record
        self._watching: _Additions | None = None

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record until ``stack`` closes."""
        stack.callback(self._module.register_forward_pre_hook(self._enter).remove)
        stack.callback(self._module.register_forward_hook(self._leave, always_call=True).remove)

    def _enter(self, module: Any, _args: Any) -> None:
        self._watching = _Additions(getattr(module, self._name))
        self._watching.__enter__()

    def _leave(self, _module: Any, _args: Any, output: Any) -> None:
        watching, self._watching = self._watching, None
        if watching is None:
            return
        watching.__exit__(None, None, None)
        if output is not None and watching.total is not None:  # without output it raised
            self._record(watching.total)


class _Additions(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, ``total`` becomes the sum of a value and ``term``. It changes nothing."""

    def __init__(self, term: Any) -> None:
        super().__init__()
        self.total: torch.Tensor | None = None
        self._term = term

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("add", "__add__", "__radd__") and any(map(self._is_term, args)):
            self.total = result.clone()
        return result

    def _is_term(self, value: Any) -> bool:
        """Whether a value is the tensor, or it in another shape."""
        if value is self._term:
            return True
        return isinstance(value, torch.Tensor) and (value.data_ptr(), value.numel()) == (self._term.data_ptr(), self._term.numel())
