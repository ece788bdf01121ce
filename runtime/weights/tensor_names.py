"""The names of tensors: their layer, and what they are called in every layer."""

from __future__ import annotations

import re

_LAYER = re.compile(r"blk\.(\d+)\.(.+)", re.DOTALL)


def layer_and_slot(name: str) -> tuple[int | None, str]:
    """``blk.3.attn_q.weight``: 3 and ``attn_q.weight``; None and the name itself where it is of no layer."""
    matched = _LAYER.fullmatch(name)
    return (None, name) if matched is None else (int(matched[1]), matched[2])
