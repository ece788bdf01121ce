"""What the survey of a tensor says is wrong with it by itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from aprgraph.graph.words import shape_text
from aprgraph.runtime.check.describe import describe_nonfinite, describe_places
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.other_float import judge_bits
from aprgraph.runtime.check.survey import Locate, SurveyedTensor
from aprgraph.runtime.check.surveyed_matrix import LEAST_UNITS
from aprgraph.runtime.check.vector_rules import divides_frequencies, judge_vector

#: A magnitude is out of proportion if it is this many octaves above all others but a hundredth of the units. The largest single
#: weights of real models ("super weights", Yu et al. 2024, arXiv:2411.07191) are some 100 times the usual ones, 7 octaves.
_OUTLIER_OCTAVES = 11
_OUTLIER_SHARE = 0.01
#: The octave of 1024: usual weights of no matrix are so large.
_LARGE = 127 + 10


def judge_tensor(found: SurveyedTensor, locate: Locate) -> Iterator[Finding]:
    """All that is wrong with one tensor by itself; ``locate`` finds where its elements or scales are as large as an octave."""
    info = found.info
    if found.nan or found.inf:
        yield Finding.of("weight-nonfinite", info.name, describe_nonfinite(found))
    if all(matrix.is_zero for matrix in found.matrices) and not divides_frequencies(info.name):
        code = "weight-zero-bias" if info.name.endswith(".bias") else "weight-zero"
        yield Finding.of(code, info.name, f"all of its {shape_text(info.dims)} elements are 0")
        return
    if found.is_vector:
        yield from judge_vector(found)
        return
    yield from _judge_magnitudes(found, locate)
    yield from judge_bits(found)
    if all(not matrix.varied for matrix in found.matrices):
        yield Finding.of("weight-constant", info.name, f"all of its {shape_text(info.dims)} elements are {found.matrices[0].value:.6g}")
    elif info.format.is_plain and not any(matrix.normal for matrix in found.matrices):
        yield Finding.of("weight-tiny", info.name, f"none of its elements is a normal number of {info.format.name}")


# -- magnitudes ---------------------------------------------------------------------------------------------------------------


def typical_octave(found: SurveyedTensor) -> float | None:
    """The octave of the median block, or row; None where there are too few to tell."""
    counts = found.octaves(next(iter(found.matrices[0].octaves)))
    total = int(counts.sum())
    return None if total < LEAST_UNITS else float(np.searchsorted(np.cumsum(counts), total / 2))


def _judge_magnitudes(found: SurveyedTensor, locate: Locate) -> Iterator[Finding]:
    blocks, elements = found.info.format.arrives_in_blocks, found.matrices[0].rows < LEAST_UNITS
    units = "blocks" if blocks else "elements" if elements else "rows"
    for field in found.matrices[0].octaves:
        counts = found.octaves(field)
        total = int(counts.sum())
        if total < LEAST_UNITS:
            continue
        allowed = max(1, int(total * _OUTLIER_SHARE))
        usual = int(np.searchsorted(np.cumsum(counts), total - allowed))
        beyond = int(counts[usual + _OUTLIER_OCTAVES :].sum())
        what = f"the scale {field}" if blocks else "the size" if elements else "the largest element"
        most = f"{2.0 ** (usual - 126):.2g}"
        if beyond:
            largest = 2.0 ** (int(np.flatnonzero(counts)[-1]) - 126)
            places = describe_places(found, locate(found.info, field, usual + _OUTLIER_OCTAVES))
            text = f"{what} of {beyond:,} of {total:,} {units} is up to {largest:.2g}, that of the others at most {most} ({places})"
            yield Finding.of("weight-absurd", found.info.name, text)
        elif usual >= _LARGE:
            yield Finding.of("weight-large", found.info.name, f"{what} of its {units} is up to {most}")
