"""What wrong tensors give away, each thing once: those of several layers and stages of which the same is to be said are one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from aprgraph.runtime.blame.local_errors import LocalError
from aprgraph.runtime.place_names import named_together

_NUMBER = re.compile(r"[0-9][0-9.e+-]*")


@dataclass(frozen=True)
class Telltale:
    """What the wrong tensors ``of`` give away in common. ``words`` go on "at these": how well an explanation fits, or where the errors are.
    ``cause`` is the explanation alone, and ``error`` the largest that it leaves, None where there is none.
    """

    of: tuple[LocalError, ...]
    words: str
    cause: str | None = None
    error: float | None = None

    @property
    def where(self) -> str:
        """The tensors, in words."""
        return named_together(one.key for one in self.of)

    @property
    def sentence(self) -> str:
        """``At ffn_norm of the layers 0 to 2 it fits to 3e-15 if epsilon is 1e-06 in place of 1e-05.``"""
        return f"At {self.where} {self.words}."


def telltales(wrong: Iterable[LocalError]) -> list[Telltale]:
    """What is to be said of wrong tensors, in execution order; nothing of those that give nothing away."""
    groups: dict[tuple[str, ...], list[LocalError]] = {}
    for local in wrong:
        if local.telltale is not None:
            groups.setdefault(_gist(local), []).append(local)
    return [_telltale(group) for group in groups.values()]


def _gist(local: LocalError) -> tuple[str, ...]:
    """What is said of a tensor, the numbers, the layer and the stage aside."""
    return tuple(_NUMBER.sub("#", text) for text in _said(local, every_stage=True))


def _said(local: LocalError, *, every_layer: bool = True, every_stage: bool = False) -> tuple[str, ...]:
    """What is said of a tensor, as of that of any layer, or stage: ``blk.*.attn_q.bias``."""
    said = [local.telltale or ""] if local.explanation is None else [one.words for one in local.explanation.candidates]
    return tuple(_general(text, local, every_layer=every_layer, every_stage=every_stage) for text in said)


def _general(text: str, local: LocalError, *, every_layer: bool, every_stage: bool) -> str:
    if every_layer and local.key.layer is not None:
        text = text.replace(f"blk.{local.key.layer}.", "blk.*.")
    if not every_stage:
        return text
    stage = re.escape(local.key.stage)
    # A weight is called as its stage is. Where it is in another layer's place, the layers are what tells the two apart.
    weight = rf"\bblk\.(\*|\d+)\.{stage}\.(weight|bias)\b"
    is_of_layers = len({found.group(1) for found in re.finditer(weight, text)}) > 1

    def name(found: re.Match[str]) -> str:
        of_layer = f" of layer {found.group(1)}" if is_of_layers and found.group(1) != "*" else ""
        return f"the {found.group(2)} of each{of_layer}"

    text = re.sub(weight, name, text)
    return re.sub(rf"\b{stage}\b", "each", text)


def _telltale(group: Sequence[LocalError]) -> Telltale:
    worst = max(group, key=lambda local: 0.0 if local.explanation is None else local.explanation.first.error)
    error = None if worst.explanation is None else worst.explanation.first.error
    for layer, stage in ((False, False), (True, False), (False, True), (True, True)):
        if len({_said(local, every_layer=layer, every_stage=stage) for local in group}) == 1:
            general = partial(_general, local=worst, every_layer=layer, every_stage=stage)
            cause = None if worst.cause is None else general(worst.cause)
            return Telltale(tuple(group), general(worst.telltale or ""), cause, error)
    first = group[0]
    of_first = f" (the numbers are those of {first.label})"
    return Telltale(tuple(group), f"{first.telltale}{of_first}", None if first.cause is None else f"{first.cause}{of_first}", error)
