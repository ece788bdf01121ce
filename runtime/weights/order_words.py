"""An order of rows, columns or experts in words: what it is where it has a name, else what is where."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aprgraph.graph.words import counted
from aprgraph.runtime.weights.rows import Index

_NAMED = 4
#: Elements of a period that are spelled out.
_SPELLED = 32


@dataclass(frozen=True)
class OrderWords:
    """``block``: how many move together, 1 where each moves by itself."""

    text: str
    block: int = 1


def order_in_words(order: Index, noun: str, head: int = 0) -> OrderWords:
    """Where in B are A's ``noun``s, of which A's number i is B's ``order[i]``; ``head``: how many a head has, 0 if unknown."""
    count = len(order)
    same = np.arange(count)
    if (order == same[::-1]).all():
        return OrderWords(f"the {noun}s are in reverse order")
    shift = int(order[0])
    if (order == (same + shift) % count).all():
        by = min(shift, count - shift)
        side = "later" if by == shift else "earlier"
        return OrderWords(f"the {noun}s are shifted: A's {noun} 0 is B's {shift}, each {counted(by, noun)} {side}", _block(order))
    block = _block(order)
    period = 0 if head > 1 and block % head == 0 else _period(order)  # of whole heads, no half of them is a half of bytes
    if period:
        within = order[:period]
        return OrderWords(f"in each {period} {noun}s another order: {_spelled(within)}{_of_nibbles(within)}")
    if block > 1:
        return OrderWords(f"the {noun}s are in another order by blocks of {block}{_moves(order[::block] // block, 'block')}", block)
    return OrderWords(f"the {noun}s are in another order" + _moves(order, noun))


def _spelled(within: Index) -> str:
    """``A's are B's 1 0``; of a long one from the first on that moves."""
    if len(within) <= _SPELLED:
        return f"A's are B's {' '.join(map(str, within.tolist()))}"
    first = int(np.argmax(within != np.arange(len(within))))
    return f"A's{f' from {first} on' if first else ''} are B's {' '.join(map(str, within[first : first + _NAMED].tolist()))} …"


def _period(order: Index) -> int:
    """The size of the blocks within all of which the order is the same; 0 if there is none."""
    count, same = len(order), np.arange(len(order))
    for period in range(2, count // 2 + 1):
        if count % period == 0 and (order[:period] < period).all() and (order == same // period * period + order[same % period]).all():
            return period
    return 0


def _of_nibbles(within: Index) -> str:
    """What made it, where packed codes of 4 bits were taken apart otherwise."""
    size = len(within)
    if size % 2:
        return ""
    if within.tolist() in ([0, 2, 4, 6, 1, 3, 5, 7], [0, 4, 1, 5, 2, 6, 3, 7]):
        return " (as AWQ packs eight codes)"
    halves, neighbours = np.arange(size).reshape(2, -1).T.reshape(-1), np.arange(size).reshape(-1, 2).T.reshape(-1)
    if size > 2 and any((within == one).all() for one in (halves, neighbours)):
        return " (as where the two codes of a byte are neighbours on one side, and half a block apart on the other)"
    if any((within == one).all() for one in (np.arange(size).reshape(-1, 2)[:, ::-1].reshape(-1), np.roll(np.arange(size), size // 2))):
        return " (as where the high and the low code of a byte are exchanged)"
    return ""


def _block(order: Index) -> int:
    """The largest size of blocks that move as a whole."""
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    size = int(np.gcd.reduce(np.concatenate([breaks, [len(order)]])))
    return size if (order[::size] % size == 0).all() else 1


def _moves(order: Index, noun: str) -> str:
    """``: A's row 3 is B's 7, 7 is B's 3``."""
    moved = np.flatnonzero(order != np.arange(len(order)))
    if not moved.size:
        return ""
    shown = ", ".join(f"{row} is B's {order[row]}" for row in moved[:_NAMED].tolist())
    more = f" and so on, {len(moved):,} in all" if len(moved) > _NAMED else ""
    return f": A's {noun} {shown}{more}"
