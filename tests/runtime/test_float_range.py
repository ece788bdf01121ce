"""Values that run out of the format of a run accuse nobody; NaN and Inf from elsewhere are found, with their places."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.comparison import diff
from aprgraph.graph.errors import NonFiniteError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.model import load_model
from aprgraph.graph.outline import small_outline
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.blame import LocalState, audit
from aprgraph.runtime.trace.reader import Trace
from tests.plugin_sweep import each_choice
from tests.support.blame import TOKENS, bare, rerecord, spoil, traced
from tests.support.compiled import use_cache
from tests.support.graphs import ops_of
from tests.support.planted_kernels import kinds
from tests.support.tiny_families import tiny_family

Tiny = Callable[..., Path]
#: What is planted in weights: of these one is finite, and what is computed from it overflows float32.
_VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "3e38": 3e38}


def _cases() -> list[tuple[str, str, str]]:
    """A family, a weight of its small model and a value: every value in each kind of weight, and in each family."""
    every = [
        (family, name, value)
        for family in FAMILIES
        for name in {_kind(name): name for name in _weights(family)}.values()  # the last layer's
        for value in _VALUES
    ]
    chosen = each_choice([((_kind(name), value), (family, value)) for family, name, value in every])
    return [every[index] for index in sorted(chosen)]


def _weights(family: str) -> list[str]:
    """Of a small model's file."""
    names = list(small_outline(FAMILIES[family]).weights)
    if "k_b.weight" not in tiny_family(family).optional:
        return names
    return [one for name in names for one in ([name.replace("kv_b", part) for part in ("k_b", "v_b")] if "attn_kv_b" in name else [name])]


def _kind(name: str) -> str:
    return name.split(".", 2)[-1] if name.startswith("blk.") else name


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_cache(monkeypatch, tmp_path / "cache")


def planted(model: Path, copy: Path, name: str, value: float) -> Path:
    """A copy of a model in F32 with ``value`` in the tensor ``name``: of the embedding, in a row that the prompt reads."""
    shutil.copyfile(model, copy)
    info = GGUFFile(copy).tensors[name]
    values = np.memmap(copy, np.float32, "r+", offset=info.offset, shape=(info.nbytes // 4,))
    values[(info.dims[-1] * TOKENS[2] if name == "token_embd.weight" else 0) + min(5, info.dims[-1] - 1)] = value
    values.flush()
    return copy


def run(model: Path, target: str, directory: Path) -> Trace:
    """What the target records of a model; of a router without a choice, what came before it."""
    compiled = aprgraph.load(model).compile(target, directory.with_suffix(".aprg"))
    try:
        return compiled.run("all", f"0..{compiled.model.family.layers}", tokens=TOKENS, directory=directory)
    except NonFiniteError:
        return Trace.open(directory)


@pytest.mark.contract("NONFINITE-TRACES-1")
@pytest.mark.each_choice(of=lambda family, name, value: {f"value {value}", *ops_of(family)})
@pytest.mark.parametrize(("family", "name", "value"), _cases())
def test_whatever_a_weight_holds_two_right_runs_are_alike_and_nobody_is_blamed(
    family: str, name: str, value: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    model = planted(tiny_model(family=family), tmp_path / "m.gguf", name, _VALUES[value])
    sides = [run(model, target, tmp_path / target) for target in ("llvm", "reference")]
    for side in sides:
        assert audit(side, load_model(model)).wrong == ()
    if np.isfinite(_VALUES[value]):
        return  # what overflows float32 is another number in each order of a sum
    found = diff(sides[0].directory, sides[1].directory)
    assert found.exit_code == 0, found.headline
    for entry in sides[0].entries:
        pair = sides[0].load(entry), sides[1].tensor(entry.stage, entry.layer, entry.step)
        assert np.array_equal(*map(kinds, pair)), entry.label


@pytest.mark.contract("NONFINITE-OVERFLOW-1")
def test_an_element_that_an_overflow_moved_by_little_accuses_nobody_either(tiny_model: Tiny, tmp_path: Path) -> None:
    """Where the squares of LayerNorm overflow, its bias is left, which may be near the exact value."""
    model = planted(tiny_model(family="starcoder2"), tmp_path / "m.gguf", "blk.1.attn_v.weight", 3e38)
    found = audit(run(model, "llvm", tmp_path / "t"), load_model(model))
    local = found.by_key[0, None, "final_norm"]
    assert (found.wrong, local.state, local.overflows) == ((), LocalState.UNKNOWN, "float32")


@pytest.mark.contract("NONFINITE-OVERFLOW-1")
def test_what_overflows_float32_is_said_and_accuses_neither_side(tiny_model: Tiny, tmp_path: Path) -> None:
    model = planted(tiny_model(), tmp_path / "m.gguf", "blk.1.ffn_down.weight", 3e38)
    ours, theirs = (run(model, target, tmp_path / target) for target in ("llvm", "reference"))
    found = audit(ours, load_model(model))
    local = found.by_key[0, None, "final_norm"]
    assert (found.wrong, local.state, local.overflows) == ((), LocalState.UNKNOWN, "float32")
    assert local.reason is not None
    assert local.reason.startswith("float32 overflows here: |x| up to ")
    assert local.reason.endswith(" of layer 1 post_ffn_residual")
    assert f"neither right nor wrong is final_norm ({local.reason})" in found.sentence
    report = diff(ours.directory, theirs.directory, model=load_model(model))
    assert report.blame is not None
    assert report.blame.wrong == ()
    assert "Neither side is blamed at final_norm: float32 overflows here" in report.headline


@pytest.mark.contract("NONFINITE-OVERFLOW-1")
def test_inf_in_what_both_sides_recorded_eliminates_nobody(tiny_model: Tiny, tmp_path: Path) -> None:
    """It stands for a number that float64 holds, and one side went on with that."""
    model = planted(tiny_model(), tmp_path / "m.gguf", "blk.1.attn_q.weight", 3e38)
    ours, theirs = (run(model, target, tmp_path / target) for target in ("llvm", "reference"))
    report = diff(ours.directory, theirs.directory, model=load_model(model))
    assert report.blame is not None
    assert report.blame.wrong == ()
    assert "Which side is wrong cannot be said: layer 1 q_post_rope" in report.headline


@pytest.mark.contract("NONFINITE-OVERFLOW-1")
def test_beside_what_overflows_a_fault_is_still_one(tiny_model: Tiny, tmp_path: Path) -> None:
    """The overflow is at one position of a norm, the fault at another."""
    model = planted(tiny_model(), tmp_path / "m.gguf", "token_embd.weight", 3e38)
    trace = run(model, "llvm", tmp_path / "t")
    assert audit(trace, load_model(model)).by_key[0, 0, "attn_norm"].overflows == "float32"

    def fault(values: np.ndarray) -> np.ndarray:
        values[4] *= 1.5
        return values

    spoil(trace, "attn_norm", 0, fault)
    assert audit(trace, load_model(model)).wrong[0].label == "layer 0 attn_norm"


@pytest.mark.contract("NONFINITE-OVERFLOW-1")
@pytest.mark.parametrize("stage", ["ffn_up", "ffn_swigl"])
def test_a_run_in_float16_ends_at_65504(stage: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = planted(tiny_model(), tmp_path / "m.gguf", "blk.1.ffn_up.weight", 2e5)
    trace = traced(tmp_path / "t", model)
    for entry in trace.entries:
        values = np.array(trace.load(entry))
        with np.errstate(over="ignore"):
            rerecord(trace, entry, values.astype(np.float16).astype(np.float32))
    directory = bare(trace)
    found = audit(Trace.open(directory), load_model(model), tokens=TOKENS)
    assert found.profile == "same-graph-f16"
    first = next(local for local in found.locals if local.state is LocalState.UNKNOWN)
    assert (found.wrong, first.label, first.overflows) == ((), "layer 1 ffn_up", "float16")
    # A float32 run that holds Inf there is wrong: nothing that large is beyond its numbers.
    trace = traced(tmp_path / "other", model)
    spoil(trace, stage, 1, lambda values: np.where(np.abs(values) > 60000, np.inf, values))
    assert audit(trace, load_model(model)).wrong[0].label == f"layer 1 {stage}"


@pytest.mark.contract("NONFINITE-PLACE-1")
def test_the_first_nan_is_told_with_its_place_and_the_weight_that_it_came_from(tiny_model: Tiny, tmp_path: Path) -> None:
    model = planted(tiny_model(), tmp_path / "m.gguf", "blk.1.attn_v.weight", np.nan)
    sides = [run(model, target, tmp_path / target) for target in ("llvm", "reference")]
    found = audit(sides[0], load_model(model))
    assert found.broken is not None
    assert "blk.1.attn_v.weight holds 1 NaN element (row 0, column 5)" in found.broken
    assert found.broken.endswith("so that layer 1 qkv_matmul is NaN or Inf, first at position 0, column 96")
    report = diff(sides[0].directory, sides[1].directory)
    assert "both sides hold NaN or Inf, first in layer 1 qkv_matmul at position 0, column 96" in report.notes

    def one(values: np.ndarray) -> np.ndarray:
        values[1, 2, 0] = np.nan
        return values

    sound = traced(tmp_path / "sound", tiny_model())
    spoil(sound, "attn_scores", 1, one)
    (local,) = audit(sound, load_model(tiny_model())).wrong
    assert local.reason == "it holds 1 NaN, the replay none, first at head 1, position 2, key 0"


@pytest.mark.contract("NONFINITE-TRACES-1")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_cache_that_holds_nan_is_replayed_as_it_is(value: float, tiny_model: Tiny, tmp_path: Path) -> None:
    """A key of the prompt that is NaN: what a later step computes from it is not called wrong, nor is the step before."""
    trace = traced(tmp_path / "t", tiny_model(), max_tokens=3, steps="0..3")

    def change(values: np.ndarray) -> np.ndarray:
        values[1, 3] = value
        return values

    spoil(trace, "k_post_rope", 1, change)
    found = audit(trace, load_model(tiny_model()))
    assert [local.label for local in found.wrong] == ["layer 1 k_post_rope"]
    step = found.by_key[1, 1, "attn_scores"]
    assert step.state is LocalState.UNKNOWN
    assert step.reason is not None
    assert "holds NaN or Inf" in step.reason
