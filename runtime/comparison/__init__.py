"""A comparison of two traces as a whole: what they hold (diff), and where the model is at hand, which side is wrong (blame).

diff of the two -> audit of each -> where one was recorded in another form, diff of both as they are to be read -> verdicts
"""

from __future__ import annotations

from aprgraph.runtime.comparison.comparison import Comparison

__all__ = ["Comparison"]
