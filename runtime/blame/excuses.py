"""What may be the reason that a tensor is beyond its limit, before anybody is blamed: the range of numbers, ties, rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from aprgraph.graph.ops import Array
from aprgraph.graph.ops.flash_attention import FLASH_ATTENTION
from aprgraph.runtime.blame.compare_case import compare_case
from aprgraph.runtime.blame.conditioning import explained_by_rounding
from aprgraph.runtime.blame.doubts import Case
from aprgraph.runtime.blame.flash_division import FlashDivision, near_positions, windowed_rows
from aprgraph.runtime.blame.float_range import FloatRange, Overflow, find_overflow
from aprgraph.runtime.blame.float_weights import FloatWeights
from aprgraph.runtime.blame.local_errors import LocalError, LocalState
from aprgraph.runtime.blame.replay import Replayer
from aprgraph.runtime.blame.ties import NearTies
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.trace.aprt import F32


class Excuses:
    """Those of the tensors of one trace, which was computed in numbers of the format ``within``; ``ties`` are seen by who replays it."""

    def __init__(
        self,
        replayer: Replayer,
        profile: str,
        float_weights: FloatWeights | None,
        ties: NearTies,
        within: FloatRange,
        division: FlashDivision | None,
    ) -> None:
        self._replayer, self._recorded = replayer, replayer.recorded
        self._profile, self._float_weights = profile, float_weights
        self._ties, self._range, self._division = ties, within, division

    def excused(self, local: LocalError, case: Case) -> LocalError:
        """A tensor beyond its limit, before anybody is blamed."""
        assert isinstance(local.metrics, TensorMetrics)
        overflow = self._find_overflow(local.metrics, case)
        if local.metrics.mismatched_nonfinite and (unclear := self._unclear_source(case)) is not None:
            tainted = ~np.isfinite(self._replayer.recompute(case.replay, case.tensor, _NanForInf(case.replay.inputs)))
            return self._but_for(local, case, tainted if overflow is None else tainted | overflow.elements, unclear)
        if overflow is not None:
            found = self._but_for(local, case, overflow.elements, overflow.words)
            if found.state is LocalState.UNKNOWN:
                return replace(found, overflows=overflow.format.name)
        if local.metrics.mismatched_nonfinite:
            return local
        if self._division is not None and (found := self._in_doubt(local, case, self._division)).state is LocalState.UNKNOWN:
            return found
        tie = self._ties.find(case.origins.region)
        if tie is not None:
            return replace(local, state=LocalState.UNKNOWN, reason=tie)
        float_weights = self._float_weights
        noise = 0.0 if float_weights is None else float_weights.unit(case.origins.weights)
        rounding = explained_by_rounding(
            self._replayer, case.replay, case.tensor, case.computed, local.metrics, profile=self._profile, most=noise or math.inf
        )
        return local if rounding is None else replace(local, state=LocalState.RIGHT, reason=rounding)

    def _but_for(self, local: LocalError, case: Case, elements: npt.NDArray[np.bool_], reason: str) -> LocalError:
        """``local`` not known for ``reason``, if nothing is wrong but ``elements``."""
        others = replace(case, recorded=np.where(elements, case.computed, case.recorded))
        found = compare_case(replace(local, state=LocalState.RIGHT), others)
        return local if found.state is LocalState.WRONG else replace(local, state=LocalState.UNKNOWN, reason=reason, is_open=True)

    def _in_doubt(self, local: LocalError, case: Case, division: FlashDivision) -> LocalError:
        """A tensor of flash attention that is near the replay, if nothing is wrong but positions of which it is not known what they get."""
        node, start = case.tensor.node, self._recorded.pass_start(case.step)
        length = self._recorded.pass_length(case.step)
        if start is None or not length or "n" not in node.type.dims:
            return local
        if not any(case.replay.graph[name].op == FLASH_ATTENTION.name for name in case.origins.region):
            return local
        doubt = division.open_rows(length, start + length)
        doubt = doubt or windowed_rows(case.replay.graph, case.origins.region, length, start + length)
        if doubt is None:
            return local
        rows, reason = doubt
        axis = node.type.dims.index("n")
        shape = [1] * case.computed.ndim
        shape[axis] = case.computed.shape[axis]
        near = rows[-shape[axis] :] & near_positions(case.recorded, case.computed, axis, start + length)
        return self._but_for(local, case, np.broadcast_to(near.reshape(shape), case.computed.shape), reason)

    def _find_overflow(self, metrics: TensorMetrics, case: Case) -> Overflow | None:
        """What of a tensor overflows the format of the run; not looked for where nothing is large."""
        tensors = self._recorded.of_step(case.step)
        large = metrics.mismatched_nonfinite or any(
            _exceeds(values, self._range.large)
            for values in (case.computed, *(self._recorded.load(tensors[name]) for name in case.origins.sources))
        )
        return find_overflow(self._replayer, case.replay, case.tensor, case.recorded, case.computed, self._range) if large else None

    def _unclear_source(self, case: Case) -> str | None:
        """Why tensors with NaN or Inf at other places than the replay are neither right nor wrong."""
        tensors, recorded = self._recorded.of_step(case.step), self._recorded
        for name in case.origins.sources:
            if not np.isfinite(recorded.value(tensors[name])).all():
                return f"{tensors[name].entry.label}, from which it is computed, holds NaN or Inf; what follows from those is not defined"
        for name in case.origins.region:
            if name in case.replay.states and not np.isfinite(case.replay.states[name]).all():
                return f"what earlier steps left in %{name}, from which it is computed, holds NaN or Inf; what follows is not defined"
        return None


class _NanForInf(Mapping[str, Array]):
    """Inputs in which NaN stands for Inf too: whatever is computed from it is NaN then, and not 0 as a quotient by Inf."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._inputs = inputs

    def __getitem__(self, name: str) -> Array:
        value = self._inputs[name]
        return np.where(np.isfinite(value), value, np.nan) if value.dtype.kind == "f" else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._inputs)

    def __len__(self) -> int:
        return len(self._inputs)


def _exceeds(values: F32, size: float) -> bool:
    """Whether an element is larger than ``size``, or NaN."""
    with np.errstate(invalid="ignore"):
        return bool(values.size) and not (float(values.max()) <= size and float(values.min()) >= -size)
