"""In which order the rows of q and k are: a manifest says it, and two traces are brought to one order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import TraceError
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import parse_graph, print_graph
from aprgraph.runtime.blame import audit
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.readings.layout import is_turned
from aprgraph.runtime.reference import run_reference
from aprgraph.runtime.trace.manifest import MANIFEST, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.blame import rerecord
from tests.support.traces import Tensor, noisy, trace_model, values

try:
    import torch

    from tests.golden.transformers_models import load
except ModuleNotFoundError:
    torch = load = None  # type: ignore[assignment]

TOKENS = (3, 1, 4, 1, 5)
#: The tiny model's: heads of q and of k, and their size.
HEADS, KV_HEADS, SIZE = 4, 2, 16
#: How many heads of each stage RoPE turns, in the first columns.
TURNED = {"qkv_matmul": HEADS + KV_HEADS, "qkv_bias": HEADS + KV_HEADS, "q_post_rope": HEADS, "k_post_rope": KV_HEADS}


def in_halves(stage: str, tensor: Tensor) -> Tensor:
    """A tensor in the order of GGUF files of llama as a checkpoint has it: first the even elements of each head, then the odd ones."""
    columns = TURNED.get(stage, 0) * SIZE
    result = np.array(tensor)
    for start in range(0, columns, SIZE):
        head = tensor[:, start : start + SIZE]
        result[:, start : start + SIZE] = np.concatenate([head[:, 0::2], head[:, 1::2]], axis=1)
    return result


def rewritten(place: Path, trace: Trace, extra: Mapping[str, Any], *, halves: bool, graph: bool = False, noise: float = 0.0) -> Path:
    """``trace`` with another ``extra``; in ``halves``, as a run of the checkpoint leaves it, ``graph`` with its graph too."""
    assert trace.info is not None
    writer = TraceWriter(place)
    for entry in trace:
        tensor = np.array(trace.load(entry))
        tensor = noisy(in_halves(entry.stage, tensor) if halves else tensor, noise)
        writer.write(entry.node or "", entry.stage, entry.layer, entry.step, tensor)
    text = trace.info.graph_text.replace('"interleaved"', '"halves"') if graph else ""
    assert not graph or "halves" in text
    info: TraceInfo = replace(trace.info, model={"name": "checkpoint"}, graph_text=text, extra=extra)
    writer.finish(info)
    return place


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(qkv_bias=True)


@pytest.fixture
def ours(tmp_path: Path, model: Path) -> Trace:
    """Our own trace of the GGUF file, whose rows its manifest names."""
    trace = trace_model(tmp_path / "bare", model)
    assert trace.info is not None
    graph_text = trace.info.graph_text
    writer = TraceWriter(tmp_path / "ours")
    for entry in trace:
        writer.write(entry.node or "", entry.stage, entry.layer, entry.step, np.array(trace.load(entry)))
    return writer.finish(replace(trace.info, graph_text=graph_text, extra={"qk_rows": "interleaved"}))


def both_ways(a: Path, b: Path) -> DiffReport:
    report, swapped = diff(a, b), diff(b, a)
    assert [row.classification for row in report.rows] == [row.classification for row in swapped.rows]
    assert report.exit_code == swapped.exit_code
    return report


@pytest.mark.contract("DIFF-ROWS-1")
@pytest.mark.parametrize(("family", "rows"), [("llama", "interleaved"), ("qwen2", "halves")])
def test_a_run_says_which_order_its_rows_are_in(tmp_path: Path, tiny_model: Callable[..., Path], family: str, rows: str) -> None:
    """Also where so little is tapped that the recorded graph has no RoPE."""
    compiled = aprgraph.load(tiny_model(family=family)).compile("reference", tmp_path / "a.aprg")
    compiled.run("attn_norm", "0..1", tokens=TOKENS, directory=tmp_path / "t")
    assert json.loads((tmp_path / "t" / MANIFEST).read_text())["qk_rows"] == rows


@pytest.mark.contract("DIFF-ROWS-1")
@pytest.mark.parametrize("graph", [False, True])
def test_a_checkpoint_and_its_gguf_file_are_alike(tmp_path: Path, model: Path, ours: Trace, graph: bool) -> None:
    """Bit for bit, by their manifests alone, on whichever side; with the model too, where each stage is right as it was recorded."""
    theirs = rewritten(tmp_path / "theirs", ours, {"qk_rows": "halves"}, halves=True, graph=graph)
    report = both_ways(ours.directory, theirs)
    assert {row.classification for row in report.rows} == {Class.IDENTICAL}
    said = "RoPE's pairs are neighbours (2i, 2i + 1) in ours (A) and halves (i, i + D/2) in theirs (B): "
    assert f"{said}qkv_matmul, qkv_bias, q_post_rope and k_post_rope of B are compared in the order of A" in report.notes
    assert not any("graphs differ" in note for note in (*report.notes, *(one.sentence for one in report.reservations)))
    found = audit(Trace.open(theirs), aprgraph.load(model).model, tokens=TOKENS)
    assert found.exit_code == 0
    assert {local.state.value for local in found.locals} == {"RIGHT"}
    assert any("q and k are read in the model's order" in note for note in found.notes)
    for a, b in ((ours.directory, theirs), (theirs, ours.directory)):
        blamed = aprgraph.diff(a, b, model=model)
        assert blamed.exit_code == 0
        assert not any(row.classification is Class.OTHER_FORM for row in blamed.rows)
        assert not any("graphs differ" in one.sentence for one in blamed.reservations)


@pytest.mark.contract("DIFF-ROWS-1")
def test_a_fault_in_q_is_found_in_either_order(tmp_path: Path, ours: Trace) -> None:
    theirs = rewritten(tmp_path / "theirs", ours, {"qk_rows": "halves"}, halves=True, noise=1e-7)
    wrong = Trace.open(theirs)
    (entry,) = (entry for entry in wrong if entry.key[1:] == (1, "q_post_rope"))
    numbers = np.array(wrong.load(entry))
    numbers.flat[: SIZE // 2] += values(SIZE // 2)
    rerecord(wrong, entry, numbers)
    report = both_ways(ours.directory, theirs)
    assert [first.key for first in report.first] == [(0, 1, "q_post_rope")]


@pytest.mark.contract("DIFF-ROWS-2")
def test_values_have_the_last_word(tmp_path: Path, model: Path, ours: Trace) -> None:
    """A manifest that names another order than its rows have does not make right numbers wrong."""
    theirs = rewritten(tmp_path / "theirs", ours, {"qk_rows": "halves"}, halves=False, noise=1e-7)
    report = both_ways(ours.directory, theirs)
    assert report.exit_code == 0
    assert any("the values agree better as they are, and are compared so" in note for note in report.notes)
    assert audit(Trace.open(theirs), aprgraph.load(model).model).exit_code == 0


@pytest.mark.contract("DIFF-ROWS-2")
def test_a_run_of_the_same_file_is_left_as_it_is(tmp_path: Path, model: Path, ours: Trace) -> None:
    """RoPE that pairs otherwise than the file's rows are is a fault, whatever its manifest calls the rows: in diff and in audit."""
    loaded = aprgraph.load(model).model
    graph = parse_graph(print_graph(build_graph(loaded)).replace("interleaved", "halves"))
    writer = TraceWriter(tmp_path / "wrong")
    for node, value in run_reference(graph, loaded, TOKENS):
        if node.stage is not None:
            writer.write(node.name, node.stage, node.layer, 0, value.astype(np.float32))
    assert ours.info is not None
    file = {"name": model.name, "fingerprint": loaded.file.fingerprint()}
    writer.finish(replace(ours.info, model=file, graph_text=print_graph(graph), extra={"qk_rows": "halves"}))
    report = both_ways(ours.directory, tmp_path / "wrong")
    assert report.exit_code == 1
    assert [first.key for first in report.first] == [(0, 0, "q_post_rope"), (0, 0, "k_post_rope")]
    assert any("graphs differ" in one.sentence and "pairing" in one.sentence for one in report.reservations)
    found = audit(Trace.open(tmp_path / "wrong"), loaded)
    assert found.exit_code == 1
    assert {local.key.stage for local in found.wrong} == {"q_post_rope", "k_post_rope"}


def test_without_heads_the_rows_are_left_and_that_is_said(tmp_path: Path) -> None:
    for name, rows in (("a", "interleaved"), ("b", "halves")):
        Trace.write(tmp_path / name, {"layer0.q_post_rope": values(3, 8), "lm_head": values(9)}, tokens=(1, 2, 3), qk_rows=rows)
    notes = diff(tmp_path / "a", tmp_path / "b").notes
    assert any("and no graph tells the heads: q and k are compared as they are" in note for note in notes)
    with pytest.raises(TraceError, match=r"qk_rows 'pairs', expected interleaved or halves$"):
        Trace.write(tmp_path / "c", {"lm_head": values(9)}, qk_rows="pairs")


@pytest.mark.contract("DIFF-ROWS-1")
@pytest.mark.skipif(torch is None, reason="torch and transformers are not here")
def test_projections_of_transformers_as_they_are(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """What hooks on q_proj, k_proj and v_proj of a llama checkpoint show, against our run of the GGUF file, that and our
    capture against our run of the checkpoint.
    """
    path = tiny_model(vocabulary=32, tokenizer=False)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "a.aprg")
    compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "ours")
    checkpoint = load(path).model.to(torch.float32)
    checkpoint.set_attn_implementation("eager")
    shown: dict[tuple[int, str], Tensor] = {}
    for layer, block in enumerate(checkpoint.model.layers):
        for name in ("q_proj", "k_proj", "v_proj"):

            def hook(_module: Any, _args: Any, output: Any, key: tuple[int, str] = (layer, name)) -> None:
                shown[key] = output[0].detach().numpy()

            getattr(block.self_attn, name).register_forward_hook(hook)
    with torch.no_grad(), aprgraph.capture.transformers(checkpoint, tmp_path / "captured"):
        checkpoint(torch.tensor([TOKENS]))
    tensors = {
        (layer, "qkv_matmul"): np.concatenate([shown[layer, name] for name in ("q_proj", "k_proj", "v_proj")], axis=1) for layer in range(2)
    }
    Trace.write(tmp_path / "hooked", tensors, tokens=TOKENS, qk_rows="halves", arithmetic="float32")
    assert json.loads((tmp_path / "captured" / MANIFEST).read_text())["qk_rows"] == "interleaved"
    checkpoint.save_pretrained(tmp_path / "checkpoint")
    aprgraph.load(tmp_path / "checkpoint").compile("reference", tmp_path / "b.aprg").run(
        "all", "0..2", tokens=TOKENS, directory=tmp_path / "of-it"
    )
    assert {row.classification for row in both_ways(tmp_path / "ours", tmp_path / "of-it").rows} == {Class.IDENTICAL}
    assert {row.classification for row in both_ways(tmp_path / "captured", tmp_path / "of-it").rows} <= {Class.NOISE, Class.IDENTICAL}
    for other in ("ours", "captured"):
        report = diff(tmp_path / other, tmp_path / "hooked", profile="same-graph-f32")
        rows = {row.label: row.classification for row in report.rows_compared}
        assert set(rows) == {"layer 0 qkv_matmul", "layer 1 qkv_matmul"}
        if other == "ours":
            assert set(rows.values()) <= {Class.NOISE, Class.IDENTICAL}
        else:  # neither has a graph
            assert any("no graph tells the heads" in note for note in report.notes)
    assert audit(Trace.open(tmp_path / "hooked"), aprgraph.load(path).model).exit_code == 0


def test_what_rope_turns() -> None:
    assert all(map(is_turned, ("qkv_matmul", "qkv_bias", "q_norm", "k_norm", "q_post_rope", "k_post_rope")))
    assert not any(map(is_turned, ("v_norm", "attention", "attn_gated", "attn_gate", "attn_out", "mystery")))
