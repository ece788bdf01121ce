"""Sessions: programs, kernels and weights together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprgraph.api import CompiledModel, RunOptions
from aprgraph.codegen.program import build_program
from aprgraph.graph.calling_convention import ENTRY
from aprgraph.graph.errors import ArtifactError, TraceError
from aprgraph.graph.ir import Graph, Node
from aprgraph.graph.model import load_model
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.graph.tvm_libraries import default_threads
from aprgraph.runtime import tvm_session
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.statistics import Statistics, compute_statistics
from aprgraph.runtime.tvm_session import Program, Session
from tests.support.compiled import LAYERS, compiled, shared_model

TOKENS = [5, 200, 17, 0, 287]


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> CompiledModel:
    return compiled(shared_model(tiny_model))


def planned(model: CompiledModel, taps: str | None = None, layers: str = f"0..{LAYERS}", positions: str = "last") -> Graph:
    plan = Plan() if taps is None else parse_plan(taps, layers)
    return executed_graph(model.plan(plan, TOKENS, RunOptions(positions)).graph, one_pass=True)


def session(model: CompiledModel, graph: Graph, threads: int | None = None) -> Program:
    program = model.artifact.program(graph)
    return Session(model.artifact.kernel_code, model.model, threads).load(program, graph)


class Recorder:
    """Keeps what taps deliver."""

    def __init__(self) -> None:
        self.values: dict[str, F32] = {}
        self.statistics: dict[str, Statistics] = {}

    def __call__(self, node: Node, value: F32, statistics: Statistics) -> None:
        self.values[node.name] = value.copy()
        self.statistics[node.name] = statistics


def test_outputs_that_are_not_taps_are_returned(tiny: CompiledModel) -> None:
    outputs = session(tiny, planned(tiny)).run(TOKENS)
    assert {name: value.shape for name, value in outputs.items()} == {"lm_head": (1, 291)}
    recorder = Recorder()
    assert session(tiny, planned(tiny, "lm_head")).run(TOKENS, recorder) == {}
    assert recorder.values["tap.lm_head"].tobytes() == outputs["lm_head"].tobytes()


def test_taps_come_in_execution_order_and_in_their_shape(tiny: CompiledModel) -> None:
    graph, order = planned(tiny, "all"), []

    def on_tap(node: Node, value: F32, _: Statistics) -> None:
        assert value.shape == node.type.bind(n=len(TOKENS), t=len(TOKENS))
        assert value.dtype == np.float32
        order.append(node.name)

    session(tiny, graph).run(TOKENS, on_tap)
    assert order == [node.name for node in graph.with_op("tap")]


def test_a_value_that_is_held_stays_as_it_is(tiny: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other value gets its memory, in this pass or another: `Engine.write_files`. Each is told of alone, and together with others."""
    running, held = session(tiny, planned(tiny, "all")), {}
    for _ in range(2):
        running.run(TOKENS, lambda node, value, statistics: held.setdefault(node.name, (value, statistics)))
    monkeypatch.setattr(tvm_session, "_TOGETHER", 1)
    recorder = Recorder()
    running.run(TOKENS, recorder)
    assert {name: value.tobytes() for name, (value, _) in held.items()} == {name: one.tobytes() for name, one in recorder.values.items()}
    assert {name: statistics for name, (_, statistics) in held.items()} == recorder.statistics


def test_one_session_runs_prompts_of_any_length(tiny: CompiledModel) -> None:
    """Longer, shorter, longer: nothing of the run before is left in a buffer."""
    one, fresh = session(tiny, planned(tiny)), {}
    prompts = [[7] * 40, [1], TOKENS, list(range(64)), [1]]
    for prompt in prompts:
        fresh[len(prompt)] = session(tiny, planned(tiny)).run(prompt)["lm_head"]
    for prompt in prompts:
        assert one.run(prompt)["lm_head"].tobytes() == fresh[len(prompt)].tobytes()


def test_sessions_do_not_disturb_each_other(tiny: CompiledModel) -> None:
    """Each calls its own taps, whichever was made last."""
    a, b = session(tiny, planned(tiny, "ffn_up")), session(tiny, planned(tiny, "attn_out"))
    of_a, of_b = Recorder(), Recorder()
    a.run(TOKENS, of_a)
    b.run(TOKENS, of_b)
    assert set(of_a.values) == {f"tap.layer{layer}.ffn_up" for layer in range(LAYERS)}
    assert set(of_b.values) == {f"tap.layer{layer}.attn_out" for layer in range(LAYERS)}


def test_sessions_of_other_threads_do_not_take_the_taps(tiny: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is loaded by another thread between the naming of a session's functions and their look-up."""
    graph, recorder = planned(tiny, "ffn_up"), Recorder()
    program = tiny.artifact.program(graph)
    mine, other = (Session(tiny.artifact.kernel_code, tiny.model) for _ in range(2))
    loading = threading.Thread(target=other.load, args=(program, graph))

    def device() -> object:
        if loading.ident is None:
            loading.start()
            loading.join(timeout=0.1)
        return other._device()

    monkeypatch.setattr(mine, "_device", device)
    mine.load(program, graph).run(TOKENS, recorder)
    loading.join()
    assert len(recorder.values) == LAYERS


def test_what_a_tap_raises_ends_the_run_and_is_raised(tiny: CompiledModel) -> None:
    calls = []

    def fail(node: Node, *_: object) -> None:
        calls.append(node.name)
        if len(calls) == 3:
            raise TraceError("the disk is full")

    running = session(tiny, planned(tiny, "all"))
    with pytest.raises(TraceError, match="^the disk is full$"):
        running.run(TOKENS, fail)
    assert len(calls) == 3
    recorder = Recorder()
    running.run(TOKENS, recorder)
    assert len(recorder.values) == len(planned(tiny, "all").with_op("tap"))


def test_an_interrupt_passes_through(tiny: CompiledModel) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session(tiny, planned(tiny, "ffn_up")).run(TOKENS, interrupt)


def test_a_prompt_that_does_not_fit_into_memory(tiny: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TVM's allocator throws becomes Python's own exception; another error of TVM stays as it is."""
    running = session(tiny, planned(tiny))

    def failing(message: str) -> None:
        def call(*_: object) -> None:
            raise RuntimeError(message)

        monkeypatch.setattr(running, "_machine", {ENTRY: call})

    failing("std::bad_alloc")
    with pytest.raises(MemoryError, match=r"^5 positions do not fit into memory$"):
        running.run(TOKENS)
    failing("something else")
    with pytest.raises(RuntimeError, match=r"^something else$"):
        running.run(TOKENS)


def test_weights_are_the_pages_of_the_file(tiny: CompiledModel) -> None:
    """No copy, and wherever they begin: this file's tensors lie at odd multiples of 8 bytes."""
    whole = np.frombuffer(tiny.model.file.mapping, np.uint8)
    first, graph = whole.ctypes.data, planned(tiny)
    running = Session(tiny.artifact.kernel_code, tiny.model)
    running.load(tiny.artifact.program(graph), graph).run(TOKENS)
    offsets = {info.name: info.offset for info in tiny.model.file.tensors.values()}
    addresses = {name: np.from_dlpack(weight[0]).ctypes.data for name, weight in running._weights.items()}
    assert addresses == {name: first + offsets[name] for name in addresses}
    assert len(addresses) == len(offsets)
    assert {address % 16 for address in addresses.values()} == {8}


def test_pages_of_a_large_model_are_given_back_and_no_bit_changes(
    tiny: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, released = planned(tiny), []
    expected = session(tiny, graph).run(TOKENS)["lm_head"]
    monkeypatch.setattr("aprgraph.graph.calling_convention.RESIDENT_WEIGHTS", 10_000)
    monkeypatch.setattr("aprgraph.runtime.tvm_session.RESIDENT_WEIGHTS", 10_000)
    build_program(graph, tmp_path / "large")
    model = load_model(tiny.model.path)
    monkeypatch.setattr(model.file, "release", lambda release=model.file.release: released.append(release()))
    running = Session(tiny.artifact.kernel_code, model).load((tmp_path / "large").read_bytes(), graph)
    assert running.run(TOKENS)["lm_head"].tobytes() == expected.tobytes()
    assert len(released) > LAYERS
    released.clear()  # each token that is decoded reads all weights again
    running.run([5], start=len(TOKENS))
    assert released == []


def test_summaries_of_tensors_that_lie_elsewhere_are_those_of_taps(tiny: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits, at any alignment, over more than one piece: a prompt in parts leaves the manifest of one in one pass."""
    monkeypatch.setattr("aprgraph.runtime.tvm_session.CHUNKS_AT_ONCE", 1)
    recorder, running = Recorder(), Session(tiny.artifact.kernel_code, tiny.model)
    graph = planned(tiny, "all", positions="all")
    running.load(tiny.artifact.program(graph), graph).run(list(range(64)), recorder)
    for name, value in recorder.values.items():
        moved = np.empty(4 * value.size + 12, np.uint8)[12:].view(np.float32)
        moved[:] = value.reshape(-1)
        assert running.summarise(moved) == recorder.statistics[name]


@pytest.mark.parametrize("count", [1, 5, 64])
def test_statistics_are_those_of_the_tensor(tiny: CompiledModel, count: int) -> None:
    """The kernel's against NumPy's, over one chunk and several, with rests of every kind."""
    recorder = Recorder()
    session(tiny, planned(tiny, "all", positions="all")).run(list(range(count)), recorder)
    assert max(value.size for value in recorder.values.values()) == 291 * count
    for name, found in recorder.statistics.items():
        expected = compute_statistics(recorder.values[name])
        assert (found.count, found.nan, found.inf) == (expected.count, 0, 0), name
        assert (found.min, found.max) == (expected.min, expected.max), name
        assert (found.mean, found.rms) == pytest.approx((expected.mean, expected.rms), rel=1e-12, abs=1e-15), name


def test_statistics_of_nan_and_inf(tiny: CompiledModel, tmp_path: Path) -> None:
    """An embedding table with odd numbers in it: counted, and left out of the rest."""
    table = tiny.model.file.tensors["token_embd.weight"]
    data = bytearray(tiny.model.path.read_bytes())
    # The scale of a Q8_0 block of 32 elements is a half: Inf times 0 is NaN, Inf times anything else Inf.
    for row, scale in ((3, 0x7C00), (4, 0x7E00)):
        start = table.offset + row * table.row_bytes
        data[start : start + 2] = scale.to_bytes(2, "little")
    data[table.offset + 3 * table.row_bytes + 2] = 0
    (tmp_path / "odd.gguf").write_bytes(data)
    recorder, graph = Recorder(), planned(tiny, "embedding", "0..1")
    program = tiny.artifact.program(graph)
    Session(tiny.artifact.kernel_code, load_model(tmp_path / "odd.gguf")).load(program, graph).run([3, 4, 5], recorder)
    found, values = recorder.statistics["tap.layer0.embedding"], recorder.values["tap.layer0.embedding"]
    zeros = int(np.count_nonzero(np.isnan(values[0])))
    assert zeros >= 1
    assert (found.count, found.nan, found.inf) == (192, zeros + 32, 32 - zeros)
    expected = compute_statistics(values)
    assert (found.min, found.max, found.nan, found.inf) == (expected.min, expected.max, expected.nan, expected.inf)
    assert (found.mean, found.rms) == pytest.approx((expected.mean, expected.rms), rel=1e-12)


def test_code_that_cannot_be_loaded(tiny: CompiledModel) -> None:
    graph = planned(tiny)
    library, program = tiny.artifact.kernel_code, tiny.artifact.program(graph)
    for kernels, code in ((replace(library, data=b"no code"), program), (library, b"no code"), (replace(library, data=b""), program)):
        with pytest.raises(ArtifactError, match=r"cannot be loaded \(.*\); compile the model again"):
            Session(kernels, tiny.model).load(code, graph)


def test_threads_by_default_are_the_processors_of_this_process(tiny: CompiledModel) -> None:
    assert default_threads() >= 1
    assert Session(tiny.artifact.kernel_code, tiny.model).threads == default_threads()
    assert Session(tiny.artifact.kernel_code, tiny.model, 1).threads == 1
