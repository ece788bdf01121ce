"""What is wrong with weights of one dimension: norms, and what frequencies of RoPE are divided by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.check.describe import runs_in_words
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.survey import SurveyedTensor

Vector = npt.NDArray[np.float64]

#: Norms of real models have medians from 0.002 (SmolLM2) to 340 (Gemma 3), and up to half of their elements negative.
_LEAST_MEDIAN, _MOST_MEDIAN = 2.0**-13, 2.0**13
_NEGATIVE_SHARE = 0.8
#: A vector of fewer elements tells nothing.
_LEAST_ELEMENTS = 16
#: An element is out of proportion if it is so many times larger than all but a hundredth of the others. In Gemma 3 it is 10 times.
_OUTLIER, _OUTLIER_SHARE = 1024, 0.01


def divides_frequencies(name: str) -> bool:
    """Whether RoPE's frequencies are divided by the elements of a tensor."""
    return name.startswith(("rope_freqs.", "rope_factors_"))


def judge_vector(found: SurveyedTensor) -> Iterator[Finding]:
    """All that is wrong with a tensor of one dimension that is not all 0, or that divides frequencies."""
    name, values = found.info.name, found.values
    if values is None:
        return
    if divides_frequencies(name):
        wrong = np.flatnonzero(~(values > 0))
        if wrong.size:
            yield Finding.of("rope-factor", name, f"{runs_in_words('element', wrong)} of {values.size}, the first {values[wrong[0]]:.4g}")
        return
    if values.size < _LEAST_ELEMENTS:
        return
    yield from _judge_outliers(name, np.abs(values[np.isfinite(values)]), values)
    if name.endswith("norm.weight") and np.isfinite(values).all():
        median, negative = float(np.median(np.abs(values))), float((values < 0).mean())
        if (values == 1).all():
            yield Finding.of("weight-untrained", name, f"all of its {values.size:,} elements are 1")
        elif negative > _NEGATIVE_SHARE:
            yield Finding.of("norm-odd", name, f"{negative:.0%} of its elements are negative")
        elif not _LEAST_MEDIAN <= median <= _MOST_MEDIAN:
            yield Finding.of("norm-odd", name, f"its elements are about {median:.2g} in size")


def _judge_outliers(name: str, sizes: Vector, values: Vector) -> Iterator[Finding]:
    usual = float(np.sort(sizes)[-1 - max(1, int(sizes.size * _OUTLIER_SHARE))]) if sizes.size > 1 else 0.0
    beyond = np.flatnonzero(np.isfinite(values) & (np.abs(values) > _OUTLIER * usual)) if usual else np.zeros(0, np.intp)
    if beyond.size:
        where = f"{runs_in_words('element', beyond)} of {values.size:,}"
        yield Finding.of("weight-absurd", name, f"{where}, up to {np.abs(values[beyond]).max():.2g}, the others at most {usual:.2g}")


def judge_norms_together(architecture: str, norms: Sequence[SurveyedTensor]) -> Iterator[Finding]:
    """What is wrong with the norms of a model, taken together.

    Files of Gemma 3 hold 1 + w, where some w of each trained norm are below 0; if all are above 1, the 1 was added twice.
    """
    if architecture != "gemma3":
        return
    values = _all_values(norms)
    if values.size >= _LEAST_ELEMENTS and (values > 1).all():
        text = f"each of the {values.size:,} elements of {len(norms)} norms is above 1: files of gemma3 hold 1 + w, is it 2 + w here?"
        yield Finding.of("norm-odd", "", text)


def _all_values(norms: Iterable[SurveyedTensor]) -> Vector:
    return np.concatenate([norm.values for norm in norms if norm.values is not None] or [np.zeros(0)])
