"""What happens between the projections of an attention layer: q and k after RoPE, scores and weights."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from aprgraph.capture.captured_model import ATTENTION_FUNCTION, SPLITTING_ROPE_FUNCTION, CapturedModel
from aprgraph.capture.function_hooks import watching
from aprgraph.graph.errors import TraceError

#: Takes (stage, layer, tensor in the shape of the stage table).
Record = Callable[[str, int, torch.Tensor], None]


class AttentionWatch:
    """Watches the functions that attention layers call. ``positions_so_far`` says how many positions there are to attend to (t)."""

    def __init__(self, captured: CapturedModel, record: Record, positions_so_far: Callable[[], int]) -> None:
        self._captured, self._record, self._positions_so_far = captured, record, positions_so_far
        self._layer_of = {attention: index for index, attention in captured.attentions.items()}
        # RoPE's function is not told for whom it works, and other models in other threads call the same one.
        self._running = threading.local()

    def watch_rope(self, stack: contextlib.ExitStack) -> None:
        """Record q and k after RoPE, of every layer, until ``stack`` closes."""
        for attention in self._layer_of:
            stack.callback(attention.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            stack.callback(attention.register_forward_hook(self._leave, always_call=True).remove)
        for name in self._captured.rope_functions:
            stack.enter_context(watching(self._captured.functions, name, partial(self._around_rope, name == SPLITTING_ROPE_FUNCTION)))

    def watch_scores(self, stack: contextlib.ExitStack) -> None:
        """Record attn_scores and attn_softmax of every layer until ``stack`` closes. Only eager attention has them."""
        stack.enter_context(watching(self._captured.functions, ATTENTION_FUNCTION, self._around_attention))

    def _enter(self, attention: Any, args: Any, kwargs: Any) -> None:
        self._running.layer, self._running.turned = self._layer_of[attention], 0
        self._running.positions = (args[0] if args else kwargs["hidden_states"]).shape[1]

    def _leave(self, _attention: Any, _args: Any, _output: Any) -> None:
        self._running.layer = None
        joins, self._running.joins = getattr(self._running, "joins", None), None
        if joins is not None:
            joins.__exit__(None, None, None)

    def _around_rope(self, splits: bool, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        layer = getattr(self._running, "layer", None)
        if layer is not None and isinstance(result, torch.Tensor):  # of q, then of k where the layer has one
            heads = result if kwargs.get("unsqueeze_dim", 1) == 1 else result.transpose(1, 2)
            self._of_heads(splits, layer, self._captured.rope_stages[self._running.turned], heads)
            self._running.turned += 1
        elif layer is not None:
            turned = dict(zip(self._captured.rope_stages, map(self._heads_first, result, args), strict=True))
            if result[0].shape[-1] < self._captured.rope_head_size:  # what is not turned is joined to it afterwards
                self._running.joins = _Joined(turned, partial(self._of_heads, splits, layer))
                self._running.joins.__enter__()
                return result
            for stage, heads in turned.items():
                self._of_heads(splits, layer, stage, heads)
        return result

    def _heads_first(self, turned: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """What RoPE has ``turned``, [1, heads, n, D]: some models give it rows of heads, [1, n, heads, D]."""
        places, positions = turned.shape[1:3], self._running.positions
        # If n equals heads, the strides of what was given tell.
        are_rows = places[0] == positions and (places[1] != positions or given.stride(1) > given.stride(2))
        return turned.transpose(1, 2) if are_rows else turned

    def _of_heads(self, splits: bool, layer: int, stage: str, heads: torch.Tensor) -> None:
        heads = heads[0].transpose(0, 1)
        self._record(stage, layer, _as_neighbours(heads) if splits else in_file_order(self._captured, heads))

    def _around_attention(
        self, function: Callable[..., Any], module: Any, query: Any, key: Any, value: Any, attention_mask: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if module not in self._layer_of:
            return function(module, query, key, value, attention_mask, *args, **kwargs)
        with _SoftmaxInput() as softmax:
            result = function(module, query, key, value, attention_mask, *args, **kwargs)
        if softmax.value is not None:
            scores, layer = softmax.value_over(key.shape[-2]), self._layer_of[module]
            if attention_mask is not None:
                mask = attention_mask[..., : scores.shape[-1]]
                # What the mask adds where nothing is masked is 0, so that the sum is the score.
                scores = torch.where(mask if mask.dtype == torch.bool else mask == 0, scores, 0.0)
            self._record("attn_scores", layer, self._over_all_positions(scores[0]))
            self._record("attn_softmax", layer, self._over_all_positions(result[1][0]))
            if self._captured.is_gated:
                self._record("attention", layer, result[0][0].flatten(1))
        return result

    def _over_all_positions(self, values: torch.Tensor) -> torch.Tensor:
        """[H, n, m] as [H, n, t]: the cache of a sliding window drops the first positions, which are masked then."""
        places, positions = values.shape[-1], self._positions_so_far()
        if places > positions:
            raise TraceError(
                f"attention is over {places} places of a cache for {positions} positions, expected a cache that grows "
                "(DynamicCache, the default of generate)"
            )
        return torch.nn.functional.pad(values, (positions - places, 0))


class _Joined(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, calls ``record`` with the stage and the result where one of ``turned`` is joined with something."""

    def __init__(self, turned: dict[str, torch.Tensor], record: Callable[[str, torch.Tensor], None]) -> None:
        super().__init__()
        self._turned, self._record = turned, record

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function is torch.cat:
            stage = next((stage for stage, values in self._turned.items() if args[0][0] is values), None)
            if stage is not None:
                self._record(stage, result)
        return result


_SUBTRACTIONS = (torch.sub, torch.Tensor.sub, torch.Tensor.__sub__)


class _SoftmaxInput(TorchFunctionMode):  # type: ignore[misc]  # torch's types are not known
    """While inside, ``value`` becomes what a softmax is computed of: before the largest of each row is subtracted, where the function
    does that itself. It changes nothing.
    """

    value: torch.Tensor | None = None
    _joined: torch.Tensor | None = None
    #: The last result of subtracting one number from each row, and the rows.
    _lowered: tuple[torch.Tensor, torch.Tensor] | None = None

    def __torch_function__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.softmax:
            self.value = self._lowered[1] if self._lowered is not None and self._lowered[0] is args[0] else args[0]
        elif function is torch.cat and self.value is None:
            self._joined = args[0][0]
        result = function(*args, **(kwargs or {}))
        if function in _SUBTRACTIONS and isinstance(args[1], torch.Tensor) and args[1].shape[-1:] == (1,):
            self._lowered = result, args[0]
        return result

    def value_over(self, places: int) -> torch.Tensor:
        """The scores of ``places`` places: those to which sinks were joined, where there are any."""
        assert self.value is not None
        return self.value if self.value.shape[-1] == places or self._joined is None else self._joined


def in_file_order(captured: CapturedModel, heads: torch.Tensor) -> torch.Tensor:
    """Heads of q or k [n, heads, D] as [n, heads · D], with rows in the order of the GGUF file.

    Conversion reorders them where RoPE pairs neighbours in files and halves in transformers.
    """
    if captured.family.pairing != captured.family.hf_pairing:
        return _as_neighbours(heads)
    return heads.reshape(len(heads), -1)


def _as_neighbours(heads: torch.Tensor) -> torch.Tensor:
    """Heads [n, heads, D] with pairs in two halves as [n, heads · D] with pairs of neighbours."""
    n, count, size = heads.shape
    return heads.reshape(n, count, 2, size // 2).transpose(2, 3).reshape(n, count * size)
