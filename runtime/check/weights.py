"""Looks at all weights of a file, tensor by tensor, and at each among its like."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.runtime.check.describe import describe_nonfinite
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.check.survey import LONGEST_ROW, Progress, SurveyedTensor, Surveyor
from aprgraph.runtime.check.vector_rules import judge_norms_together
from aprgraph.runtime.check.weight_rules import judge_tensor, typical_octave
from aprgraph.runtime.check.zero_rules import ZeroParts, judge_zeros, zero_parts

_LAYER = re.compile(r"blk\.(\d+)\.(.+)")
#: A matrix is of another size than those of other layers if it is this many octaves away from their median. In real models the same
#: matrix of different layers lies within 3 octaves.
_OCTAVES_APART = 8
_LEAST_LAYERS = 4
#: Smaller tensors may well be equal.
_LEAST_BYTES = 4096


@dataclass(frozen=True)
class _Size:
    """How large the elements of a layer's matrix are."""

    name: str
    octave: float


def readable(file: Source) -> list[TensorInfo]:
    """The tensors that are looked at, in the order in which they lie."""
    return sorted((info for info in file.tensors.values() if info.row_bytes <= LONGEST_ROW), key=lambda info: (info.part, info.offset))


def judge_numbers(file: Source, progress: Progress | None = None) -> Iterator[Finding]:
    """What is wrong with the tensors of a file whatever they are for: NaN and Inf. Raises ModelFileError."""
    surveyor = Surveyor(file, progress)
    for info in readable(file):
        yield from _judge_nonfinite(surveyor.survey(info))


def judge_some(file: Source, names: Collection[str]) -> Iterator[Finding]:
    """What is wrong with the tensors ``names`` alone, each by itself and beside the others of its layer. Raises ModelFileError."""
    layers = {matched[1] for name in names if (matched := _LAYER.fullmatch(name)) is not None}
    near = [info for info in readable(file) if info.name in names or ((m := _LAYER.fullmatch(info.name)) is not None and m[1] in layers)]
    zeros: list[ZeroParts] = []
    surveyor = Surveyor(file)
    for info in near:
        found = surveyor.survey(info)
        if info.name in names:
            yield from judge_tensor(found, surveyor.locate)
        zeros += zero_parts(found)
    yield from (finding for finding in judge_zeros(zeros) if finding.name in names)


def _judge_nonfinite(found: SurveyedTensor) -> Iterator[Finding]:
    if found.nan or found.inf:
        yield Finding.of("weight-nonfinite", found.info.name, describe_nonfinite(found))


def judge_weights(file: Source, architecture: str, progress: Progress | None = None, aside: Collection[str] = ()) -> Iterator[Finding]:
    """All that is wrong with the weights of a model, in the file's order and then of several together. Raises ModelFileError.

    Of the tensors ``aside``, which the model does not use, NaN and Inf alone are looked for.
    """
    zeros: list[ZeroParts] = []
    norms: list[SurveyedTensor] = []
    sizes: dict[tuple[str, str], list[_Size]] = {}
    samples: dict[tuple[int, int], list[TensorInfo]] = {}
    surveyor = Surveyor(file, progress)
    for info in readable(file):
        found = surveyor.survey(info)
        if info.name in aside:
            yield from _judge_nonfinite(found)
            continue
        yield from judge_tensor(found, surveyor.locate)
        zeros += zero_parts(found)
        if info.name.endswith("norm.weight") and found.values is not None:
            norms.append(found)
        matched, octave = _LAYER.fullmatch(info.name), None if found.is_vector else typical_octave(found)
        if matched is not None and octave is not None:
            sizes.setdefault((matched[2], info.format.name), []).append(_Size(info.name, octave))
        if info.nbytes >= _LEAST_BYTES and any(matrix.varied for matrix in found.matrices):
            samples.setdefault((info.nbytes, found.sample), []).append(info)
    yield from judge_zeros(zeros)
    yield from judge_norms_together(architecture, norms)
    for group in sizes.values():
        yield from _judge_sizes(group)
    for infos in samples.values():
        yield from _judge_twins(file, infos)


def _judge_sizes(group: Sequence[_Size]) -> Iterator[Finding]:
    if len(group) < _LEAST_LAYERS:
        return
    usual = median(one.octave for one in group)
    for one in group:
        apart = one.octave - usual
        if abs(apart) >= _OCTAVES_APART:
            text = f"its elements are about {2.0 ** abs(apart):,.0f} times {'larger' if apart > 0 else 'smaller'} than those of the others"
            yield Finding.of("weight-scale", one.name, text)


def _judge_twins(file: Source, infos: Sequence[TensorInfo]) -> Iterator[Finding]:
    first = infos[0]
    for other in infos[1:]:
        if first.dims == other.dims and first.format == other.format and _same_bytes(file, first, other):
            yield Finding.of("weight-twice", other.name, f"the same as {first.name}")


def _same_bytes(file: Source, a: TensorInfo, b: TensorInfo) -> bool:
    """Whether two tensors, whose samples are the same, are the same in all bytes."""
    at_once = 1 << 20
    left, right = (file.tensor_bytes(info).reshape(-1) for info in (a, b))
    if any(not np.array_equal(left[start : start + at_once], right[start : start + at_once]) for start in range(0, a.nbytes, at_once)):
        return False
    file.release()
    return True
