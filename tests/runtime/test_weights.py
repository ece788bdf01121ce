"""`aprgraph weights` as a function: the same model, or what was done to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.runtime.weights import Status, WeightsReport
from aprgraph.runtime.weights.decoded import Decoded
from aprgraph.runtime.weights.low_rank import find_rank
from aprgraph.runtime.weights.report import measures_in_words
from aprgraph.runtime.weights.rows import Index
from tests.support.apr_bytes import from_checkpoint, from_gguf
from tests.support.changed_model import F32, Tensors, changed_model
from tests.support.checkpoints import NAMES, gguf_of, write_checkpoint
from tests.support.planted import planted

Tiny = Callable[..., Path]
Change = Callable[[Tensors], None]

#: The formats that the gguf package can quantise to.
QUANTISABLE = ("F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


class RowsInMemory:
    unit = 1

    def __init__(self, values: F32) -> None:
        self._values = values
        self.count, self.columns = values.shape

    def fetch(self, rows: Index) -> Decoded:
        return Decoded(self._values[rows], np.zeros_like(self._values[rows]))


def compare(a: Path, b: Path) -> WeightsReport:
    report = aprgraph.compare_weights(a, b)
    assert report.to_json()["exit_code"] == report.exit_code
    return report


def explained(report: WeightsReport) -> dict[str, tuple[str, str]]:
    """By tensor that is not the same, the kind and the text."""
    return {one.name: (one.kind, one.text) for one in report.unlike}


def kinds(report: WeightsReport) -> dict[str, str]:
    return {name: kind for name, (kind, _) in explained(report).items()}


def to_halves(w: F32, heads: int) -> F32:
    """Rows from neighbours to halves, as transformers' rotary embedding has them."""
    return w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def interleaved(gate: F32, up: F32) -> F32:
    """The rows of gate and up one by one, [..., 2 F, H]."""
    return np.stack([gate, up], axis=-2).reshape(*gate.shape[:-2], -1, gate.shape[-1])


# -- the same ----------------------------------------------------------------------------------------------------------


@pytest.mark.contract("WEIGHTS-SAME-1")
def test_a_copy_is_identical(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(format="Q4_0")
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    report = compare(model, copy)
    assert (report.sentence, report.exit_code) == ("The same model: 21 tensors are identical.", 0)


@pytest.mark.contract("WEIGHTS-SAME-1")
@pytest.mark.parametrize("format", QUANTISABLE)
def test_a_quantised_model_is_the_same_up_to_rounding(format: str, tiny_model: Tiny, tmp_path: Path) -> None:  # noqa: A002
    model = tiny_model()
    other = changed_model(model, tmp_path / "b.gguf", format=format)
    for report in (compare(model, other), compare(other, model)):
        assert report.exit_code == 0
        assert report.sentence == f"The same model: 21 tensors: 5 identical, 16 the same up to the rounding of {format}."


@pytest.mark.contract("WEIGHTS-SAME-1")
@pytest.mark.parametrize(("one", "other"), [("Q4_0", "Q8_0"), ("Q4_0", "Q5_1"), ("BF16", "F16"), ("Q4_1", "Q4_0")])
def test_two_quantisations_of_one_model(one: str, other: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    report = compare(*(changed_model(model, tmp_path / f"{name}.gguf", format=name) for name in (one, other)))
    assert (report.exit_code, len(report.of(Status.ROUNDED))) == (0, 16)


def test_a_head_that_is_the_table_may_be_left_out(tiny_model: Tiny, tmp_path: Path) -> None:
    def copied(t: Tensors) -> None:
        t["output.weight"] = t["token_embd.weight"]

    model = tiny_model(tied=True)
    other = changed_model(model, tmp_path / "b.gguf", copied)
    assert compare(model, other).exit_code == compare(other, model).exit_code == 0


@pytest.mark.contract("WEIGHTS-SAME-1")
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_and_its_gguf_file(name: str, tmp_path: Path) -> None:
    """Rows of q and k, sums of norms, experts one by one, matrices of heads: what a sound conversion changes is no difference."""
    checkpoint = write_checkpoint(name, tmp_path)
    report = compare(checkpoint, gguf_of(name))
    assert (report.exit_code, report.bearing_keys) == (0, [])
    families = (
        "llama-",
        "mixtral",
        "granite",
        "mistral3",
        "smollm3",
        "arcee",
        "deepseek-f32",
        "minicpm-f32",
        "internlm2",
        "olmo-",
        "baichuan",
        "deci",
        "deepseek2-lite",
        "deepseek3",
        "gemma4-f32-experts",
    )
    assert bool(report.notes) == name.startswith(families)


def test_files_of_apr(tmp_path: Path) -> None:
    model = gguf_of("llama-bf16")
    one, other = tmp_path / "gguf.apr", tmp_path / "hf.apr"
    one.write_bytes(from_gguf(model).pack())
    other.write_bytes(from_checkpoint(write_checkpoint("llama-bf16", tmp_path)).pack())
    assert [compare(path, model).exit_code for path in (one, other)] == [0, 0]
    report = compare(one, other)
    assert (report.exit_code, len(report.notes)) == (0, 1)


def test_what_a_file_of_apr_cannot_say_is_a_difference(tmp_path: Path) -> None:
    """It has no place for a sliding window."""
    model = gguf_of("gemma3-f32")
    path = tmp_path / "m.apr"
    path.write_bytes(from_gguf(model).pack())
    report = compare(path, model)
    assert (report.exit_code, report.unlike) == (1, [])
    assert "gemma3.attention.sliding_window" in {one.key for one in report.bearing_keys}


def test_a_conversion_that_left_the_rows_of_q_and_k_alone(tmp_path: Path) -> None:
    def left_alone(t: Tensors) -> None:
        for layer in range(2):
            for what, heads in (("q", 4), ("k", 2)):
                w = f"blk.{layer}.attn_{what}.weight"
                t[w] = to_halves(t[w], heads)

    checkpoint = write_checkpoint("llama-bf16", tmp_path)
    report = compare(checkpoint, changed_model(gguf_of("llama-bf16"), tmp_path / "b.gguf", left_alone, format="BF16"))
    assert set(kinds(report).values()) == {"head-rows"}
    assert set(kinds(report)) == {f"blk.{layer}.attn_{what}.weight" for layer in range(2) for what in "qk"}


# -- different, and by what --------------------------------------------------------------------------------------------


def permuted(t: Tensors) -> None:
    for layer in range(2):
        for what, heads in (("q", 4), ("k", 2)):
            name = f"blk.{layer}.attn_{what}.weight"
            t[name] = to_halves(t[name], heads)


def permuted_by_wrong_heads(t: Tensors) -> None:
    t["blk.0.attn_k.weight"] = to_halves(t["blk.0.attn_k.weight"], 4)


def permuted_again_by_wrong_heads(t: Tensors) -> None:
    """What the conversion of ggml-org/llama.cpp#3364 made of keys of two heads, beside what it should."""
    halves = to_halves(t["blk.0.attn_k.weight"], 2)
    t["blk.0.attn_k.weight"] = halves.reshape(4, 2, -1, halves.shape[1]).swapaxes(1, 2).reshape(halves.shape)


def one_added(t: Tensors) -> None:
    for name in t:
        if name.endswith("norm.weight"):
            t[name] = t[name] + 1


def gate_and_up_swapped(t: Tensors) -> None:
    t["blk.1.ffn_gate.weight"], t["blk.1.ffn_up.weight"] = t["blk.1.ffn_up.weight"], t["blk.1.ffn_gate.weight"]


def gate_and_up_cut_by_halves(t: Tensors) -> None:
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    t[gate], t[up] = np.split(interleaved(t[gate], t[up]), 2)


def gate_and_up_cut_by_rows(t: Tensors) -> None:
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    both = np.concatenate([t[gate], t[up]])
    t[gate], t[up] = both[0::2], both[1::2]


def transposed(t: Tensors) -> None:
    t["blk.0.attn_output.weight"] = t["blk.0.attn_output.weight"].T.copy()


def transposed_dims(t: Tensors) -> None:
    t["blk.0.ffn_down.weight"] = t["blk.0.ffn_down.weight"].T.copy()


def scaled(t: Tensors) -> None:
    t["blk.1.attn_v.weight"] = t["blk.1.attn_v.weight"] * np.float32(0.125)


def negated(t: Tensors) -> None:
    t["blk.1.attn_v.weight"] = -t["blk.1.attn_v.weight"]


def of_another_layer(t: Tensors) -> None:
    t["blk.0.attn_v.weight"] = t["blk.1.attn_v.weight"]


def rows_exchanged(t: Tensors) -> None:
    t["token_embd.weight"][[5, 90]] = t["token_embd.weight"][[90, 5]]


def adapter(t: Tensors) -> None:
    w, rng = t["blk.1.attn_q.weight"], np.random.default_rng(1)
    delta = rng.standard_normal((w.shape[0], 3)) @ rng.standard_normal((3, w.shape[1]))
    t["blk.1.attn_q.weight"] = (w + 0.05 * delta).astype(np.float32)


def adapter_of_dora(t: Tensors) -> None:
    w, rng = t["blk.1.attn_q.weight"], np.random.default_rng(1)
    merged = w + 0.05 * rng.standard_normal((w.shape[0], 3)) @ rng.standard_normal((3, w.shape[1]))
    t["blk.1.attn_q.weight"] = (merged * rng.uniform(0.8, 1.2, (len(w), 1))).astype(np.float32)


def shards_below(t: Tensors) -> None:
    """Of a matrix whose columns are divided among ranks: the rows of rank 0, then those of rank 1."""
    t["blk.0.ffn_down.weight"] = np.concatenate(np.split(t["blk.0.ffn_down.weight"], 2, axis=1), axis=0)


def shards_below_in_place(t: Tensors) -> None:
    w = t["blk.0.attn_output.weight"]
    t["blk.0.attn_output.weight"] = np.concatenate(np.split(w, 2, axis=1), axis=0).reshape(w.shape)


def shards_beside(t: Tensors) -> None:
    t["blk.1.ffn_up.weight"] = np.concatenate(np.split(t["blk.1.ffn_up.weight"], 4, axis=0), axis=1)


def shards_beside_in_place(t: Tensors) -> None:
    w = t["blk.1.ffn_up.weight"]
    t["blk.1.ffn_up.weight"] = np.concatenate(np.split(w, 4, axis=0), axis=1).reshape(w.shape)


def row_lost(t: Tensors) -> None:
    t["blk.0.ffn_up.weight"][[7, 8]] = 0


def block_lost(t: Tensors) -> None:
    t["blk.0.ffn_up.weight"][9, 32:64] = 0


def more_rows(t: Tensors) -> None:
    for name in ("token_embd.weight", "output.weight"):
        t[name] = np.concatenate([t[name], np.zeros((32, t[name].shape[1]), np.float32)])


_Q_AND_K = [f"blk.{layer}.attn_{what}.weight" for layer in range(2) for what in "qk"]
_NORMS = ["output_norm.weight", *(f"blk.{layer}.{name}_norm.weight" for layer in range(2) for name in ("attn", "ffn"))]
CASES: dict[str, tuple[Change, str, list[str], str]] = {
    "permuted": (permuted, "head-rows", _Q_AND_K, "A pairs neighbours, B halves"),
    "heads": (permuted_by_wrong_heads, "head-rows", ["blk.0.attn_k.weight"], "4 heads"),
    "other heads": (
        permuted_again_by_wrong_heads,
        "head-rows",
        ["blk.0.attn_k.weight"],
        "has its rows permuted for RoPE as if of 4 heads, where there are 2",
    ),
    "norms": (one_added, "norm-plus-one", _NORMS, "B holds 1 + w where A holds w"),
    "swapped": (gate_and_up_swapped, "gate-and-up-swapped", ["blk.1.ffn_gate.weight", "blk.1.ffn_up.weight"], "gate and up are swapped"),
    "halves": (gate_and_up_cut_by_halves, "gate-and-up-interleaved", ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"], "B took the halves"),
    "by rows": (gate_and_up_cut_by_rows, "gate-and-up-interleaved", ["blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"], "A took the halves"),
    "transposed": (transposed, "transposed", ["blk.0.attn_output.weight"], "transposed"),
    "dims": (transposed_dims, "transposed", ["blk.0.ffn_down.weight"], "64 x 96 in A, 96 x 64 in B"),
    "factor": (scaled, "factor", ["blk.1.attn_v.weight"], "A is 8 times B"),
    "sign": (negated, "factor", ["blk.1.attn_v.weight"], "A is -1 times B"),
    "layer": (of_another_layer, "other-tensor", ["blk.0.attn_v.weight"], "none"),
    "rows": (rows_exchanged, "row-order", ["token_embd.weight"], "A's row 5 is B's 90, 90 is B's 5"),
    "adapter": (adapter, "low-rank", ["blk.1.attn_q.weight"], "rank 3"),
    "shards below": (shards_below, "shards-stacked", ["blk.0.ffn_down.weight"], "2 shards lie one below the other in B, side by side in A"),
    "shards below in place": (
        shards_below_in_place,
        "shards-stacked",
        ["blk.0.attn_output.weight"],
        "B has its 2 shards of columns one below",
    ),
    "shards beside": (shards_beside, "shards-stacked", ["blk.1.ffn_up.weight"], "4 shards lie side by side in B, one below the other in A"),
    "shards beside in place": (
        shards_beside_in_place,
        "shards-stacked",
        ["blk.1.ffn_up.weight"],
        "B has its 4 shards of rows side by side",
    ),
    "row lost": (row_lost, "damaged", ["blk.0.ffn_up.weight"], "2 of 96 rows differ (rows 7 to 8); B is 0 there"),
    "block lost": (block_lost, "damaged", ["blk.0.ffn_up.weight"], "1 block of 192 differs (row 9, columns 32..63); B is 0 there"),
    "more rows": (more_rows, "more-rows", ["token_embd.weight", "output.weight"], "B has 32 rows more at the end; the first 288"),
}


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.each_choice(least=2)
@pytest.mark.parametrize("format", ["F32", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "layer"])
def test_a_broken_conversion_is_named(case: str, format: str, tiny_model: Tiny, tmp_path: Path) -> None:  # noqa: A002
    change, kind, names, text = CASES[case]
    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", change, format=format))
    assert kinds(report) == dict.fromkeys(names, kind)
    assert all(text in found for _, found in explained(report).values())
    assert report.exit_code == 1
    assert report.sentence.startswith("Not the same: ")


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize("format", ["F32", "Q8_0"])
def test_an_adapter_of_dora(format: str, tiny_model: Tiny, tmp_path: Path) -> None:  # noqa: A002
    """Whichever of the two it was merged into. Of four bits a plain low rank is within rounding."""
    model = tiny_model()
    merged = changed_model(model, tmp_path / "b.gguf", adapter_of_dora, format=format)
    for a, b in ((model, merged), (merged, model)):
        report = compare(a, b)
        assert kinds(report) == {"blk.1.attn_q.weight": "scaled-low-rank"}
        assert "the difference has rank 3, as an adapter of DoRA that was merged" in report.sentence


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_factors_of_rows_or_a_low_rank_alone_are_not_taken_for_dora(tiny_model: Tiny, tmp_path: Path) -> None:
    def factors(t: Tensors) -> None:
        t["blk.1.attn_q.weight"] *= np.random.default_rng(1).uniform(0.8, 1.2, (64, 1)).astype(np.float32)

    def noise(t: Tensors) -> None:
        t["blk.1.attn_q.weight"] += 0.05 * np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)

    def both(t: Tensors) -> None:
        factors(t)
        noise(t)

    model = tiny_model()
    for change, kind in ((factors, "block-factors"), (adapter, "low-rank"), (noise, ""), (both, "")):
        assert kinds(compare(model, changed_model(model, tmp_path / "b.gguf", change))) == {"blk.1.attn_q.weight": kind}


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_weights_of_another_layer(tiny_model: Tiny, tmp_path: Path) -> None:
    def shifted(t: Tensors) -> None:
        names = [name.removeprefix("blk.0.") for name in t if name.startswith("blk.0.")]
        for layer in (3, 2, 1):
            for name in names:
                t[f"blk.{layer}.{name}"] = t[f"blk.{layer - 1}.{name}"]

    model = tiny_model(layers=4)
    report = compare(model, changed_model(model, tmp_path / "b.gguf", shifted, format="Q8_0"))
    by_layer = {one.name: (one.layer, one.kind, one.text) for one in report.unlike}
    # Layer 3 of A is gone, so that nothing of B is like it: what is in its place is said.
    assert {kind for layer, kind, _ in by_layer.values() if layer in (1, 2, 3)} == {"other-tensor"}
    assert by_layer["blk.1.attn_v.weight"][2] == "the weights of B's blk.2.attn_v.weight"
    assert by_layer["blk.3.attn_v.weight"][2] == "B holds the weights of A's blk.2.attn_v.weight"
    assert "of layers 1..2: the weights of 1 layer later in B" in report.sentence


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_experts_in_another_order(tiny_model: Tiny, tmp_path: Path) -> None:
    order = [3, 1, 2, 0, 4, 5, 7, 6]

    def reordered(t: Tensors) -> None:
        for what in ("gate", "up", "down"):
            t[f"blk.0.ffn_{what}_exps.weight"] = t[f"blk.0.ffn_{what}_exps.weight"][order]

    model = tiny_model(family="qwen3moe")
    report = compare(model, changed_model(model, tmp_path / "b.gguf", reordered, format="Q4_0"))
    assert kinds(report) == {f"blk.0.ffn_{what}_exps.weight": "expert-order" for what in ("gate", "up", "down")}
    assert "A's expert 0 is B's 3, 3 is B's 0, 6 is B's 7, 7 is B's 6" in report.sentence


def test_gate_and_up_of_experts_and_in_one_tensor(tiny_model: Tiny, tmp_path: Path) -> None:
    def cut_by_halves(t: Tensors) -> None:
        gate, up = "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"
        t[gate], t[up] = np.split(interleaved(t[gate], t[up]), 2, axis=1)

    def in_one(t: Tensors) -> None:
        w = t["blk.1.ffn_up.weight"]
        t["blk.1.ffn_up.weight"] = interleaved(*np.split(w, 2))

    model = tiny_model(family="qwen3moe")
    report = compare(model, changed_model(model, tmp_path / "b.gguf", cut_by_halves, format="Q8_0"))
    assert kinds(report) == {f"blk.1.ffn_{what}_exps.weight": "gate-and-up-interleaved" for what in ("gate", "up")}
    model = tiny_model(family="phi3")
    report = compare(model, changed_model(model, tmp_path / "c.gguf", in_one, format="Q8_0"))
    assert explained(report) == {
        "blk.1.ffn_up.weight": ("gate-and-up-interleaved", "gate and up are interleaved row by row in B, one after the other in A")
    }


def test_heads_of_one_tensor_for_q_k_and_v(tiny_model: Tiny, tmp_path: Path) -> None:
    def turned(t: Tensors) -> None:
        w = t["blk.0.attn_qkv.weight"]
        t["blk.0.attn_qkv.weight"] = np.concatenate([to_halves(w[:96], 6), w[96:]])

    model = tiny_model(family="phi3")
    report = compare(model, changed_model(model, tmp_path / "b.gguf", turned))
    assert explained(report)["blk.0.attn_qkv.weight"][0] == "head-rows"


def test_permuted_and_scaled(tiny_model: Tiny, tmp_path: Path) -> None:
    def both(t: Tensors) -> None:
        t["blk.0.attn_q.weight"] = to_halves(t["blk.0.attn_q.weight"], 4) / 4

    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", both, format="Q8_0"))
    kind, text = explained(report)["blk.0.attn_q.weight"]
    assert kind == "head-rows"
    assert text.endswith(", and A is 4 times B") or "times B" in text


def test_a_constant_norm_has_more_than_one_explanation(tiny_model: Tiny, tmp_path: Path) -> None:
    def one(t: Tensors) -> None:
        t["output_norm.weight"][:] = 1

    def two(t: Tensors) -> None:
        t["output_norm.weight"][:] = 2

    model = tiny_model()
    report = compare(*(changed_model(model, tmp_path / f"{change.__name__}.gguf", change) for change in (one, two)))
    (found,) = report.unlike
    assert (found.kind, found.also) == ("norm-plus-one", ("A is 0.5 times B",))


@pytest.mark.contract("WEIGHTS-DIFFERENT-1")
@pytest.mark.parametrize("format", ["F32", "Q8_0", "Q4_0"])
def test_two_trainings_are_different(format: str, tiny_model: Tiny) -> None:  # noqa: A002
    report = compare(tiny_model(format=format), tiny_model(format=format, seed=1))
    assert report.exit_code == 1
    assert {one.status for one in report.findings} == {Status.DIFFERENT}
    assert all(0.3 < one.measures.nmse < 4 for one in report.findings if one.measures is not None and "norm" not in one.name)
    assert "different, by no transform that is known here" in report.sentence


@pytest.mark.contract("WEIGHTS-DIFFERENT-1")
def test_a_block_that_is_damaged_within_rounding(tiny_model: Tiny, tmp_path: Path) -> None:
    def one_code(rows: np.ndarray) -> None:  # type: ignore[type-arg]
        rows[4, 3] ^= 1

    model = tiny_model(format="Q4_0")
    report = compare(model, planted(model, tmp_path / "b.gguf", blk__0__attn_q__weight=one_code))
    assert explained(report) == {"blk.0.attn_q.weight": ("damaged", "1 block of 128 differs (row 4, columns 0..31)")}


def test_biases_of_q_and_k_go_with_their_rows(tiny_model: Tiny, tmp_path: Path) -> None:
    def turned(t: Tensors) -> None:
        for what in ("weight", "bias"):
            t[f"blk.0.attn_q.{what}"] = to_halves(t[f"blk.0.attn_q.{what}"], 4)

    model = tiny_model(qkv_bias=True)
    report = compare(model, changed_model(model, tmp_path / "b.gguf", turned))
    assert kinds(report) == {f"blk.0.attn_q.{what}": "head-rows" for what in ("weight", "bias")}


def test_what_rounding_hides_is_not_called_the_same(tiny_model: Tiny, tmp_path: Path) -> None:
    """Ternary weights of one that was not trained for them: the bound is nearly all of the tensor."""
    model = tiny_model(hidden=256, ffn=256)
    report = compare(model, changed_model(model, tmp_path / "b.gguf", format="TQ1_0"))
    assert (report.exit_code, {one.status for one in report.unlike}) == (3, set())
    assert report.of(Status.UNTOLD)
    assert report.sentence.startswith("It cannot be said whether these are the same model")


@pytest.mark.contract("WEIGHTS-JSON-1")
def test_huge_values_overflow_no_sum(tiny_model: Tiny, tmp_path: Path) -> None:
    def huge(t: Tensors) -> None:
        t["blk.0.attn_q.weight"][3, 4] = 1e30

    def huge_and_other(t: Tensors) -> None:
        huge(t)
        t["blk.0.attn_q.weight"][9, 9] = 1e30

    model = tiny_model()
    report = compare(*(changed_model(model, tmp_path / f"{one.__name__}.gguf", one) for one in (huge, huge_and_other)))
    assert kinds(report) == {"blk.0.attn_q.weight": "damaged"}
    json.dumps(report.to_json(), allow_nan=False)


@pytest.mark.parametrize("factor", [1e-34, 1e-25, 1e25, 1e37])
def test_a_factor_whose_squares_are_beyond_f32(factor: float, tiny_model: Tiny, tmp_path: Path) -> None:
    def scaled_by(t: Tensors) -> None:
        t["blk.0.attn_q.weight"] = t["blk.0.attn_q.weight"] * np.float32(factor)

    model = tiny_model()
    other = changed_model(model, tmp_path / "b.gguf", scaled_by)
    for a, b, times in ((other, model, factor), (model, other, 1 / factor)):
        report = compare(a, b)
        assert explained(report) == {"blk.0.attn_q.weight": ("factor", f"A is {times:.6g} times B")}
        assert "cosine 1.000000" in measures_in_words(report.groups[0].first)


def test_tiny_values_that_differ_are_not_rounding(tiny_model: Tiny, tmp_path: Path) -> None:
    def tiny(t: Tensors) -> None:
        t["blk.0.attn_q.weight"] *= np.float32(1e-30)

    def tiny_and_other(t: Tensors) -> None:
        tiny(t)
        t["blk.0.attn_q.weight"][9, 9] *= 3

    model = tiny_model()
    report = compare(*(changed_model(model, tmp_path / f"{one.__name__}.gguf", one) for one in (tiny, tiny_and_other)))
    assert kinds(report) == {"blk.0.attn_q.weight": "damaged"}


def test_opposite_huge_values(tiny_model: Tiny, tmp_path: Path) -> None:
    def huge(t: Tensors) -> None:
        t["blk.0.attn_q.weight"][3, 4] = 3e38

    def opposite(t: Tensors) -> None:
        t["blk.0.attn_q.weight"][3, 4] = -3e38

    model = tiny_model()
    report = compare(*(changed_model(model, tmp_path / f"{one.__name__}.gguf", one) for one in (huge, opposite)))
    assert measures_in_words(report.groups[0].first).endswith("cosine -1.000000, largest difference 6.00e+38)")


def test_huge_values_that_have_nothing_in_common() -> None:
    numbers = np.random.default_rng(0).standard_normal((2, 512, 512)).astype(np.float32)
    a, b = (RowsInMemory(one * np.float32(1e30)) for one in numbers)
    assert find_rank(a, b) is None


def test_a_tensor_of_nan_alone(tiny_model: Tiny, tmp_path: Path) -> None:
    def nan(t: Tensors) -> None:
        t["blk.0.attn_q.weight"][:] = np.nan

    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", nan))
    assert explained(report)["blk.0.attn_q.weight"][1].endswith(" NaN or Inf")
    assert measures_in_words(report.groups[0].first) == ""
    json.dumps(report.to_json(), allow_nan=False)


def test_nan_is_said(tiny_model: Tiny, tmp_path: Path) -> None:
    def nan(t: Tensors) -> None:
        t["blk.0.attn_q.weight"][3, 4] = np.nan

    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", nan))
    assert explained(report)["blk.0.attn_q.weight"][1].endswith("B holds 1 NaN or Inf")


# -- beside the tensors ------------------------------------------------------------------------------------------------


@pytest.mark.contract("WEIGHTS-KEYS-1")
def test_hyperparameters_and_tokenizer(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    other = changed_model(model, tmp_path / "b.gguf", keys={"llama.rope.freq_base": 500000.0})
    report = compare(model, other)
    assert (report.exit_code, report.unlike) == (1, [])
    assert [(one.key, one.a, one.b) for one in report.hyperparameters if one.key.endswith("base")] == [
        ("llama.rope.freq_base", "10000", "500000")
    ]
    assert report.sentence.startswith("Not the same: other llama.rope.freq_base (10000 in A, 500000 in B)")


@pytest.mark.contract("WEIGHTS-KEYS-1")
def test_a_default_that_one_side_leaves_out_is_no_difference(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", keys={"llama.rope.freq_base": None}))
    assert (report.exit_code, report.hyperparameters) == (0, ())


def test_a_missing_tensor(tiny_model: Tiny, tmp_path: Path) -> None:
    def lost(t: Tensors) -> None:
        del t["blk.1.attn_v.weight"]

    model = tiny_model()
    other = changed_model(model, tmp_path / "b.gguf", lost)
    assert explained(compare(model, other)) == {"blk.1.attn_v.weight": ("missing", "B has no such tensor")}
    assert explained(compare(other, model)) == {"blk.1.attn_v.weight": ("missing", "A has no such tensor")}


def test_missing_tensors_of_several_layers(tiny_model: Tiny, tmp_path: Path) -> None:
    def lost(t: Tensors) -> None:
        for layer in range(2):
            del t[f"blk.{layer}.attn_v.weight"]

    report = compare(tiny_model(), changed_model(tiny_model(), tmp_path / "b.gguf", lost))
    assert report.sentence.startswith("Not the same: attn_v.weight of layers 0..1: B has no such tensors. ")
    assert measures_in_words(report.groups[0].first) == ""


def test_nothing_in_common_is_not_called_different(tiny_model: Tiny, tmp_path: Path) -> None:
    def renamed(t: Tensors) -> None:
        for name in list(t):
            t[f"x.{name}"] = t.pop(name)

    model = tiny_model()
    report = compare(model, changed_model(model, tmp_path / "b.gguf", renamed))
    assert report.exit_code == 3
    assert "no tensor has a name that both files have" in report.sentence
