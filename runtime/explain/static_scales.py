"""Scales that were set beforehand, as calibration does: found by what rounding with each of many leaves of an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.explain.site import LEFT

#: Scales that are tried: by how much they may be off the one of the largest number. At first some so far apart, then those between of
#: which one makes an error of about the energy that is there.
_RANGE, _COARSE = 8.0, 0.1
#: Of the best of them what it leaves of the energy: of an error that is another, all.
_LEAVES = 0.9
#: Elements that are looked at at once, with several scales where there are few.
_AT_ONCE = 1 << 15
#: Then the best few of them are looked at more closely, so often, by so many within a step on either side.
_BEST, _ROUNDS, _CLOSER = 4, 4, 12


@dataclass(frozen=True)
class StaticFormat:
    """A format with one scale: its largest number and its least, and what rounds to its numbers.

    ``step``: scales that are so near have the same codes but for few. ``about``: by what factor the errors of scales that are near may
    differ; more where the largest numbers make most of it, as they do where numbers float.
    """

    name: str
    words: str
    most: float
    least: float
    grid: Callable[[Array], Array]
    step: float
    about: float

    def codes(self, x: Array, scale: float | Array) -> Array:
        """What ``x`` is held as, cut off beyond the largest number."""
        return self.grid(np.clip(x / scale, self.least, self.most))

    def rounded(self, x: Array, *, scale: float | Array) -> Array:
        """``x`` in the format."""
        return np.asarray(self.codes(x, scale) * scale)


def _to_fp8(x: Array) -> Array:
    import ml_dtypes  # noqa: PLC0415 -- few audits come here

    return np.asarray(x.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64))


#: Some engines leave the least number of int8 out, which shows where it is cut off.
STATIC = (
    StaticFormat("int8", "int8", 127.0, -128.0, np.rint, step=0.0025, about=2.0),
    StaticFormat("int8", "int8", 127.0, -127.0, np.rint, step=0.0025, about=2.0),
    StaticFormat("fp8", "FP8 (E4M3)", 448.0, -448.0, _to_fp8, step=0.005, about=4.0),
)


def find_scale(one: StaticFormat, x: Array, image: Callable[[Array], Array], wanted: Array, energy: float) -> float | None:
    """The scale with which ``x`` [n, C], so rounded, gives what is ``wanted``; None if it leaves more than a part of ``energy``.

    ``image`` is what is made of ``x``, and linear in it: so the scale that fits best to the codes of another is known. It takes several
    [s, n, C] at once, and gives s arrays like ``wanted``.
    """
    largest = float(np.abs(x).max())
    if largest == 0 or energy == 0:
        return None
    search = _Search(one, x, image, wanted.reshape(-1))
    best = search.tried(search.of_about_that_error(energy, largest / one.most))[:_BEST]
    if not best or best[0][0] > energy * _LEAVES:
        return None
    width = one.step
    for _ in range(_ROUNDS):
        near = [scale * (1 + width * np.linspace(-1, 1, 2 * _CLOSER + 1)) for _, scale in best]
        best = search.tried(np.concatenate([np.array([scale for _, scale in best]), *near]))[:_BEST]
        width /= _CLOSER / 2
    error, scale = search.tried(np.array([scale for _, scale in best]))[0]
    return scale if scale > 0 and error <= LEFT * energy else None


@dataclass(frozen=True)
class _Search:
    """The images of one array as it is with many scales; ``wanted`` is flat."""

    one: StaticFormat
    x: Array
    image: Callable[[Array], Array]
    wanted: Array

    def tried(self, scales: Array) -> list[tuple[float, float]]:
        """The least first: what the codes of each scale leave, with the scale that fits best to them."""
        found: list[tuple[float, float]] = []
        for some in self._parts(scales):
            codes = self.image(self.one.codes(self.x, some[:, None, None])).reshape(len(some), -1)
            squares = np.vecdot(codes, codes)
            best = np.where(squares > 0, (codes @ self.wanted) / np.where(squares > 0, squares, 1.0), some)
            errors = np.square(codes * best[:, None] - self.wanted).sum(axis=1)
            found += zip(errors.tolist(), best.tolist(), strict=True)
        return sorted(found)

    def of_about_that_error(self, energy: float, middle: float) -> Array:
        """Scales that may be the one. What a scale makes of an error changes slowly with it, though its codes change all the time."""
        due = self.image(self.x[None]).reshape(-1)
        ends = np.arange(-np.log(_RANGE), np.log(_RANGE) + _COARSE, _COARSE)
        made: list[float] = []
        for some in self._parts(middle * np.exp(ends)):
            rounded = self.image(self.one.rounded(self.x, scale=some[:, None, None])).reshape(len(some), -1)
            made += np.square(rounded - due).sum(axis=1).tolist()
        near = [
            start
            for start, *errors in zip(ends.tolist(), made, made[1:], strict=False)
            if min(errors) <= energy * self.one.about and max(errors) >= energy / self.one.about
        ]
        return np.concatenate([middle * np.exp(np.arange(start, start + _COARSE, self.one.step)) for start in near] or [np.zeros(0)])

    def _parts(self, scales: Array) -> list[Array]:
        """Scales of which some are tried at once."""
        at_once = max(1, _AT_ONCE // self.x.size)
        return [scales[start : start + at_once] for start in range(0, len(scales), at_once)]
