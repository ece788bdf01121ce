"""The tensors of a trace as values of the model's graph: which node each is, in which shape, and for which positions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.message import Message
from aprgraph.graph.ops import Array
from aprgraph.graph.words import shape_text
from aprgraph.runtime.diff.shards import Held, Shard, find_shard, is_split
from aprgraph.runtime.readings import Reading
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.manifest import TraceEntry
from aprgraph.runtime.trace.reader import Trace

#: The stage in whose place a KV cache may stand.
KEYS = "k_post_rope"
#: The tokens of a prompt, None if they are not given.
PromptTokens = Sequence[int] | None


@dataclass(frozen=True)
class Beginning:
    """The positions of a trace begin at ``position``. Those before were not recorded, with their keys, or are ``padding``, and hidden."""

    position: int = 0
    is_padding: bool = False

    @property
    def before(self) -> int:
        """How many positions that are attended to come before the first."""
        return 0 if self.is_padding else self.position


BEGINNING = Beginning()


@dataclass(frozen=True)
class RecordedTensor:
    """One tensor of a trace. ``shape`` is the node's, of all positions of the pass; ``last_axis`` is the axis of the positions
    where the trace holds the last of them alone. ``misfit`` says why it is neither, where its size is what does not fit, and
    ``missing`` where it cannot be read at all. ``of_text``: it holds all positions so far, of which the last are the pass's.
    """

    entry: TraceEntry
    node: Node
    shape: tuple[int, ...] | None = None
    last_axis: int | None = None
    misfit: str | None = None
    missing: str | None = None
    of_text: bool = False

    @property
    def is_readable(self) -> bool:
        """Whether its values are those of the node, for all positions or the last."""
        return self.misfit is None and self.missing is None

    @property
    def is_whole(self) -> bool:
        """Whether it can stand for the node's value."""
        return self.is_readable and self.last_axis is None


class Recorded:
    """The tensors of ``trace`` by (step, node name). ``tokens`` are the prompt's, None if nobody knows them.

    A prompt in parts is steps of several positions. ``beginning`` is where the positions of step 0 begin.

    Raises ComparisonError for tensors of another number of positions than there are tokens.
    """

    def __init__(self, trace: Trace, graph: Graph, tokens: Sequence[int] | None, beginning: Beginning = BEGINNING) -> None:
        self.trace = trace
        self.beginning = beginning
        self.tokens = None if tokens is None else tuple(tokens)
        generated = trace.info.extra.get("generated", []) if trace.info is not None else []
        self.generated: tuple[int, ...] = tuple(generated) if isinstance(generated, list) else ()
        nodes = {(node.layer, node.stage): node for node in graph.staged()}
        placed = [(entry, nodes[entry.layer, entry.stage]) for entry in trace.entries if (entry.layer, entry.stage) in nodes]
        self.foreign = tuple(entry for entry in trace.entries if (entry.layer, entry.stage) not in nodes)
        seen = _positions(placed)
        self._parts = _parts(placed, seen, self.tokens)
        if self.tokens is not None and seen is not None and len(self.tokens) == beginning.before + seen:
            self.tokens = self.tokens[beginning.before :]
        #: Set where the tensors look like one rank's of a tensor-parallel run.
        self.shard: Shard | None = None
        if self.tokens is not None or seen is not None:
            self.shard = _shard(trace, placed, len(self.tokens) if self.tokens is not None and not self._parts else seen or 0)
        if self.tokens is not None and self.shard is None and not self._parts and seen not in (None, len(self.tokens)):
            raise ComparisonError(
                f"{trace.directory}: its tensors are of {seen} positions, but the prompt has {len(self.tokens)} tokens; give this run's"
            )
        #: That of its first part, where it is in parts.
        self.prompt_length = len(self.tokens) if self.tokens is not None and not self._parts else seen
        self._tensors: dict[int, dict[str, RecordedTensor]] = {}
        for entry, node in placed:
            self._tensors.setdefault(entry.step, {})[node.name] = self._place(entry, node)
        #: Tensors that are recorded otherwise than the stage table says, by (step, node name), as they are read.
        self.readings: dict[tuple[int, str], Reading] = {}

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps."""
        return tuple(sorted(self._tensors))

    def passes(self) -> Iterator[int]:
        """The steps that a replay goes through, from 0 to the last recorded one.

        One that recorded nothing, and whose token is not known, leaves no keys and values; behind it recorded ones alone tell something.
        """
        last, step = max(self.steps, default=-1), 0
        while step <= last:
            yield step
            if step not in self._tensors and self.pass_tokens(step) is None:
                break
            step += 1
        yield from (behind for behind in self.steps if behind > step)

    def of_step(self, step: int) -> Mapping[str, RecordedTensor]:
        """The tensors of one step by node name, in execution order."""
        return self._tensors.get(step, {})

    def pass_tokens(self, step: int) -> tuple[int, ...] | None:
        """The tokens of a step's pass, or None if they are not known."""
        if step == 0 or step in self._parts:
            first, length = self._offset(step), self.pass_length(step)
            return None if self.tokens is None or first is None or length is None else self.tokens[first : first + length] or None
        generated = step - max(self._parts, default=0)
        return self.generated[generated - 1 : generated] if generated <= len(self.generated) else None

    def pass_start(self, step: int) -> int | None:
        """The position of the first token of a step's pass, or None if it is not known."""
        offset = self._offset(step)
        return None if offset is None else self.beginning.position + offset

    def pass_length(self, step: int) -> int | None:
        """How many positions a step's pass has, or None if that is not known."""
        return self.prompt_length if step == 0 else self._parts.get(step, 1)

    def pass_attended(self, step: int) -> int | None:
        """How many positions a step's pass attends to, its own among them, or None if that is not known."""
        offset, length = self._offset(step), self.pass_length(step)
        return None if offset is None or length is None else self.beginning.before + offset + length

    def _offset(self, step: int) -> int | None:
        """How many positions the steps before have."""
        if step == 0:
            return 0
        return None if self.prompt_length is None else self.prompt_length + sum(self._parts.get(one, 1) for one in range(1, step))

    def load(self, tensor: RecordedTensor) -> F32:
        """The values, f32 in ``shape``; of the last position alone where the trace holds no more. Raises TraceError."""
        assert tensor.shape is not None
        shape = list(tensor.shape)
        if tensor.of_text:
            axis = tensor.node.type.dims.index("n")
            n, shape[axis] = shape[axis], -1
            values = self.trace.load(tensor.entry).reshape(shape)
            return values.take(range(values.shape[axis] - n, values.shape[axis]), axis=axis)
        if tensor.last_axis is not None:
            shape[tensor.last_axis] = 1
        return self.trace.load(tensor.entry).reshape(shape)

    def value(self, tensor: RecordedTensor, *, as_it_stands: bool = False) -> Array:
        """The values in float64, of all positions, by the tensor's reading if it has one. Raises TraceError."""
        return self.value_by(tensor, None if as_it_stands else self.readings.get((tensor.entry.step, tensor.node.name)))

    def value_by(self, tensor: RecordedTensor, reading: Reading | None) -> Array:
        """The values in float64, of all positions, as a reading has them. Raises TraceError."""
        assert tensor.is_whole
        values = self.load(tensor)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return (values if reading is None else reading.restore(values)).astype(np.float64)

    def _place(self, entry: TraceEntry, node: Node) -> RecordedTensor:
        if entry.file is None:
            return RecordedTensor(entry, node, missing="it has statistics only")
        n, t = self.pass_length(entry.step), self.pass_attended(entry.step)
        if n is None or t is None:
            return RecordedTensor(entry, node, missing=Message("how many positions it has is not known; give the tokens with ", TOKENS))
        shape = node.type.bind(n=n, t=t)
        count = math.prod(entry.shape)
        if count == math.prod(shape):
            return RecordedTensor(entry, node, shape)
        axis = node.type.dims.index("n") if "n" in node.type.dims else None
        if axis is not None and count * n == math.prod(shape):
            return RecordedTensor(entry, node, shape, last_axis=axis)
        # Of keys it is the cache; without one, all of the text is computed again in each step.
        if entry.step and axis is not None and count * n == math.prod(shape) * t:
            return RecordedTensor(entry, node, shape, of_text=True)
        dims = shape_text(shape)
        misfit = f"it has {count} elements, but for {n} positions the model has {dims}"
        if self.shard is not None and count * self.shard.ranks == math.prod(shape):
            misfit += (
                f": {self.shard.part} the width, as {self.shard.rank} of a tensor-parallel run has it; gather the ranks before writing"
            )
        return RecordedTensor(entry, node, misfit=misfit)


def _parts(placed: Sequence[tuple[TraceEntry, Node]], first: int | None, tokens: Sequence[int] | None) -> dict[int, int]:
    """How many positions the steps behind the first have that are parts of the prompt, as most of their tensors do.

    The ``tokens`` of the prompt say so, which are as many, or scores that attend to the parts before: a step of several positions alone
    may be another text, or the whole of it again.
    """
    votes: dict[int, Counter[int]] = {}
    attends: dict[int, list[int]] = {}
    for entry, node in placed:
        dims = node.type.dims
        each = math.prod(dim for dim in dims if isinstance(dim, int))
        if entry.step and "t" in dims:
            attends.setdefault(entry.step, []).append(math.prod(entry.shape) // each)
        elif entry.step and "n" in dims:
            votes.setdefault(entry.step, Counter())[math.prod(entry.shape) // each] += 1
    parts: dict[int, int] = {}
    if first is None:  # of single positions nothing says of how many
        return parts
    total = first
    for step in range(1, max(votes, default=0) + 1):
        length = votes[step].most_common(1)[0][0] if step in votes else 1
        if length < 2 and (tokens is None or total >= len(tokens)):
            break
        total += length
        if tokens is None and length * total not in attends.get(step, ()):
            break
        parts[step] = length
    return parts if tokens is None or total == len(tokens) else {}


def _shard(trace: Trace, placed: Sequence[tuple[TraceEntry, Node]], n: int) -> Shard | None:
    """The rank that the tensors of step 0 look like in a run of ``n`` positions."""
    tensors = []
    for entry, node in placed:
        shape = node.type.bind(n=n, t=n)
        last = "n" in node.type.dims and math.prod(entry.shape) * n == math.prod(shape)
        if entry.step or entry.file is None or (last and trace.info is None):
            continue
        split = 0 if node.type.dims[-1:] == ("t",) else len(shape) - 1
        certain = trace.info is not None and len(entry.shape) == len(shape)
        certain = certain and all(held == due for axis, (held, due) in enumerate(zip(entry.shape, shape, strict=True)) if axis != split)
        tensors.append(Held(node.stage or "", math.prod(entry.shape), math.prod(shape), shape[split], certain))
    return find_shard(tensors)


def _positions(placed: Sequence[tuple[TraceEntry, Node]]) -> int | None:
    """The number of positions of the prompt that fits most tensors of step 0; None if none says it, or two fit equally many.

    Tensors of the last position alone fit one position: they do not count where others are longer, and where none is, it takes
    attention scores of one position by one to say that there was no more. Stages that the ranks of a tensor-parallel run split count
    where no other stage does.
    """
    whole = [(entry, node) for entry, node in placed if not is_split(node.stage or "")]
    return next((n for n in map(_most_votes, (whole, placed)) if n is not None), None)


def _most_votes(placed: Sequence[tuple[TraceEntry, Node]]) -> int | None:
    fits: Counter[int] = Counter()
    single = False
    for entry, node in placed:
        unknown = node.type.dims.count("n") + node.type.dims.count("t")
        if entry.step or not unknown:
            continue
        each = math.prod(dim for dim in node.type.dims if isinstance(dim, int))
        count = math.prod(entry.shape)
        n = count // each if unknown == 1 else math.isqrt(count // each)
        if n and each * n**unknown == count:
            fits[n] += 1
            single = single or (unknown == 2 and n == 1)
    if not single:
        fits.pop(1, None)
    ranked = fits.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def tokens_of(trace: Trace, given: Sequence[int] | None) -> tuple[int, ...] | None:
    """The prompt's tokens: as the manifest says, else as ``given``. Raises ComparisonError if they contradict each other."""
    known = tuple(trace.info.tokens) if trace.info is not None and trace.info.tokens else None
    if given is None:
        return known
    if known is not None and known != tuple(given):
        holder = "its manifest" if trace.has_manifest else "its array of token ids"
        raise ComparisonError(f"{trace.directory}: {holder} names other tokens than those that were given; leave them out")
    return tuple(given)
