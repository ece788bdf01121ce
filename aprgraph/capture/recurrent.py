"""What happens inside recurrent layers, in the functions that transformers' modules of them call: convolution and delta rule."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from aprgraph.capture.function_hooks import watching

#: Takes (stage, layer, tensor in the shape of the stage table).
Record = Callable[[str, int, torch.Tensor], None]
#: The functions of a pass over many positions, and over one.
_CONVOLUTIONS = ("causal_conv1d_fn", "causal_conv1d_update")
_RULES = ("torch_chunk_gated_delta_rule", "torch_recurrent_gated_delta_rule")
_LENGTH = "l2norm"
_SCANS = ("mamba2_chunk_scan", "mamba2_selective_state_update")
#: Those of the first Mamba, which multiply by the gate too.
_SELECTIVE_SCANS = ("mamba_selective_scan", "mamba_selective_state_update")
_STAGES = ("conv_bx", "conv_out", "conv_silu", "delta_q", "delta_k", "delta_decay", "delta_beta", "ssm_step", "ssm_scan")


class RecurrentWatch:
    """Watches the functions that recurrent layers call. ``mixers`` are the modules of these layers.

    ``stages`` are those of ``wanted`` that are recorded so.
    """

    def __init__(self, mixers: Mapping[int, Any], functions: ModuleType, record: Record, wanted: Collection[str]) -> None:
        self._layer_of = {mixer: index for index, mixer in mixers.items()}
        self._functions = functions
        # What a projection reads is recorded there.
        elsewhere = ("conv_silu",) if "ssm_dt_b_c" in wanted else ()
        self.stages = tuple(stage for stage in _STAGES if stage in wanted and stage not in elsewhere)
        self._into = record
        # The functions are not told for whom they work, and other models in other threads call the same ones.
        self._running = threading.local()

    def open(self, stack: contextlib.ExitStack) -> None:
        """Record ``stages`` of every layer until ``stack`` closes."""
        for mixer in self._layer_of:
            stack.callback(mixer.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            stack.callback(mixer.register_forward_hook(self._leave, always_call=True).remove)
        around = {
            **dict.fromkeys(_SCANS, self._around_scan),
            **dict.fromkeys(_SELECTIVE_SCANS, self._around_selective_scan),
            **dict.fromkeys(_CONVOLUTIONS, self._around_convolution),
            **dict.fromkeys(_RULES, self._around_rule),
        }
        for name, function in {**around, _LENGTH: self._around_length}.items():
            if hasattr(self._functions, name):
                stack.enter_context(watching(self._functions, name, function))

    def _record(self, stage: str, layer: int, values: torch.Tensor) -> None:
        if stage in self.stages:
            self._into(stage, layer, values)

    def _enter(self, mixer: Any, args: Any, kwargs: Any) -> None:
        self._running.layer = self._layer_of[mixer]
        self._running.positions = (args[0] if args else kwargs["hidden_states"]).shape[1]
        self._running.normed = ["delta_k", "delta_q"]

    def _leave(self, _mixer: Any, _args: Any, _output: Any) -> None:
        self._running.layer = None

    @property
    def _layer(self) -> int | None:
        return getattr(self._running, "layer", None)

    def _around_convolution(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        if layer is None:
            return function(*args, **kwargs)
        positions = self._running.positions
        given = args[0] if args else kwargs["hidden_states"]
        self._record("conv_bx", layer, given[0, :, -positions:].T)
        with _Last("conv1d") as convolution:
            result = function(*args, **kwargs)
        if convolution.value is not None:
            # One function cuts off what the padding behind has added, the other what the state before has.
            length = result.shape[-1]
            is_update = getattr(function, "__name__", "") == _CONVOLUTIONS[1]
            value = convolution.value[..., -length:] if is_update else convolution.value[..., :length]
            self._record("conv_out", layer, value[0, :, -positions:].T)
        self._record("conv_silu", layer, result[0, :, -positions:].T)
        return result

    def _around_length(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        layer = self._layer
        if layer is not None and self._running.normed:
            heads = result[0].transpose(0, 1)[:, :: self._running.share]  # heads of q and k were repeated for those of v
            self._record(self._running.normed.pop(), layer, heads[: self._running.positions].flatten(1))
        return result

    def _around_rule(
        self, function: Callable[..., Any], query: Any, key: Any, value: Any, *args: Any, g: Any, beta: Any, **kwargs: Any
    ) -> Any:
        layer = self._layer
        if layer is not None:
            self._running.share = value.shape[2] // key.shape[2]
            self._record("delta_decay", layer, g[0])
            self._record("delta_beta", layer, beta[0])
        return function(query, key, value, *args, g=g, beta=beta, **kwargs)

    def _around_scan(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        if layer is None:
            return function(*args, **kwargs)
        with _Last("softplus", "clamp") as step:
            result = function(*args, **kwargs)
        read = result[0] if isinstance(result, tuple) else result
        if kwargs.get("z") is None:  # else it is gated already
            self._record("ssm_scan", layer, read.reshape(self._running.positions, -1))
        if step.value is not None:
            # Of one position it is repeated for the columns of a head.
            heads = step.value if getattr(function, "__name__", "") == _SCANS[0] else step.value[..., 0]
            self._record("ssm_step", layer, heads.reshape(self._running.positions, -1))
        return result

    def _around_selective_scan(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        layer = self._layer
        if layer is None:
            return function(*args, **kwargs)
        with _Last("softplus") as step, _Last("add", "__add__") as read:
            result = function(*args, **kwargs)
        for stage, last in (("ssm_step", step), ("ssm_scan", read)):
            if last.value is not None:  # [1, columns, positions], of one position perhaps without the last axis
                self._record(stage, layer, last.value[0].reshape(-1, self._running.positions).T)
        return result


class _Last(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, ``value`` becomes what the last call of one of the functions ``names`` gives. It changes nothing."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.value: torch.Tensor | None = None
        self._names = names

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in self._names:
            self.value = result
        return result
