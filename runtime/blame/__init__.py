"""Blame: which side is wrong, and where.

Every stage of a trace is computed again in float64, from the inputs that the same trace recorded. What the replay cannot
explain is that side's local error: an error that came from upstream is in the recorded inputs, and so is explained; a bug is
not. It takes the model, and one trace alone (``audit``) or two (``judge``, on both audits and the differ's report).

    recorded -> replay -> audit of each side -> verdicts -> a sentence; then what to tap next, and the guilty stage alone
"""

from __future__ import annotations

from aprgraph.runtime.blame.audit import audit
from aprgraph.runtime.blame.local_errors import Audit, Blame, LocalError, LocalState, Verdict
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.blame.verdict import judge

__all__ = ["Audit", "Blame", "LocalError", "LocalState", "ReplayedModel", "Verdict", "audit", "judge"]
