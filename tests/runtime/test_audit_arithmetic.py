"""An audit in the arithmetic of an engine: what llama.cpp computed is right to rounding, and a small fault shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph import Trace
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.blame.auditor import AuditOptions, Auditor
from aprgraph.runtime.blame.chosen_arithmetic import ChosenArithmetic
from aprgraph.runtime.place import Place
from tests.golden.make_llama_cpp_arithmetic import RUNS, TOKENS, Run, llama_cpp_trace, write_model
from tests.support.blame import spoil
from tests.support.cli import fails, run_cli


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.key)
def test_the_arithmetic_of_a_dump_is_found(run: Run, tmp_path: Path) -> None:
    model, trace = write_model(run, tmp_path / "tiny.gguf"), llama_cpp_trace(run, tmp_path / "theirs")
    found = aprgraph.audit(trace, model, arithmetic="find")
    assert found.exit_code == 0, found.sentence
    assert found.profile == "same-graph-f32"
    assert found.replayed == len(trace.entries)
    note = next(note for note in found.notes if "is held to the arithmetic" in note)
    assert run.arithmetic in note
    if run.flash == "on":  # AVX-512 sums otherwise in flash attention alone
        assert note.startswith(f"theirs is held to the arithmetic {run.arithmetic} (llama.cpp on ")


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
@pytest.mark.parametrize("run", RUNS[:1], ids=lambda run: run.key)
def test_where_nothing_says_how_a_dump_was_computed_it_is_found_unasked(run: Run, tmp_path: Path) -> None:
    model, trace = write_model(run, tmp_path / "tiny.gguf"), llama_cpp_trace(run, tmp_path / "theirs")
    ours = aprgraph.load(model).compile("reference", tmp_path / "m.aprg").run("all", "all", tokens=TOKENS, directory=tmp_path / "ours")
    assert trace.info is not None
    (tmp_path / "theirs" / "trace.json").unlink()
    found = aprgraph.audit(tmp_path / "theirs", model, tokens=TOKENS)
    assert found.exit_code == 0, found.sentence
    assert any(note.startswith(f"theirs is held to the arithmetic {run.arithmetic}") for note in found.notes)
    both = aprgraph.diff(tmp_path / "theirs", ours.directory, model=model, tokens=TOKENS)
    assert both.headline.startswith("Neither side is wrong: each is right by its own graph")
    assert aprgraph.audit(tmp_path / "theirs", model, tokens=TOKENS, arithmetic="plain").wrong
    # What is asked for counts; a mistake of float32 is no arithmetic.
    spoil(ours, "attn_out", 0, lambda values: values + np.square(values))
    (tmp_path / "ours" / "trace.json").unlink()
    wrong = aprgraph.audit(tmp_path / "ours", model, tokens=TOKENS)
    assert [local.label for local in wrong.wrong] == ["layer 0 attn_out", "layer 0 post_attn_residual"]
    assert not any("is held to the arithmetic" in note for note in wrong.notes)


def changed(trace: Trace, directory: Path, stage: str, change: Callable[[Any], Any]) -> Trace:
    """The trace with one tensor of step 0 changed."""
    tensors = {(entry.layer, entry.stage, entry.step): np.array(trace.load(entry)) for entry in trace.entries}
    key = next(key for key in tensors if key[1:] == (stage, 0))
    tensors[key] = change(tensors[key])
    assert trace.info is not None
    return Trace.write(directory, tensors, tokens=trace.info.tokens, generated=[29], target="llama.cpp")


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_a_fault_that_the_noise_of_8_bits_hides_is_found(tmp_path: Path) -> None:
    """One column of the logits, off by a thousandth: of 272, that is an NMSE of 4e-9, where 8 bits cost 1e-4."""
    run = RUNS[0]
    model = write_model(run, tmp_path / "tiny.gguf")

    def spoil(logits: Any) -> Any:
        column = int(np.abs(logits).argmax())
        return np.where(np.arange(logits.size) == column, logits * np.float32(1.001), logits)

    trace = changed(llama_cpp_trace(run, tmp_path / "right"), tmp_path / "theirs", "lm_head", spoil)
    assert aprgraph.audit(trace, model, profile="cross-engine-q8k").exit_code == 0
    found = aprgraph.audit(trace, model, arithmetic="find")
    assert found.exit_code == 1
    assert [local.label for local in found.wrong] == ["lm_head"]


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_a_fault_is_found_where_the_arithmetic_is_named(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """A run with another epsilon: every norm is wrong, and what the rounded products make of it is right."""
    path = tiny_model(format="Q4_1", hidden=64, ffn=64, vocabulary=288)
    overrides: dict[str, Any] = {"llama.attention.layer_norm_rms_epsilon": 1e-3}
    other = aprgraph.load(path, overrides).compile("reference", tmp_path / "other.aprg")
    trace = other.run("all", "0..2", tokens=[5, 9, 17, 3], directory=tmp_path / "theirs", arithmetic="ggml-scalar,flash=off")
    for asked, why in ((None, "as its manifest says"), ("ggml-scalar,flash=off", "as asked for"), ("find", "which explains ")):
        found = aprgraph.audit(trace, path, arithmetic=asked)
        assert {local.key[2] for local in found.wrong} == {"attn_norm", "ffn_norm", "final_norm"}, asked
        (note,) = (note for note in found.notes if note.startswith("theirs is held to the arithmetic "))
        assert "ggml-scalar,cache=f16,flash=off" in note
        assert why in note
    plain = aprgraph.audit(trace, path, arithmetic="plain")
    assert not any("is held to the arithmetic" in note for note in plain.notes)


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_what_rounds_nothing_is_in_none(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(format="Q4_1", hidden=64, ffn=64, vocabulary=288)
    trace = aprgraph.load(path).compile("reference", tmp_path / "tiny.aprg").run("all", tokens=[5, 9], directory=tmp_path / "ours")
    found = aprgraph.audit(trace, path, arithmetic="find")
    assert found.exit_code == 0
    assert "no arithmetic that is known here explains more of ours than float32 does" in found.notes


def test_names_that_stand_for_none(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    path = tiny_model(format="Q4_1", hidden=64, ffn=64, vocabulary=288)
    trace = aprgraph.load(path).compile("reference", tmp_path / "tiny.aprg").run("lm_head", tokens=[5, 9], directory=tmp_path / "ours")
    with pytest.raises(ComparisonError, match="arithmetic 'ggml': there is no 'ggml'; expected one of plain, ggml-avx2, "):
        aprgraph.audit(trace, path, arithmetic="ggml")
    manifest = tmp_path / "ours" / "trace.json"
    manifest.write_text(manifest.read_text().replace('"tokens":', '"engine_arithmetic": "mine", "tokens":', 1))
    with pytest.raises(
        ComparisonError, match=r"ours: its manifest names the engine_arithmetic 'mine': arithmetic 'mine': there is no 'mine'"
    ):
        aprgraph.audit(tmp_path / "ours", path)
    message = fails("audit", tmp_path / "ours", "--model", path, "--arithmetic", "plain", "--explain-arithmetic")
    assert message == "--arithmetic and --explain-arithmetic exclude each other; give one of them"


def test_the_command_line_finds_it(tmp_path: Path) -> None:
    run = RUNS[-1]
    model = write_model(run, tmp_path / "tiny.gguf")
    llama_cpp_trace(run, tmp_path / "theirs")
    printed = run_cli("audit", tmp_path / "theirs", "--model", model, "--explain-arithmetic").out
    assert f"theirs is held to the arithmetic {run.arithmetic} (llama.cpp on x86-64 with AVX2 and FMA), which explains " in printed


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_a_nibble_of_the_weights_is_found_and_can_be_computed_alone(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """One weight of 4096 was another for the run; what the sums of blocks multiply is a part of its tensor, and not named apart."""
    path = tiny_model(format="Q4_1", hidden=64, ffn=64, vocabulary=288)
    tensor, raw = "blk.1.ffn_down.weight", bytearray(path.read_bytes())
    file = GGUFFile(path)
    begin = bytes(raw).index(np.ascontiguousarray(file.tensor_bytes(file.tensors[tensor])).tobytes())
    raw[begin + 4] ^= 1
    (tmp_path / "other.gguf").write_bytes(raw)
    compiled = aprgraph.load(tmp_path / "other.gguf").compile("reference", tmp_path / "other.aprg")
    compiled.run("all", "0..2", tokens=[5, 9, 17, 3], directory=tmp_path / "theirs", arithmetic="ggml-avx2")
    result = run_cli("audit", tmp_path / "theirs", "--model", path, "--repro", tmp_path / "guilty")
    assert result.out.startswith(f"theirs: not a run of {path.name} at 1 of ")
    assert f"NOTES  if theirs has the original checkpoint, the fault is in {path.name}: {tensor}\n" in result.out
    assert f"WHY    element (0, 0) of {tensor} is " in result.out
    weights = sorted(file.name for file in (tmp_path / "guilty").rglob("*.npy") if "minima" in file.name)
    assert weights == [f"{tensor}_minima.npy", f"{tensor}_minima.q4_1-blocks.npy"]
    assert np.load(next((tmp_path / "guilty").rglob(weights[0]))).shape == (64, 2)


def test_a_mistake_is_named_in_the_arithmetic_too(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """The rules of `rope_angles` are those of the angles that are multiplied up."""
    path = tiny_model(format="Q4_1", hidden=64, ffn=64, vocabulary=288)
    other = aprgraph.load(path, {"llama.rope.freq_base": 1e6}).compile("reference", tmp_path / "other.aprg")
    trace = other.run("all", "0..2", tokens=[5, 9, 17, 3, 8], directory=tmp_path / "theirs", arithmetic="ggml-avx2")
    sentence = aprgraph.audit(trace, path).sentence
    assert "theirs: wrong at q_post_rope of the layers 0 to 1" in sentence
    assert "if RoPE's base is 1e+06 in place of 10000" in sentence


@pytest.fixture
def k_quants(tiny_model: Callable[..., Path], tmp_path: Path) -> tuple[Path, Trace]:
    """A model of K-quants, and a run of it in an arithmetic that none of its numbers tells from another one."""
    path = tiny_model(format="Q4_K", layers=3, hidden=256, ffn=256, vocabulary=288)
    compiled = aprgraph.load(path).compile("reference", tmp_path / "m.aprg")
    run = compiled.run("all", "0..3", tokens=[5, 9, 17, 3, 8], directory=tmp_path / "run", arithmetic="ggml-avx2")
    return path, run


def audits_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arithmetic of each whole audit from here on."""
    seen: list[str] = []
    whole = Auditor.audit_unless

    def counted(self: Auditor, *arguments: Any) -> Any:
        seen.append(str(self.graph.attrs["arithmetic"]).partition(",")[0])
        return whole(self, *arguments)

    monkeypatch.setattr(Auditor, "audit_unless", counted)
    return seen


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_a_fault_that_no_arithmetic_explains_takes_one_audit(k_quants: tuple[Path, Trace], monkeypatch: pytest.MonkeyPatch) -> None:
    path, run = k_quants
    spoil(run, "ffn_up", 2, lambda values: values * np.where(np.arange(256) == 7, -1, 1))
    audits = audits_of(monkeypatch)
    found = aprgraph.audit(run, path, arithmetic="find")
    assert audits == ["ggml-avx2"]
    assert found.wrong[0].label == "layer 2 ffn_up"
    assert any("ggml-avx2-native" in note for note in found.notes)


@pytest.mark.contract("ARITHMETIC-AUDIT-1")
def test_what_another_arithmetic_explains_of_the_wrong_is_found(k_quants: tuple[Path, Trace]) -> None:
    """By replaying these alone: then it is audited whole."""
    path, run = k_quants
    spoil(run, "ffn_up", 2, lambda values: values * np.where(np.arange(256) == 7, -1, 1))
    spoiled, others = Place(0, 2, "ffn_up"), [Place(0, 2, "attn_out"), Place(0, 1, "ffn_gate")]
    for arithmetic, explained in (("ggml-avx2", True), ("plain", False)):
        auditor = Auditor(run, aprgraph.load(path).model, AuditOptions(profile="same-graph-f32", arithmetic=ChosenArithmetic(arithmetic)))
        assert not auditor.explains_some([spoiled])
        assert auditor.explains_some([spoiled, *others]) is explained
