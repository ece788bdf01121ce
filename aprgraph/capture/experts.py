"""What happens inside the experts of a layer, whose weights transformers fuses into one module that is called once.

Its implementations differ in the rows that they compute at a time: "eager" takes the experts one by one, each with the positions
that chose it, "grouped_mm" all rows sorted by expert, "batched_mm" all in the order of the positions. In each, what goes into the
activation is the gate, what comes out is multiplied by the up projection, and the experts' outputs by a column of
weights; so these two products show everything. Where there is no gate, the up projection goes into the activation, and what comes
out into the down projection. Which row belongs to whom is what the implementation itself looked up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from aprgraph.graph.errors import TraceError

#: The implementations that can be followed.
FOLLOWED = ("eager", "grouped_mm", "batched_mm")
EXPERT_STAGES = ("moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out")
#: The same of experts without a gate.
UNGATED_STAGES = EXPERT_STAGES[1:]

#: Takes (stage, tensor in the shape of the stage table).
Record = Callable[[str, torch.Tensor], None]


class ExpertsWatch:
    """Follows one experts module, each time that it is called. ``stages`` are those inside: EXPERT_STAGES or UNGATED_STAGES."""

    def __init__(self, experts: Any, record: Record, *, inside: bool, stages: tuple[str, ...] = EXPERT_STAGES) -> None:
        self._experts, self._record, self._inside, self._stages = experts, record, inside, stages
        self._following: _Following | None = None

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record moe_router, moe_router_indices and, if ``inside``, the stages inside until ``stack`` closes."""
        stack.callback(self._experts.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        if self._inside:
            stack.callback(self._experts.register_forward_hook(self._leave, always_call=True).remove)
            if isinstance(self._experts.act_fn, torch.nn.Module):
                stack.callback(self._experts.act_fn.register_forward_hook(self._activated).remove)

    def _enter(self, _experts: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, chosen, weights = [*args, *kwargs.values()]
        self._record("moe_router", weights)
        self._record("moe_router_indices", chosen)
        if self._inside:
            self._following = _Following(chosen, getattr(self._experts.act_fn, "__name__", ""), self._stages)
            self._following.__enter__()

    def _activated(self, _module: Any, args: Any, output: Any) -> None:
        if self._following is not None:
            self._following.activate(args[0], output)

    def _leave(self, _experts: Any, _args: Any, output: Any) -> None:
        following, self._following = self._following, None
        if following is None:
            return
        following.__exit__(None, None, None)
        if output is not None:  # else it raised
            for stage, values in following.stages().items():
                self._record(stage, values)


class _Following(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, gathers the rows of ``chosen``, the ids [n, k] of the experts. It changes nothing.

    ``activation`` is the name of a function of torch, where that is no module.
    """

    def __init__(self, chosen: torch.Tensor, activation: str, stages: tuple[str, ...]) -> None:
        super().__init__()
        self._activation, self._stages = activation, stages
        self._gate: torch.Tensor | None = None
        self._activated: torch.Tensor | None = None
        self._chosen = chosen
        count = chosen.numel()
        self._rows = torch.arange(count, device=chosen.device)
        self._filled = torch.zeros(count, dtype=torch.bool, device=chosen.device)
        self._values: dict[str, torch.Tensor] = {}

    def activate(self, given: torch.Tensor, activated: torch.Tensor) -> None:
        """Keep what the activation is given and what it gives, of the rows at hand."""
        if self._stages == EXPERT_STAGES:
            self._gate, self._activated = given, activated
            return
        for stage, values in zip(self._stages, (given, activated), strict=False):
            self._keep(stage, values)

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        if name == self._activation:
            self.activate(args[0], result)
        if name == "where" and len(args) == 1:  # slots and positions that chose one expert
            self._rows = result[1] * self._chosen.shape[1] + result[0]
        elif name == "sort":
            self._rows = result[1]
        elif name in ("mul", "__mul__") and isinstance(args[1], torch.Tensor):
            if args[0] is self._activated and self._gate is not None:
                for stage, values in zip(self._stages, (self._gate, args[1], result), strict=False):
                    self._keep(stage, values)
                self._activated = None
            elif args[1].shape == (len(args[0]), 1):
                self._keep("moe_expert_out", args[0])
                self._filled[self._rows] = True
        return result

    def _keep(self, stage: str, values: torch.Tensor) -> None:
        if len(values) != len(self._rows):
            raise TraceError(
                f"{stage}: {len(values)} rows for {len(self._rows)} choices of experts; give taps without the moe_expert_ stages"
            )
        into = self._values.setdefault(stage, values.new_empty(self._chosen.numel(), values.shape[-1]))
        into[self._rows] = values

    def stages(self) -> dict[str, torch.Tensor]:
        """The stages inside as [n, k, columns]. Raises TraceError unless every chosen expert was seen."""
        if not self._filled.all() or set(self._values) != set(self._stages):
            raise TraceError("the experts were not computed in a way that can be followed; give taps without the moe_expert_ stages")
        return {stage: values.reshape(*self._chosen.shape, -1) for stage, values in self._values.items()}
