"""Why a stage is wrong: the mistake under which its recorded values follow from its recorded inputs.

A rule (``any_op.py``, and the files named after what they are of) offers alternatives for a node of some ops; the search
(``explainer.py``) puts each in the node's place, and keeps those that leave nothing but rounding.
"""

from aprgraph.runtime.explain import (  # noqa: F401 -- each declares rules
    activation_formats,
    any_op,
    any_value,
    attention,
    attention_in_parts,
    attention_of_heads,
    attention_sinks,
    attention_values,
    attention_weights,
    biases,
    cache_formats,
    caches,
    damaged_weights,
    dropout,
    elementwise,
    ends,
    experts,
    gate_and_up,
    half_precision,
    head_layouts,
    norm_precision,
    norms,
    norms_and_rope,
    other_experts,
    products,
    recurrent,
    root_of_norms,
    rope,
    rope_parts,
    rope_scaling,
    scaled_weights,
    streams,
    turned_positions,
    weight_formats,
)
from aprgraph.runtime.explain.alternative import known_mistakes, tried_of
from aprgraph.runtime.explain.evidence import Evidence
from aprgraph.runtime.explain.explainer import MOST_NODES, Explainer
from aprgraph.runtime.explain.explanation import Candidate, Explanation, how_well
from aprgraph.runtime.explain.extent import AxisErrors, axis_errors
from aprgraph.runtime.explain.site import LEFT, Around

__all__ = [
    "LEFT",
    "MOST_NODES",
    "Around",
    "AxisErrors",
    "Candidate",
    "Evidence",
    "Explainer",
    "Explanation",
    "axis_errors",
    "how_well",
    "known_mistakes",
    "tried_of",
]
