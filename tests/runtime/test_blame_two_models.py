"""Each side replayed by its own model: what a side does wrong is told from what the weights of the two make them differ by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpy.typing as npt
import pytest

import aprgraph
from aprgraph.comparison import diff
from aprgraph.graph.errors import ComparisonError
from aprgraph.runtime.blame import Verdict
from aprgraph.runtime.blame.weight_share import WeightShare
from aprgraph.runtime.comparison import Comparison
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced
from tests.support.changed_model import Tensors, changed_model, read_tensors
from tests.support.checkpoints import gguf_of, write_checkpoint
from tests.support.cli import fails, run_cli
from tests.support.traces import noisy

Tiny = Callable[..., Path]
F64 = npt.NDArray[np.float64]
SCHEMA = Path(__file__).parents[2] / "docs" / "diff.schema.json"
EPS = {"llama.attention.layer_norm_rms_epsilon": 0.3}


def shares_of(report: Comparison) -> dict[tuple[int | None, str], WeightShare]:
    assert report.blame is not None
    assert report.blame.other_weights is not None
    return {share.key.in_step: share for share in report.blame.other_weights.shares}


def verdicts_of(report: Comparison) -> set[Verdict]:
    assert report.blame is not None
    return set(report.blame.verdicts.values())


def nmse(a: F64, b: F64) -> float:
    return float(np.square(a - b).sum() / max(np.square(a).sum(), np.square(b).sum()))


def recorded(trace: Trace, stage: str, layer: int) -> F64:
    return np.asarray(trace.tensor(stage, layer), np.float64)


@pytest.fixture
def float_model(tiny_model: Tiny) -> Path:
    return tiny_model()


@pytest.fixture
def four_bits(float_model: Path, tmp_path: Path) -> Path:
    """The same model in Q4_0."""
    return changed_model(float_model, tmp_path / "q4_0.gguf", format="Q4_0")


@pytest.mark.contract("BLAME-MODELS-1")
def test_a_model_and_its_quantisation_accuse_nobody(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", four_bits)
    report = diff(a, b, model_a=float_model, model_b=four_bits)
    assert (report.exit_code, verdicts_of(report)) == (0, {Verdict.RIGHT})
    assert report.headline.startswith("Alike: all 35 compared tensors agree within quant-vs-float. The model explains ")
    assert "The weights of the two models differ first at layer 0 embedding (NMSE " in report.headline
    matrices = {"embedding", "qkv_matmul", "attn_out", "ffn_gate", "ffn_up", "ffn_out", "lm_head"}
    assert {stage for _, stage in shares_of(report)} == matrices
    # Held to float32 the two diverge, by their weights alone.
    report = diff(a, b, model_a=float_model, model_b=four_bits, profile="same-graph-f32")
    assert (report.exit_code, verdicts_of(report)) == (1, {Verdict.OTHER_WEIGHTS})
    assert " Neither side is wrong: each is right by its own model, " in report.headline
    # Replayed by one model, the other side is no run of it.
    report = diff(a, b, model=float_model, profile="same-graph-f32")
    assert report.blame is not None
    assert report.blame.b.wrong


@pytest.mark.contract("BLAME-MODELS-1")
def test_shares_are_what_the_weights_make(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    """The witness: NumPy's products of what was recorded and of weights that the gguf package decoded."""
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", four_bits)
    shares = shares_of(diff(a, b, model_a=float_model, model_b=four_bits))
    weights, quantised = (
        {name: value.astype(np.float64) for name, value in read_tensors(path).items()} for path in (float_model, four_bits)
    )
    down = shares[1, "ffn_out"]
    crossed = recorded(b, "ffn_swigl", 1) @ weights["blk.1.ffn_down.weight"].T
    ours, theirs = recorded(a, "ffn_out", 1), recorded(b, "ffn_out", 1)
    found = (down.by_weights, down.from_inputs, down.total)
    assert found == pytest.approx((nmse(theirs, crossed), nmse(crossed, ours), nmse(theirs, ours)), rel=1e-4)
    assert [(weight.name, weight.format_a, weight.format_b) for weight in down.weights] == [("blk.1.ffn_down.weight", "F32", "Q4_0")]
    # Three tensors make one stage: each alone, the others A's.
    qkv, normed = shares[0, "qkv_matmul"], recorded(b, "attn_norm", 0)
    names = [f"blk.0.attn_{part}.weight" for part in "qkv"]
    by_a = np.concatenate([normed @ weights[name].T for name in names], axis=1)
    assert {weight.name for weight in qkv.weights} == set(names)
    for weight in qkv.weights:
        mixed = np.concatenate([normed @ (quantised if name == weight.name else weights)[name].T for name in names], axis=1)
        assert weight.error == pytest.approx(nmse(mixed, by_a), rel=1e-4)
    errors = [weight.error or 0.0 for weight in qkv.weights]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.contract("BLAME-MODELS-2")
@pytest.mark.parametrize("guilty", ["A", "B"])
def test_a_fault_beside_other_weights_is_found(guilty: str, float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    """A hundredth of the noise that Q4_0 makes of the stage, which no limit for quantised weights shows."""
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", four_bits)
    spoil(a if guilty == "A" else b, "ffn_up", 1, lambda values: noisy(values, 1e-2))
    assert diff(a, b).exit_code == 0
    report = diff(a, b, model_a=float_model, model_b=four_bits)
    assert report.exit_code == 1
    assert report.blame is not None
    due = Verdict.A_WRONG if guilty == "A" else Verdict.B_WRONG
    assert {key for key, verdict in report.blame.verdicts.items() if verdict is due} == {(0, 1, "ffn_up"), (0, 1, "ffn_swigl")}
    assert verdicts_of(report) == {due, Verdict.RIGHT}
    assert report.headline.startswith(f"{guilty.lower()} ({guilty}) is wrong at layer 1 ffn_up (local error ")
    assert (1, "ffn_up") not in shares_of(report)


@pytest.mark.contract("BLAME-MODELS-2")
def test_another_epsilon_beside_other_weights(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    compiled = aprgraph.load(four_bits, EPS).compile("reference", tmp_path / "b.aprg")  # type: ignore[arg-type]
    b = compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "b")
    report = diff(traced(tmp_path / "a", float_model), b, model_a=float_model, model_b=four_bits)
    assert report.blame is not None
    wrong = {key.stage for key, verdict in report.blame.verdicts.items() if verdict is Verdict.B_WRONG}
    assert wrong == {"attn_norm", "ffn_norm", "final_norm"}
    assert not report.blame.a.wrong


@pytest.mark.contract("BLAME-MODELS-3")
def test_one_tensor_that_differs_is_named_alone(float_model: Path, tmp_path: Path) -> None:
    def scaled(tensors: Tensors) -> None:
        tensors["blk.1.ffn_down.weight"] = tensors["blk.1.ffn_down.weight"] * np.float32(1.001)

    other = changed_model(float_model, tmp_path / "other.gguf", scaled)
    report = diff(traced(tmp_path / "a", float_model), traced(tmp_path / "b", other), model_a=float_model, model_b=other)
    (share,) = shares_of(report).values()
    assert (share.label, share.tensors) == ("layer 1 ffn_out", "blk.1.ffn_down.weight")
    assert share.by_weights == pytest.approx(1e-6, rel=1e-2)
    assert report.blame is not None
    before = [key for key, verdict in report.blame.verdicts.items() if verdict is Verdict.OTHER_WEIGHTS and key[1] == 0]
    assert not before


def _rounded(tensors: Tensors) -> None:
    """To steps of a 256th, as a conversion may lose digits."""
    for name in [name for name in tensors if name.endswith(("attn_q.weight", "attn_k.weight", "ffn_down.weight"))]:
        tensors[name] = np.round(tensors[name] * 256) / np.float32(256)


@pytest.mark.contract("BLAME-MODELS-3")
@pytest.mark.parametrize("manifests", [True, False], ids=["manifests", "bare"])
def test_a_checkpoint_and_its_file_hold_the_same_weights(manifests: bool, tmp_path: Path) -> None:
    """Its rows of q and k are in another order, which is no difference of weights; other weights beside that are told alike."""
    checkpoint, file = write_checkpoint("llama-f32-linear", tmp_path), gguf_of("llama-f32-linear")
    rounded = changed_model(file, tmp_path / "rounded.gguf", _rounded)
    a, b, c = (traced(tmp_path / name, path) for name, path in (("a", checkpoint), ("b", file), ("c", rounded)))
    if not manifests:
        a, b, c = (Trace.open(bare(one)) for one in (a, b, c))
    given = {"tokens": None if manifests else TOKENS}
    for sides, models in (((a, b), (checkpoint, file)), ((b, a), (file, checkpoint))):
        report = diff(*sides, model_a=models[0], model_b=models[1], **given)
        assert report.blame is not None
        assert (report.blame.wrong, shares_of(report)) == ((), {}), report.headline
        assert not manifests or verdicts_of(report) == {Verdict.RIGHT}
    turned = shares_of(diff(c, a, model_a=rounded, model_b=checkpoint, **given))
    of_checkpoint = shares_of(diff(a, c, model_a=checkpoint, model_b=rounded, **given))
    of_file = shares_of(diff(traced(tmp_path / "d", file), c, model_a=file, model_b=rounded, **given))
    assert of_checkpoint.keys() == of_file.keys()
    assert {stage for _, stage in of_file} == {"qkv_matmul", "ffn_out"}
    assert turned.keys() == of_file.keys()
    for key, share in of_checkpoint.items():
        assert share.by_weights == pytest.approx(of_file[key].by_weights, rel=1e-3)
    spoil(c, "attn_out", 1, lambda values: noisy(values, 1e-2))
    report = diff(a, c, model_a=checkpoint, model_b=rounded, **given)
    assert report.blame is not None
    assert [local.key for local in report.blame.b.wrong] == [(0, 1, "attn_out"), (0, 1, "post_attn_residual")]
    assert not report.blame.a.wrong


def test_generated_tokens_and_sparse_taps(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    """Where little was recorded, a stage has the weights of all that lies between."""
    a, b = (
        traced(tmp_path / name, path, taps="post_ffn_residual", max_tokens=2, steps="0..2")
        for name, path in (("a", float_model), ("b", four_bits))
    )
    report = diff(a, b, model_a=float_model, model_b=four_bits)
    assert report.blame is not None
    assert not report.blame.wrong
    first = shares_of(report)[0, "post_ffn_residual"]
    assert {"token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_down.weight"} <= {weight.name for weight in first.weights}


@pytest.mark.contract("BLAME-MODELS-4")
def test_the_command_line_takes_a_model_for_each_side(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", four_bits)
    sides = (a.directory, b.directory)
    result = run_cli("diff", *sides, "--model-a", float_model, "--model-b", four_bits)
    assert result.code == 0
    assert "by weights" in result.out
    assert "token_embd.weight (F32 in A, Q4_0 in B)" in result.out
    document = json.loads(run_cli("diff", *sides, "--model", float_model, "--model-b", four_bits, "--json").out)
    jsonschema.validate(document, json.loads(SCHEMA.read_text()))
    blame = document["blame"]
    assert [blame["sides"][side]["model"] for side in "ab"] == [str(float_model), str(four_bits)]
    assert blame["other_weights"][0]["weights"][0]["name"] == "token_embd.weight"
    one = json.loads(run_cli("diff", *sides, "--model", float_model, "--json").out)
    assert one["blame"]["other_weights"] is None
    message = fails("diff", *sides, "--model-b", four_bits)
    assert message == "--model-b names the model of one side; name the other's with --model-a, or that of both with --model"


@pytest.mark.contract("BLAME-MODELS-4")
def test_the_stage_alone_is_of_its_own_model(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", four_bits)
    spoil(b, "ffn_out", 1, lambda values: noisy(values, 1e-2))
    result = run_cli("diff", a.directory, b.directory, "--model-a", float_model, "--model-b", four_bits, "--repro", tmp_path / "guilty")
    assert result.code == 1
    weight = np.load(tmp_path / "guilty" / "blk.1.ffn_down.weight.npy")
    np.testing.assert_allclose(weight, read_tensors(four_bits)["blk.1.ffn_down.weight"], rtol=1e-6)


@pytest.mark.contract("BLAME-MODELS-4")
@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"family": "qwen2"}, "'qwen2' with 2 layers of 64"),
        ({"layers": 3}, "'llama' with 3 layers of 64"),
        ({"hidden": 128}, "'llama' with 2 layers of 128"),
    ],
)
def test_two_models_that_are_not_one_are_an_error(
    options: dict[str, Any], theirs: str, float_model: Path, tiny_model: Tiny, tmp_path: Path
) -> None:
    other = tiny_model(**options)
    a, b = traced(tmp_path / "a", float_model), traced(tmp_path / "b", other)
    with pytest.raises(ComparisonError) as raised:
        diff(a, b, model_a=float_model, model_b=other)
    assert f"is 'llama' with 2 layers of 64 and {other} is {theirs}: " in str(raised.value)


@pytest.mark.contract("BLAME-MODELS-5")
def test_models_that_manifests_name_are_found(float_model: Path, four_bits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the trace, and from the current folder; by the fingerprint, so that another file of that name is not taken."""
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    kept = tmp_path / "here" / float_model.name
    kept.write_bytes(float_model.read_bytes())
    a, b = traced(tmp_path / "there" / "a", float_model), traced(tmp_path / "b", four_bits)
    monkeypatch.chdir(tmp_path / "here")
    result = run_cli("diff", a.directory, b.directory, "--replay", "--json")
    assert [json.loads(result.out)["blame"]["sides"][side]["model"] for side in "ab"] == [str(kept), str(four_bits)]
    assert f"note: A is replayed by {kept}, which its manifest names" in result.err
    assert f"note: {a.directory} is replayed by {kept}, which its manifest names" in run_cli("audit", a.directory).err
    kept.write_bytes(four_bits.read_bytes())
    message = fails("audit", a.directory)
    assert message == (
        f"{a.directory}: it was recorded from a model {kept.name}, and {kept} is another one (the fingerprints differ); "
        "name the model with --model"
    )
    kept.unlink()
    assert "or in the current folder; name the model with --model" in fails("diff", a.directory, b.directory, "--replay")
    assert "no manifest says which model it was recorded from" in fails("audit", bare(a))


@pytest.mark.contract("BLAME-MODELS-5")
def test_an_audit_by_the_manifest_takes_its_overrides(float_model: Path, tmp_path: Path) -> None:
    """Such a run is right by what it says of itself, and wrong as a run of the file as it stands."""
    trace, model = tmp_path / "trace", tmp_path / float_model.name
    model.write_bytes(float_model.read_bytes())
    key = "llama.rope.freq_base"
    assert run_cli("run", model, "--tokens", "1,2,3,4", "--taps", "all", "-o", trace, "--override-kv", f"{key}=float:500").code == 0
    alone = run_cli("audit", trace)
    assert (alone.code, f"which its manifest names, with {key}=500.0" in alone.err) == (0, True)
    assert run_cli("audit", trace, "--model", model).code == 1
    again = run_cli("audit", trace, "--override-kv", f"{key}=float:10000")
    assert again.code == 1, "what is given goes over the manifest's"


def _permuted(tensors: Tensors) -> None:
    """As a conversion leaves q that permutes it twice."""
    w = tensors["blk.1.attn_q.weight"]
    tensors["blk.1.attn_q.weight"] = w.reshape(4, -1, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def _noisy_and_permuted(tensors: Tensors) -> None:
    _permuted(tensors)
    w = tensors["blk.0.ffn_up.weight"]
    tensors["blk.0.ffn_up.weight"] = w + np.random.default_rng(2).standard_normal(w.shape).astype(np.float32) * w.std() / 8


@pytest.mark.contract("BLAME-MODELS-3")
def test_the_file_that_is_to_blame_is_named_by_its_transform(float_model: Path, tmp_path: Path) -> None:
    """In Q8_0, whose rounding is beside it; what has no name is not named."""
    other = changed_model(float_model, tmp_path / "other.gguf", _noisy_and_permuted, format="Q8_0")
    a, b = (traced(tmp_path / name, path) for name, path in (("a", float_model), ("b", other)))
    report = diff(a, b, model_a=float_model, model_b=other)
    assert report.blame is not None
    assert report.blame.other_weights is not None
    text = "the rows of each of 4 heads are permuted as for RoPE: A pairs neighbours, B halves"
    assert report.blame.other_weights.by_file == {"blk.1.attn_q.weight": text}
    assert report.headline.endswith(f" By the files, and not by rounding: blk.1.attn_q.weight: {text}.")
    page = tmp_path / "page.html"
    result = run_cli("diff", a.directory, b.directory, "--model-a", float_model, "--model-b", other, "--html", page)
    assert f"by the file: blk.1.attn_q.weight: {text}" in result.out
    shown = page.read_text(encoding="utf-8")
    assert '<th scope="col">weights</th>' in shown
    assert f"<strong>blk.1.attn_q.weight</strong>: {text}" in shown


def test_shares_of_tensors_whose_rows_are_in_two_orders(tmp_path: Path) -> None:
    """Each of q, k and v alone makes of the stage what it makes between two files in one order."""
    checkpoint, file = write_checkpoint("llama-f32-linear", tmp_path), gguf_of("llama-f32-linear")
    rounded = changed_model(file, tmp_path / "rounded.gguf", _rounded)
    a, b, c = (traced(tmp_path / name, path) for name, path in (("a", checkpoint), ("b", file), ("c", rounded)))
    turned = shares_of(diff(a, c, model_a=checkpoint, model_b=rounded))[0, "qkv_matmul"]
    plain = shares_of(diff(b, c, model_a=file, model_b=rounded))[0, "qkv_matmul"]
    assert {one.name: one.error for one in turned.weights} == pytest.approx({one.name: one.error for one in plain.weights}, rel=1e-3)


def test_a_graph_is_coloured_by_two_models(float_model: Path, four_bits: Path, tmp_path: Path) -> None:
    a, b = (traced(tmp_path / name, path) for name, path in (("a", float_model), ("b", four_bits)))
    spoil(b, "ffn_up", 1, lambda values: noisy(values, 1e-2))
    models = ("--model-a", float_model, "--model-b", four_bits)
    result = run_cli("graph", "--diff", a.directory, b.directory, *models, "--format", "text")
    assert (result.code, result.err) == (0, "")
    drawn = run_cli("graph", "--diff", a.directory, b.directory, *models, "--format", "dot").out
    assert "B WRONG" in drawn
    assert "B WRONG" not in run_cli("graph", "--diff", a.directory, b.directory, "--format", "dot").out
    assert "--model-b" in fails("graph", "--diff", a.directory, b.directory, "--model-a", float_model)
    assert "there is no --diff" in fails("graph", "--model-a", float_model)


def test_replay_takes_what_the_manifests_override(float_model: Path, tmp_path: Path) -> None:
    compiled = aprgraph.load(float_model, EPS).compile("reference", tmp_path / "b.aprg")  # type: ignore[arg-type]
    compiled.run("all", "0..2", tokens=TOKENS, directory=tmp_path / "b")
    traced(tmp_path / "a", float_model)
    (tmp_path / float_model.name).write_bytes(float_model.read_bytes())
    result = run_cli("diff", tmp_path / "a", tmp_path / "b", "--replay", "--all")
    assert f"with {next(iter(EPS))}=0.3" in result.err
    assert result.code == 1
    assert "B WRONG" not in result.out
    assert "Neither side is wrong: each is right by its own graph" in result.out
