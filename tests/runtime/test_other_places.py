"""Tensors that stand in other programs' places: layers from 1, hidden states from the embedding, the last one normed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, bare, spoil, traced
from tests.support.traces import Tensor, noisy

Tiny = Callable[..., Path]
LAYERS = 3


def written(directory: Path, tensors: dict[tuple[int | None, str], Tensor]) -> Trace:
    return Trace.write(directory, tensors, tokens=TOKENS)


def counted_from_one(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
    return {
        (entry.layer if entry.layer is None or entry.stage == "embedding" else entry.layer + 1, entry.stage): ours.load(entry)
        for entry in ours.entries
    }


def hidden_states(ours: Trace) -> list[Tensor]:
    """As transformers returns them."""
    outputs = [ours.tensor("post_ffn_residual", layer) for layer in range(LAYERS - 1)]
    return [ours.tensor("embedding", 0), *outputs, ours.tensor("final_norm")]


def by_index(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
    states = {(index, "post_ffn_residual"): state for index, state in enumerate(hidden_states(ours))}
    return {**states, (None, "lm_head"): ours.tensor("lm_head")}


def outputs_of_layers(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
    return {(index, "post_ffn_residual"): state for index, state in enumerate(hidden_states(ours)[1:])}


def all_but_the_last_hidden_state(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
    tensors = {(entry.layer, entry.stage): ours.load(entry) for entry in ours.entries}
    return {**tensors, (LAYERS - 1, "post_ffn_residual"): ours.tensor("final_norm")}


def not_normed(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
    """The embedding and the outputs of all layers, counted together."""
    states = [ours.tensor("embedding", 0), *(ours.tensor("post_ffn_residual", layer) for layer in range(LAYERS))]
    return {**{(index, "post_ffn_residual"): state for index, state in enumerate(states)}, (None, "lm_head"): ours.tensor("lm_head")}


PLACES = {
    "the last one not normed": (not_normed, "and the last one comes before the final norm"),
    "layers from 1": (counted_from_one, "its layers are counted from 1"),
    "hidden states by index": (by_index, "hidden states counted from the embedding"),
    "hidden states as outputs": (outputs_of_layers, "the post_ffn_residual of its last layer comes after the final norm"),
    "the last hidden state among all stages": (
        all_but_the_last_hidden_state,
        "the post_ffn_residual of its last layer comes after the final norm",
    ),
}


@pytest.fixture
def model(tiny_model: Tiny) -> Path:
    return tiny_model(layers=LAYERS)


@pytest.fixture
def ours(model: Path, tmp_path: Path) -> Trace:
    return traced(tmp_path / "ours", model, layers=f"0..{LAYERS}")


@pytest.mark.contract("BLAME-PLACES-1")
@pytest.mark.parametrize("case", PLACES)
def test_tensors_in_other_places_are_recognised(case: str, model: Path, ours: Trace, tmp_path: Path) -> None:
    write, words = PLACES[case]
    theirs = written(tmp_path / "theirs", write(ours))
    found = audit(theirs, load_model(model))
    assert (found.exit_code, found.wrong) == (0, ())
    assert words in found.sentence
    assert ": this looks like the recording, not the computation; read so, what moves is right" in found.sentence
    assert found.sentence.startswith("theirs: right, by how it was recorded, ")
    for sides in ((ours, theirs), (theirs, ours)):
        report = aprgraph.diff(*sides, model=model)
        assert (report.exit_code, report.diverged) == (0, 0)
        assert report.blame is not None
        assert words in report.blame.sentence


@pytest.mark.contract("BLAME-PLACES-1")
@pytest.mark.parametrize("case", PLACES)
def test_a_fault_beside_them_is_found_all_the_same(case: str, model: Path, ours: Trace, tmp_path: Path) -> None:
    spoil(ours, "post_ffn_residual", 1, lambda values: noisy(values, 1e-3))
    theirs = written(tmp_path / "theirs", PLACES[case][0](ours))
    found = audit(theirs, load_model(model))
    assert found.exit_code == 1
    assert found.wrong


def test_products_with_their_biases_are_no_fault(tiny_model: Tiny, tmp_path: Path) -> None:
    """A linear layer of PyTorch adds its bias itself. Beside them another fault is found."""
    model = tiny_model(family="qwen2", layers=LAYERS)
    ours = traced(tmp_path / "ours", model, layers=f"0..{LAYERS}")
    dump = {name: ours[name] for name in ours.keys() if not name.endswith(".qkv_matmul")}  # noqa: SIM118 -- a trace yields entries
    rules = {r"(layer\d+)\.linear": r"\1.qkv_matmul"}
    dump = {name.replace("qkv_bias", "linear"): values for name, values in dump.items()}
    found = aprgraph.audit(dump, model, tokens=TOKENS, names=rules)
    assert found.exit_code == 0, found.sentence
    assert "its qkv_matmul are qkv_bias: the biases are in them" in found.sentence
    dump["layer1.ffn_norm"] = dump["layer1.ffn_norm"] + np.square(dump["layer1.ffn_norm"])
    wrong = aprgraph.audit(dump, model, tokens=TOKENS, names=rules).wrong
    assert {local.key[1:] for local in wrong} == {(1, "ffn_norm"), (1, "ffn_gate"), (1, "ffn_up")}


def test_a_last_layer_that_is_wrong_is_not_explained_away(model: Path, ours: Trace) -> None:
    spoil(ours, "post_ffn_residual", LAYERS - 1, lambda values: values + np.float32(0.5))
    found = audit(ours, load_model(model))
    assert [local.label for local in found.wrong] == [f"layer {LAYERS - 1} post_ffn_residual", "final_norm"]


def test_without_a_manifest_too(model: Path, ours: Trace, tmp_path: Path) -> None:
    directory = bare(written(tmp_path / "theirs", by_index(ours)))
    assert audit(Trace.open(directory), load_model(model), tokens=TOKENS).exit_code == 0
    report = aprgraph.diff(ours, directory, model=model, tokens=TOKENS)
    assert (report.exit_code, report.diverged) == (0, 0)


def with_other(stages: dict[str, str], apart: int = 0) -> Callable[[Trace], dict[tuple[int | None, str], Tensor]]:
    """Each of ``stages`` holds what another one does, of the same layer or of another."""

    def write(ours: Trace) -> dict[tuple[int | None, str], Tensor]:
        tensors = {(entry.layer, entry.stage): ours.load(entry) for entry in ours.entries}
        for stage, other in stages.items():
            for layer in range(max(0, -apart), LAYERS - max(0, apart)):
                tensors[layer, stage] = ours.tensor(other, layer + apart)
        return tensors

    return write


MISTAKEN = {
    "the sum with the residual": (
        with_other({"attn_out": "post_attn_residual", "ffn_out": "post_ffn_residual"}),
        "attn_out is post_attn_residual",
    ),
    "a norm's input": (with_other({"ffn_norm": "post_attn_residual"}), "ffn_norm is post_attn_residual"),
    "before the activation": (with_other({"ffn_silu": "ffn_gate"}), "ffn_silu is ffn_gate"),
    "gate and up exchanged": (with_other({"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}), "ffn_gate is ffn_up"),
}


@pytest.mark.contract("BLAME-PLACES-2")
@pytest.mark.parametrize("case", MISTAKEN)
def test_a_tensor_that_holds_another_stage(case: str, model: Path, ours: Trace, tmp_path: Path) -> None:
    write, words = MISTAKEN[case]
    theirs = written(tmp_path / "theirs", write(ours))
    found = audit(theirs, load_model(model))
    assert (found.exit_code, found.wrong) == (0, ())
    assert words in found.sentence


def test_a_stage_that_was_skipped_is_no_mistaken_recording(tiny_model: Tiny, tmp_path: Path) -> None:
    """An engine that forgets the activation: what follows is computed from the gate, so it is wrong, and what it holds is said."""
    model = tiny_model(layers=LAYERS)
    trace = traced(tmp_path / "trace", model, layers=f"0..{LAYERS}")
    gate, up = np.array(trace.tensor("ffn_gate", 1)), np.array(trace.tensor("ffn_up", 1))
    spoil(trace, "ffn_silu", 1, lambda _: gate)
    spoil(trace, "ffn_swigl", 1, lambda _: gate * up)
    found = audit(trace, load_model(model))
    assert found.wrong[0].label == "layer 1 ffn_silu"
    assert "ffn_silu has no activation" in (found.wrong[0].telltale or "")


@pytest.mark.contract("BLAME-PLACES-2")
@pytest.mark.parametrize("heads_first", [False, True])
def test_repeated_kv_heads(heads_first: bool, model: Path, ours: Trace, tmp_path: Path) -> None:
    """As transformers repeats keys before it multiplies."""
    times, size = 2, 16
    directory = bare(ours)
    for layer in range(LAYERS):
        keys = np.array(Trace.open(directory).load(Trace.open(directory).get("k_post_rope", layer))).reshape(len(TOKENS), -1, 1, size)
        several = np.repeat(keys, times, axis=2).reshape(len(TOKENS), -1, size)
        write_aprt(
            directory / f"layer-{layer}/k_post_rope.bin",
            layer,
            np.ascontiguousarray(several.transpose(1, 0, 2) if heads_first else several),
        )
    found = audit(Trace.open(directory), load_model(model), tokens=TOKENS)
    assert (found.exit_code, found.wrong, found.misshapen) == (0, (), ())
    assert "k_post_rope hold each KV head as many times as query heads share it (3 tensors)" in found.sentence
    again = traced(tmp_path / "again", model, layers=f"0..{LAYERS}")
    report = aprgraph.diff(again, directory, model=model, tokens=TOKENS)
    assert (report.exit_code, report.diverged) == (0, 0)


@pytest.mark.contract("BLAME-PLACES-2")
def test_kv_heads_that_are_alike_are_no_copies_of_one(model: Path, ours: Trace) -> None:
    """As where each rank of tensor parallelism has the first one's heads: two positions lie side by side as four heads would."""
    count = len(TOKENS) // 2 * 2  # of an odd number there are not two and two
    stages = ("attn_norm", "qkv_matmul", "k_post_rope", "l_out")
    alike = {entry.key.name: ours.load(entry)[:count] for entry in ours.entries if entry.stage in stages}
    for layer in range(LAYERS):
        keys = alike[f"layer{layer}.k_post_rope"]
        alike[f"layer{layer}.k_post_rope"] = np.tile(keys[:, :16], 2)
    found = aprgraph.audit(alike, model, tokens=TOKENS[:count])
    assert found.misshapen == ()
    assert {(one.key.stage, one.key.layer) for one in found.wrong} >= {("k_post_rope", layer) for layer in range(LAYERS)}


def repeated(values: Tensor) -> Tensor:
    """KV heads [n, K * 16] once for each of two query heads."""
    return values.reshape(len(values), -1, 1, 16).repeat(2, axis=2).reshape(len(values), -1)


#: Which of k and v in qkv_matmul, and whether k behind RoPE, hold every KV head twice.
REPEATED = {"all": ("kv", True), "k and v alone": ("kv", False), "v alone": ("v", False), "k behind RoPE alone": ("", True)}


@pytest.mark.contract("BLAME-PLACES-2")
@pytest.mark.parametrize("which", REPEATED)
def test_repeated_kv_heads_in_arrays_of_q_k_and_v(which: str, model: Path, ours: Trace, tmp_path: Path) -> None:
    """As programs dump q, k and v apart, some of them behind the repetition: with a layer of which two copies differ, that is wrong."""
    parts, behind = REPEATED[which]
    dump: dict[str, Tensor] = {}
    for entry in ours.entries:
        value = ours.load(entry)
        if entry.stage == "qkv_matmul":
            split = dict(zip("qkv", np.split(value, [64, 96], axis=1), strict=True))
            dump |= {f"{entry.key.name}[{part}]": repeated(one) if part in parts else one for part, one in split.items()}
        else:
            dump[entry.key.name] = repeated(value) if behind and entry.stage == "k_post_rope" else value
    found = aprgraph.audit(dump, model, tokens=TOKENS)
    assert (found.exit_code, found.wrong, found.misshapen) == (0, (), ())
    stages = [*(["qkv_matmul"] if parts else []), *(["k_post_rope"] if behind else [])]
    assert f"{' and '.join(stages)} hold each KV head as many times as query heads share it ({3 * len(stages)} tensors)" in found.sentence
    again = traced(tmp_path / "again", model, layers=f"0..{LAYERS}")
    for options in ({}, {"model": model, "tokens": TOKENS}):
        report = aprgraph.diff(again, dump, **options)
        assert (report.exit_code, report.diverged) == (0, 0)
    key = "layer1.k_post_rope" if behind else "layer1.qkv_matmul[v]"
    dump[key] = noisy(dump[key], 1e-3)
    assert [one.label for one in aprgraph.audit(dump, model, tokens=TOKENS).misshapen] == [f"layer 1 {stages[-1]}"]


@pytest.mark.contract("BLAME-PLACES-3")
def test_an_audit_in_other_places_ends_where_it_is_settled(model: Path, ours: Trace, tmp_path: Path) -> None:
    """Without layer 0 the rest may be counted from 1; the first tensor that is wrong so and was right before says no."""
    tensors = {(entry.layer, entry.stage): ours.load(entry) for entry in ours.entries if entry.layer != 0}
    tensors[2, "ffn_up"] = noisy(tensors[2, "ffn_up"], 1e-2)
    theirs, seen = written(tmp_path / "theirs", tensors), list[str]()
    found = audit(theirs, load_model(model), progress=seen.append)
    assert [local.label for local in found.wrong] == ["layer 2 ffn_up", "layer 2 ffn_swigl"]
    assert seen[: len(theirs)] == [entry.label for entry in theirs]
    assert 0 < len(seen) - len(theirs) < len(theirs) / 2


SKIPPED = {
    "the last layer's FFN": ("post_ffn_residual", LAYERS - 1, "post_attn_residual", LAYERS - 1, None),
    "a norm": ("attn_norm", 0, "embedding", 0, ("embedding", "attn_norm")),
    "the residual": ("post_ffn_residual", 0, "ffn_out", 0, ("post_attn_residual", "ffn_out", "post_ffn_residual")),
}


@pytest.mark.contract("BLAME-PLACES-3")
@pytest.mark.parametrize("case", SKIPPED)
def test_a_stage_that_was_skipped_and_that_nothing_reads_is_wrong(case: str, model: Path, ours: Trace, tmp_path: Path) -> None:
    """It holds what another stage holds, and nothing tells a recording from a computation."""
    stage, layer, other, other_layer, kept = SKIPPED[case]
    tensors = {(entry.layer, entry.stage): ours.load(entry) for entry in ours.entries if entry.layer is not None}
    tensors = {key: values for key, values in tensors.items() if kept is None or (key[0] == layer and key[1] in kept)}
    tensors[layer, stage] = ours.tensor(other, other_layer)
    found = audit(written(tmp_path / "theirs", tensors), load_model(model))
    assert (found.exit_code, [local.key[1:] for local in found.wrong]) == (1, [(layer, stage)])


@pytest.mark.contract("BLAME-PLACES-3")
def test_a_fault_beside_layers_from_one_is_located(model: Path, ours: Trace, tmp_path: Path) -> None:
    spoil(ours, "attn_out", 1, lambda values: noisy(values, 1e-3))
    found = audit(written(tmp_path / "theirs", counted_from_one(ours)), load_model(model))
    assert [local.label for local in found.wrong] == ["layer 1 attn_out", "layer 1 post_attn_residual"]
    said = "it fits exactly if its layers are counted from 1: this looks like the recording, not the computation; read so, what moves"
    assert said.partition(" if ")[2] + " is right but for 2 of " in found.sentence
