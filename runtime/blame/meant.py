"""What is wrong by float32 and may be meant so: a half precision that an engine keeps weights or its KV cache in."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.arguments import AGAIN, PROFILE
from aprgraph.graph.message import Message
from aprgraph.runtime.blame.local_errors import Audit
from aprgraph.runtime.diff.tolerances import PROFILES, kind_of

#: The tolerances of each half precision that explanations name.
_PROFILE_OF = {"float16": "same-graph-f16", "bfloat16": "same-graph-bf16"}


def perhaps_meant(audit: Audit) -> Iterator[str]:
    """How to hold a trace to the half precision that explains all that is wrong, where that would leave nothing wrong."""
    names = {"" if one.explanation is None else one.explanation.first.name for one in audit.wrong}
    for precision, profile in _PROFILE_OF.items():
        if not names <= {f"cache-{precision}", f"weights-{precision}"}:
            continue
        limits = PROFILES[profile]
        if all(one.error is not None and one.error <= limits[kind_of(one.key.stage)].own for one in audit.wrong):
            yield f"if {precision} is meant there, hold the trace to its rounding:"
            yield Message(AGAIN.with_options(PROFILE.given(profile), in_python=f"aprgraph.audit(trace, model, profile={profile!r})"))
