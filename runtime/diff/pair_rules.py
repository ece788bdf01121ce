"""What a pair of tensors is held to: it is measured, and then the rules of a profile are applied to all pairs, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from aprgraph.graph.forks import in_forks
from aprgraph.runtime.diff.align import Pair
from aprgraph.runtime.diff.classify import Class, Finding, FirstDivergence, classify, computed_from_identical
from aprgraph.runtime.diff.dependencies import find_dependencies
from aprgraph.runtime.diff.exchanged import with_exchanges
from aprgraph.runtime.diff.flipped import set_aside
from aprgraph.runtime.diff.grown_noise import GROWS_IN, GrownNoise
from aprgraph.runtime.diff.inputs import HELD_TO_INPUTS, InputsRule, gain_of
from aprgraph.runtime.diff.measure import Measured, Measurer, held_to_its_own
from aprgraph.runtime.diff.overrides import Tolerances
from aprgraph.runtime.diff.profiles import QUANT_VS_FLOAT, arithmetic_profiles, states_float_weights
from aprgraph.runtime.diff.recorded_otherwise import OtherForms
from aprgraph.runtime.diff.shapes import ShapedTrace
from aprgraph.runtime.diff.weight_noise import find_weight_noise
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace

#: Called before each tensor: how many are done, of how many, and what this one is called.
Progress = Callable[[int, int, str], None]

#: Elements of one side from which on forks measure tensors, which take a twentieth of a second to be there.
_LARGE = 1 << 25


class PairRules:
    """Measures and judges ``pairs`` by the tolerances of ``profile``. ``shaped`` are ``traces`` with their shapes.

    ``formats`` are what the values of each side were kept in, None for float32; ``tolerances`` set limits for some stages; ``top`` is the
    K of the top-K overlap of logits. Raises ComparisonError for a tolerance of a stage that is not there.
    """

    def __init__(
        self,
        traces: tuple[Trace, Trace],
        shaped: tuple[ShapedTrace, ShapedTrace],
        pairs: Sequence[Pair],
        profile: str,
        formats: tuple[str | None, str | None],
        tolerances: Sequence[str],
        top: int,
    ) -> None:
        infos = [trace.info for trace in traces]
        self._traces, self._pairs, self._profile = traces, pairs, profile
        self.limits = Tolerances(profile, tolerances, (entry.stage for trace in traces for entry in trace.entries))
        self._dependencies = find_dependencies(*traces, [pair.key for pair in pairs])
        self._arithmetics = arithmetic_profiles(infos, formats)
        #: None where both sides have the same weights.
        self.weights = (
            find_weight_noise(*traces, self._dependencies, [states_float_weights(info) for info in infos])
            if profile == QUANT_VS_FLOAT
            else None
        )
        of_weights = None if self.weights is None else partial(self.weights.tolerance, arithmetics=self._arithmetics)
        self._measurer = Measurer(*shaped, self.limits, top, of_weights)

    def measure(self, progress: Progress | None = None, *, forks: bool = False) -> dict[Place, Measured]:
        """Each pair by itself; ``forks``: this process may be forked. Raises TraceError that names a damaged file."""
        measured = {}
        # Limits of weights may decode some, which is done in threads already.
        results = self._measured(forks=forks and self.weights is None)
        for done, pair in enumerate(self._pairs):
            if progress is not None:
                progress(done, len(self._pairs), pair.entry.label)
            measured[pair.key] = next(results)
        return measured

    def _measured(self, *, forks: bool) -> Iterator[Measured]:
        """What is measured of each pair, of large ones by several processes if ``forks`` allows that: threads would take longer than one
        does, since each waits for Python's lock many times a millisecond.
        """
        if not forks or sum(math.prod(pair.shape or ()) for pair in self._pairs) <= _LARGE:
            yield from map(self._measurer.measure, self._pairs)
            return
        for pair, one in zip(self._pairs, in_forks(self._measurer.measure, self._pairs), strict=True):
            if one.metrics is not None:
                self._measurer.note_described(pair)
            yield one

    def judge(self, measured: Mapping[Place, Measured]) -> tuple[dict[Place, Measured], list[str]]:
        """``measured`` as the rules leave it, and notes on that. Raises TraceError that names a damaged file."""
        notes: list[str] = []
        judged = self._held_to_their_own(measured)
        if self._profile in HELD_TO_INPUTS:
            judged = InputsRule(self._dependencies, self._arithmetics, self.weights).hold(judged, self.limits)
        if self._profile in GROWS_IN:
            judged, notes = GrownNoise(self._profile, self._traces, self._pairs, self._dependencies, self.limits).settle(judged)
        judged = set_aside(judged, self._pairs, self._dependencies, self._measurer)
        return OtherForms(self._traces, self._pairs, self._dependencies, self._measurer).settle(judged), notes

    def classify(self, judged: Mapping[Place, Measured]) -> tuple[dict[Place, Class], tuple[FirstDivergence, ...]]:
        """The class of each pair, and the first divergences."""
        findings = {key: Finding(one.state, one.nmse, one.beyond_inputs) for key, one in judged.items()}
        return classify(findings, self._dependencies)

    def with_exchanges(self, judged: Mapping[Place, Measured], first: Sequence[FirstDivergence]) -> dict[Place, Measured]:
        """``judged``, with a remark on those of ``first`` that hold what belongs elsewhere. Raises TraceError."""
        return with_exchanges(judged, [one.key for one in first], self._pairs, self._traces, self._measurer)

    def _held_to_their_own(self, measured: Mapping[Place, Measured]) -> dict[Place, Measured]:
        """Those whose inputs are identical under the limit of their own arithmetic alone."""
        strict = computed_from_identical({key: one.state for key, one in measured.items()}, self._dependencies)
        if self.weights is not None:
            strict = {key for key in strict if gain_of(key.stage) is None}  # what their weights cost is for the rule of inputs
        tolerances = {pair.key: self._measurer.tolerance(pair) for pair in self._pairs if pair.key in strict}
        return {key: held_to_its_own(one, tolerances[key]) if key in strict else one for key, one in measured.items()}
