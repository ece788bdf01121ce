"""Readings: how other programs record the same numbers otherwise, recognised from the values.

A reading is no excuse. It holds only where the tensor, read that way, is what it should be to rounding; and whether it was recorded
so or computed so is for what reads the tensor to decide.
"""

from aprgraph.runtime.readings.as_read import TraceAsRead
from aprgraph.runtime.readings.convention import known_conventions
from aprgraph.runtime.readings.layout import Layout, hidden_by_mask, layout_of
from aprgraph.runtime.readings.reading import Reading, Restoration
from aprgraph.runtime.readings.search import find_reading, is_far
from aprgraph.runtime.readings.steps import unmasked

__all__ = [
    "Layout",
    "Reading",
    "Restoration",
    "TraceAsRead",
    "find_reading",
    "hidden_by_mask",
    "is_far",
    "known_conventions",
    "layout_of",
    "unmasked",
]
