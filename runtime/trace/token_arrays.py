"""Token ids beside tensors: those of the prompt, and those of generated tokens where each step has its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprgraph.graph.errors import TraceError, shown
from aprgraph.runtime.trace.array_values import Array, to_numpy

#: Names under which people keep token ids.
TOKENS = ("tokens", "token_ids", "input_ids")
_MOST_TOKENS = 1 << 24
#: The same of one step, as where each step is a file of its own: the number of the step, or a word for the prompt.
_OF_STEP = re.compile(rf"(?:[a-z]*[-_]?(\d{{1,9}})|prefill|prompt)[./](?:{'|'.join(TOKENS)})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class TokenArrays:
    """The ids of the ``prompt`` and of ``generated`` tokens, as far as they are known, and the ``names`` of the arrays that hold them."""

    prompt: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


def read_tokens(where: str, arrays: Mapping[str, Any], taken: Collection[str]) -> TokenArrays:
    """The token ids among ``arrays``, none of those ``taken``. Raises TraceError where the prompt's are not those of one text."""
    name = next((name for name in TOKENS if name in arrays and name not in taken), None)
    if name is not None:
        return TokenArrays(_ids(where, name, arrays[name]), names=(name,))
    names = {int(match[1] or 0): name for name in arrays if name not in taken and (match := _OF_STEP.fullmatch(name))}
    if 0 not in names:
        return TokenArrays()
    read = [names[0]]
    generated: list[int] = []
    prompt = _ids(where, names[0], arrays[names[0]])
    for step in range(1, len(names)):
        one = _whole(arrays[names[step]]) if step in names else None
        if one is None:
            break
        ids: list[int] = one.reshape(-1).tolist()
        if ids[:-1] not in ([], [*prompt, *generated]):  # neither the token alone nor the whole text so far
            break
        generated.append(ids[-1])
        read.append(names[step])
    return TokenArrays(prompt, tuple(generated), tuple(read))


def _whole(value: Any) -> Array | None:
    """Whole numbers of at least 0."""
    try:
        ids, _ = to_numpy(value)
    except TraceError:
        return None
    return ids if ids.dtype.kind in "iu" and ids.size and ids.min() >= 0 else None


def _ids(where: str, name: str, value: Any) -> tuple[int, ...]:
    try:
        ids, _ = to_numpy(value)
    except TraceError as error:
        raise TraceError(f"{where}: {shown(name)} {error}") from None
    flat = ids.reshape(-1)
    one_text = ids.shape in ((flat.size,), (1, flat.size)) and 0 < flat.size < _MOST_TOKENS
    if ids.dtype.kind not in "iu" or not one_text or flat.min() < 0:
        raise TraceError(f"{where}: {shown(name)} is {ids.dtype} of the shape {list(ids.shape)}, expected the token ids of one text, [n]")
    return tuple(map(int, np.asarray(flat)))
