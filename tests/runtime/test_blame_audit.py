"""One trace against the model: what was recorded, what of it can be replayed, and what the replay leaves unexplained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ComparisonError, TokenError, TraceError
from aprgraph.graph.families import FAMILIES, Family
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import Audit, LocalState, audit
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced, with_nan
from tests.support.compiled import compiled
from tests.support.graphs import ops_of
from tests.support.models import require_smollm2
from tests.support.traces import Tensor, noisy

Tiny = Callable[..., Path]


def wrong(found: Audit) -> list[str]:
    return [local.label for local in found.wrong]


def unknown(found: Audit) -> list[str]:
    return [local.label for local in found.locals if local.state is LocalState.UNKNOWN]


@pytest.mark.contract("BLAME-RIGHT-1")
@pytest.mark.each_choice(of=ops_of, least=2)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_trace_is_right_everywhere(family: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family=family, format="Q8_0")
    generation = {"max_tokens": 3, "steps": "0..3"} if FAMILIES[family].causal is Family.causal else {}
    trace = traced(tmp_path / "trace", model, **generation)
    found = audit(trace, load_model(model))
    assert (wrong(found), unknown(found), found.exit_code) == ([], [], 0)
    assert found.replayed == len(trace.entries) > (50 if generation else 25)
    assert found.sentence == f"{found.name}: right, the model explains all {found.replayed} tensors that could be replayed."
    assert all(local.error is not None and local.error < 1e-12 for local in found.locals)


@pytest.mark.contract("BLAME-LOCAL-1")
@pytest.mark.parametrize("stage", ["attn_norm", "qkv_matmul", "k_post_rope", "attn_softmax", "post_attn_residual", "ffn_swigl", "ffn_out"])
def test_a_wrong_tensor_is_named_and_what_is_computed_from_it_too(stage: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Only the recorded tensor is spoilt here, so whatever was computed from the right one is now off as well: the users, and no more."""
    model = tiny_model(qkv_bias=False)
    trace = traced(tmp_path / "trace", model)
    spoil(trace, stage, 1, lambda values: noisy(values, 1e-3))
    found = audit(trace, load_model(model))
    users = {
        "attn_norm": ["qkv_matmul"],
        "qkv_matmul": ["q_post_rope", "k_post_rope", "attention"],
        "k_post_rope": ["attn_scores"],
        "attn_softmax": ["attention"],
        "post_attn_residual": ["ffn_norm", "post_ffn_residual"],
        "ffn_swigl": ["ffn_out"],
        "ffn_out": ["post_ffn_residual"],
    }
    assert wrong(found) == [f"layer 1 {name}" for name in [stage, *users[stage]]]
    assert found.exit_code == 1
    assert found.sentence.startswith(f"{found.name}: wrong at layer 1 {stage} (local error ")


def test_sources_region_and_weights_of_a_stage(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    found = audit(traced(tmp_path / "trace", model, taps="attn_norm,q_post_rope,post_ffn_residual"), load_model(model))
    rope = found.by_key[0, 1, "q_post_rope"]
    assert rope.sources == ((0, 1, "attn_norm"),)
    assert rope.region == ("rope_angles", "layer1.qkv_matmul", "layer1.q_post_rope")
    assert rope.weights == ("blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_v.weight")
    first = found.by_key[0, 0, "attn_norm"]
    assert (first.sources, first.region) == ((), ("layer0.embedding", "layer0.attn_norm"))
    assert found.by_key[0, 1, "post_ffn_residual"].sources == ((0, 0, "post_ffn_residual"), (0, 1, "attn_norm"), (0, 1, "q_post_rope"))


@pytest.mark.contract("BLAME-SPARSE-1")
@pytest.mark.parametrize("layers", ["2..3", "0..3"])
def test_few_taps_are_replayed_from_the_nearest_ones(layers: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Even from the tokens, through layers that were not recorded at all."""
    model = tiny_model(family="qwen3moe", layers=3)
    trace = traced(tmp_path / "trace", model, taps="attn_out,lm_head", layers=layers)
    assert wrong(audit(trace, load_model(model))) == []
    spoil(trace, "attn_out", 2, lambda values: noisy(values, 1e-3))
    found = audit(trace, load_model(model))
    assert wrong(found) == ["layer 2 attn_out", "lm_head"]
    assert found.by_key[0, None, "lm_head"].sources[-1] == (0, 2, "attn_out")


@pytest.mark.contract("BLAME-BARE-1")
def test_a_directory_without_a_manifest(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="gemma3", layers=3)
    trace = traced(tmp_path / "trace", model, layers="0..3")
    spoil(trace, "ffn_gate", 1, lambda values: noisy(values, 1e-3))
    directory = bare(trace)
    found = audit(Trace.open(directory), load_model(model))
    assert wrong(found) == ["layer 1 ffn_gate", "layer 1 ffn_silu"]
    assert unknown(found) == ["layer 0 embedding"]
    assert found.notes == (f"the tokens of {directory} are not known, so its embedding is not checked; give them with tokens=",)
    found = audit(Trace.open(directory), load_model(model), tokens=TOKENS)
    assert (wrong(found), unknown(found), found.notes) == (["layer 1 ffn_gate", "layer 1 ffn_silu"], [], ())
    other = audit(Trace.open(directory), load_model(model), tokens=(3, 1, 4, 1, 5, 9, 3))
    assert wrong(other)[0] == "layer 0 embedding"


def test_tensors_of_the_last_position_alone(tiny_model: Tiny, tmp_path: Path) -> None:
    """As `apr` writes some of a mixture of experts: they are checked, and what is computed from them starts further back."""
    model = tiny_model(family="qwen3moe")
    directory = bare(traced(tmp_path / "trace", model))
    for stage in ("moe_router", "moe_ffn_out"):
        _last_position_alone(directory / "layer-1" / f"{stage}.bin")
    found = audit(Trace.open(directory), load_model(model), tokens=TOKENS)
    assert (wrong(found), unknown(found)) == ([], [])
    assert (
        f"{directory} holds one position only of layer 1 moe_router, layer 1 moe_ffn_out, which is taken for the last: the others are not checked"
        in found.notes
    )
    assert (0, 1, "moe_router") not in found.by_key[0, 1, "post_ffn_residual"].sources
    values = np.frombuffer((directory / "layer-1/moe_ffn_out.bin").read_bytes()[12:], "<f4")
    write_aprt(directory / "layer-1/moe_ffn_out.bin", 1, noisy(values, 1e-3))
    assert wrong(audit(Trace.open(directory), load_model(model), tokens=TOKENS)) == ["layer 1 moe_ffn_out"]


def _last_position_alone(path: Path) -> None:
    values = np.frombuffer(path.read_bytes()[12:], "<f4").reshape(len(TOKENS), -1)
    write_aprt(path, 1, np.ascontiguousarray(values[-1]))


def test_logits_of_all_positions(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("final_norm,lm_head", tokens=TOKENS, directory=tmp_path / "trace", positions="all")
    assert wrong(audit(trace, load_model(model))) == []
    spoil(trace, "lm_head", None, lambda values: np.roll(values, 1, axis=0))
    assert wrong(audit(trace, load_model(model))) == ["lm_head"]


@pytest.mark.contract("BLAME-STEPS-1")
def test_steps_are_replayed_with_the_keys_and_values_that_earlier_ones_recorded(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="qwen2")
    trace = traced(tmp_path / "trace", model, max_tokens=3, steps="0..3")
    # A stale key: the cache that step 2 reads has another row of step 1 than step 1 recorded.
    spoil(trace, "k_post_rope", 1, lambda values: np.roll(values, 1, axis=-1), step=1)
    found = audit(trace, load_model(model))
    assert wrong(found) == ["step 1 layer 1 k_post_rope", "step 1 layer 1 attn_scores", "step 2 layer 1 attn_scores"]


def test_steps_whose_prompt_was_not_recorded(tiny_model: Tiny, tmp_path: Path) -> None:
    """What it left in the caches is computed from the tokens; without these nothing is known."""
    model = tiny_model(family="gemma3")
    trace = traced(tmp_path / "trace", model, max_tokens=3, steps="2..3", taps="attention,lm_head")
    found = audit(trace, load_model(model))
    assert (wrong(found), unknown(found)) == ([], [])
    directory = bare(trace)
    found = audit(Trace.open(directory), load_model(model))
    assert (found.exit_code, found.replayed) == (3, 0)
    assert "not known" in found.sentence


@pytest.mark.contract("BLAME-NAN-1")
def test_nan_and_inf(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)
    spoil(trace, "ffn_up", 1, with_nan)
    found = audit(trace, load_model(model))
    assert wrong(found) == ["layer 1 ffn_up"]
    assert found.wrong[0].reason == "it holds 1 NaN, the replay none, first at position 2, column 3"
    # What is computed from the NaN is not blamed for being right: nor is it called right.
    assert unknown(found) == ["layer 1 ffn_swigl"]


def test_a_nan_that_goes_on_is_explained(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)
    spoil(trace, "ffn_up", 1, with_nan)
    spoil(trace, "ffn_swigl", 1, with_nan)
    assert wrong(audit(trace, load_model(model))) == ["layer 1 ffn_up"]


def test_a_tie_that_is_broken_differently(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="qwen3moe", experts=4, experts_used=2)
    trace = traced(tmp_path / "trace", model, taps="moe_router_logits,moe_router_indices")
    logits = np.zeros((len(TOKENS), 4), np.float32)
    spoil(trace, "moe_router_logits", 0, lambda _: logits)
    spoil(trace, "moe_router_indices", 0, lambda _: np.tile(np.float32([0, 1]), (len(TOKENS), 1)))
    found = audit(trace, load_model(model))
    assert found.by_key[0, 0, "moe_router_indices"].state is LocalState.RIGHT
    spoil(trace, "moe_router_indices", 0, lambda _: np.tile(np.float32([0, 2]), (len(TOKENS), 1)))
    local = audit(trace, load_model(model)).by_key[0, 0, "moe_router_indices"]
    assert local.state is LocalState.WRONG
    assert local.reason is not None
    assert local.reason.endswith("where the scores tie: of equal scores the lower id comes first")


@pytest.mark.contract("BLAME-ROUNDING-1")
@pytest.mark.parametrize("taps", ["moe_ffn_out", "moe_router_indices,moe_ffn_out", "moe_router_logits,moe_router_indices,moe_ffn_out"])
def test_a_choice_that_rounding_may_have_changed(taps: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """Experts 0 and 1 have router rows that differ in the last bit. An engine that takes the other one of the two is not wrong where
    nothing shows which it took, nor for taking it; where its own scores say otherwise, it is.
    """
    model, other = tmp_path / "model.gguf", tmp_path / "other.gguf"
    for path, shift in ((model, 0), (other, 1)):
        path.write_bytes(tiny_model(family="qwen3moe", experts=2, experts_used=1, format="F32").read_bytes())
        for layer in range(2):
            router = _writable(path, f"blk.{layer}.ffn_gate_inp.weight")
            router[1 - shift] = router[shift] * np.float32(1 - 2e-7)
    theirs = traced(tmp_path / "theirs", other, taps=taps, layers="0..1")
    mine = traced(tmp_path / "mine", model, taps="moe_router_indices", layers="0..1")
    found = audit(theirs, load_model(model))
    local = found.by_key[0, 0, "moe_ffn_out"]
    if taps == "moe_ffn_out":
        assert local.state is LocalState.UNKNOWN
        assert local.reason is not None
        assert "nearly tie" in local.reason
        assert local.reason.endswith("which experts were chosen was not recorded; tap moe_router_indices")
        return
    assert local.state is LocalState.RIGHT
    ids = found.by_key[0, 0, "moe_router_indices"]
    assert not np.array_equal(theirs.tensor("moe_router_indices", 0), mine.tensor("moe_router_indices", 0))
    if "logits" in taps:
        assert ids.state is LocalState.RIGHT
        spoil(theirs, "moe_router_indices", 0, lambda values: 1 - values)
        assert audit(theirs, load_model(model)).by_key[0, 0, "moe_router_indices"].state is LocalState.WRONG
    else:
        assert (ids.state, ids.reason) == (LocalState.RIGHT, "another choice where the scores nearly tie")


def _writable(path: Path, name: str) -> Tensor:
    """A tensor of a model file, F32, to be changed in place."""
    info = load_model(path).tensor(name)
    return np.memmap(path, np.float32, "r+", offset=info.offset, shape=info.dims)


@pytest.mark.contract("BLAME-ROUNDING-1")
def test_where_large_terms_cancel_rounding_is_no_fault(tiny_model: Tiny, tmp_path: Path) -> None:
    """A down projection whose inputs cancel to a millionth of themselves: float32 cannot do better, and 1 % off still is a fault."""
    model = tiny_model(format="F32")
    trace = traced(tmp_path / "trace", model, taps="ffn_swigl,ffn_out")
    weights = _matrix(model, "blk.0.ffn_down.weight")
    _, _, basis = np.linalg.svd(weights.astype(np.float64))
    inputs = (100.0 * basis[len(weights) :][: len(TOKENS)]).astype(np.float32)  # in the null space, but for their rounding
    spoil(trace, "ffn_swigl", 0, lambda _: inputs)
    exact = inputs.astype(np.float64) @ weights.astype(np.float64).T
    in_float32 = np.zeros(exact.shape, np.float32)
    for column in range(inputs.shape[1]):
        in_float32 += inputs[:, column : column + 1] * weights[None, :, column]
    spoil(trace, "ffn_out", 0, lambda _: in_float32)
    local = audit(trace, load_model(model)).by_key[0, 0, "ffn_out"]
    assert local.error is not None
    assert local.error > 1e-6
    assert local.state is LocalState.RIGHT
    assert local.reason is not None
    assert local.reason.startswith("large terms cancel here")
    spoil(trace, "ffn_out", 0, lambda values: values + np.float32(0.01))
    assert audit(trace, load_model(model)).by_key[0, 0, "ffn_out"].state is LocalState.WRONG


@pytest.mark.contract("BLAME-ROUNDING-1")
def test_what_layers_round_that_were_not_recorded_is_no_fault(tmp_path: Path) -> None:
    """29 layers of SmolLM2 on tokens that no text has: rounding alone leaves 4e-11 to 4e-10, by the vectors of the processor, beyond a
    limit of 1e-11. The zoo's faults with few taps stay faults.
    """
    model = compiled(require_smollm2())
    trace = model.run("post_ffn_residual,final_norm", "0..1", tokens=(1, 2, 3, 4, 5, 6, 7), directory=tmp_path / "trace")
    found = audit(trace, model.model, tolerances=["final_norm=nmse:1e-11"])
    local = found.by_key[0, None, "final_norm"]
    assert (wrong(found), local.state) == ([], LocalState.RIGHT)
    assert local.error is not None
    assert local.error > 1e-11
    assert local.reason is not None
    assert "each stage on the way" in local.reason


def test_ids_are_not_rounded(tiny_model: Tiny, tmp_path: Path) -> None:
    """Where rounding is tried as an explanation, an expert's id stays that expert's: another one would explain anything."""
    model = tiny_model(family="qwen3moe")
    trace = traced(tmp_path / "trace", model)
    spoil(trace, "moe_router", 1, lambda values: np.roll(values, 1, axis=-1))
    assert wrong(audit(trace, load_model(model))) == ["layer 1 moe_router", "layer 1 moe_ffn_out"]


def _matrix(path: Path, name: str) -> Tensor:
    model = load_model(path)
    info = model.tensor(name)
    return np.asarray(model.file.tensor_bytes(info)).view(np.float32).reshape(info.dims)


def test_notes_on_another_model_and_on_stages_that_it_lacks(tiny_model: Tiny, tmp_path: Path) -> None:
    model, other = tiny_model(qkv_bias=True), tiny_model(qkv_bias=True, seed=1)
    trace = traced(tmp_path / "trace", model)
    found = audit(trace, load_model(other))
    assert found.exit_code == 1
    why = "the 12 tensors that a weight matrix of"
    assert found.sentence.startswith(
        f"trace: a trace of another model: its manifest names {model.name}, not {other.name}; {why} {other.name}"
    )
    assert (found.notes, found.suspect) == ((), None)
    found = audit(trace, load_model(tiny_model(qkv_bias=False)))
    assert found.notes[-1] == f"{trace.directory} holds what the model has not: layer 0 qkv_bias, layer 1 qkv_bias"


def test_errors(tiny_model: Tiny, tmp_path: Path) -> None:
    model = load_model(tiny_model())
    trace = traced(tmp_path / "trace", tiny_model())
    with pytest.raises(ComparisonError, match="names other tokens"):
        audit(trace, model, tokens=(1, 2))
    with pytest.raises(ComparisonError, match="unknown tolerance profile 'loose'"):
        audit(trace, model, profile="loose")
    assert trace.info is not None
    strange = Trace(trace.directory, trace.entries, replace(trace.info, tokens=(99999, 1)))
    with pytest.raises(TokenError, match="99999"):
        audit(strange, model)
    long = Trace(trace.directory, trace.entries, replace(trace.info, tokens=(1,) * 70))
    with pytest.raises((ComparisonError, TokenError), match="70"):
        audit(long, model)
    (trace.directory / "layer-0/ffn_out.bin").write_bytes(b"APRT")
    with pytest.raises(TraceError, match=r"ffn_out\.bin"):
        audit(trace, model)


def test_tensors_of_another_number_of_positions(tiny_model: Tiny, tmp_path: Path) -> None:
    model = load_model(tiny_model())
    directory = bare(traced(tmp_path / "trace", tiny_model()))
    with pytest.raises(ComparisonError, match="its tensors are of 7 positions, but the prompt has 3 tokens"):
        audit(Trace.open(directory), model, tokens=(1, 2, 3))
    values = np.frombuffer((directory / "layer-1/ffn_out.bin").read_bytes()[12:], "<f4")
    write_aprt(directory / "layer-1/ffn_out.bin", 1, np.ascontiguousarray(values[:-64]))
    local = audit(Trace.open(directory), model).by_key[0, 1, "ffn_out"]
    assert (local.state, local.reason) == (LocalState.SHAPE, "it has 384 elements, but for 7 positions the model has 7 x 64")


def test_one_position_and_the_last_position_are_told_apart(tiny_model: Tiny, tmp_path: Path) -> None:
    """A tensor of one row may be the last of many: only attention scores of one by one say that there was one position."""
    model = tiny_model()
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    compiled.run("all", "0..2", tokens=[5], directory=tmp_path / "trace")
    directory = bare(Trace.open(tmp_path / "trace"))
    assert audit(Trace.open(directory), load_model(model)).replayed > 20
    for layer in (0, 1):
        for stage in ("attn_scores", "attn_softmax"):
            (directory / f"layer-{layer}" / f"{stage}.bin").unlink()
    found = audit(Trace.open(directory), load_model(model))
    assert found.by_key[0, 1, "q_post_rope"].reason == "how many positions it has is not known; give the tokens with tokens="
    assert audit(Trace.open(directory), load_model(model), tokens=[5]).exit_code == 0


@pytest.mark.contract("BLAME-UNREAD-1")
def test_right_is_no_plain_word_where_files_were_not_read(tiny_model: Tiny, tmp_path: Path) -> None:
    model = load_model(tiny_model())
    directory = bare(traced(tmp_path / "trace", tiny_model()))
    (directory / "layer-1/ffn_swigl.bin").rename(directory / "layer-1/ffn_swiglu.bin")
    found = audit(Trace.open(directory), model, tokens=TOKENS)
    assert (found.exit_code, found.wrong) == (0, ())
    assert found.sentence.startswith("trace: right as far as was read, the model explains ")
    assert "1 file of trace was not read: layer-1/ffn_swiglu.bin: " in found.sentence
    assert "layer-1/ffn_swigl.bin?" in found.sentence
    (directory / "layer-0").rename(directory / "layer_0")
    for path in (directory / "layer-1").glob("attn_*.bin"):
        path.rename(path.with_name(f"my_{path.name}"))
    found = audit(Trace.open(directory), model, tokens=TOKENS)
    assert found.exit_code == 3
    assert found.sentence.startswith("trace: right as far as was read, which is too little to go by, ")


@pytest.mark.contract("BLAME-UNREAD-1")
def test_one_token_shows_little(tiny_model: Tiny, tmp_path: Path) -> None:
    compiled = aprgraph.load(tiny_model()).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("all", "0..2", tokens=[5], directory=tmp_path / "trace")
    found = audit(trace, load_model(tiny_model()))
    assert (found.exit_code, found.wrong) == (0, ())
    assert found.sentence.startswith("trace: right as far as one token can show, ")
    assert "use one of six tokens or more" in found.sentence


@pytest.mark.contract("BLAME-UNREAD-1")
def test_the_last_position_of_everything_is_not_plainly_right(tiny_model: Tiny, tmp_path: Path) -> None:
    trace = traced(tmp_path / "trace", tiny_model(), taps="attn_norm,ffn_norm,attn_out,ffn_out,post_ffn_residual")
    tensors = {(entry.layer, entry.stage): np.array(trace.load(entry))[-1:] for entry in trace.entries}
    found = audit(Trace.write(tmp_path / "theirs", tensors, tokens=TOKENS), load_model(tiny_model()))
    assert (found.exit_code, found.wrong) == (0, ())
    assert found.sentence.startswith("theirs: right as far as the last position shows, the model explains all 10 tensors")
    assert "Of 10 of 10 tensors one position alone was recorded." in found.sentence


@pytest.mark.contract("BLAME-UNREAD-1")
@pytest.mark.parametrize("position", [0, 2, 4, 6])
def test_one_position_is_the_last_unless_the_values_are_another_s(tiny_model: Tiny, tmp_path: Path, position: int) -> None:
    """Recorded at another position nothing is wrong, and which one it is, is said; a fault beside that is still found."""
    trace = traced(tmp_path / "trace", tiny_model(), taps="embedding,attn_norm,ffn_norm,attn_out,ffn_out,post_ffn_residual")
    tensors = {(entry.layer, entry.stage): np.array(trace.load(entry))[position : position + 1] for entry in trace.entries}
    found = audit(Trace.write(tmp_path / "theirs", tensors, tokens=TOKENS), load_model(tiny_model()))
    assert (found.exit_code, wrong(found)) == (0, [])
    which = "which is taken for the last" if position == 6 else f"which by the values is position {position}, not the last"
    assert f"{tmp_path}/theirs holds one position only of layer 0 embedding" in "".join(found.notes)
    assert f"{which}: the others are not checked" in "".join(found.notes)
    readings = {one.reading for one in found.locals if one.reading is not None}
    assert readings == (set() if position == 6 else {f"at position {position}, not at the last"})
    tensors[1, "ffn_norm"] = tensors[1, "ffn_norm"] * 1.5
    found = audit(Trace.write(tmp_path / "theirs", tensors, tokens=TOKENS), load_model(tiny_model()))
    assert wrong(found) == ["layer 1 ffn_norm"]


def test_a_row_that_stands_in_place_of_the_last_is_wrong(tiny_model: Tiny, tmp_path: Path) -> None:
    """One tensor at another position than those beside it."""
    trace = traced(tmp_path / "trace", tiny_model(), taps="embedding,attn_norm,ffn_norm,attn_out,ffn_out,post_ffn_residual")
    tensors = {(entry.layer, entry.stage): np.array(trace.load(entry))[-1:] for entry in trace.entries}
    tensors[1, "ffn_norm"] = np.array(trace["layer1.ffn_norm"])[2:3]
    found = audit(Trace.write(tmp_path / "theirs", tensors, tokens=TOKENS), load_model(tiny_model()))
    assert wrong(found) == ["layer 1 ffn_norm"]
