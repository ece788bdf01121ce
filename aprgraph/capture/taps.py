"""Where each stage shows itself in a model of transformers: hooks on its modules, and how what they see becomes the stage's tensor."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from aprgraph.capture.attention import AttentionWatch, in_file_order
from aprgraph.capture.experts import EXPERT_STAGES, FOLLOWED, ExpertsWatch
from aprgraph.capture.model_classes import CapturedModel

#: Takes (stage, layer, tensor in the shape of the stage table, on any device, in any dtype).
Record = Callable[[str, int | None, torch.Tensor], None]


@dataclass(frozen=True)
class Tap:
    """Records ``stages`` of ``layer`` (None for a whole-model stage; all layers if ``everywhere``) from ``open`` until the stack closes."""

    stages: tuple[str, ...]
    layer: int | None
    open: Callable[[contextlib.ExitStack], None]
    everywhere: bool = False


def find_taps(captured: CapturedModel, record: Record, positions_so_far: Callable[[], int], *, all_logits: bool) -> Iterator[Tap]:
    """Every tap that the model has. ``positions_so_far``: how many positions there are to attend to, t."""
    finder = _Finder(captured, record)
    watch = AttentionWatch(captured, record, positions_so_far)
    yield Tap(("q_post_rope", "k_post_rope"), None, watch.watch_rope, everywhere=True)
    if captured.is_eager:
        yield Tap(("attn_scores", "attn_softmax"), None, watch.watch_scores, everywhere=True)
    for index, layer in enumerate(captured.layers):
        yield from finder.attention(index, layer)
        yield from finder.feed_forward(index, layer.mlp)
        yield finder.after(layer, index, "post_ffn_residual")
    yield finder.after(captured.decoder.norm, None, "final_norm")
    if captured.head is not None:
        yield finder.after(captured.head, None, "lm_head", _rows if all_logits else lambda output: output[0, -1])


def find_notes(captured: CapturedModel) -> Iterator[str]:
    """Which stages the model has and does not show, and why, in sentences."""
    layers = captured.layers
    if captured.head is None:
        yield f"lm_head is not recorded: {type(captured.model).__name__} has no head"
    if captured.given is not captured.model:
        yield f"captured within {type(captured.given).__name__}"
    adapters = sorted({type(part).__module__ for part in captured.decoder.modules() if type(part).__module__.startswith("peft.")})
    if adapters:
        kinds = ", ".join(dict.fromkeys(name.split(".")[2] for name in adapters if name.count(".") > 1)) or "peft"
        yield f"adapters of PEFT ({kinds}) took part: a model file is the same model only if they were merged into it"
    if not captured.is_eager:
        yield "attn_scores and attn_softmax are not recorded: only attn_implementation='eager' computes them one after the other"
    if any(_has_bias(layer.self_attn) for layer in layers):
        yield "qkv_matmul is not recorded: the model adds the bias of q, k and v within the multiplication, which gives qkv_bias"
    if any(hasattr(layer.mlp, "experts") for layer in layers) and not _can_follow_experts(captured):
        names = ", ".join(FOLLOWED)
        yield f"what goes on inside the experts is not recorded: only experts_implementation {names} can be followed"


def _has_bias(attention: Any) -> bool:
    if not hasattr(attention, "q_proj"):
        return False
    bias = attention.q_proj.bias
    return (bias() if callable(bias) else bias) is not None  # a method in quantised layers of torch


def _can_follow_experts(captured: CapturedModel) -> bool:
    return captured.decoder.config._experts_implementation in FOLLOWED  # noqa: SLF001 -- there is no public name


def _rows(values: Any) -> torch.Tensor:
    """What a module takes or returns, [1, n, columns] or [n, columns], as [n, columns]."""
    values = values[0] if isinstance(values, tuple) else values
    return values.reshape(-1, values.shape[-1])


class _Finder:
    """Makes taps of modules."""

    def __init__(self, captured: CapturedModel, record: Record) -> None:
        self._captured, self._record = captured, record

    def after(self, module: Any, layer: int | None, stage: str, shape: Callable[[Any], torch.Tensor] = _rows) -> Tap:
        """Record what ``module`` returns."""

        # A hook that returned something would replace the module's output.
        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._record(stage, layer, shape(output))

        return Tap((stage,), layer, lambda stack: _until(stack, module.register_forward_hook(hook)))

    def before(self, module: Any, layer: int, stage: str) -> Tap:
        """Record what ``module`` is given."""

        def hook(_module: Any, args: Any) -> None:
            self._record(stage, layer, _rows(args))

        return Tap((stage,), layer, lambda stack: _until(stack, module.register_forward_pre_hook(hook)))

    def attention(self, index: int, layer: Any) -> Iterator[Tap]:
        """From the norm before attention to the norm behind it."""
        attention = layer.self_attn
        yield self.after(layer.input_layernorm, index, "attn_norm")
        yield self._projections(index, attention)
        for stage in ("q_norm", "k_norm"):
            if hasattr(attention, stage):
                yield self.after(getattr(attention, stage), index, stage, self._normed_heads)
        yield self.before(attention.o_proj, index, "attention")
        yield self.after(attention.o_proj, index, "attn_out")
        ffn_norm = layer.post_attention_layernorm
        if hasattr(layer, "pre_feedforward_layernorm"):
            ffn_norm = layer.pre_feedforward_layernorm
            yield self.after(layer.post_attention_layernorm, index, "attn_post_norm")
            yield self.after(layer.post_feedforward_layernorm, index, "ffn_post_norm")
        yield self.before(ffn_norm, index, "post_attn_residual")
        yield self.after(ffn_norm, index, "ffn_norm")

    def _projections(self, index: int, attention: Any) -> Tap:
        """q, k and v side by side, as qkv_bias if they have biases: then the products alone are nowhere to be seen."""
        if hasattr(attention, "qkv_proj"):
            return self.after(attention.qkv_proj, index, "qkv_matmul")
        stage = "qkv_bias" if _has_bias(attention) else "qkv_matmul"
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Callable[[Any, Any, Any], None]:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                rows = _rows(output)
                found[name] = rows if name == "v" else in_file_order(self._captured, rows.reshape(len(rows), -1, attention.head_dim))
                if len(found) == len("qkv"):
                    values = torch.cat([found.pop(name) for name in "qkv"], dim=1)
                    self._record(stage, index, values)

            return hook

        def open_all(stack: contextlib.ExitStack) -> None:
            for name in "qkv":
                _until(stack, getattr(attention, f"{name}_proj").register_forward_hook(keep(name)))

        return Tap((stage,), index, open_all)

    def _normed_heads(self, output: torch.Tensor) -> torch.Tensor:
        """Heads of q or k as rows: Gemma normalises [1, heads, n, D], the others [1, n, heads, D]."""
        heads = output[0].transpose(0, 1) if self._captured.model_class.architecture == "gemma3" else output[0]
        return in_file_order(self._captured, heads)

    def feed_forward(self, index: int, mlp: Any) -> Iterator[Tap]:
        """A dense FFN, or experts with what belongs to them; the dense stages are then those of the shared expert."""
        if not hasattr(mlp, "experts"):
            yield from self._dense(index, mlp)
            return
        if hasattr(mlp, "shared_expert"):
            yield from self._dense(index, mlp.shared_expert)
        yield self.after(mlp.gate, index, "moe_router_logits")
        inside = _can_follow_experts(self._captured)
        watch = ExpertsWatch(mlp.experts, lambda stage, values: self._record(stage, index, values), inside=inside)
        yield Tap(("moe_router", "moe_router_indices", *(EXPERT_STAGES if inside else ())), index, watch.open)
        yield self.after(mlp, index, "moe_ffn_out")

    def _dense(self, index: int, mlp: Any) -> Iterator[Tap]:
        if hasattr(mlp, "gate_up_proj"):
            yield self.after(mlp.gate_up_proj, index, "ffn_gate", lambda output: _rows(output).chunk(2, dim=-1)[0])
            yield self.after(mlp.gate_up_proj, index, "ffn_up", lambda output: _rows(output).chunk(2, dim=-1)[1])
            yield self.after(mlp.activation_fn, index, "ffn_silu")
        else:
            yield self.after(mlp.gate_proj, index, "ffn_gate")
            yield self.after(mlp.up_proj, index, "ffn_up")
            yield self.after(mlp.act_fn, index, "ffn_silu")
        yield self.before(mlp.down_proj, index, "ffn_swigl")
        yield self.after(mlp.down_proj, index, "ffn_out")


def _until(stack: contextlib.ExitStack, handle: Any) -> None:
    """Remove a hook when ``stack`` closes."""
    stack.callback(handle.remove)
