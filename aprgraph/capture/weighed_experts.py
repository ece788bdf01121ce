"""What happens inside experts whose inputs are weighed (Llama 4).

transformers runs every expert on every position, on zeros where it was not chosen. Of all these rows, [X, n, columns], those of the
chosen experts are recorded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from aprgraph.capture.experts import EXPERT_STAGES
from aprgraph.graph.errors import TraceError

WEIGHED_STAGES = ("moe_expert_in", *EXPERT_STAGES)
_IN, _GATE, _UP, _PRODUCT, _OUT = WEIGHED_STAGES

#: Takes (stage, tensor in the shape of the stage table).
Record = Callable[[str, torch.Tensor], None]


class WeighedExpertsWatch:
    """Follows the router and the experts of one layer, each time that they are called. ``logits`` says which of the router's outputs
    are the scores of all experts; the other holds their weights, of which those of the ``k`` largest scores are applied.
    """

    def __init__(self, router: Any, experts: Any, record: Record, *, k: int, logits: int, inside: bool) -> None:
        self._router, self._experts, self._record = router, experts, record
        self._k, self._logits, self._inside = k, logits, inside
        self._chosen: torch.Tensor | None = None
        self._product: _Product | None = None

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record moe_router, moe_router_indices and, if ``inside``, WEIGHED_STAGES until ``stack`` closes."""
        stack.callback(self._router.register_forward_hook(self._routed).remove)
        if self._inside:
            stack.callback(self._experts.register_forward_pre_hook(self._enter).remove)
            stack.callback(self._experts.act_fn.register_forward_hook(self._activated).remove)
            stack.callback(self._experts.register_forward_hook(self._leave, always_call=True).remove)

    def _routed(self, _router: Any, _args: Any, output: Any) -> None:
        self._chosen = output[self._logits].topk(self._k, dim=-1).indices
        self._record("moe_router", output[1 - self._logits].gather(1, self._chosen))
        self._record("moe_router_indices", self._chosen)

    def _enter(self, _experts: Any, args: Any) -> None:
        self._keep(_IN, args[0])
        self._product = _Product()
        self._product.__enter__()

    def _activated(self, _module: Any, args: Any, output: Any) -> None:
        if self._product is not None:
            self._keep(_GATE, args[0])
            self._product.activated = output

    def _leave(self, _experts: Any, _args: Any, output: Any) -> None:
        product, self._product = self._product, None
        if product is None:
            return
        product.__exit__(None, None, None)
        if output is None:  # it raised
            return
        if product.up is None or product.value is None:
            raise TraceError("the experts were not computed in a way that can be followed; give taps without the moe_expert_ stages")
        self._keep(_UP, product.up)
        self._keep(_PRODUCT, product.value)
        self._keep(_OUT, output)

    def _keep(self, stage: str, rows: torch.Tensor) -> None:
        """Record the rows of the chosen experts."""
        assert self._chosen is not None
        positions = torch.arange(len(self._chosen), device=self._chosen.device)
        self._record(stage, rows.reshape(-1, len(self._chosen), rows.shape[-1])[self._chosen, positions[:, None]])


class _Product(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, ``value`` becomes the product of ``up`` and ``activated``. It changes nothing."""

    activated: torch.Tensor | None = None
    up: torch.Tensor | None = None
    value: torch.Tensor | None = None

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if self.activated is not None and getattr(function, "__name__", "") in ("mul", "__mul__", "__rmul__"):
            others = [value for value in args[:2] if value is not self.activated]
            if len(others) == 1:
                self.up, self.value, self.activated = others[0], result, None
        return result
