"""What the sides of a comparison are called in sentences: by what the user named, as shortly as tells them apart."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePath

from aprgraph.graph.words import plain

#: Characters of a name; of a longer one the middle is left out.
LONGEST = 40


@dataclass(frozen=True)
class SideNames:
    """The names of sides A and B."""

    a: str
    b: str

    @property
    def both(self) -> tuple[str, str]:
        """What sentences call A and B."""
        return self.of("A"), self.of("B")

    def of(self, side: str) -> str:
        """What a sentence calls side ``"A"`` or ``"B"``: ``theirs (B)``."""
        return f"{self.a if side == 'A' else self.b} ({side})"


def side_names(a: str, b: str) -> SideNames:
    """The names of two paths: their last parts, or as many of the last parts as tell them apart; long ones without their middle.

    The same path twice has one name twice: the letter beside it tells the sides apart.
    """
    parts = [_parts(path) for path in (a, b)]
    if parts[0] == parts[1]:
        return SideNames(name_of(a), name_of(b))
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(*map(reversed, parts), strict=False)))
    full = ["/".join(side[-same - 1 :]) for side in parts]
    short = [_shorten(name) for name in full]
    return SideNames(*(short if short[0] != short[1] else map(plain, full)))


def name_of(path: str) -> str:
    """The name of one path: its last part."""
    return _shorten(_parts(path)[-1])


def _parts(path: str) -> list[str]:
    """The parts of a path, at least one. ``.`` and ``..`` are named as the folders that they are."""
    if not path or PurePath(path).name in ("", ".."):
        path = os.path.abspath(path)  # noqa: PTH100 -- unlike Path.absolute, it resolves ".."
    return [part for part in PurePath(path).parts if part != "/"] or [path]


def _shorten(name: str) -> str:
    """At most LONGEST characters; of a path the first and the last part stay, where they fit."""
    if len(name) > LONGEST and name.count("/") > 1:
        name = f"{name.partition('/')[0]}/…/{name.rpartition('/')[2]}"
    if len(name) > LONGEST:
        half = (LONGEST - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return plain(name)
