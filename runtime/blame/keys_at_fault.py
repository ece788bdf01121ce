"""Which keys of a model file another value of could have made what is wrong, where it is known what was computed instead."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from aprgraph.runtime.blame.local_errors import LocalError

_MASKS = ("window", "window-sides", "chunks", "causal", "not-causal", "mask", "mask-ahead", "mask-itself")
_FACTORS = ("scale", "factor", "left-out", "not-multiplied", "operand-one")
#: By key, or by what begins keys and ends in a dot: what another value looks like, names of mistakes or what they begin with.
_LOOKS_LIKE = {
    "attention.scale": ("score-scale", "softmax-scale", "factor"),
    "attn_logit_softcapping": ("score-cap",),
    "final_logit_softcapping": ("cap", "left-out"),
    "attention.layer_norm_rms_epsilon": ("norm-eps",),
    "attention.layer_norm_epsilon": ("norm-eps",),
    "attention.causal": _MASKS,
    "attention.sliding_window": _MASKS,
    "attention.sliding_window_pattern": (*_MASKS, "rope-"),
    "embedding_scale": _FACTORS,
    "residual_scale": _FACTORS,
    "logit_scale": _FACTORS,
    "rope.": ("rope-",),
}


def could_be_at_fault(keys: Sequence[str], wrong: Collection[LocalError]) -> list[str]:
    """Those of ``keys``, named without their architecture, that could be at fault for ``wrong``: all where something is not explained.

    Of a key that is not known here, nobody knows what another value of it looks like.
    """
    explanations = [one.explanation for one in wrong]
    names = {name for one in explanations if one is not None for each in one.candidates for name in each.name.split(" + ")}
    if None in explanations:
        return list(keys)
    return [key for key in keys if (looks := _looks_of(key)) is None or any(name.startswith(looks) for name in names)]


def _looks_of(key: str) -> tuple[str, ...] | None:
    found = _LOOKS_LIKE.get(key)
    return found if found is not None or "." not in key else _LOOKS_LIKE.get(f"{key.partition('.')[0]}.")
