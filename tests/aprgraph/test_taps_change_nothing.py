"""Decision 1: plans, threads, repetition and neighbouring positions change no bit of any number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprgraph.api import CompiledModel
from aprgraph.runtime.trace.aprt import F32
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import files_under, run_python
from tests.support.compiled import LAYERS, compiled
from tests.support.models import require_smollm2

#: 19 positions: more than one tile of any kernel, and a multiple of none.
TOKENS = [5, 200, 17, 17, 0, 287, 3, 99, 150, 42, 7, 8, 9, 250, 251, 1, 60, 61, 33]
STAGES = (
    "embedding", "attn_norm", "qkv_matmul", "qkv_bias", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention",
    "attn_out", "post_attn_residual", "ffn_norm", "ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out", "post_ffn_residual",
    "final_norm", "lm_head",
)  # fmt: skip


@pytest.fixture(scope="module")
def everything(tiny: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Every stage of every layer, every position's logits."""
    return tiny.run("all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path_factory.mktemp("all") / "t", positions="all")


def bits(values: F32) -> bytes:
    """NaN and the sign of zero count too."""
    return np.ascontiguousarray(values).tobytes()


def assert_same_bits(part: Trace, whole: Trace) -> None:
    """Every tensor of ``part`` has the bits that ``whole`` has of it; of all positions' logits, those of the last."""
    assert len(part) > 0
    for entry in part.entries:
        expected = whole.tensor(entry.stage, entry.layer)
        if entry.stage == "lm_head" and len(entry.shape) == 1:
            expected = expected[-1]
        assert entry.shape == expected.shape, entry.label
        assert bits(part.load(entry)) == bits(expected), entry.label


def test_all_stages_are_there(everything: Trace) -> None:
    assert {entry.stage for entry in everything.entries} == set(STAGES)
    assert len(everything) == LAYERS * (len(STAGES) - 3) + 3


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_alone(tiny: CompiledModel, everything: Trace, tmp_path: Path, stage: str) -> None:
    """Where nothing else is tapped, buffers are free for reuse much earlier, and much is pruned."""
    layers = "0..1" if stage == "embedding" else f"0..{LAYERS}"
    part = tiny.run(stage, layers, tokens=TOKENS, directory=tmp_path / "t")
    assert {entry.stage for entry in part.entries} == {stage}
    assert_same_bits(part, everything)


@pytest.mark.parametrize("layers", ["0..1", "1..2", "2..3", "0..2", "1..3"])
@pytest.mark.parametrize("taps", ["all", "attn_scores,attn_out", "attn_softmax,ffn_silu,lm_head"])
def test_layer_ranges(tiny: CompiledModel, everything: Trace, tmp_path: Path, taps: str, layers: str) -> None:
    assert_same_bits(tiny.run(taps, layers, tokens=TOKENS, directory=tmp_path / "t"), everything)


def test_logits_without_taps(tiny: CompiledModel, everything: Trace) -> None:
    expected = everything.tensor("lm_head")
    assert bits(tiny.logits(TOKENS, positions="all")) == bits(expected)
    assert bits(tiny.logits(TOKENS)) == bits(expected[-1])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 18])
def test_a_position_alone_among_others(tiny: CompiledModel, everything: Trace, tmp_path: Path, count: int) -> None:
    """The first positions of a prompt have the same bits whatever follows them, and however many there are."""
    part = tiny.run("all", f"0..{LAYERS}", tokens=TOKENS[:count], directory=tmp_path / "t", positions="all")
    for entry in part.entries:
        whole = everything.tensor(entry.stage, entry.layer)
        head = whole[:, :count, :count] if entry.stage in ("attn_scores", "attn_softmax") else whole[:count]
        assert bits(part.load(entry)) == bits(head), entry.label


def test_masked_positions_are_zero(everything: Trace) -> None:
    above = np.triu_indices(len(TOKENS), k=1)
    for entry in everything.entries:
        if entry.stage in ("attn_scores", "attn_softmax"):
            assert not everything.load(entry)[:, above[0], above[1]].any(), entry.label


def test_two_runs_leave_the_same_bytes(tiny: CompiledModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tiny.run("all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path / name)
    first = files_under(tmp_path / "a")
    assert "trace.json" in first
    assert first == files_under(tmp_path / "b")


def test_what_ran_before_leaves_nothing_behind(tiny: CompiledModel, everything: Trace, tmp_path: Path) -> None:
    """The allocator hands out buffers that hold the values of runs of more, fewer and other tokens."""
    for other in ([287] * 40, [1], TOKENS[::-1]):
        tiny.run("all", f"0..{LAYERS}", tokens=other, directory=tmp_path / "other")
        assert_same_bits(tiny.run("all", f"0..{LAYERS}", tokens=TOKENS, directory=tmp_path / "t", positions="all"), everything)


_THREADS = """
import sys
from aprgraph import open_artifact
model = open_artifact(sys.argv[1], sys.argv[2])
for threads in (1, 2, 3):
    model.run("all", sys.argv[3], tokens=eval(sys.argv[4]), directory=f"threads-{threads}", threads=threads)
"""


def threads_agree(model: CompiledModel, layers: str, tokens: list[int], directory: Path) -> dict[str, bytes]:
    """Trace under 1, 2 and 3 threads; the processors of this machine must not decide how many there really are."""
    result = run_python(
        _THREADS, model.artifact.directory, model.model.path, layers, tokens, cwd=directory, env={"TVM_NUM_THREADS": "3"}
    )  # fmt: skip
    assert result.code == 0, result.err
    one, two, three = (files_under(directory / f"threads-{count}") for count in (1, 2, 3))
    assert one == two == three
    return one


def test_threads(tiny: CompiledModel, everything: Trace, tmp_path: Path) -> None:
    """Another process, too: its bits are those of this one."""
    files = threads_agree(tiny, f"0..{LAYERS}", TOKENS, tmp_path)
    assert files["layer-2/ffn_out.bin"] == files_under(everything.directory)["layer-2/ffn_out.bin"]
    assert len(files) == len(everything) + 1


def test_threads_on_smollm2(tmp_path: Path) -> None:
    """Matrices that are large enough to be shared out."""
    model = compiled(require_smollm2())
    threads_agree(model, "0..2", [*range(100, 1100, 53)], tmp_path)
