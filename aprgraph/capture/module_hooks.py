"""Hooks on the modules of a transformers model: which module gives each stage, and the tensor that is recorded."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from aprgraph.capture.attention import AttentionWatch
from aprgraph.capture.captured_model import CapturedModel
from aprgraph.capture.experts import EXPERT_STAGES, FOLLOWED, UNGATED_STAGES, ExpertsWatch
from aprgraph.capture.inside import SumWithPart, called, multiplied_by, sum_with
from aprgraph.capture.module_taps import ModuleTaps, Record, Tap, rows_of, until
from aprgraph.capture.node_modules import MOVES, NodeModules
from aprgraph.capture.recurrent import RecurrentWatch
from aprgraph.capture.streams import METHODS, MethodWatch, side_by_side
from aprgraph.capture.weighed_experts import WEIGHED_STAGES, WeighedExpertsWatch
from aprgraph.graph.ir import Node
from aprgraph.graph.ops import complete_attrs, traits_of
from aprgraph.graph.ops.base import integer
from aprgraph.graph.stages import EMBEDDING, POOLED, STAGE_BY_NAME

#: The names that feed-forward modules have for their activation.
_ACTIVATIONS = ("act_fn", "activation_fn", "act")


def find_taps(captured: CapturedModel, record: Record, positions_so_far: Callable[[], int], *, all_logits: bool) -> Iterator[Tap]:
    """Every tap that the model has. ``positions_so_far`` returns t: the positions of earlier passes and of this one."""
    record = _in_order(captured, record)
    watch = AttentionWatch(captured, record, positions_so_far)
    if captured.has_rope:
        yield Tap(captured.rope_stages, None, watch.watch_rope, everywhere=True)
    if captured.attentions and captured.is_eager:
        gated = ("attention",) if captured.is_gated else ()
        yield Tap(("attn_scores", "attn_softmax", *gated), None, watch.watch_scores, everywhere=True)
    if captured.recurrent:
        wanted = {str(node.stage) for node in captured.outline.graph.staged()}
        recurrent = RecurrentWatch(captured.recurrent, captured.functions, record, wanted)
        yield Tap(recurrent.stages, None, recurrent.open, everywhere=True)
    for layer in (*range(len(captured.layers)), None):
        yield from _LayerTaps(captured, record, layer, all_logits=all_logits).find()


def _in_order(captured: CapturedModel, record: Record) -> Record:
    """Record columns in the order of GGUF, times what the model multiplies them by behind the module."""
    fields = captured.decoder.config.to_dict()

    def in_order(stage: str, layer: int | None, values: torch.Tensor) -> None:
        order, factors = captured.family.column_order(stage, fields), captured.family.column_factors(stage, fields)
        if factors is not None:
            values = values * torch.from_numpy(factors).to(values)
        record(stage, layer, values if order is None else values[..., torch.from_numpy(order).to(values.device)])

    return in_order


def find_notes(captured: CapturedModel, seen: Collection[str] = ()) -> Iterator[str]:
    """Sentences on the stages that cannot be recorded from this model, and why; ``seen`` are those that were."""
    if captured.head is None and POOLED not in seen:
        name = type(captured.model).__name__
        yield (
            f"what comes behind its last norm, logits or a pooled embedding, is not recorded: {name} has no head; what a program pools, "
            "Capture.record takes"
        )
    if captured.given is not captured.model:
        yield f"captured within {type(captured.given).__name__}"
    adapters = sorted({type(part).__module__ for part in captured.decoder.modules() if type(part).__module__.startswith("peft.")})
    if adapters:
        kinds = ", ".join(dict.fromkeys(name.split(".")[2] for name in adapters if name.count(".") > 1)) or "peft"
        yield f"adapters of PEFT ({kinds}) took part: a model file is the same model only if they were merged into it"
    if not captured.is_eager:
        yield "attn_scores and attn_softmax are not recorded: only attn_implementation='eager' computes them one after the other"
    if any(node.stage == "qkv_bias" for node in captured.outline.graph):
        yield "qkv_matmul is not recorded: the model adds the bias of q, k and v within the multiplication, which gives qkv_bias"
    if any(not _can_follow(captured, layer, experts) for layer, (_, experts) in captured.experts.items()):
        names = ", ".join(FOLLOWED)
        yield (
            f"what goes on inside the experts is not recorded: only experts_implementation {names} can be followed, with an activation "
            "that is a module or a function of torch"
        )


def _can_follow(captured: CapturedModel, layer: int, experts: Any) -> bool:
    if captured.weighs_inputs(layer):
        return hasattr(experts, "act_fn")
    implementation = captured.decoder.config._experts_implementation  # noqa: SLF001 -- there is no public name
    return implementation in FOLLOWED and hasattr(experts, "act_fn")


def _of_stage(stage: str, values: Any) -> torch.Tensor:
    """What a module takes or gives as a stage has it: rows, or rows of streams side by side."""
    return side_by_side(values) if STAGE_BY_NAME[stage].dims[-1] == "A*E" else rows_of(values)


def _end_of_layer(stage: str, _args: Any, output: Any) -> torch.Tensor:
    return _of_stage(stage, output)


class _LayerTaps:
    """Finds the taps of one layer, or (``layer`` None) of the stages outside the layers, by the graph of the family.

    The output of a module is the value of the last node that reads its weights. Its input is the value of the node
    before. The module of an activation is an attribute beside the projection that it applies to. The output of a
    layer is its last stage.
    """

    def __init__(self, captured: CapturedModel, record: Record, layer: int | None, *, all_logits: bool) -> None:
        self._captured, self._record, self._layer = captured, record, layer
        self._graph = captured.outline.graph
        self._behind = NodeModules(captured, layer)
        self._nodes = self._behind.nodes
        self._taps = ModuleTaps(captured, record, layer, self._nodes, all_logits=all_logits)
        #: By node, the slot of the module that returns its value, or of which it is some columns.
        self._slot_of: dict[str, str] = {}
        self._shown: set[str] = {EMBEDDING}

    def find(self) -> Iterator[Tap]:
        """Every tap of the layer, each stage once: the first place that gives it."""
        for tap in (
            *self._outputs(),
            *self._moved(),
            *self._sums(),
            *self._experts(),
            *self._inputs(),
            *self._activations(),
            *self._methods(),
            *self._given(),
            *self._ends(),
            *self._added(),
        ):
            new = tuple(stage for stage in tap.stages if stage not in self._shown)
            if new == tap.stages:
                self._shown.update(new)
                yield tap

    def _outputs(self) -> Iterator[Tap]:
        for node in self._nodes:
            modules = self._behind.given_by(node)
            if not modules:
                continue
            self._slot_of[node.name] = modules[0][0]
            if node.stage is not None:
                yield self._taps.after(modules, node.stage, turn=self._behind.turn(node, modules))
                continue
            for part in self._graph.users(node.name):
                if part.op == "columns" and part.stage is not None:
                    self._slot_of[part.name] = modules[0][0]
                    yield self._taps.after(modules, part.stage, partial(self._put_together, part))

    def _moved(self) -> Iterator[Tap]:
        """Stages that are nothing but columns of what modules return, perhaps of several side by side."""
        for node in self._nodes:
            sources = self._behind.sources(node)
            if node.stage is None or node.name in self._slot_of or node.op not in MOVES or not sources:
                continue
            modules = [module for name in sources for module in self._behind.weights_of(self._graph[name])]
            yield self._taps.after(modules, node.stage, partial(self._put_together, node))

    def _put_together(self, node: Node, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The value of a node, of the outputs of modules by their slots."""
        if node.op not in MOVES:
            return torch.cat([outputs[slot] for slot, _ in self._behind.weights_of(node)], dim=1)
        parts = [self._put_together(operand, outputs) for operand in self._graph.operands(node.name)]
        heads = [part.unflatten(1, (integer(complete_attrs(node), "heads"), -1)) for part in parts]
        if node.op == "columns":
            return heads[0][:, :, node.attr_int("start") : node.attr_int("stop")].flatten(1)
        return torch.cat(heads, dim=2).flatten(1)

    def _experts(self) -> Iterator[Tap]:
        if self._layer is None or self._layer not in self._captured.experts:
            return
        slot, module = self._captured.experts[self._layer]
        inside = _can_follow(self._captured, self._layer, module)
        weighed = self._captured.weighs_inputs(self._layer)
        is_gated = any(node.stage == EXPERT_STAGES[0] for node in self._nodes)
        stages = WEIGHED_STAGES if weighed else EXPERT_STAGES if is_gated else UNGATED_STAGES
        watch = (self._watch_weighed if weighed else partial(ExpertsWatch, stages=stages))(
            module, lambda stage, values: self._record(stage, self._layer, values), inside=inside
        )
        yield Tap(("moe_router", "moe_router_indices", *(stages if inside else ())), self._layer, watch.open)
        around = self._captured.modules.around(slot, self._layer) or module
        shared = self._captured.modules.find("shared_out", self._layer)
        if shared is None or any(part is shared for part in around.modules()):
            yield self._taps.at(around, "moe_ffn_out")
        else:  # the layer itself adds what a shared expert gives
            total = SumWithPart(self._captured.layers[self._layer], around, partial(self._record_rows, "moe_ffn_out"))
            yield Tap(("moe_ffn_out",), self._layer, total.open)

    def _watch_weighed(self, experts: Any, record: Callable[[str, torch.Tensor], None], *, inside: bool) -> WeighedExpertsWatch:
        (scores,) = (node for node in self._nodes if node.stage == "moe_router_indices")
        slot, router = next((slot, module) for node in self._graph.operands(scores.name) for slot, module in self._behind.weights_of(node))
        k, logits = scores.attr_int("k"), self._captured.family.hf_outputs.get(slot, 0)
        return WeighedExpertsWatch(router, experts, record, k=k, logits=logits, inside=inside)

    def _sums(self) -> Iterator[Tap]:
        """Sums with a tensor that is no module's weight, and what is multiplied by one."""
        weights = self._captured.outline.weights
        for node in self._nodes:
            is_factor = node.op == "scale_columns"
            stage = self._graph.operands(node.name)[0].stage if is_factor else node.stage
            if node.op not in ("bias_add", "scale_columns") or stage is None:
                continue
            for operand in self._graph.operand_names(node.name)[1:]:
                holder = self._captured.modules.holder(weights[operand].slot, self._layer)
                if holder is not None:
                    watch = (multiplied_by if is_factor else sum_with)(*holder, partial(self._record_rows, stage))
                    yield Tap((stage,), self._layer, watch.open)

    def _inputs(self) -> Iterator[Tap]:
        for node in self._nodes:
            # The input of the experts is that of the whole module, and each of them reads it.
            modules = self._behind.weights_of(node) if self._behind.is_of_module(node) and not traits_of(node).picks_rows_by else []
            given = self._graph.operands(node.name)[:1]
            for before in given if modules else ():
                if before.op == "rope":
                    continue  # where heads are normalised after RoPE
                if before.stage is not None and before.layer == self._layer and before.name not in self._slot_of:
                    yield self._taps.before(modules[0][1], before.stage, before.type.dims[-1], self._behind.turn(node, modules))

    def _activations(self) -> Iterator[Tap]:
        for node in self._nodes:
            operands = self._graph.operand_names(node.name)
            if node.stage is None or len(operands) != 1 or operands[0] not in self._slot_of:
                continue
            around = self._captured.modules.around(self._slot_of[operands[0]], self._layer)
            found = [getattr(around, name) for name in _ACTIVATIONS if hasattr(around, name)]
            if node.op == "gaussian_top_k" and found:  # what the activation is given
                self._slot_of[node.name] = self._slot_of[operands[0]]
                yield self._taps.before(found[0], node.stage, node.type.dims[-1])
            elif found:
                yield self._taps.at(found[0], node.stage)
            elif around is not None and STAGE_BY_NAME[node.stage].network == "dense" and hasattr(torch.nn.functional, node.op):
                watch = called(around, node.op, partial(self._record_rows, node.stage))
                yield Tap((node.stage,), self._layer, watch.open)

    def _methods(self) -> Iterator[Tap]:
        """What methods of modules give, and what one of them is given."""
        for node in self._nodes:
            if node.op not in METHODS or node.stage is None:
                continue
            name, given = METHODS[node.op]
            operands = self._graph.operands(node.name)
            slot = next(
                slot for one in operands for slot in self._behind.slots(one) if self._captured.modules.around(slot, self._layer) is not None
            )
            module = self._captured.modules.around(slot, self._layer)
            wanted = [(node.stage, "")] + [(one.stage, given) for one in operands[1:2] if given]
            for stage, argument in wanted:
                if stage is not None:
                    watch = MethodWatch(module, name, partial(self._record_rows, stage), argument)
                    yield Tap((stage,), self._layer, watch.open)

    def _added(self) -> Iterator[Tap]:
        """Sums with what a module gives, computed in the module that this is a part of, or in the layer."""
        for node in self._nodes:
            if node.op != "add" or node.stage is None or self._layer is None:
                continue
            for operand in self._graph.operands(node.name):
                modules = self._behind.given_by(operand)
                if len(modules) == 1 and operand.stage is not None:
                    (slot, part), layer = modules[0], self._captured.layers[self._layer]
                    whole = self._captured.modules.around(slot, self._layer) or layer
                    watch = SumWithPart(whole, part, partial(self._record_rows, node.stage))
                    yield Tap((node.stage,), self._layer, watch.open)

    def _record_rows(self, stage: str, values: torch.Tensor) -> None:
        self._record(stage, self._layer, _of_stage(stage, values))

    def _given(self) -> Iterator[Tap]:
        """What the layer is given beside the hidden state."""
        if self._layer is None:
            return
        layer, names = self._captured.layers[self._layer], self._captured.family.hf_layer_inputs
        for stage in [node.stage for node in self._nodes if node.stage in names]:
            assert stage is not None

            yield Tap((stage,), self._layer, partial(self._watch_argument, layer, stage, names[stage]))

    def _watch_argument(self, layer: Any, stage: str, name: str, stack: contextlib.ExitStack) -> None:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            self._record_rows(stage, inspect.signature(module.forward).bind(*args, **kwargs).arguments[name])

        until(stack, layer.register_forward_pre_hook(hook, with_kwargs=True))

    def _ends(self) -> Iterator[Tap]:
        """A layer's output, and the model's logits, which with a soft cap are not the output of the LM head."""
        last = [node.stage for node in self._nodes if node.stage is not None][-1:]
        if self._layer is not None:
            yield from (self._taps.at(self._captured.layers[self._layer], stage, partial(_end_of_layer, stage)) for stage in last)
        elif self._captured.head is not None:
            yield from (self._taps.at(self._captured.model, stage, lambda _, output: self._taps.of_logits(output.logits)) for stage in last)
