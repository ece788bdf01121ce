"""The context manager behind ``aprgraph.capture.transformers``: which pass is which step, and what goes into the trace."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from aprgraph.capture.arithmetic import ArithmeticWatch
from aprgraph.capture.captured_model import CapturedModel, open_model
from aprgraph.capture.module_hooks import find_notes, find_taps
from aprgraph.capture.module_taps import Tap
from aprgraph.capture.sentence_modules import STAGES_OF_TEXT, find_modules
from aprgraph.graph.errors import PlanError, TraceError, shown
from aprgraph.graph.stages import EMBEDDING, LOGITS, POOLED, STAGE_BY_NAME
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.place import Place
from aprgraph.runtime.readings.row_order import order_of_graph
from aprgraph.runtime.trace.manifest import QK_ROWS, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter

#: What the manifest names as the target, and the first word of what it names as the writer.
TARGET = "transformers"


def _is_training(captured: CapturedModel) -> bool:
    """Whether a number may be drawn: of what is wrapped around the model, as PEFT's layers are, dropout alone counts."""
    dropouts = (part for part in captured.given.modules() if isinstance(part, torch.nn.Dropout))
    return bool(captured.model.training) or any(part.training and part.p > 0 for part in dropouts)


#: The dims of positions that are given for each axis of an image.
_AXES_APART = 3
#: The dims of what a layer works on, without a batch.
_ROWS = 2


class Capture:
    """See ``aprgraph.capture.transformers``. ``trace`` is the trace, from the end of the block on."""

    def __init__(
        self, model: Any, directory: Path, taps: str | Sequence[str], layers: str | int | range | None, positions: str, *, force: bool
    ) -> None:
        if positions not in ("last", "all"):
            raise PlanError(f"positions {positions!r}: expected 'last' or 'all'")
        self._captured = open_model(model)
        if _is_training(self._captured):
            raise TraceError(f"{type(model).__name__} is in training mode, where dropout is drawn anew each time; call model.eval() first")
        self._directory = directory
        self._positions = positions
        self._taps = list(find_taps(self._captured, self._record, lambda: self._total, all_logits=positions == "all"))
        self._taps += [Tap((stage,), None, watch) for stage, watch in find_modules(self._captured.given, self._record_row)]
        self._plan = parse_plan(
            taps, f"0..{len(self._captured.layers)}" if layers is None else layers, lambda: self._shown() | {*STAGES_OF_TEXT}
        )
        self._check_plan()
        head = [self._captured.head] if self._captured.head is not None else []
        self._arithmetic = ArithmeticWatch([self._captured.decoder, *head])
        self._writer = TraceWriter(directory, author=TARGET, force=force)
        self._recorded: set[Place] = set()
        self._stack = contextlib.ExitStack()
        self._tokens: list[int] = []
        self._generated: list[int] = []
        #: Positions so far, those of the running pass included; the step of that pass, and its positions.
        self._total, self._step = 0, -1
        self._last: list[int] = []
        #: What the embedding of the running pass was given and gave, until its positions tell which step it is.
        self._embedded: tuple[torch.Tensor, torch.Tensor] | None = None
        self._is_running = False
        self._trace: Trace | None = None

    def record(self, stage: str, values: Any) -> Any:
        """Record what your program makes of the model's output inside the block, an embedding of the whole text, and return it.

        ``stage`` is `pooled`, `pooled_up`, `pooled_up_act`, `pooled_down`, `pooled_down_act` or `pooled_normed`. ``values`` are the
        elements of one row, [Y] or [1, Y], of torch or NumPy. Raises TraceError outside the block, before the prompt has run, for
        another stage or shape, or for a stage that is recorded already.
        """
        self._record_row(stage, values)
        return values

    def _record_row(self, stage: str, values: Any) -> None:
        if stage not in STAGES_OF_TEXT:
            raise self._fail(f"record takes {', '.join(STAGES_OF_TEXT)}, not {shown(stage)}: what the model computes is recorded anyway")
        if self._trace is not None or self._step < 0 or self._is_running:
            raise self._fail(f"{stage} is recorded inside the block, when the model has run on the text")
        row = torch.as_tensor(values)
        if row.numel() != row.shape[-1:].numel() or row.dim() == 0 or not row.numel():
            raise self._fail(f"{stage} has the shape {list(row.shape)}, expected one row of numbers: one text at a time")
        width = getattr(self._captured.decoder.config, "hidden_size", row.numel())
        if stage == POOLED and row.numel() != width:
            raise self._fail(f"{stage} has {row.numel()} elements, expected {width}, as a position has; is it behind a dense layer?")
        self._record(stage, None, row.reshape(-1))

    @property
    def trace(self) -> Trace:
        """The trace. Raises TraceError before the end of the block."""
        if self._trace is None:
            raise TraceError(f"{self._directory}: the capture has not ended, so there is no trace yet")
        return self._trace

    def __enter__(self) -> Capture:  # noqa: PYI034 -- Self is in typing from Python 3.11 on
        captured = self._captured
        with contextlib.ExitStack() as stack:
            for module in dict.fromkeys((captured.given, captured.model, captured.decoder)):
                stack.callback(module.register_forward_pre_hook(self._before_pass, with_kwargs=True).remove)
            stack.callback(captured.embedding.register_forward_hook(self._after_embedding).remove)
            if captured.of_positions is not None:
                stack.callback(captured.of_positions.register_forward_pre_hook(self._at_positions, with_kwargs=True).remove)
            first = captured.layers[0] if captured.embedding_norm is None else captured.embedding_norm
            stack.callback(first.register_forward_pre_hook(self._before_layers, with_kwargs=True).remove)
            for tap in self._taps:
                if self._wants(tap):
                    tap.open(stack)
            stack.callback(captured.decoder.register_forward_hook(self._after_pass).remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None) -> None:
        self._stack.close()
        with contextlib.closing(self._writer):
            if kind is None:
                self._trace = self._finish()

    def _shown(self) -> frozenset[str]:
        """The stages that the model shows."""
        return frozenset((EMBEDDING, *(stage for tap in self._taps for stage in tap.stages)))

    def _check_plan(self) -> None:
        """Raise PlanError if the plan names a stage or a layer that the model does not show."""
        count = len(self._captured.layers)
        there = self._shown()
        # What comes behind the model, a program may record itself.
        self._optional = self._plan.optional
        plan = self._plan = self._plan.within({*there, *STAGES_OF_TEXT}, count)
        missing = [stage for stage in plan.stages if stage not in there and stage not in STAGES_OF_TEXT]
        if missing and not plan.everything:
            own = ", ".join(stage for stage in STAGE_BY_NAME if stage in there)
            why = "".join(f" ({note})" for note in find_notes(self._captured) if any(stage in note for stage in missing))
            raise PlanError(f"taps: this model does not show {', '.join(missing)}{why}; what it shows is: {own}")
        if plan.layers.stop > count and plan.selects_layers:
            raise PlanError(
                f"layers {plan.layers.start}..{plan.layers.stop}: the model has {count} layers, expected END of at most {count}"
            )

    def _wants(self, tap: Tap) -> bool:
        layers = self._plan.layers if tap.everywhere else [tap.layer]
        return any(self._plan.selects(stage, layer) for stage in tap.stages for layer in layers)

    # -- passes ---------------------------------------------------------------------------------------------------------

    def _fail(self, what: str) -> TraceError:
        return TraceError(f"{self._directory}: {what}")

    def _before_pass(self, module: Any, args: Any, kwargs: Any) -> None:
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(mask, torch.Tensor):
            if mask.dim() != 2:
                raise self._fail(f"the attention mask has {mask.dim()} dimensions, expected none or [1, positions], all of it 1")
            if not bool((mask != 0).all()):
                raise self._fail("the attention mask has zeros, expected none: a text with padding cannot be compared; drop the padding")
        if module is self._captured.decoder:
            if self._is_running:
                raise self._fail("a pass begins before the one before it has ended; was an exception caught inside the block?")
            self._is_running = True

    def _after_embedding(self, _module: Any, args: Any, output: torch.Tensor) -> None:
        self._embedded = (args[0], output)

    def _at_positions(self, _module: Any, args: Any, kwargs: Any) -> None:
        """The positions are known."""
        # RoPE is given rows, positions and perhaps the kind of layer, an embedding of positions them alone.
        positions = kwargs["position_ids"] if "position_ids" in kwargs else args[min(1, len(args) - 1)]
        if self._embedded is None:
            if self._step < 0 or self._total == 0:
                raise self._fail("the model was given embeddings, expected input_ids: the trace is to name its tokens")
            # A family with several RoPEs asks once for each, and one that normalises its embedding asks when the pass has begun.
            self._require_positions((positions.reshape(-1, positions.shape[-1])[0] - self._captured.first_position).tolist())
            return
        if self._embedded[0].shape[0] == 1 and positions.dim() == _AXES_APART:
            if not bool((positions == positions[:1]).all()):
                raise self._fail("the axes of the positions differ, expected a text without images")
            positions = positions[0]
        self._begin((positions[0] - self._captured.first_position).tolist())

    def _begin(self, positions: list[int] | None) -> None:
        """A pass on what was embedded: the prompt, or one token after all that came before.

        ``positions`` is None where nothing says them.
        """
        if self._embedded is None:
            raise self._fail("the model was given embeddings, expected input_ids: the trace is to name its tokens")
        (tokens, rows), self._embedded = self._embedded, None
        if tokens.shape[0] != 1:
            raise self._fail(
                f"a batch of {tokens.shape[0]} texts, expected one: run them one after the other, each with a capture of its own"
            )
        count = tokens.shape[1]
        first = self._total if positions is None else positions[0]
        self._last = list(range(first, first + count))
        if positions is not None:
            self._require_positions(positions)
        if first != self._total or (self._total > 0 and count != 1):
            expected = "the whole prompt from position 0" if self._total == 0 else f"one token, at position {self._total}"
            raise self._fail(
                f"a pass on {count} tokens from position {first}, expected {expected}: a capture is of one text, "
                "its prompt in one pass and what follows token by token with a KV cache"
            )
        self._total += count
        self._step += 1
        self._arithmetic.at_pass(rows.device)
        (self._generated if self._step else self._tokens).extend(tokens[0].tolist())

    def _require_positions(self, positions: list[int]) -> None:
        if positions != self._last:
            raise self._fail(f"the positions are {positions}, expected one after the other")

    def _before_layers(self, _module: Any, args: Any, kwargs: Any) -> None:
        """What the first layer is given, or the norm before it, is the embedding, scaled by whoever scales it."""
        if self._captured.of_positions is None or self._embedded is not None:
            self._begin(None)
        given = args[0] if args else kwargs["hidden_states"]
        self._record(EMBEDDING, 0, given[(0,) * (given.dim() - _ROWS)])  # the first of several streams

    def _after_pass(self, _module: Any, _args: Any, _output: Any) -> None:
        self._is_running = False

    def _record(self, stage: str, layer: int | None, values: torch.Tensor) -> None:
        if not self._plan.selects(stage, layer):
            return
        key = Place(self._step, layer, stage)
        name = stage if layer is None else f"layer{layer}.{stage}"
        if key in self._recorded:
            raise self._fail(f"{name} is computed twice in one pass, which cannot be recorded")
        if stage == LOGITS and self._positions == "all" and len(values) != (1 if self._step else len(self._tokens)):
            raise self._fail(
                f"the model computed logits of {len(values)} of {len(self._tokens)} positions; drop positions='all', or logits_to_keep"
            )
        self._recorded.add(key)
        self._arithmetic.see(values)
        rounded = values.detach().to("cpu", torch.float32).contiguous().numpy()
        self._writer.write(name, stage, layer, self._step, rounded)

    # -- the end --------------------------------------------------------------------------------------------------------

    def _finish(self) -> Trace:
        if self._step < 0:
            raise self._fail("no forward pass of the model ran inside the block, so nothing was recorded")
        if self._is_running or self._embedded is not None:
            raise self._fail("the last pass inside the block did not end, so this is no whole trace")
        seen = {stage for _, _, stage in self._recorded}
        missing = [] if self._plan.everything else [stage for stage in self._plan.stages if stage not in {*seen, *self._optional}]
        if missing and set(missing) <= {*STAGES_OF_TEXT}:
            raise self._fail(
                f"{', '.join(missing)} was not recorded: it comes behind the model, so record it inside the block, with "
                f"record({missing[0]!r}, values) of what the block yields"
            )
        if missing or not seen:
            raise self._fail(f"{', '.join(missing) or 'nothing'} was not recorded: the passes did not get there")
        captured, config = self._captured, self._captured.decoder.config
        extra: dict[str, Any] = {"writer": captured.description}
        found = self._arithmetic.finish()
        if found.arithmetic is not None:
            extra["arithmetic"] = found.arithmetic
        quantised = found.quantised or getattr(config, "quantization_config", None) is not None
        extra["weights"] = "quantised" if quantised else "float"
        if self._generated:
            extra["generated"] = self._generated
        if (rows := order_of_graph(captured.outline.graph)) is not None:
            extra[QK_ROWS] = rows
        notes = [*found.notes, *find_notes(captured, seen)]
        if notes:
            extra["notes"] = notes
        # The last part alone: where a model lies on this machine is nobody's business.
        name = Path(str(getattr(config, "_name_or_path", ""))).name or captured.name
        model = {"name": name, "architecture": captured.family.architecture}
        info = TraceInfo(model, TARGET, tuple(self._tokens), self._plan.describe(), self._positions, "", extra)
        return self._writer.finish(info)
