"""Whether a run fits into the memory of a GPU, and what of it would."""

from __future__ import annotations

from collections.abc import Iterable

from aprgraph.graph.arguments import LAYERS, PREFILL_CHUNK, TAPS, TARGET, Argument
from aprgraph.graph.calling_convention import weight_nbytes
from aprgraph.graph.errors import DeviceError
from aprgraph.graph.ir import Graph
from aprgraph.graph.ops import weights_of
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.runs.plan import RunPlan
from aprgraph.runtime.cuda.driver import Gpu
from aprgraph.runtime.cuda.memory import states_nbytes, summaries_nbytes, values_nbytes, weights_nbytes

#: What the driver keeps for itself, the kernels and the buffers of copies beside what is counted.
_RESERVE = 256 << 20
_TARGET = "cuda"


def check_gpu_memory(run: RunPlan, gpu: Gpu, free: int, total: int) -> None:
    """Raise DeviceError that says what would fit, if ``run`` needs more than the ``free`` bytes of the GPU's ``total``."""
    graphs = [run.executed(graph, _TARGET) for graph in run.graphs()]
    weights = weights_nbytes(graphs)
    states = states_nbytes(graphs, run.total)
    longest = max(part.stop - part.start for part in run.parts)
    values = _values(graphs, longest, run)
    available = free - min(_RESERVE, total // 16)
    if weights + states + values <= available:
        return
    raise DeviceError(
        f"{gpu}: the run needs {_size(weights)} of weights, {_size(states)} of KV cache and {_size(values)} of values, and "
        f"{_size(max(available, 0))} of {_size(total)} are free; ",
        *_what_fits(run, graphs, available, weights, longest),
    )


def _values(graphs: Iterable[Graph], longest: int, run: RunPlan) -> int:
    values = max(values_nbytes(graph, longest, run.total) for graph in graphs)
    return values if len(run.parts) == 1 else values + _summaries(run)


def _summaries(run: RunPlan) -> int:
    return summaries_nbytes(run.taps, len(run.tokens), len(run.tokens))


def _what_fits(run: RunPlan, graphs: list[Graph], available: int, weights: int, longest: int) -> tuple[str | Argument, ...]:
    in_parts = [executed_graph(graph, one_pass=False, target=_TARGET) for graph in run.graphs()]
    fixed, chunk = weights + states_nbytes(in_parts, run.total) + _summaries(run), longest // 2
    while chunk:
        if fixed + max(values_nbytes(graph, chunk, run.total) for graph in in_parts) <= available:
            return PREFILL_CHUNK.given(chunk), " fits"
        chunk //= 2
    layers = _layers_that_fit(graphs, available - _values(graphs, longest, run))
    if layers and run.taps and not run.options.max_tokens:
        which = "layer fits" if layers == 1 else f"{layers} layers fit"
        span = f"0..{layers}"
        needs = " that name neither final_norm nor lm_head, which need all layers"
        return f"the first {which}: ", LAYERS.given(span, repr(span)), ", with ", TAPS, needs
    here = TARGET.given("llvm", "'llvm'")
    return "free memory there, take a larger GPU, or use ", here, ", which reads weights from the file as it needs them"


def _layers_that_fit(graphs: list[Graph], available: int) -> int:
    """How many layers' weights fit, the embedding's with the first's."""
    by_layer: dict[int, dict[str, int]] = {}
    for graph in graphs:
        for node in weights_of(graph):
            layers = [user.layer for user in graph.users(node.name)]
            first = min((layer for layer in layers if layer is not None), default=None)
            if first is not None:
                by_layer.setdefault(first, {})[node.name] = weight_nbytes(node)
    count, used = 0, 0
    for layer in sorted(by_layer):
        used += sum(by_layer[layer].values())
        if used > available:
            break
        count = layer + 1
    return count


def _size(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.2f} GiB" if nbytes >= 1 << 28 else f"{nbytes / (1 << 20):.1f} MiB"
