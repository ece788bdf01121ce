"""Mistakes of how RoPE is stretched to a longer context: another original context, another factor, no ramp between."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.families.decoder import Decoder
from aprgraph.graph.families.rope_scaling import read_rope
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.rope import has_ramp
from aprgraph.runtime.explain.alternative import Alternative, explains, with_attrs, with_value
from aprgraph.runtime.explain.site import Site

#: Contexts and factors that models of these kinds have.
_CONTEXTS = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
_FACTORS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
#: Llama 3's bounds: waves that turn fewer times than the first over the original context are stretched whole, more than the second not.
_LOW, _HIGH = 1.0, 4.0
#: Factors are these numbers to so much of themselves: files have them in float32.
_SAME = 1e-5


@explains("rope_angles")
def other_stretch(site: Site) -> Iterator[Alternative]:
    """RoPE is stretched from another original context, by another factor, or at every pair, as by Llama 3's or YaRN's rules."""
    if len(site.operands) > 1:
        yield from _of_llama3(site)
    elif has_ramp(site.node.attrs):
        yield from _of_yarn(site)


@dataclass(frozen=True)
class _Llama3:
    """The rule by which Llama 3.1's factors are made."""

    base: float
    pairs: int
    original: float
    factor: float
    is_ramp: bool = True

    @property
    def factors(self) -> Array:
        """What each frequency is divided by."""
        turns = self.original / _waves(self.base, self.pairs)
        share = np.clip((turns - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
        if not self.is_ramp:
            share = np.where(turns < _HIGH, 0.0, 1.0)
        return np.asarray(1 / ((1 - share) / self.factor + share))


def _waves(base: float, pairs: int) -> Array:
    return np.asarray(2 * math.pi * base ** (np.arange(pairs) / pairs))


def _rule_of(base: float, factors: Array) -> _Llama3 | None:
    """The rule that made the file's factors, if one did."""
    for factor in dict.fromkeys((float(factors.max()), *_FACTORS)):
        between = np.flatnonzero((factors > 1 + _SAME) & (factors < factor * (1 - _SAME)))
        originals: list[float] = []
        for pair in between[:1].tolist():
            share = (1 / factors[pair] - 1 / factor) / (1 - 1 / factor)
            turns = _LOW + share * (_HIGH - _LOW)
            originals.append(float(round(turns * float(_waves(base, len(factors))[pair]))))
        for original in (*originals, *_CONTEXTS):
            rule = _Llama3(base, len(factors), original, factor)
            if np.allclose(rule.factors, factors, rtol=_SAME, atol=0):
                return rule
    return None


def _of_llama3(site: Site) -> Iterator[Alternative]:
    rule = _rule_of(site.node.attr_float("base"), site.operands[1])
    if rule is None:
        return
    base, pairs, own, factor = rule.base, rule.pairs, rule.original, rule.factor
    context = getattr(site.around.model.family, "context", 0)

    def alternative(words: str, factors: Array) -> Alternative:
        return Alternative("rope-scaling", words, with_value(site, 1, factors))

    for other in dict.fromkeys((float(context), own * factor, own / factor, *map(float, _CONTEXTS))):
        if other > 0 and other != own:
            words = f"RoPE is stretched from an original context of {other:g} positions in place of {own:g}"
            yield alternative(words, _Llama3(base, pairs, other, factor).factors)
    for other in _FACTORS:
        if other != factor:
            words = f"RoPE is stretched by a factor of {other:g} in place of {factor:g}"
            yield alternative(words, _Llama3(base, pairs, own, other).factors)
    yield alternative(f"RoPE's angles are stretched at every pair, by {factor:g}", np.full(pairs, factor))
    words = f"RoPE's frequencies are stretched by {factor:g} or not at all, without those between"
    yield alternative(words, _Llama3(base, pairs, own, factor, is_ramp=False).factors)


def _of_yarn(site: Site) -> Iterator[Alternative]:
    family, node = site.around.model.family, site.node
    if not isinstance(family, Decoder):
        return
    base, own = node.attr_float("base"), family.original_context

    def ramp(original: float, *, whole: bool) -> Sequence[float]:
        return read_rope(family.metadata, family.architecture, family.head_size, base, round(original), whole_pairs=whole).ramp

    at = node.attr_float("ramp_start"), node.attr_float("ramp_end")
    if tuple(ramp(own, whole=family.whole_pairs)) != at:
        return  # its ramp comes of something else
    stretch = 1 / node.attr_float("scale")
    seen = {at}
    for other in dict.fromkeys((float(family.context), own * stretch, own / stretch, *map(float, _CONTEXTS))):
        start, end = ramp(other, whole=family.whole_pairs) if other >= 1 else at
        if (start, end) not in seen:
            seen.add((start, end))
            words = f"RoPE is stretched from an original context of {other:g} positions in place of {own:g}"
            yield Alternative("rope-scaling", words, with_attrs(site, ramp_start=start, ramp_end=end))
    start, end = ramp(own, whole=not family.whole_pairs)
    if (start, end) not in seen:
        how = "between pairs" if family.whole_pairs else "at whole pairs"
        words = f"what YaRN stretches begins and ends {how}"
        yield Alternative("rope-scaling", words, with_attrs(site, ramp_start=start, ramp_end=end))
