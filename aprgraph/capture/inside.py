"""What happens inside a module that is no module of its own: a sum or a product with one of its tensors, or a function of torch that it
calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_ADDITIONS, _PRODUCTS = ("add", "__add__", "__radd__"), ("mul", "__mul__", "__rmul__", "mul_", "__imul__")


class InsideWatch:
    """Records what ``module`` gets of a function each time that it is called: ``is_it(name, args)`` says of which.

    Or what the function is ``given``: one of its arguments, from before it is called.
    """

    def __init__(
        self,
        module: Any,
        is_it: Callable[[str, Any], bool],
        record: Callable[[torch.Tensor], None],
        given: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        self._module, self._is_it, self._record, self._given = module, is_it, record, given
        self._watching: _Results | None = None

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record until ``stack`` closes."""
        stack.callback(self._module.register_forward_pre_hook(self._enter).remove)
        stack.callback(self._module.register_forward_hook(self._leave, always_call=True).remove)

    def _enter(self, _module: Any, _args: Any) -> None:
        self._watching = _Results(self._is_it, self._given)
        self._watching.__enter__()

    def _leave(self, _module: Any, _args: Any, output: Any) -> None:
        watching, self._watching = self._watching, None
        if watching is None:
            return
        watching.__exit__(None, None, None)
        if output is not None and watching.result is not None:  # without output it raised
            self._record(watching.result)


class SumWithPart(InsideWatch):
    """Records what ``module`` gets when it adds what its ``part`` gives."""

    def __init__(self, module: Any, part: Any, record: Callable[[torch.Tensor], None]) -> None:
        super().__init__(module, lambda function, args: function in _ADDITIONS and any(one is self._given for one in args), record)
        self._part, self._given = part, None

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record until ``stack`` closes."""
        super().open(stack)
        stack.callback(self._part.register_forward_hook(self._keep).remove)

    def _keep(self, _part: Any, _args: Any, output: Any) -> None:
        self._given = output


def sum_with(module: Any, name: str, record: Callable[[torch.Tensor], None]) -> InsideWatch:
    """Records what a module gets when it adds its tensor ``name``, such as the bias of a router's choice."""
    return InsideWatch(
        module, lambda function, args: function in _ADDITIONS and any(_is(getattr(module, name), one) for one in args), record
    )


def multiplied_by(module: Any, name: str, record: Callable[[torch.Tensor], None]) -> InsideWatch:
    """Records what a module multiplies by its tensor ``name``, such as the scale of a layer. The product may take its place."""

    def is_factor(value: Any) -> bool:
        return _is(getattr(module, name), value)

    return InsideWatch(
        module,
        lambda function, args: function in _PRODUCTS and any(map(is_factor, args)),
        record,
        lambda args: next(value for value in args if not is_factor(value)),
    )


def called(module: Any, name: str, record: Callable[[torch.Tensor], None]) -> InsideWatch:
    """Records what a module gets of the function ``name`` of torch, such as an activation."""
    return InsideWatch(module, lambda function, _args: function == name, record)


class _Results(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, ``result`` becomes what a function gives, or is ``given``. It changes nothing."""

    def __init__(self, is_it: Callable[[str, Any], bool], given: Callable[[Any], torch.Tensor] | None) -> None:
        super().__init__()
        self.result: torch.Tensor | None = None
        self._is_it, self._given = is_it, given

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_it = self._is_it(getattr(function, "__name__", ""), args)
        if is_it and self._given is not None:
            self.result = self._given(args).clone()
        result = function(*args, **(kwargs or {}))
        if is_it and self._given is None:
            self.result = result.clone()
        return result


def _is(term: Any, value: Any) -> bool:
    """Whether a value is a tensor, or it in another shape."""
    if value is term:
        return True
    return isinstance(value, torch.Tensor) and (value.data_ptr(), value.numel()) == (term.data_ptr(), term.numel())
