"""Tensors that were recorded otherwise than the stage table says: recognised, and told from tensors that were computed otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import Audit, LocalState, Verdict, audit
from aprgraph.runtime.blame.repro import write_repro
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.readings import Layout, find_reading, is_far
from aprgraph.runtime.readings.precision import format_of
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced
from tests.support.traces import Tensor, noisy

Tiny = Callable[..., Path]
#: Of the tiny models: query heads, KV heads, elements of a head.
H, K, D = 4, 2, 16
N = len(TOKENS)
ABOVE = np.triu(np.ones((N, N), bool), 1)


def filled(value: float) -> Callable[[Tensor], Tensor]:
    return lambda scores: np.where(ABOVE, np.float32(value), scores)


def heads_first(values: Tensor) -> Tensor:
    return values.reshape(N, -1, D).transpose(1, 0, 2).reshape(values.shape)


def transposed(values: Tensor) -> Tensor:
    return values.T.reshape(values.shape)


def as_halves(values: Tensor) -> Tensor:
    """Rows of q or k as the checkpoint has them, of a file whose pairs are neighbours."""
    return values.reshape(N, -1, D // 2, 2).swapaxes(2, 3).reshape(values.shape)


def grouped(values: Tensor) -> Tensor:
    q, k, v = (part.reshape(N, K, -1, D) for part in np.split(values, [H * D, (H + K) * D], axis=1))
    return np.concatenate([q, k, v], axis=2).reshape(values.shape)


RECORDED = {
    "before the scale": ("llama", {"attn_scores": lambda scores: scores * np.float32(4)}, "4 times as large, as before its scale"),
    "-inf where masked": ("llama", {"attn_scores": filled(-math.inf)}, "-inf at masked places"),
    "finfo.min where masked": ("qwen2", {"attn_scores": filled(float(np.finfo(np.float32).min))}, "-3.403e+38 at masked places"),
    "bfloat16's least": (
        "llama",
        {"attn_scores": filled(float(ml_dtypes.finfo(ml_dtypes.bfloat16).min))},
        "-3.39e+38 at masked places",
    ),
    "-1e9 where masked": ("llama", {"attn_scores": filled(-1e9)}, "-1e+09 at masked places"),
    "NaN where masked": ("llama", {"attn_scores": filled(math.nan)}, "NaN at masked places"),
    "NaN where weights are masked": ("llama", {"attn_softmax": filled(math.nan)}, "NaN at masked places"),
    "raw products": (
        "llama",
        {"attn_scores": lambda scores: np.where(ABOVE, -math.inf, scores * np.float32(4))},
        "-inf at masked places, 4 times as large, as before its scale",
    ),
    "positions first": ("llama", {"attn_scores": lambda scores: scores.transpose(1, 0, 2).reshape(scores.shape)}, "as [n, H, t]"),
    "heads first": (
        "llama",
        dict.fromkeys(("q_post_rope", "k_post_rope", "attention"), heads_first),
        "heads first, as [H, n, D]",
    ),
    "transposed": ("llama", {"ffn_out": transposed, "ffn_gate": transposed}, "transposed"),
    "the checkpoint's rows": (
        "llama",
        dict.fromkeys(("q_post_rope", "k_post_rope"), as_halves),
        "with RoPE's pairs as halves (i, i + D/2), where the file has neighbours (2i, 2i + 1)",
    ),
    "groups of heads": ("llama", {"qkv_matmul": grouped}, "as [n, K, 2 q + k + v, D], KV group after KV group"),
    "half the residual": ("llama", {"post_attn_residual": lambda values: values / 2}, "0.5 times as large"),
}


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("case", RECORDED)
def test_a_recording_of_another_form_is_no_fault(case: str, tiny_model: Tiny, tmp_path: Path) -> None:
    family, forms, words = RECORDED[case]
    model = tiny_model(family=family, head_size=D)
    trace = traced(tmp_path / "trace", model)
    for stage, form in forms.items():
        for layer in (0, 1):
            spoil(trace, stage, layer, form)
    found = audit(trace, load_model(model))
    assert ([local.label for local in found.wrong], found.exit_code, found.replayed) == ([], 0, len(trace.entries))
    read = {local.key[1:]: local.reading for local in found.locals if local.reading is not None}
    expected = dict.fromkeys([(layer, stage) for layer in (0, 1) for stage in forms], words)
    assert {key: str(text).replace("[K, n, D]", "[H, n, D]") for key, text in read.items()} == expected
    assert ": this looks like the recording, not the computation; read so, it follows from its inputs" in found.sentence
    explained = {local.key[1:]: local.explanation for local in found.locals if local.explanation is not None}
    assert explained.keys() == read.keys()
    for key, one in explained.items():
        assert one.to_json()["kind"] == "convention"
        assert one.first.words == f"it was recorded {read[key]}"
    assert found.sentence.startswith("trace: right, by how it was recorded, ")


@pytest.mark.contract("BLAME-RECORDING-2")
def test_scores_that_the_softmax_takes_as_they_stand_were_computed_so(tiny_model: Tiny, tmp_path: Path) -> None:
    """An engine that forgets the scale: the same factor, but what follows follows from it."""
    model = tiny_model(qkv_bias=False)
    compiled = aprgraph.load(model, {"llama.attention.scale": 1.0}).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "trace")
    found = audit(trace, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 0 attn_scores", "layer 1 attn_scores"]
    assert found.exit_code == 1
    reason = found.wrong[0].reason
    assert reason is not None
    assert reason.endswith("it is 4 times as large, as before its scale, and layer 0 attn_softmax is computed from it as it stands")
    assert found.by_key[0, 0, "attn_softmax"].state is LocalState.RIGHT
    assert "recording" not in " ".join((found.sentence, *found.notes))


@pytest.mark.contract("BLAME-RECORDING-2")
def test_nan_at_masked_places_of_a_softmax_that_attention_reads_is_wrong(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)
    spoil(trace, "attn_softmax", 1, filled(math.nan))
    spoil(trace, "attention", 1, lambda values: np.full_like(values, np.nan))
    found = audit(trace, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 1 attn_softmax", "layer 1 attention"]


@pytest.mark.contract("BLAME-RECORDING-4")
@pytest.mark.parametrize("stage", ["attn_scores", "attn_softmax"])
def test_nan_at_masked_places_hides_no_other(stage: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """A NaN, or a number, that is wrong where no mask hides it is what is named."""
    model = tiny_model()
    for name, off, reason in (
        ("nan", math.nan, "it holds 1 NaN, the replay none, first at head 0, position 3, key 2"),
        ("off", 2.0, "NMSE "),
    ):
        trace = traced(tmp_path / name, model)

        def spoilt(values: Tensor, off: float = off) -> Tensor:
            values = filled(math.nan)(values)
            values[0, 3, 2] += off
            return values

        spoil(trace, stage, 1, spoilt)
        found = audit(trace, load_model(model))
        assert found.wrong[0].label == f"layer 1 {stage}"
        assert str(found.wrong[0].reason).startswith(reason)
        assert "but for what stands at masked places" in str(found.wrong[0].reason)


@pytest.mark.contract("BLAME-RECORDING-2")
def test_without_a_witness_it_is_wrong_or_recorded_so(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "trace", model, taps="q_post_rope,k_post_rope,attn_scores")
    spoil(trace, "attn_scores", 1, lambda scores: scores * np.float32(4))
    found = audit(trace, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 1 attn_scores"]
    assert "; or it was recorded 4 times as large, as before its scale: what reads it was not recorded" in str(found.wrong[0].reason)


def test_a_norm_does_not_tell_a_factor_but_the_residual_does(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    for taps, exit_code in (("ffn_out,post_attn_residual,ffn_norm", 1), ("ffn_out,post_attn_residual,ffn_norm,post_ffn_residual", 0)):
        trace = traced(tmp_path / f"trace{exit_code}", model, taps=taps)
        spoil(trace, "post_attn_residual", 1, lambda values: values * 3)
        assert audit(trace, load_model(model)).exit_code == exit_code


@pytest.mark.contract("BLAME-RECORDING-3")
@pytest.mark.parametrize("fault", [1e-3, 1e-4])
def test_a_fault_beside_a_convention_is_found(fault: float, tiny_model: Tiny, tmp_path: Path) -> None:
    """A reading explains to rounding or not at all."""
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)
    for layer in (0, 1):
        spoil(trace, "attn_scores", layer, lambda scores: np.where(ABOVE, -math.inf, scores * np.float32(4)))
    spoil(trace, "attn_scores", 1, lambda scores: np.where(ABOVE, -math.inf, noisy(np.where(ABOVE, 0, scores), fault)))
    found = audit(trace, load_model(model))
    assert next(local.label for local in found.wrong) == "layer 1 attn_scores"
    assert found.by_key[0, 0, "attn_scores"].reading is not None


def test_a_missing_mask_is_no_recording(tiny_model: Tiny, tmp_path: Path) -> None:
    """Scores at masked places are what is recorded before the mask; a softmax over them is a fault."""
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)

    def unmasked(scores: Tensor) -> Tensor:
        return np.where(ABOVE, np.float32(0.25), scores)

    def softmax(_weights: Tensor) -> Tensor:
        scores = np.array(trace.tensor("attn_scores", 1))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    spoil(trace, "attn_scores", 1, unmasked)
    assert audit(trace, load_model(model)).exit_code == 0
    spoil(trace, "attn_softmax", 1, softmax)
    found = audit(trace, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 1 attn_scores", "layer 1 attn_softmax", "layer 1 attention"]


def test_a_directory_without_a_manifest_is_read_the_same(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "trace", model)
    for layer in (0, 1):
        spoil(trace, "attn_scores", layer, filled(-math.inf))
        spoil(trace, "q_post_rope", layer, heads_first)
    found = audit(Trace.open(bare(trace)), load_model(model), tokens=TOKENS)
    assert (found.exit_code, len([local for local in found.locals if local.reading])) == (0, 4)


def test_no_reading_is_found_in_noise() -> None:
    rng = np.random.default_rng(0)
    layout = Layout((("n", 6), ("H", 4), ("D", 8)), heads=(4,), head_size=8)
    for _ in range(20):
        a, b = (rng.standard_normal((6, 32)).astype(np.float32) for _ in range(2))
        assert find_reading(a, b, layout, lambda values, b=b: bool(np.allclose(values, b, rtol=1e-5))) is None


def test_square_axes_are_not_confused(tiny_model: Tiny, tmp_path: Path) -> None:
    """As many positions as heads: [H, n, D] has the shape of [n, H, D], and the values tell."""
    model = tiny_model()
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("all", "0..2", tokens=TOKENS[:H], directory=tmp_path / "trace")
    assert audit(trace, load_model(model)).exit_code == 0
    spoil(trace, "attention", 1, lambda values: values.reshape(H, H, D).transpose(1, 0, 2).reshape(values.shape))
    found: Audit = audit(trace, load_model(model))
    assert (found.exit_code, found.by_key[0, 1, "attention"].reading) == (0, "heads first, as [H, n, D]")


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("case", ["raw products", "heads first", "the checkpoint's rows"])
def test_two_traces_are_compared_as_they_are_to_be_read(case: str, tiny_model: Tiny, tmp_path: Path) -> None:
    _, forms, _ = RECORDED[case]
    model = tiny_model()
    ours, theirs = (traced(tmp_path / name, model) for name in ("ours", "theirs"))
    for stage, form in forms.items():
        for layer in (0, 1):
            spoil(theirs, stage, layer, form)
    assert aprgraph.diff(ours, theirs).exit_code in (0, 1)
    for sides in ((ours, theirs), (theirs, ours)):
        report = aprgraph.diff(*sides, model=model)
        assert (report.exit_code, report.diverged) == (0, 0)
        assert report.blame is not None
        recorded = {key[2] for key, verdict in report.blame.verdicts.items() if verdict is Verdict.RECORDING}
        assert recorded == set(forms)
        assert " In theirs" in report.blame.sentence
        assert ": this looks like the recording, not the computation; " in report.blame.sentence


def test_the_guilty_stage_alone_reads_as_the_audit_did(tiny_model: Tiny, tmp_path: Path) -> None:
    model = load_model(tiny_model())
    trace = traced(tmp_path / "trace", tiny_model())
    spoil(trace, "q_post_rope", 1, heads_first)
    spoil(trace, "attn_scores", 1, lambda scores: noisy(scores, 1e-3))
    found = audit(trace, model)
    assert found.wrong[0].label == "layer 1 attn_scores"
    assert found.as_read is not None
    script = write_repro(tmp_path / "guilty", found.as_read, model, found.wrong[0], profile=found.profile)
    saved = np.load(script.parent / "layer1.q_post_rope.npy")
    np.testing.assert_array_equal(saved, heads_first_undone(np.array(trace.tensor("q_post_rope", 1))))


def heads_first_undone(values: Tensor) -> Tensor:
    return values.reshape(H, N, D).transpose(1, 0, 2).reshape(values.shape)


def test_a_tensor_of_another_size_is_said_and_is_not_right(tiny_model: Tiny, tmp_path: Path) -> None:
    """As ``diff`` judges it: SHAPE, exit code 1."""
    model = tiny_model()
    ours, theirs = (traced(tmp_path / name, model) for name in ("ours", "theirs"))
    entry = theirs.get("ffn_gate", 1)
    values = np.array(theirs.load(entry))
    write_aprt(theirs.directory / str(entry.file), 1, np.ascontiguousarray(values[:, : values.shape[1] // 2]))
    directory = bare(theirs)
    found = audit(Trace.open(directory), load_model(model), tokens=TOKENS)
    assert ([local.label for local in found.misshapen], found.exit_code) == (["layer 1 ffn_gate"], 1)
    assert "not of the model's shapes" in found.sentence
    assert "layer 1 ffn_gate (it has 336 elements" in found.sentence
    report = aprgraph.diff(ours, directory, model=model)
    assert (report.exit_code, report.row((0, 1, "ffn_gate")).classification.value) == (1, "SHAPE")
    assert "layer 1 ffn_gate" in report.headline
    only = tmp_path / "only"
    (only / "layer-1").mkdir(parents=True)
    (directory / "layer-1/ffn_gate.bin").rename(only / "layer-1/ffn_gate.bin")
    assert audit(Trace.open(only), load_model(model), tokens=TOKENS).exit_code == 1


@pytest.mark.contract("BLAME-PRECISION-1")
@pytest.mark.parametrize(("dtype", "profile"), [(np.float16, "same-graph-f16"), (ml_dtypes.bfloat16, "same-graph-bf16")])
def test_the_values_say_what_an_engine_without_a_manifest_computes_in(dtype: type, profile: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    ours, theirs = (traced(tmp_path / name, model) for name in ("ours", "theirs"))
    for entry in theirs.entries:
        spoil(theirs, entry.stage, entry.layer, lambda values: values.astype(dtype).astype(np.float32))
    found = audit(Trace.open(bare(theirs)), load_model(model), tokens=TOKENS)
    assert (found.exit_code, found.profile, found.replayed) == (0, profile, len(theirs.entries))
    assert any(np.dtype(dtype).name in note and "profile=" in note for note in found.notes)
    report = aprgraph.diff(ours, theirs.directory, model=model)
    assert (report.exit_code, report.profile) == (0, profile)
    spoil(theirs, "ffn_out", 1, lambda values: noisy(values, 0.05).astype(dtype).astype(np.float32))
    found = audit(Trace.open(theirs.directory), load_model(model), tokens=TOKENS)
    assert [local.label for local in found.wrong] == ["layer 1 ffn_out", "layer 1 post_ffn_residual"]
    # What a manifest says counts, and so does what a person says.
    assert audit(theirs, load_model(model)).profile == "same-graph-f32"
    assert audit(Trace.open(theirs.directory), load_model(model), tokens=TOKENS, profile="same-graph-f32").exit_code == 1


def test_few_or_trivial_numbers_say_nothing() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(1000).astype(np.float32)
    assert format_of(values) == "float32"
    assert format_of(values.astype(np.float16).astype(np.float32)) == "float16"
    assert format_of(np.repeat(np.float32([0, 1, -1, 0.5]), 100)) is None
    assert format_of(np.concatenate([np.repeat(values[:2], 100), values])) == "float32"
    assert format_of(values[:8].astype(np.float16).astype(np.float32)) is None
    assert format_of(np.where(values > 0, values, np.finfo(np.float32).min).astype(np.float32)) == "float32"


def test_what_is_far_off_is_told_without_measuring_it() -> None:
    """Never of what is within the bound, whatever the order of the sums; NaN and Inf are for a whole comparison."""
    rng = np.random.default_rng(0)
    expected = rng.standard_normal((7, 33)).astype(np.float32)
    for scale in (1e-5, 1e-2, 1.0):
        values = noisy(expected, scale)
        nmse = compare_tensors(values, expected).nmse
        assert nmse is not None
        assert [is_far(values, expected, most) for most in (nmse / 2, nmse, 2 * nmse)] == [True, False, False]
    assert not is_far(expected, expected, 0.0)
    for value in (np.nan, np.inf):
        assert not is_far(np.where(expected > 1, np.float32(value), -expected), expected, 0.0)


NEIGHBOURS = {
    "q and k, before and after RoPE": ("qwen3", dict.fromkeys(("q_norm", "k_norm", "q_post_rope", "k_post_rope"), heads_first)),
    "scores and softmax": ("llama", dict.fromkeys(("attn_scores", "attn_softmax"), lambda x: x.transpose(1, 0, 2).reshape(x.shape))),
    "an activation and what goes in": ("llama", dict.fromkeys(("ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl"), transposed)),
    "projections with and without biases": ("qwen2", dict.fromkeys(("qkv_matmul", "qkv_bias"), grouped)),
}


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.parametrize("case", NEIGHBOURS)
def test_neighbouring_stages_of_one_form(case: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """One is no witness of the other by itself, but what comes after both is."""
    family, forms = NEIGHBOURS[case]
    model = tiny_model(family=family, head_size=D)
    trace = traced(tmp_path / "trace", model)
    for stage, form in forms.items():
        for layer in (0, 1):
            spoil(trace, stage, layer, form)
    found = audit(trace, load_model(model))
    assert ([local.label for local in found.wrong], found.exit_code) == ([], 0)
    assert {local.key[2] for local in found.locals if local.reading is not None} == set(forms)


@pytest.mark.contract("BLAME-RECORDING-2")
def test_the_last_position_is_no_witness_of_a_mask(tiny_model: Tiny, tmp_path: Path) -> None:
    """It sees every other one anyway, so its logits are right with a mask and without."""
    model = tiny_model()
    trace = traced(tmp_path / "trace", model, taps="attn_scores,lm_head")
    spoil(trace, "attn_scores", 1, lambda scores: np.where(ABOVE, np.float32(0.25), scores))
    found = audit(trace, load_model(model))
    assert [local.label for local in found.wrong] == ["layer 1 attn_scores"]
    assert "or it was recorded masked places holding scores too" in str(found.wrong[0].reason)


@pytest.mark.contract("BLAME-TOKENS-1")
def test_the_other_sides_tokens_are_taken_where_the_embedding_bears_them_out(tiny_model: Tiny, tmp_path: Path) -> None:
    """Then an embedding in another form is seen as well; another prompt's embedding is not held against anybody."""
    model = tiny_model()
    ours, theirs = (traced(tmp_path / name, model) for name in ("ours", "theirs"))
    for stage in ("embedding", "attn_norm", "attn_out", "post_attn_residual"):
        spoil(theirs, stage, 0, transposed)
    directory = bare(theirs)
    report = aprgraph.diff(ours, directory, model=model)
    assert (report.exit_code, report.diverged) == (0, 0)
    assert report.blame is not None
    assert report.blame.verdicts[0, 0, "embedding"] is Verdict.RECORDING
    compiled = aprgraph.load(model).compile("reference", tmp_path / "m.aprg")
    compiled.run("all", "0..2", tokens=[7, 7, 7, 7, 7, 7, 7], directory=tmp_path / "other")
    other = aprgraph.diff(ours, bare(Trace.open(tmp_path / "other")), model=model)
    assert other.blame is not None
    assert other.blame.b.wrong == ()


def _soft(scores: Tensor) -> Tensor:
    spread = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (spread / spread.sum(axis=-1, keepdims=True)).astype(np.float32)


#: What stands at masked places, given the scores there.
_FILLS: dict[str, Callable[[Tensor], Tensor]] = {
    "-inf": lambda scores: np.full_like(scores, -np.inf),
    "the least float32": lambda scores: np.full_like(scores, np.finfo(np.float32).min),
    "-1e9 added": lambda scores: scores + np.float32(-1e9),
}
#: How an engine computes scores wrong, of q [N, H, D] and k [N, H, D], and what it hides; and what is said of it.
_WRONG_SCORES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], int, bool]] = {
    "scores are multiplied by 1 / 16, of the head size, in place of 0.25": (lambda q, k: q @ k / D, N, False),
    "query head h reads KV head h mod 2, and not h / 2": (lambda q, k: q @ k / math.sqrt(D), N, True),
    "its window is of 3 positions": (lambda q, k: q @ k / math.sqrt(D), 3, False),
}


@pytest.mark.contract("BLAME-RECORDING-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("fill", _FILLS)
@pytest.mark.parametrize("words", _WRONG_SCORES)
def test_a_mistake_in_scores_is_named_whatever_stands_at_masked_places(words: str, fill: str, tiny_model: Tiny, tmp_path: Path) -> None:
    """-inf is no error beside which others do not show, nor a constant by which the scores of two layers are the same."""
    model = tiny_model()
    trace, (compute, window, tiled) = traced(tmp_path / "right", model), _WRONG_SCORES[words]
    dump: dict[str, Tensor] = {}
    for layer in (0, 1):
        q, k = (trace[f"layer{layer}.{stage}"].reshape(N, -1, D).transpose(1, 0, 2) for stage in ("q_post_rope", "k_post_rope"))
        keys = (np.tile(k, (H // K, 1, 1)) if tiled else np.repeat(k, H // K, axis=0)).swapaxes(1, 2)
        scores = compute(q.astype(np.float64), keys.astype(np.float64)).astype(np.float32)
        hidden = ABOVE | np.tri(N, k=-window, dtype=bool)
        scores = np.where(hidden, _FILLS[fill](scores), scores)
        dump |= {f"layer{layer}.{stage}": trace[f"layer{layer}.{stage}"] for stage in ("q_post_rope", "k_post_rope")}
        dump |= {f"layer{layer}.attn_scores": scores, f"layer{layer}.attn_softmax": _soft(scores)}
    found = aprgraph.audit(dump, model, tokens=TOKENS)
    wrong = [local for local in found.wrong if local.key.stage == "attn_scores"]
    assert [local.key.layer for local in wrong] == [0, 1]
    for local in wrong:
        assert local.explanation is not None, found.sentence
        assert local.explanation.first.words == words
        assert local.twin is None
        assert local.by_axis
        assert local.error is not None
        assert 0.01 < local.error < 10


@pytest.mark.contract("BLAME-EXPLAINED-1")
def test_the_rows_of_another_prompt_are_recognised(tiny_model: Tiny, tmp_path: Path) -> None:
    model, other = tiny_model(), [7, 3, 11, *TOKENS[3:]]
    trace = (
        aprgraph.load(model)
        .compile("reference", tmp_path / "m.aprg")
        .run("embedding,attn_norm", "0", tokens=other, directory=tmp_path / "t")
    )
    found = aprgraph.audit({name: trace[name] for name in trace.keys()}, model, tokens=TOKENS)  # noqa: SIM118 -- a trace yields entries
    assert [local.label for local in found.wrong] == ["layer 0 embedding"]
    given, were = (", ".join(map(str, ids[:8])) for ids in (TOKENS, other))
    assert f"if the tokens are {were} in place of {given}, as of another prompt" in found.sentence
    assert found.suspect is None  # the table has these rows, and they are right
