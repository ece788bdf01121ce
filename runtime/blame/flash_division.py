"""How an engine's flash attention took positions and keys apart, where nobody says it: the division that explains what was recorded.

llama.cpp computes a prompt in passes of so many positions (-ub), and divides the keys of a pass of one position among its threads once
there are more than 256. What attention gives depends on both (graph/ops/flash_attention.py), and no trace names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.graph.arguments import ARITHMETIC
from aprgraph.graph.arithmetics import EngineArithmetic
from aprgraph.graph.ir import Graph
from aprgraph.graph.message import Message
from aprgraph.graph.ops import Array, has_state
from aprgraph.graph.ops.flash_attention import CELLS, DEFAULTS, FLASH_ATTENTION, TILE, passes_of
from aprgraph.graph.passes.apply_arithmetic import apply_arithmetic
from aprgraph.graph.passes.prune import part_of
from aprgraph.runtime.blame.recorded import Recorded, RecordedTensor
from aprgraph.runtime.blame.replay import ReadWeight, Replayer, as_recorded_type

#: What flash attention is held to: see arithmetic_fit.py.
_EXPLAINED = 1e-7
#: Numbers of threads that are tried.
_THREADS = 64
#: Sizes of passes that are tried first, before all others: llama.cpp's own, and other powers of two.
_SIZES = (512, 2048, 1024, 256, 128, 64, 4096)
#: Tensors, and steps with other numbers of cells, that a division is tried on.
_TARGETS, _STEPS = 3, 4

Errors = npt.NDArray[np.float64]
#: What earlier steps left by node, and what of it is lost.
Before = tuple[Mapping[str, Array], frozenset[str]]
NOTHING: Before = ({}, frozenset())


@dataclass(frozen=True)
class FlashDivision:
    """``arithmetic`` with the division that was found. ``found`` names what was. Where no division explains what was recorded of flash
    attention, ``open_passes`` or ``open_threads`` says why it is not known.
    """

    arithmetic: EngineArithmetic
    found: tuple[str, ...] = ()
    open_passes: str | None = None
    open_threads: str | None = None

    def open_rows(self, n: int, t: int) -> tuple[npt.NDArray[np.bool_], str] | None:
        """Of the ``n`` positions of a pass, the last of ``t``: which are not known, bool [n], and why; None where all are."""
        if self.open_passes is not None and n >= TILE:
            return np.ones(n, np.bool_), self.open_passes
        start, stop = passes_of(n, self.arithmetic.ubatch or int(str(DEFAULTS["ubatch"])))[-1]
        if self.open_threads is not None and stop - start == 1 and t > CELLS:
            return np.arange(n) == n - 1, self.open_threads
        return None


def find_division(graph: Graph, arithmetic: EngineArithmetic, recorded: Recorded, read: ReadWeight) -> FlashDivision:
    """The division of ``arithmetic`` that explains what was recorded; what its user named is not looked for.

    ``graph`` is that of the run, with nothing rounded. Raises TraceError for a tensor that cannot be read.
    """
    division = FlashDivision(arithmetic)
    if not arithmetic.flash or not any(node.op == FLASH_ATTENTION.name for node in apply_arithmetic(graph, arithmetic)):
        return division
    search = _Search(graph, recorded, read)
    if arithmetic.ubatch is None and (recorded.prompt_length or 0) >= TILE:
        division = search.with_passes(division)
    return search.with_threads(division) if arithmetic.threads is None else division


class _Search:
    def __init__(self, graph: Graph, recorded: Recorded, read: ReadWeight) -> None:
        self._graph, self._recorded, self._read = graph, recorded, read

    # -- positions ------------------------------------------------------------------------------------------------------

    def with_passes(self, division: FlashDivision) -> FlashDivision:
        """By the prompt: each position is as one in a long pass, or as one in a short one."""
        own, n = division.arithmetic, self._recorded.prompt_length or 0
        usual = self._errors(own, 0)
        if not usual or any(_total(errors) <= _EXPLAINED for errors in usual.values()):
            return division
        whole = self._errors(replace(own, ubatch=n), 0)
        # A last pass of 63 shows whatever a shorter one would; the positions before it are not computed so.
        last = self._errors(replace(own, ubatch=n - TILE + 1 if n >= 2 * TILE else TILE - 1), 0)
        by_size = {}
        for ubatch in dict.fromkeys((*(size for size in _SIZES if size <= n), *range(n, 0, -1))):
            of_each = [_total(_in_passes(n, ubatch, whole[name], last[name])) for name in whole]
            by_size[ubatch] = (sum(error > _EXPLAINED for error in of_each), sum(of_each))
        best = min(by_size, key=lambda ubatch: by_size[ubatch])
        if by_size[best][0] < len(whole):
            return replace(division, arithmetic=replace(own, ubatch=best), found=(*division.found, "ubatch"))
        reason = Message(
            "what a position gets in flash attention depends on how many there are in its pass, and no size of the passes that is tried "
            "explains what was recorded; name it with ",
            ARITHMETIC.given(f"{own.text},ubatch=N", f"'{own.text},ubatch=N'"),
        )
        return replace(division, open_passes=reason)

    # -- keys -----------------------------------------------------------------------------------------------------------

    def with_threads(self, division: FlashDivision) -> FlashDivision:
        """By passes of one position with more than 256 keys: first of one thread, then of others."""
        own, steps = division.arithmetic, list(self._steps_of_many_keys(division))
        states = {step: self._states_before(own, step) for step in steps}
        one = [errors for step in steps for errors in self._errors(own, step, states[step]).values()]
        if not one or all(_total(errors[-1:]) <= _EXPLAINED for errors in one):
            return division
        by_count = {}
        for threads in range(1, _THREADS + 1):
            tried = replace(own, threads=threads)
            of_each = [_total(errors[-1:]) for step in steps for errors in self._errors(tried, step, states[step]).values()]
            by_count[threads] = (sum(error > _EXPLAINED for error in of_each), sum(of_each))
        best = min(by_count, key=lambda threads: by_count[threads])
        if by_count[best][0] < len(one):
            return division if best == 1 else replace(division, arithmetic=replace(own, threads=best), found=(*division.found, "threads"))
        reason = Message(
            f"with more than {CELLS} keys llama.cpp divides those of one position among its threads, and no number of threads from 1 to "
            f"{_THREADS} explains what was recorded; name it with ",
            ARITHMETIC.given(f"{own.text},threads=N", f"'{own.text},threads=N'"),
        )
        return replace(division, open_threads=reason)

    def _steps_of_many_keys(self, division: FlashDivision) -> Iterator[int]:
        """Steps whose last pass is of one position with many keys: of each number of cells the first."""
        seen: set[int] = set()
        for step in self._recorded.steps:
            start, length = self._recorded.pass_start(step), self._recorded.pass_length(step)
            if start is None or not length or (step == 0 and division.open_passes is not None):
                continue
            first, stop = passes_of(length, division.arithmetic.ubatch or int(str(DEFAULTS["ubatch"])))[-1]
            cells = -(-(start + length) // CELLS)
            if stop - first == 1 and cells > 1 and cells not in seen and len(seen) < _STEPS:
                seen.add(cells)
                yield step

    # -- replays --------------------------------------------------------------------------------------------------------

    def _errors(self, arithmetic: EngineArithmetic, step: int, before: Before = NOTHING) -> Mapping[str, Errors]:
        """Of the first tensors of a step that are computed by flash attention: by node, error and size of each position, squared."""
        replayer = Replayer(apply_arithmetic(self._graph, arithmetic), self._recorded, self._read)
        states, lost = before
        replay = replayer.replay(step, states, lost, keep_states=False)
        tensors = self._recorded.of_step(step)
        wanted = list(_computed_by_flash(replay.graph, tensors))[:_TARGETS]
        found = {}
        for node, value in replayer.run(replay, dict(states), graph=part_of(replay.graph, wanted)):
            if node.name in wanted:
                tensor = tensors[node.name]
                found[node.name] = _by_position(self._recorded.load(tensor), as_recorded_type(value, tensor), node.type.dims.index("n"))
        return found

    def _states_before(self, arithmetic: EngineArithmetic, step: int) -> Before:
        """What earlier steps left, and what of it is lost; nothing else of them is computed."""
        replayer = Replayer(apply_arithmetic(self._graph, arithmetic), self._recorded, self._read)
        states: dict[str, Array] = {}
        lost: frozenset[str] = frozenset()
        for earlier in self._recorded.passes():
            if earlier >= step:
                break
            replay = replayer.replay(earlier, states, lost, keep_states=True)
            kept = [name for name in replay.graph.outputs if has_state(replay.graph[name])]
            for _ in replayer.run(replay, states, graph=part_of(replay.graph, kept)):
                pass
            lost |= replayer.lost(replay)
        return states, lost


def windowed_rows(graph: Graph, names: Iterable[str], n: int, t: int) -> tuple[npt.NDArray[np.bool_], str] | None:
    """As ``FlashDivision.open_rows``, of the nodes ``names``: where a window has hidden keys, others may lie in their places.

    So it is in llama.cpp (llama-kv-cache-iswa.cpp), and no trace says in what order the keys were summed.
    """
    windows = [graph[name].attrs["window"] for name in names if graph[name].op == FLASH_ATTENTION.name]
    hidden = [window for window in windows if isinstance(window, int) and 0 < window < t]
    if not hidden:
        return None
    reason = (
        f"beyond a window of {hidden[0]} llama.cpp puts new keys in the places of hidden ones, so that the order in which it sums them "
        "is not known; run it with --swa-full"
    )
    return np.ones(n, np.bool_), reason


def near_positions(there: Any, expected: Any, axis: int, keys: int) -> npt.NDArray[np.bool_]:
    """Which positions along ``axis`` are as near as two orders of sums of as many ``keys`` in float16 are: bool [n].

    Each key rounds the sum twice at most, by 2^-12 of it in the mean of squares, in either order.
    """
    error, size = _by_position(there, expected, axis).T
    return np.asarray(error <= 4 * keys * 2.0**-24 * size)


def _computed_by_flash(graph: Graph, tensors: Mapping[str, RecordedTensor]) -> Iterator[str]:
    """The recorded tensors of a replay's ``graph`` that flash attention lies right before, or that it gives."""
    for name in graph.outputs:
        if name in tensors and "n" in graph[name].type.dims and _has_flash(graph, graph.ancestors([name])):
            yield name


def _has_flash(graph: Graph, names: Iterable[str]) -> bool:
    return any(graph[name].op == FLASH_ATTENTION.name for name in names)


def _by_position(there: Any, expected: Any, axis: int) -> Errors:
    with np.errstate(all="ignore"):
        error, size = np.square(there - expected.astype(np.float64)), np.square(expected.astype(np.float64))
    return np.stack([np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1).sum(axis=1) for each in (error, size)], axis=1)


def _total(errors: Errors) -> float:
    """The NMSE of all positions."""
    error, size = errors.sum(axis=0)
    return float(error / size) if size > 0 and np.isfinite(error) else np.inf if error else 0.0


def _in_passes(n: int, ubatch: int, long: Errors, short: Errors) -> Errors:
    """Each position's error as ``long`` or ``short`` passes have it, by the pass it is in; inf where it was not computed so."""
    found = long.copy()
    for start, stop in _short_passes(n, ubatch):
        part = slice(start - n, stop - n or None)
        found[part] = short[part]
        if n >= 2 * TILE and start < n - TILE + 1:
            found[part][:, 0] = np.inf
    return found[-len(long) :]


def _short_passes(n: int, ubatch: int) -> Sequence[tuple[int, int]]:
    return [each for each in passes_of(n, ubatch) if each[1] - each[0] < TILE]
