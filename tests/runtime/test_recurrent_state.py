"""A recurrent op, which no other code knows of: the same bits for a position however a text is divided into passes, on every target."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from aprgraph.api import CompiledModel, load
from aprgraph.codegen.kernels import cpu, cuda
from aprgraph.comparison import audit
from aprgraph.families import FAMILIES, load_family_file
from aprgraph.graph.ops import OPS, state_type, states_of
from aprgraph.graph.passes import OnePass
from aprgraph.runtime.blame.repro import write_repro
from aprgraph.runtime.blame.stage_alone import StageAlone
from aprgraph.runtime.cuda.memory import states_nbytes
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import rerecord
from tests.support.compiled import compiled
from tests.support.cuda_emulator import host_compiler
from tests.support.cuda_runs import command, run_emulated
from tests.support.rpc_server import rpc_server

FAMILY = Path(__file__).parents[1] / "support" / "recurrent_family.py"
LAYERS = "0..2"
TOKENS = (11, 7, 90, 3, 7, 0, 45)
#: How many tokens follow, of which the last is read by nothing.
MORE = 4
#: All that has a row for each position, as no cache and no mask has.
ROWS = "ffn_silu,ffn_swigl,post_ffn_residual,final_norm"


@pytest.fixture(scope="module", autouse=True)
def _known() -> Iterator[None]:
    """The family and its op are forgotten after these tests."""
    before = [dict(table) for table in (FAMILIES, OPS, cpu.KERNELS, cuda.KERNELS)]
    load_family_file(FAMILY)
    yield
    for table, entries in zip((FAMILIES, OPS, cpu.KERNELS, cuda.KERNELS), before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    path = tmp_path_factory.mktemp("recurrent") / "recurrent.gguf"
    path.write_bytes(tiny_model(ffn=72).read_bytes().replace(b"llama", b"recur"))
    return path


def rows(trace: Trace) -> dict[tuple[int | None, str], np.ndarray]:
    """What a trace recorded, the positions of all its steps one after the other."""
    found: dict[tuple[int | None, str], list[np.ndarray]] = {}
    for entry in sorted(trace.entries, key=lambda entry: entry.step):
        found.setdefault((entry.layer, entry.stage), []).append(np.asarray(trace.load(entry)))
    return {key: np.concatenate(values) for key, values in found.items()}


def check_passes(there: CompiledModel, place: Path, *, exact: bool = True) -> None:
    """A prompt whole, in parts of one and of three, then token by token: one set of numbers."""

    def run(name: str, tokens: tuple[int, ...], **options: object) -> Trace:
        return there.run(ROWS, LAYERS, tokens=tokens, directory=place / name, **options)  # type: ignore[arg-type]

    generated = run("generated", TOKENS, max_tokens=MORE, steps=f"0..{MORE}")
    assert generated.info is not None
    text = (*TOKENS, *generated.info.extra["generated"][:-1])
    whole = rows(run("whole", text))
    assert np.abs(whole[1, "ffn_swigl"]).max() > 0.1
    assert len(whole[1, "ffn_swigl"]) == len(text)
    for name, other in (
        ("generated", rows(generated)),
        ("in ones", rows(run("ones", text, prefill_chunk=1))),
        ("in threes", rows(run("threes", text, prefill_chunk=3))),
    ):
        assert other.keys() == whole.keys()
        for key, value in whole.items():
            if exact:
                assert other[key].tobytes() == value.tobytes(), (name, key)
            else:
                np.testing.assert_allclose(other[key], value, rtol=1e-6, atol=1e-6, err_msg=f"{name} {key}")


def test_the_reference_goes_on_where_it_was(model: Path) -> None:
    op = OPS[load(model).graph["layer0.ffn_swigl"].op]
    x, decay = np.random.default_rng(3).standard_normal((2, 9, 5))
    assert op.reference is not None
    assert op.traits.state is not None
    whole = op.reference([x, decay], {})
    state, parts = None, []
    for start, stop in ((0, 1), (1, 4), (4, 9)):
        part, state = op.traits.state.advance([x[start:stop], decay[start:stop]], {}, state)
        parts.append(part)
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    np.testing.assert_array_equal(whole[:2], [x[0], decay[1] * x[0] + x[1]])


def test_one_pass_keeps_the_state_which_begins_as_zeros(model: Path) -> None:
    graph = load(model).graph
    states = {node.name: str(state_type(graph, node)) for node in states_of(graph) if node.layer == 1}
    assert states == {"layer1.k_cache": "f32[t, 32]", "layer1.v_cache": "f32[t, 32]", "layer1.ffn_swigl": "f32[72]"}
    single = OnePass()(graph)
    assert [node.name for node in states_of(single)] == ["layer0.ffn_swigl", "layer1.ffn_swigl"]
    assert states_nbytes([single], 1000) == states_nbytes([single], 1) == 2 * 72 * 4
    assert states_nbytes([graph], 1000) == 2 * (72 + 2 * 1000 * 32) * 4


def test_passes_of_the_reference(model: Path, tmp_path: Path) -> None:
    """In float64, whose matrix products BLAS sums in another order for another number of rows."""
    check_passes(load(model).compile("reference", tmp_path / "reference.aprg"), tmp_path, exact=False)


@pytest.mark.contract("STEPS-STATE-1")
def test_passes_of_the_cpu(model: Path, tmp_path: Path) -> None:
    check_passes(compiled(model), tmp_path)


@pytest.mark.contract("STEPS-STATE-1")
def test_passes_of_a_server(model: Path, tmp_path: Path) -> None:
    with rpc_server(tmp_path / "log") as server:
        check_passes(compiled(model).on(server.address), tmp_path)
    here = compiled(model).run(ROWS, LAYERS, tokens=TOKENS, directory=tmp_path / "here")
    there = Trace.open(tmp_path / "generated")
    for entry in here.entries:
        assert here.load(entry).tobytes() == there.load(next(one for one in there.entries if one.key == entry.key)).tobytes()


def test_a_session_begins_anew_with_every_text(model: Path, tmp_path: Path) -> None:
    first, second = (compiled(model).run(ROWS, LAYERS, tokens=TOKENS, directory=tmp_path / name) for name in ("first", "second"))
    assert {key: value.tobytes() for key, value in rows(first).items()} == {key: value.tobytes() for key, value in rows(second).items()}


def test_the_audit_replays_the_state_of_every_step(model: Path, tmp_path: Path) -> None:
    trace = compiled(model).run("all", LAYERS, tokens=TOKENS, directory=tmp_path / "t", max_tokens=MORE, steps=f"0..{MORE}")
    found = audit(trace, model)
    assert [local.label for local in found.wrong] == []
    assert found.replayed == len(trace.entries)


def test_a_script_of_one_stage_begins_with_the_state_of_earlier_steps(model: Path, tmp_path: Path) -> None:
    trace = compiled(model).run("all", LAYERS, tokens=TOKENS, directory=tmp_path / "t", max_tokens=3, steps="0..3")
    entry = next(entry for entry in trace.entries if (entry.step, entry.layer, entry.stage) == (2, 1, "ffn_swigl"))
    wrong = Trace.open(trace.directory)
    values = np.array(trace.load(entry))
    values.flat[-1] = 3
    rerecord(wrong, entry, values)
    (local,) = (local for local in audit(wrong, model).wrong if local.key == entry.key)
    script = write_repro(tmp_path / "alone", wrong, load(model).model, local)
    assert "earlier=stage.load('layer1.ffn_swigl.state')" in script.read_text()
    expected = np.load(script.parent / "expected.npy")
    np.testing.assert_allclose(expected.reshape(-1)[:-1], np.load(script.parent / "actual.npy").reshape(-1)[:-1], rtol=1e-5, atol=1e-6)
    stage = StageAlone(str(script))
    operands = (stage.load("layer1.ffn_up"), stage.load("layer1.ffn_silu"))
    alone = stage.op(load(model).graph["layer1.ffn_swigl"].op, *operands, earlier=stage.load("layer1.ffn_swigl.state"))
    np.testing.assert_allclose(alone, expected, rtol=1e-6)


@pytest.mark.contract("STEPS-STATE-1")
@pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")
def test_passes_of_an_emulated_gpu(model: Path, tmp_path: Path) -> None:
    given = ("--tokens", ",".join(map(str, TOKENS)), "--taps", ROWS, "--layers", LAYERS, "--family", FAMILY)
    results = run_emulated(
        [
            command("compile", model, "--target", "cuda", "-o", "m.aprg", "--family", FAMILY),
            command("run", "m.aprg", *given, "-o", "whole"),
            command("run", "m.aprg", *given, "-o", "ones", "--prefill-chunk", 1),
            command("run", "m.aprg", *given, "-o", "threes", "--prefill-chunk", 3),
        ],
        tmp_path,
    )
    assert [result.code for result in results] == [0] * len(results), results
    whole, ones, threes = (rows(Trace.open(tmp_path / name)) for name in ("whole", "ones", "threes"))
    here = rows(compiled(model).run(ROWS, LAYERS, tokens=TOKENS, directory=tmp_path / "cpu"))
    for key, value in whole.items():
        assert ones[key].tobytes() == threes[key].tobytes() == value.tobytes(), key
        np.testing.assert_allclose(value, here[key], rtol=1e-4, atol=1e-4)
