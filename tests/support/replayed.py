"""A trace computed again stage by stage, in an arithmetic."""

from __future__ import annotations

from aprgraph import Trace
from aprgraph.graph.model import Model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import Array
from aprgraph.graph.passes import ApplyArithmetic
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.runtime.blame.recorded import Recorded
from aprgraph.runtime.blame.replay import Replayer, as_recorded_type
from aprgraph.runtime.decoded_weights import DecodedWeights
from tests.support.golden import nmse


def replayed_errors(trace: Trace, model: Model, arithmetic: str) -> dict[tuple[int, int | None, str], float]:
    """By step, layer and stage, the NMSE of what the trace recorded to what ``arithmetic`` makes of its recorded inputs."""
    assert trace.info is not None
    graph = ApplyArithmetic(arithmetic)(fix_context(build_graph(model), len(trace.info.tokens)))
    recorded = Recorded(trace, graph, trace.info.tokens)
    replayer = Replayer(graph, recorded, DecodedWeights(model, keep=1 << 30).read)
    found: dict[tuple[int, int | None, str], float] = {}
    states: dict[str, Array] = {}
    for step in recorded.steps:
        tensors = recorded.of_step(step)
        for node, value in replayer.run(replayer.replay(step, states, frozenset(), keep_states=True), states):
            if node.name in tensors:
                tensor = tensors[node.name]
                found[step, node.layer, tensor.entry.stage] = nmse(recorded.load(tensor), as_recorded_type(value, tensor))
    return found
