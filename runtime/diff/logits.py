"""What a difference of logits means: another best token, another top K, another distribution."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.runtime.trace.aprt import F32


@dataclass(frozen=True)
class LogitMetrics:
    """Of the last position. ``margin_*`` is the distance of the best logit from the second best: do not judge by the
    best token alone where it is small. ``kl_ab`` is the Kullback-Leibler divergence of softmax(a) from softmax(b), in nats.
    """

    argmax_a: int
    argmax_b: int
    margin_a: float | None
    margin_b: float | None
    top: int
    top_overlap: int
    kl_ab: float
    kl_ba: float

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def compare_logits(a: F32, b: F32, top: int) -> LogitMetrics | None:
    """Compare the last rows of two logit tensors, f32 [V] or [n, V]. None if one of them is not finite.

    Among equal logits the smaller token id counts as the better one.
    """
    last = [side[-1] if side.ndim > 1 else side for side in (a, b)]
    if not all(np.isfinite(row).all() for row in last):
        return None
    row_a, row_b = (np.asarray(row, dtype=np.float64) for row in last)
    top = min(top, row_a.size)
    best_a, best_b = (np.argsort(-row, kind="stable") for row in (row_a, row_b))
    log_a, log_b = _log_softmax(row_a), _log_softmax(row_b)
    return LogitMetrics(
        argmax_a=int(best_a[0]),
        argmax_b=int(best_b[0]),
        margin_a=float(row_a[best_a[0]] - row_a[best_a[1]]) if row_a.size > 1 else None,
        margin_b=float(row_b[best_b[0]] - row_b[best_b[1]]) if row_b.size > 1 else None,
        top=top,
        top_overlap=len(set(best_a[:top].tolist()) & set(best_b[:top].tolist())),
        kl_ab=_kl(log_a, log_b),
        kl_ba=_kl(log_b, log_a),
    )


def _log_softmax(row: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = row - row.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _kl(log_p: npt.NDArray[np.float64], log_q: npt.NDArray[np.float64]) -> float:
    # Rounding can leave a sum just below 0, which no divergence is.
    return max(0.0, float(np.sum(np.exp(log_p) * (log_p - log_q))))
