"""Parts of stages: what lies side by side in the rows of one, where another program has an array for each, as q, k and v.

A part is named behind its stage, ``qkv_matmul[q]``, wherever an array is given a place; recorded and compared are whole stages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from aprgraph.graph.stages import STAGE_ALIASES, STAGE_BY_NAME, Stage

_Q_K_V = {"q": "H*D", "k": "K*D", "v": "K*D"}
#: Stage -> its parts in the order of a row, each with its width in the letters of the stage table.
PARTS: Mapping[str, Mapping[str, str]] = {"qkv_matmul": _Q_K_V, "qkv_bias": _Q_K_V, "conv_bcx": {"b": "C", "c": "C", "x": "C"}}

_NAME = re.compile(r"(.+)\[(\w*)\]", re.ASCII)


def split_part(name: str) -> tuple[str, str | None]:
    """``qkv_matmul[q]``, or ``layer0.qkv_matmul[q]``, without its part, and the part, None for a whole one. Neither has to be known."""
    match = _NAME.fullmatch(name)
    return (name, None) if match is None else (match[1], match[2])


def stage_or_part(name: str) -> Stage | None:
    """The stage called ``name``, or a part of one as a stage of its own width; None for names of neither."""
    whole, part = split_part(name)
    stage = STAGE_BY_NAME.get(STAGE_ALIASES.get(whole, whole))
    if part is None or stage is None:
        return stage
    width = PARTS.get(stage.name, {}).get(part)
    return None if width is None else replace(stage, name=f"{stage.name}[{part}]", dims=(*stage.dims[:-1], width))
