"""Compiled models: taps, threads, other positions, weights that are not needed and repetition change no bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.graph.model import load_model
from aprgraph.graph.passes import InsertTaps, Prune
from aprgraph.graph.tap_plan import Plan, parse_plan

TOKENS = (11, 7, 200, 3, 7, 0, 287, 45, 9)
LAYERS = 2
EVERYTHING = f"0..{LAYERS}"

#: The bytes of each file, by its path in the trace.
Bytes = dict[str, bytes]


@pytest.fixture(scope="module")
def model_path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(format="Q4_1", formats={"ffn_down.weight": "Q8_0", "output.weight": "F32"}, layers=LAYERS)


@pytest.fixture(scope="module")
def compiled(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    return aprgraph.load(model_path).compile(directory=tmp_path_factory.mktemp("compiled") / "model.aprg")


@pytest.fixture(scope="module")
def everything(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Bytes:
    """A run of all stages, the manifest included."""
    return traced(compiled, tmp_path_factory.mktemp("everything"))


def read(directory: Path) -> Bytes:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def traced(
    compiled: CompiledModel, directory: Path, taps: str = "all", layers: str = EVERYTHING, tokens: Sequence[int] = TOKENS, threads: int = 2
) -> Bytes:
    compiled.run(taps, layers, tokens=tokens, directory=directory, threads=threads)
    return read(directory)


def tensors(files: Bytes) -> Bytes:
    return {name: raw for name, raw in files.items() if name != "trace.json"}


def own_stages(compiled: CompiledModel) -> list[str]:
    return list(dict.fromkeys(str(node.stage) for node in compiled.artifact.graph.staged()))


def test_what_is_compared_is_not_trivial(everything: Bytes) -> None:
    """Zeros, or one tensor many times over, would be equal under everything."""
    found = tensors(everything)
    assert len(found) == 16 * LAYERS + 3
    assert len(set(found.values())) == len(found)
    for name, raw in found.items():
        values = np.frombuffer(raw, np.float32, offset=12)
        assert np.isfinite(values).all(), name
        assert values.std() > 0, name


@pytest.mark.contract("TAPS-LOGITS-1")
def test_logits_do_not_depend_on_the_plan(compiled: CompiledModel, everything: Bytes, tmp_path: Path) -> None:
    expected = everything["lm_head.bin"]
    assert compiled.logits(TOKENS).tobytes() == expected[12:]
    assert traced(compiled, tmp_path / "alone", "lm_head")["lm_head.bin"] == expected
    for stage in own_stages(compiled)[:-1]:
        assert traced(compiled, tmp_path / stage, f"{stage},lm_head")["lm_head.bin"] == expected, stage


@pytest.mark.contract("TAPS-TENSORS-1")
def test_a_tensor_does_not_depend_on_what_else_is_tapped(compiled: CompiledModel, everything: Bytes, tmp_path: Path) -> None:
    seen: Bytes = {}
    for stage in own_stages(compiled):
        layers = range(1) if stage == "embedding" else range(LAYERS)
        for layer in layers:
            found = tensors(traced(compiled, tmp_path / f"{stage}-{layer}", stage, f"{layer}..{layer + 1}"))
            assert len(found) == 1
            seen |= found
    assert seen == tensors(everything)


@pytest.mark.contract("TAPS-KERNELS-1")
def test_running_leaves_kernels_and_graph_as_they_were_compiled(compiled: CompiledModel, tmp_path: Path) -> None:
    def digest() -> dict[str, str]:
        files = read(compiled.artifact.directory)
        return {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items() if not name.startswith("programs/")}

    before = digest()
    assert {name for name in before if not name.startswith("trusted/")} == {"artifact.json", "graph.txt", compiled.artifact.library.name}
    for taps, layers in (("all", EVERYTHING), ("attn_scores", "1..2"), ("ffn_silu,ffn_up", "0..1"), ("lm_head", "0..1")):
        traced(compiled, tmp_path / taps, taps, layers)
    compiled.logits(TOKENS)
    assert digest() == before


@pytest.mark.contract("DET-REPEAT-1")
def test_the_same_run_gives_the_same_files(compiled: CompiledModel, everything: Bytes, tmp_path: Path) -> None:
    assert traced(compiled, tmp_path / "a") == everything
    traced(compiled, tmp_path / "b", tokens=TOKENS[::-1])
    assert traced(compiled, tmp_path / "b") == everything


@pytest.mark.contract("DET-COMPILE-1")
def test_compiling_again_changes_no_bit(compiled: CompiledModel, everything: Bytes, tmp_path: Path) -> None:
    again = aprgraph.load(compiled.model.path).compile(directory=tmp_path / "again.aprg")
    assert traced(again, tmp_path / "trace") == everything


@pytest.mark.contract("DET-THREADS-1")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_no_bit(compiled: CompiledModel, everything: Bytes, tmp_path: Path, threads: int) -> None:
    assert traced(compiled, tmp_path, threads=threads) == everything


@pytest.mark.contract("DET-POSITION-1")
def test_other_positions_change_no_bit_of_a_position(compiled: CompiledModel, tmp_path: Path) -> None:
    whole = compiled.run("all", EVERYTHING, tokens=TOKENS, directory=tmp_path / "whole", positions="all")
    for m in range(1, len(TOKENS)):
        # What follows the first m positions is another token than in the whole prompt, or nothing.
        for rest in ((), ((TOKENS[m] + 1) % 288,)):
            part = compiled.run("all", EVERYTHING, tokens=(*TOKENS[:m], *rest), directory=tmp_path / "part", positions="all")
            for entry in part.entries:
                ours, theirs = part.load(entry), whole.tensor(entry.stage, entry.layer)
                rows = np.s_[:, :m, :m] if ours.ndim == 3 else np.s_[:m]
                assert ours[rows].tobytes() == theirs[rows].tobytes(), f"{entry.label} at m = {m}, {len(rest)} more"
        last = compiled.logits(TOKENS[:m])
        assert last.tobytes() == whole.tensor("lm_head")[m - 1].tobytes()


PRUNED = (("qkv_matmul", "0..1"), ("attention", "0..1"), ("ffn_silu,attn_norm", "1..2"), ("embedding", "0..1"))


@pytest.mark.contract("PRUNE-READ-1")
@pytest.mark.parametrize(("taps", "layers"), PRUNED)
def test_weights_that_are_pruned_are_not_looked_at(
    compiled: CompiledModel, model_path: Path, everything: Bytes, tmp_path: Path, taps: str, layers: str
) -> None:
    model = compiled.model
    plan: Plan = parse_plan(taps, layers)
    needed = {node.attr_str("tensor") for node in Prune()(InsertTaps(plan)(compiled.artifact.graph)).with_op("weight")}
    others = set(model.file.tensors) - needed
    assert needed
    assert others

    def outcome(spoiled: set[str]) -> Bytes:
        raw = bytearray(model_path.read_bytes())
        for name in spoiled:
            info = model.file.tensors[name]
            raw[info.offset : info.offset + info.nbytes] = b"\xff" * info.nbytes
        path = tmp_path / f"{len(spoiled)}.gguf"
        path.write_bytes(raw)
        return tensors(traced(CompiledModel(compiled.artifact, load_model(path)), tmp_path / f"{len(spoiled)}", taps, layers))

    expected = {name: everything[name] for name in outcome(others)}
    assert outcome(others) == expected
    assert outcome(others | {min(needed)}) != expected
