"""Opens what runs a plan: the reference, or an artifact's kernels, on this machine's CPU or GPU or on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from aprgraph.codegen.artifact import Artifact
from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.codegen.cuda.device_code import HOST_CPU
from aprgraph.graph.arguments import EXECUTOR, RPC, SPLIT, Argument
from aprgraph.graph.errors import AprgraphError, ArtifactError, ExecutorError, PlanError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.layer_split import LayerRange
from aprgraph.graph.model import Model
from aprgraph.graph.ops import is_computed
from aprgraph.graph.passes.split_layers import computes, split_graphs
from aprgraph.runs.gpu_memory import check_gpu_memory
from aprgraph.runs.plan import RunPlan
from aprgraph.runtime.engine import Engine, OnTap, PartEngine, Received, ReferenceEngine
from aprgraph.runtime.remote.address import RemoteAddress, parse_remote
from aprgraph.runtime.split_engine import SplitEngine
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics

if TYPE_CHECKING:
    from aprgraph.runtime.remote.engine import RemoteEngine
    from aprgraph.runtime.tvm_session import Session

MAX_THREADS = 1024
#: The words of the executor that runs workers on this machine.
LOCAL = "local"
#: Graphs that an engine is given to run, each with what is executed for it, by id of the first.
Graphs = Mapping[int, tuple[Graph, Graph]]


class CompiledEngine:
    """Runs the programs of an artifact, in the session that ``open_session`` gives. ``graphs`` is what ``executed_graphs`` gives."""

    def __init__(self, artifact: Artifact, graphs: Graphs, open_session: Callable[[], Session], target_name: str) -> None:
        self.target_name = target_name
        programs = {key: artifact.program(executed) for key, (_, executed) in graphs.items()}
        self._session = open_session()
        self.write_files = self._session.write_files
        self._graphs = graphs  # holds what the keys are the ids of
        self._programs = {key: self._session.load(program, graphs[key][1]) for key, program in programs.items()}

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def run(
        self, graph: Graph, tokens: Sequence[int], start: int, on_tap: OnTap | None, received: Received | None = None
    ) -> dict[str, F32]:
        """See ``PartEngine.run``."""
        return self._programs[id(graph)].run(tokens, on_tap, start, received)

    def summarise(self, values: F32) -> Statistics:
        """See ``Engine.summarise``."""
        return self._session.summarise(values)


def executed_graphs(run: RunPlan, artifact: Artifact) -> Graphs:
    """Every graph that a run may need, and what runs for it, by its id."""
    return {id(graph): (graph, run.executed(graph, artifact.target)) for graph in run.graphs()}


@contextmanager
def open_engine(
    artifact: Artifact,
    model: Model,
    run: RunPlan,
    threads: int | None,
    *,
    remote: RemoteAddress | None = None,
    gpu: int = 0,
    split: Sequence[LayerRange] = (),
    executor: str = LOCAL,
) -> Iterator[Engine]:
    """What runs ``run`` on the artifact's target, here (for CUDA on the GPU number ``gpu``), on a TVM RPC server, or ``split`` on several,
    or, where it names none, in workers of the ``executor``.

    Raises ArtifactError, DeviceError, RemoteError, or AprgraphError for a number of threads that cannot be.
    """
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise AprgraphError(f"threads {threads}: expected 1 to {MAX_THREADS}")
    if split:
        with ExitStack() as stack:

            def open_server(one: LayerRange, graphs: Graphs) -> PartEngine:
                remote = parse_remote(one.place, SPLIT)
                return stack.enter_context(closing(_open_remote_engine(remote, artifact, model, run, graphs, threads, gpu)))

            opener = open_server if split[0].place else _worker_opener(stack, executor, len(split), artifact, model, run, threads)
            yield _split_engine(split, executed_graphs(run, artifact), opener)
    elif remote is not None:
        with closing(_open_remote_engine(remote, artifact, model, run, executed_graphs(run, artifact), threads, gpu)) as engine:
            yield engine
    elif artifact.target == "reference":
        yield ReferenceEngine(model)
    else:
        open_here = _open_cuda_engine if artifact.target == "cuda" else _open_llvm_engine
        with closing(open_here(artifact, model, run, threads, gpu)) as compiled:
            yield compiled


def _open_llvm_engine(artifact: Artifact, model: Model, run: RunPlan, threads: int | None, _gpu: int) -> CompiledEngine:
    def open_session() -> Session:
        from aprgraph.runtime.tvm_session import Session  # noqa: PLC0415

        return Session(artifact.kernel_code, model, threads, capacity=run.total)

    return CompiledEngine(artifact, executed_graphs(run, artifact), open_session, artifact.target_name)


def _open_cuda_engine(artifact: Artifact, model: Model, run: RunPlan, _threads: int | None, index: int) -> CompiledEngine:
    from aprgraph.runtime.cuda.driver import find_gpu, load_driver  # noqa: PLC0415
    from aprgraph.runtime.cuda.session import CudaSession, release_pool  # noqa: PLC0415

    code = artifact.device
    assert code is not None
    driver = load_driver()
    gpu = find_gpu(driver, index)
    code.check_runs_on(gpu.compute_capability, gpu.name, str(artifact.directory))
    driver.use(gpu)
    release_pool()
    check_gpu_memory(run, gpu, *driver.memory())

    def open_session() -> Session:
        return CudaSession(artifact.kernel_code, artifact.device_code, code.functions, model, driver, gpu, capacity=run.total)

    major, minor = gpu.compute_capability
    return CompiledEngine(artifact, executed_graphs(run, artifact), open_session, f"{artifact.target} sm_{major}{minor}")


def check_split(split: Sequence[LayerRange], executor: str | None, target: str | None) -> None:
    """Raise PlanError or RemoteError for ranges that cannot be run as they are given, before anything takes time."""
    has_places = bool(split[0].place)
    for one in split if has_places else ():
        parse_remote(one.place, SPLIT)
    if has_places and executor is not None:
        raise PlanError("", EXECUTOR.given(executor, repr(executor)), ": the ranges name the servers that run them; leave out one of them")
    if not has_places and target == "cuda":
        raise PlanError("", SPLIT, ": workers of an executor run on CPUs; for CUDA name a server for each range, as in 0..16@one:9090")


def check_remote(artifact: Artifact, argument: Argument = RPC) -> None:
    """Raise ArtifactError, which names the ``argument``, for an artifact that a TVM RPC server cannot run."""
    if artifact.target == "reference":
        raise ArtifactError(
            f"{artifact.directory}: the reference target runs on this machine alone; leave out ",
            argument,
            ", or compile the model for llvm or cuda",
        )


def _split_engine(split: Sequence[LayerRange], graphs: Graphs, open_part: Callable[[LayerRange, Graphs], PartEngine]) -> SplitEngine:
    """``open_part`` is asked for the engines of ranges in which a graph has something to compute, and no others."""
    ranges = split_graphs([executed for _, executed in graphs.values()], [one.layers for one in split])
    parts: dict[int, list[tuple[Graph, PartEngine]]] = {key: [] for key in graphs}
    for one, those in zip(split, ranges, strict=True):
        if any(map(computes, those)):
            engine = open_part(one, {id(part): (part, part) for part in those})
            for key, part in zip(graphs, those, strict=True):
                parts[key] += [(part, engine)] if computes(part) else []
    return SplitEngine(parts)


def _worker_opener(
    stack: ExitStack, words: str, count: int, artifact: Artifact, model: Model, run: RunPlan, threads: int | None
) -> Callable[[LayerRange, Graphs], PartEngine]:
    """What opens the engine of a range in a worker of its own, which is ended with ``stack``. Raises ExecutorError."""
    from aprgraph.runtime.executors import open_executor  # noqa: PLC0415
    from aprgraph.runtime.executors.workers import WorkerLostError, available_processors  # noqa: PLC0415
    from aprgraph.runtime.model_place import ModelPlace  # noqa: PLC0415
    from aprgraph.runtime.split_worker import PartCode  # noqa: PLC0415
    from aprgraph.runtime.worker_engine import WorkerEngine  # noqa: PLC0415

    # One range computes while the others wait, so on one machine each may have all processors.
    threads = available_processors() if threads is None and words == LOCAL else threads
    executor = stack.enter_context(open_executor(words, count, threads=threads))
    lanes = iter(range(count))

    def open_part(one: LayerRange, graphs: Graphs) -> PartEngine:
        what = f"the layers {one}"
        try:
            worker = executor.open_worker(next(lanes))
        except WorkerLostError as error:
            raise ExecutorError(f"{what}: {error}") from None

        @stack.push
        def end(kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
            if kind is not None:  # it may be in the middle of a pass
                worker.kill()
            worker.close()

        parts = tuple(executed for _, executed in graphs.values())
        programs = tuple(artifact.program(part) for part in parts)
        code = PartCode(artifact.kernel_code, parts, programs, ModelPlace.of(model), run.total, threads)
        return WorkerEngine(worker, what, code, list(graphs), artifact.target_name)

    return open_part


def _open_remote_engine(
    remote: RemoteAddress, artifact: Artifact, model: Model, run: RunPlan, graphs: Graphs, threads: int | None, gpu: int
) -> RemoteEngine:
    from aprgraph.codegen.kernels.base import request_of  # noqa: PLC0415
    from aprgraph.runtime.remote.connection import GpuCode  # noqa: PLC0415
    from aprgraph.runtime.remote.engine import ExecutedGraph, KernelCall, RemoteEngine  # noqa: PLC0415

    check_remote(artifact)

    def kernel_of(graph: Graph, node: Node) -> KernelCall:
        request = request_of(graph, node)
        return KernelCall(request.symbol, tuple(request.numbers.values()), artifact.target == "llvm" and request.needs_half_table)

    to_run = {}
    for key, (graph, executed) in graphs.items():
        kernels = {node.name: kernel_of(executed, node) for node in executed if is_computed(node)}
        to_run[key] = ExecutedGraph(graph, executed, kernels)
    cpu = find_cpu(artifact.cpu or HOST_CPU)
    code = artifact.device
    gpu_code = None
    if code is not None:

        def check(compute_capability: tuple[int, int], name: str) -> None:
            code.check_runs_on(compute_capability, name, str(artifact.directory))

        gpu_code = GpuCode(artifact.device_code, code.functions, gpu, check)
    return RemoteEngine(
        remote,
        artifact.kernel_code,
        model,
        to_run,
        threads,
        capacity=run.total,
        drops_weights=run.is_single_pass,
        target_name=artifact.target_name,
        cpu=(cpu.name, cpu.machine, cpu.flags),
        gpu_code=gpu_code,
    )
