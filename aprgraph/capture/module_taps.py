"""Hooks on modules: the output or the input of one, or of several, as the rows of a stage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aprgraph.capture.attention import in_file_order
from aprgraph.capture.captured_model import CapturedModel
from aprgraph.graph.ir import Dim, Node

#: Called with (stage, layer, tensor). The tensor has the shape of the stage table, on any device, in any dtype.
Record = Callable[[str, int | None, torch.Tensor], None]
#: Makes the tensor of a stage from the arguments and the output of a module.
Shape = Callable[[Any, Any], torch.Tensor]

#: Slots whose modules return heads of q or k. Without the batch, the output has three dimensions if heads have an
#: axis.
_OF_HEADS = ("q", "k", "q_norm", "k_norm", "v_norm")
_HEADS_APART = 3


@dataclass(frozen=True)
class Tap:
    """A way to record ``stages`` of ``layer``: ``open`` installs its hooks, and closing the stack removes them.

    ``layer`` is None for a whole-model stage. With ``everywhere``, the tap records the stages of all layers.
    """

    stages: tuple[str, ...]
    layer: int | None
    open: Callable[[contextlib.ExitStack], None]
    everywhere: bool = False


class ModuleTaps:
    """Makes the taps of modules of one layer, or (``layer`` None) outside the layers, whose nodes are ``nodes``."""

    def __init__(self, captured: CapturedModel, record: Record, layer: int | None, nodes: Sequence[Node], *, all_logits: bool) -> None:
        self._captured, self._record, self._layer, self._nodes, self._all_logits = captured, record, layer, nodes, all_logits

    def at(self, module: Any, stage: str, shape: Shape = lambda _, output: rows_of(output), turn: tuple[int, int] = (0, 1)) -> Tap:
        """Record the output of ``module``; of one that is called several times in a pass, that of its ``turn``."""
        calls = 0

        # A hook that returned something would replace the module's output.
        def hook(_module: Any, args: Any, output: Any) -> None:
            nonlocal calls
            if calls % turn[1] == turn[0]:
                self._record(stage, self._layer, shape(args, output))
            calls += 1

        return Tap((stage,), self._layer, lambda stack: until(stack, module.register_forward_hook(hook)))

    def before(self, module: Any, stage: str, width: Dim, turn: tuple[int, int] = (0, 1)) -> Tap:
        """Record the input of ``module``, which may have heads of the ``width`` columns as rows, as a norm of heads has.

        Of one that is called several times in a pass, that of its ``turn``.
        """
        calls = 0

        def hook(_module: Any, args: Any) -> None:
            nonlocal calls
            if calls % turn[1] == turn[0]:
                self._record(stage, self._layer, rows_of(args).reshape(-1, int(width)))
            calls += 1

        return Tap((stage,), self._layer, lambda stack: until(stack, module.register_forward_pre_hook(hook)))

    def after(
        self,
        modules: Sequence[tuple[str, Any]],
        stage: str,
        made: Callable[[Mapping[str, torch.Tensor]], torch.Tensor] = lambda outputs: torch.cat(list(outputs.values()), dim=-1),
        turn: tuple[int, int] = (0, 1),
    ) -> Tap:
        """Record what is ``made`` of the outputs of the modules of these slots, by slot: these side by side."""
        if len(modules) == 1:
            slot, module = modules[0]
            return self.at(module, stage, lambda args, output: made({slot: self._shaped(slot, args, output)}), turn)
        found: dict[str, torch.Tensor] = {}

        def keep(slot: str) -> Callable[[Any, Any, Any], None]:
            def hook(_module: Any, args: Any, output: Any) -> None:
                found[slot] = self._shaped(slot, args, output)
                if len(found) == len(modules):
                    self._record(stage, self._layer, made({slot: found.pop(slot) for slot, _ in modules}))

            return hook

        def open_all(stack: contextlib.ExitStack) -> None:
            for slot, module in modules:
                until(stack, module.register_forward_hook(keep(slot)))

        return Tap((stage,), self._layer, open_all)

    def _shaped(self, slot: str, args: Any, output: Any) -> torch.Tensor:
        """The output of the module of ``slot``, in the shape of its stage, with rows in the order of the GGUF file."""
        if slot == "lm_head":
            return self.of_logits(output)
        if slot in self._captured.family.hf_outputs:
            output = output[self._captured.family.hf_outputs[slot]]
        if slot not in _OF_HEADS:
            return rows_of(output)
        size, heads = self._captured.outline.family.size_of(self._layer or 0), output[0]
        if heads.dim() == _HEADS_APART:
            # Some models normalise [1, n, heads, D], others its transpose, [1, heads, n, D].
            # If n equals heads, the strides tell.
            count = next(node.attr_int("groups") for node in self._nodes if node.stage == slot)
            is_turned = heads.shape[1] != count or (heads.shape[0] == count and args[0].stride(1) < args[0].stride(2))
            heads = heads.transpose(0, 1) if is_turned else heads
        return in_file_order(self._captured, heads.reshape(len(heads), -1, size))

    def of_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [1, n, V] as rows [n, V], or the last position's [V], whichever is recorded."""
        return rows_of(logits) if self._all_logits else logits[0, -1]


def rows_of(values: Any) -> torch.Tensor:
    """The input or output of a module, [1, n, columns] or [n, columns], as [n, columns]."""
    values = values[0] if isinstance(values, tuple) else values
    return values.reshape(-1, values.shape[-1])


def until(stack: contextlib.ExitStack, handle: Any) -> None:
    """Remove a hook when ``stack`` closes."""
    stack.callback(handle.remove)
