"""Logits that were recorded as what is made of them: their softmax, its logarithm, or with one number of each position taken off."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from aprgraph.graph.ops import Array
from aprgraph.runtime.readings.convention import convention
from aprgraph.runtime.readings.layout import Layout
from aprgraph.runtime.readings.reading import Restoration
from aprgraph.runtime.trace.aprt import F32

#: Sums and means of float32 numbers agree to this, relative to the largest of them.
_SAME = 1e-4
#: The least normal float32: probabilities below it have lost bits, or are 0.
_LEAST = float(np.finfo(np.float32).tiny)
#: A logit so far below the largest has no probability in float32.
_FAR_BELOW = 80.0


@convention("lm_head")
def logits_otherwise(recorded: F32, expected: F32, layout: Layout) -> Iterator[Restoration]:
    """The softmax of the logits, perhaps by a temperature, its logarithm, logits less their largest or their mean, or the best alone."""
    if not layout.is_logits or not np.isfinite(expected).all():
        return
    values, due = (side.reshape(-1, layout.sizes[-1]).astype(np.float64) for side in (recorded, expected))
    if not np.isfinite(values).all():
        yield from _all_but_the_best(values, due)
        return
    size = float(np.abs(values).max(initial=0.0)) or 1.0
    if (values >= 0).all() and np.abs(values.sum(axis=-1) - 1).max() <= _SAME:
        yield Restoration("softmax", "as the softmax of the logits", partial(_before_softmax, due), certain=True)
        if (temperature := _temperature(values, due)) is not None:  # which an engine may have in its logits too
            words = f"as the softmax of the logits divided by {temperature:.4g}"
            yield Restoration("softmax", words, partial(_before_temperature, due, temperature))
    elif np.abs(np.log(np.exp(values - values.max(axis=-1, keepdims=True)).sum(axis=-1)) + values.max(axis=-1)).max() <= _SAME * size:
        yield Restoration("log-softmax", "as the logarithm of the softmax of the logits", partial(_shifted, due), certain=True)
    elif not values.max(axis=-1).any():
        yield Restoration("shift", "with the largest logit of each position taken off", partial(_shifted, due), certain=True)
    elif np.abs(values.mean(axis=-1)).max() <= _SAME * _SAME * size:
        yield Restoration("shift", "with the mean of each position's logits taken off", partial(_shifted, due), certain=True)


def _all_but_the_best(values: Array, due: Array) -> Iterator[Restoration]:
    """Logits as a sampler leaves them, -inf but for the best."""
    left = np.isneginf(values)
    kept = np.where(left, np.inf, due).min(axis=-1)
    if np.isfinite(values[~left]).all() and not left.all(axis=-1).any() and (kept >= np.where(left, due, -np.inf).max(axis=-1)).all():
        most = int((~left).sum(axis=-1).max())
        words = f"with all but the best {most} of each position at -inf, which were not compared"
        yield Restoration("best-alone", words, partial(_filled, due), certain=True)


def _filled(due: Array, recorded: F32) -> F32:
    """Logits with what they should be where nothing is left of them."""
    return np.asarray(np.where(np.isneginf(recorded), due.reshape(recorded.shape), recorded), np.float32)


def _temperature(probabilities: Array, due: Array) -> float | None:
    """What the logits were divided by before their softmax; None where that is 1, or cannot be told."""
    held = probabilities >= _LEAST
    if not held.all():
        return None
    logarithms = np.log(probabilities)
    logarithms, logits = (side - side.mean(axis=-1, keepdims=True) for side in (logarithms, due))
    share = float((logarithms * logits).sum())
    temperature = float(np.square(logits).sum()) / share if share > 0 else 1.0
    return temperature if abs(temperature - 1) > _SAME else None


def _before_softmax(due: Array, recorded: F32) -> F32:
    """Logits of probabilities: their logarithm, but for one number of each position; as they should be where none is left of them."""
    probabilities = recorded.reshape(due.shape).astype(np.float64)
    lost = (probabilities < _LEAST) & (due < due.max(axis=-1, keepdims=True) - _FAR_BELOW)
    with np.errstate(divide="ignore"):
        logarithms = np.log(probabilities)
    shift = np.where(lost, 0.0, due - np.where(lost, 0.0, logarithms)).sum(axis=-1, keepdims=True) / (~lost).sum(axis=-1, keepdims=True)
    return np.where(lost, due, logarithms + shift).astype(np.float32).reshape(recorded.shape)


def _before_temperature(due: Array, temperature: float, recorded: F32) -> F32:
    """Logits of probabilities that a temperature went into."""
    return np.asarray(_before_softmax(due / temperature, recorded) * np.float32(temperature), np.float32)


def _shifted(due: Array, recorded: F32) -> F32:
    """Logits that lack one number at each position."""
    values = recorded.reshape(due.shape).astype(np.float64)
    return np.asarray(values + (due - values).mean(axis=-1, keepdims=True), np.float32).reshape(recorded.shape)
