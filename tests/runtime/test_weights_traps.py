"""What conversions and loaders get wrong, planted in tiny models: each must be named, and nothing else with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import aprgraph
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.weights import Status, WeightsReport
from tests.graph.test_checkpoint_files import change, packed, unpacked
from tests.support.changed_model import F32, Tensors, changed_model, read_tensors
from tests.support.checkpoints import gguf_of, write_checkpoint
from tests.support.planted import Bytes, planted

Tiny = Callable[..., Path]
Change = Callable[[Tensors], None]

Q, K, V, O = (f"blk.0.attn_{part}.weight" for part in ("q", "k", "v", "output"))
GATE, UP, DOWN = (f"blk.0.ffn_{part}.weight" for part in ("gate", "up", "down"))
EXPERTS = tuple(f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
ROUTER = "blk.0.ffn_gate_inp.weight"


def found(report: WeightsReport) -> dict[str, str]:
    """By tensor that is not the same, the kind."""
    return {one.name: one.kind for one in report.unlike}


def scales_of(w: F32, rows: int, columns: int) -> F32:
    """A scale for each block, spread out over its elements."""
    shape = w.shape[0] // rows, w.shape[1] // columns
    scales = np.exp(np.random.default_rng(5).standard_normal(shape)).astype(np.float32)
    return np.kron(scales, np.ones((rows, columns), np.float32))


def scaled_blocks(rows: int, columns: int, power: int) -> Change:
    """The scales of blocks of rows and columns are forgotten (1), or divided by where they should multiply (2)."""

    def change(t: Tensors) -> None:
        t[Q] = t[Q] / scales_of(t[Q], rows, columns) ** power

    return change


def by_channel_instead_of_block(t: Tensors) -> None:
    t[Q] = t[Q] / scales_of(t[Q], 16, 32) * scales_of(t[Q], 1, 64)


def zeros_minus_one(t: Tensors) -> None:
    """As a reader of GPTQ does that takes the stored zeros for the zeros."""
    scales = np.abs(t[UP]).reshape(len(t[UP]), -1, 32).max(axis=2) / 7
    t[UP] = t[UP] + np.repeat(scales, 32, axis=1)


def columns(name: str, order: list[int]) -> Change:
    """Another order in each so many columns."""

    def change(t: Tensors) -> None:
        t[name] = t[name].reshape(*t[name].shape[:-1], -1, len(order))[..., order].reshape(t[name].shape)

    return change


def rows(name: str, order: list[int]) -> Change:
    """Another order of groups of rows."""

    def change(t: Tensors) -> None:
        t[name] = t[name].reshape(len(order), -1, t[name].shape[-1])[order].reshape(t[name].shape)

    return change


def exchanged(one: str, other: str) -> Change:
    def change(t: Tensors) -> None:
        t[one], t[other] = t[other], t[one]

    return change


def set_to(name: str, change_of: Callable[[F32], F32]) -> Change:
    def change(t: Tensors) -> None:
        t[name] = np.ascontiguousarray(change_of(t[name]), np.float32)

    return change


def column_zero(w: F32) -> F32:
    w = w.copy()
    w[:, 32:64] = 0
    return w


def rows_zero(w: F32) -> F32:
    w = w.copy()
    w[: len(w) // 3] = 0
    return w


def expert_repeated(t: Tensors) -> None:
    for name in EXPERTS:
        t[name][5] = t[name][2]


def norm_folded(t: Tensors) -> None:
    for name in (Q, K, V):
        t[name] = t[name] * t["blk.0.attn_norm.weight"]
    t["blk.0.attn_norm.weight"] = np.ones_like(t["blk.0.attn_norm.weight"])


def norm_twice(t: Tensors) -> None:
    t["output_norm.weight"] = t["output_norm.weight"] + 1


INTERLEAVED = np.arange(32).reshape(2, 16).T.reshape(-1).tolist()
NIBBLES = np.arange(32).reshape(16, 2)[:, ::-1].reshape(-1).tolist()
#: By name: what is done, the kind that it must be called, the tensors, and words.
TRAPS: dict[str, tuple[Change, str, list[str], str]] = {
    "k and v exchanged": (exchanged(K, V), "other-tensor", [K, V], "the weights of B's blk.0.attn_"),
    "gate and up exchanged": (exchanged(GATE, UP), "gate-and-up-swapped", [GATE, UP], "gate and up are swapped"),
    "layers exchanged": (exchanged(DOWN, DOWN.replace("0", "1")), "other-tensor", [DOWN, DOWN.replace("0", "1")], "ffn_down"),
    "embedding and head exchanged": (
        exchanged("token_embd.weight", "output.weight"), "other-tensor", ["token_embd.weight", "output.weight"], "the weights of B's",
    ),
    "heads in another order": (rows(Q, [2, 0, 3, 1]), "head-order", [Q], "blocks of 16: A's block 0 is B's 1"),
    "neighbouring heads": (rows(Q, [1, 0, 3, 2]), "head-order", [Q], "blocks of 16: A's block 0 is B's 1, 1 is B's 0"),
    "columns of neighbouring heads": (
        columns(O, [*range(16, 32), *range(16), *range(48, 64), *range(32, 48)]), "column-order", [O], "blocks of 16: A's block 0 is B's 1",
    ),
    "one layer twice": (
        lambda t: t.update({DOWN.replace("0", "1"): t[DOWN]}), "other-tensor", [DOWN.replace("0", "1")], f"B holds the weights of A's {DOWN}",
    ),
    "first shard on both ranks": (
        set_to(Q, lambda w: np.tile(w[:32], (2, 1))), "rows-repeated", [Q], "B's rows 32..63 are A's rows 0..31; 32 of A's are not in B",
    ),
    "first shard of columns": (
        set_to(DOWN, lambda w: np.tile(w[:, :32], 3)), "columns-repeated", [DOWN], "B's columns 64..95 are A's columns 0..31; 64 of A's",
    ),
    "rows reversed": (set_to(DOWN, lambda w: w[::-1]), "row-order", [DOWN], "the rows are in reverse order"),
    "columns reversed": (set_to(DOWN, lambda w: w[:, ::-1]), "column-order", [DOWN], "the columns are in reverse order"),
    "rows shifted by one": (set_to(DOWN, lambda w: np.roll(w, 1, axis=0)), "row-order", [DOWN], "each 1 row later"),
    "vocabulary shifted by one": (set_to("output.weight", lambda w: np.roll(w, 1, axis=0)), "row-order", ["output.weight"], "1 row later"),
    "codes of MXFP4 as neighbours": (columns(UP, INTERLEAVED), "column-order", [UP], "two codes of a byte"),
    "high and low codes": (columns(UP, NIBBLES), "column-order", [UP], "high and the low code"),
    "order of AWQ": (columns(UP, [0, 2, 4, 6, 1, 3, 5, 7]), "column-order", [UP], "AWQ packs"),
    "columns of heads": (columns(O, [*range(16, 64), *range(16)]), "column-order", [O], "shifted"),
    "scales of FP8 forgotten": (scaled_blocks(16, 32, 1), "block-factors", [Q], "each block of 16 x 32 has a factor of its own"),
    "scales of FP8 inverted": (scaled_blocks(16, 32, 2), "block-factors", [Q], "each block of 16 x 32 has a factor of its own"),
    "scales of channels forgotten": (scaled_blocks(1, 64, 1), "block-factors", [Q], "each row has a factor of its own"),
    "scales of channels for blocks": (by_channel_instead_of_block, "block-factors", [Q], "each 32 columns of a row has a factor of its own"),
    "zeros minus one": (zeros_minus_one, "block-offsets", [UP], "each 32 columns of a row has an offset of its own"),
    "norms multiplied in": (norm_folded, "block-factors", [Q, K, V, "blk.0.attn_norm.weight"], "each column has a factor of its own"),
    "norm plus one twice": (norm_twice, "norm-plus-one", ["output_norm.weight"], "B holds 1 + w where A holds w"),
    "a bias of zeros": (set_to("blk.0.attn_q.bias", np.zeros_like), "damaged", ["blk.0.attn_q.bias"], "B is 0 everywhere"),
    "a tensor of zeros": (set_to(UP, np.zeros_like), "damaged", [UP], "B is 0 everywhere"),
    "a third of the rows zero": (set_to(UP, rows_zero), "damaged", [UP], "32 of 96 rows differ (rows 0 to 31); B is 0 there"),
    "a block of columns zero": (set_to(DOWN, column_zero), "damaged", [DOWN], "blocks of columns differ in every row (columns 32..63); B is 0"),
}  # fmt: skip


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.each_choice
@pytest.mark.parametrize("format", ["F32", "Q4_0"])
@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_is_named(trap: str, format: str, tiny_model: Tiny, tmp_path: Path) -> None:  # noqa: A002
    change, kind, names, text = TRAPS[trap]
    model = tiny_model(qkv_bias=True)
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", change, format=format))
    folded = {one.name: one for one in report.unlike if one.name == "blk.0.attn_norm.weight"}
    assert found(report) == dict.fromkeys(names, kind) | dict.fromkeys(folded, "")
    assert all(text in one.text for one in report.unlike if one.name not in folded)
    assert all("B is 1 everywhere" in one.text for one in folded.values())


def _taken_for(read: Callable[[F32], F32]) -> Change:
    """Scales of E8M0, bytes from 118 on, in blocks of 16 x 32, of which ``read`` makes others."""

    def change(t: Tensors) -> None:
        codes = np.arange(118, 126, dtype=np.uint8).reshape(4, 2)
        factors = read(codes) / codes.view(ml_dtypes.float8_e8m0fnu).astype(np.float64)
        t[Q] = (t[Q] * np.repeat(np.repeat(factors, 16, axis=0), 32, axis=1)).astype(np.float32)

    return change


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize(("read", "text"), [
    (lambda codes: codes.astype(float), "; B has scales of E8M0, which are exponents of 2, taken for whole numbers"),
    (lambda codes: codes.view(ml_dtypes.float8_e4m3fn).astype(float), "; B has scales of E8M0, which are exponents of 2, taken for E4M3"),
    (lambda codes: codes.astype(float) ** 0.5, "each block of 16 x 32 has a factor of its own (A is 0.000"),
])  # fmt: skip
def test_scales_of_e8m0_that_were_taken_for_others(read: Callable[[F32], F32], text: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", _taken_for(read)))
    assert found(report) == {Q: "block-factors"}
    assert text in report.unlike[0].text
    assert ("E8M0" in report.unlike[0].text) == ("E8M0" in text)


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_huge_numbers_are_not_within_the_rounding_of_others(tiny_model: Tiny, tmp_path: Path) -> None:
    """Beyond 1e26 the squares of what BF16 rounds are infinite in float32, and nothing is within that."""

    def huge(t: Tensors) -> None:
        t[Q] = np.random.default_rng(0).standard_normal(t[Q].shape).astype(np.float32) * np.float32(1e30)

    model = tiny_model()
    for a, b in ((model, changed_model(model, tmp_path / "b.gguf", huge, format="BF16")),):
        assert found(aprgraph.compare_weights(a, b)) == {Q: ""}
        assert found(aprgraph.compare_weights(b, a)) == {Q: ""}
        assert aprgraph.compare_weights(b, b).exit_code == 0


# -- one tensor here, several there --------------------------------------------------------------------------------------


def split_qkv(t: Tensors) -> None:
    for layer in range(2):
        t |= zip(
            (f"blk.{layer}.attn_{part}.weight" for part in "qkv"), np.split(t.pop(f"blk.{layer}.attn_qkv.weight"), [64, 96]), strict=True
        )


def split_gate_and_up(t: Tensors) -> None:
    for layer in range(2):
        gate, up = np.split(t[f"blk.{layer}.ffn_up.weight"], 2)
        t[f"blk.{layer}.ffn_gate.weight"], t[f"blk.{layer}.ffn_up.weight"] = gate.copy(), up.copy()


def qkv_by_group(t: Tensors) -> None:
    """Of each head of keys its queries, its key and its value, as some checkpoints have them."""
    for layer in range(2):
        q, k, v = (t.pop(f"blk.{layer}.attn_{part}.weight").reshape(2, -1, 64) for part in "qkv")
        t[f"blk.{layer}.attn_qkv.weight"] = np.concatenate([q, k, v], axis=1).reshape(-1, 64)


def gate_and_up_by_rows(t: Tensors) -> None:
    gate, up = t.pop(GATE), t[UP]
    t[UP] = np.stack([gate, up], axis=1).reshape(-1, 64)


def experts_one_by_one(t: Tensors) -> None:
    for name in EXPERTS:
        for number, w in enumerate(t.pop(name)):
            t[name.replace("_exps.", f".{number}.")] = w


def experts_gate_and_up(t: Tensors) -> None:
    t["blk.0.ffn_gate_up_exps.weight"] = np.concatenate([t.pop(EXPERTS[0]), t.pop(EXPERTS[1])], axis=1)


#: With what is said of it; a file with a tensor for each expert is read as one that has all of them in one.
FUSED: dict[str, tuple[str, Change, str | None]] = {
    "qkv": ("phi3", split_qkv, "attn_qkv.weight of A is attn_q.weight, attn_k.weight and attn_v.weight of B, one after the other"),
    "gate and up": ("phi3", split_gate_and_up, "ffn_up.weight of A is ffn_gate.weight and ffn_up.weight of B, one after the other"),
    "experts": ("qwen3moe", experts_one_by_one, None),
    "experts' gate and up": (
        "qwen3moe", experts_gate_and_up, "ffn_gate_up_exps.weight of B is ffn_gate_exps.weight and ffn_up_exps.weight of A, one after the other",
    ),
}  # fmt: skip


@pytest.mark.contract("WEIGHTS-SAME-1")
@pytest.mark.parametrize("case", FUSED)
def test_what_is_in_one_tensor_here_and_in_several_there(case: str, tiny_model: Tiny, tmp_path: Path) -> None:
    family, change, note = FUSED[case]
    model = tiny_model(family=family)
    other = changed_model(model, tmp_path / "b.gguf", change, format="Q8_0")
    report = aprgraph.compare_weights(model, other)
    assert (report.exit_code, found(report)) == (0, {})
    assert report.notes == () if note is None else note in report.notes
    assert aprgraph.compare_weights(other, model).exit_code == 0


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize(("change", "how"), [(qkv_by_group, "in 2 groups"), (gate_and_up_by_rows, "row by row")])
def test_parts_that_are_not_one_after_the_other(change: Change, how: str, tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", change, format="Q4_0"))
    assert set(found(report).values()) == {"fused-order"}
    assert all(one.text.endswith(how) for one in report.unlike)


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_a_part_that_is_wrong(tiny_model: Tiny, tmp_path: Path) -> None:
    def change(t: Tensors) -> None:
        split_qkv(t)
        t[V] = -t[V]

    model = tiny_model(family="phi3")
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", change, format="Q8_0"))
    assert [(one.name, one.text) for one in report.unlike] == [(V, "A is -1 times B")]


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_rows_of_latent_attention_that_rope_turns(tmp_path: Path) -> None:
    """The last of each head of q, and of those of k that all heads share."""
    model = gguf_of("deepseek3-f32")
    turned, heads = (open_source(model).metadata[f"deepseek2.{key}"] for key in ("rope.dimension_count", "attention.head_count"))
    assert isinstance(turned, int)
    assert isinstance(heads, int)
    query, key = "blk.1.attn_q_b.weight", "blk.1.attn_kv_a_mqa.weight"

    def to_halves(t: Tensors) -> None:
        for name, count in ((query, heads), (key, 1)):
            last = t[name].reshape(count, -1, t[name].shape[1])[:, -turned:]
            last[:] = np.concatenate([last[:, ::2], last[:, 1::2]], axis=1)

    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", to_halves))
    assert {one.name: (one.kind, one.text) for one in report.unlike} == {
        query: ("head-rows", f"the last {turned} rows of each of {heads} heads are permuted as for RoPE: A pairs neighbours, B halves"),
        key: ("head-rows", f"the last {turned} rows are permuted as for RoPE: A pairs neighbours, B halves"),
    }


# -- experts and neurons ---------------------------------------------------------------------------------------------------


def experts_reordered(t: Tensors, names: tuple[str, ...] = (*EXPERTS, ROUTER)) -> None:
    for name in names:
        t[name] = t[name][[3, 1, 2, 0, 4, 5, 7, 6]]


@pytest.mark.contract("WEIGHTS-SAME-1")
def test_experts_in_another_order_with_their_router(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="qwen3moe")
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", experts_reordered, format="Q4_0"))
    assert (report.exit_code, {one.name for one in report.of(Status.REORDERED)}) == (0, {*EXPERTS, ROUTER})
    assert "4 in another order, which computes the same" in report.sentence
    without = aprgraph.compare_weights(model, changed_model(model, tmp_path / "c.gguf", lambda t: experts_reordered(t, EXPERTS)))
    assert (without.exit_code, set(found(without).values())) == (1, {"expert-order"})


@pytest.mark.contract("WEIGHTS-SAME-1")
def test_groups_of_experts_stay_together_and_biases_go_along(tmp_path: Path) -> None:
    """DeepSeek-V3 takes 2 of 4 groups of two experts; the bias of the choice, and the neurons of the shared expert."""
    model, moe = gguf_of("deepseek3-f32"), "blk.1."
    router, bias = (moe + name for name in ("ffn_gate_inp.weight", "exp_probs_b.bias"))
    experts = tuple(f"{moe}ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
    shared = tuple(f"{moe}ffn_{part}_shexp.weight" for part in ("gate", "up", "down"))
    size = open_source(model).tensors[bias].dims[0]
    groups = open_source(model).metadata["deepseek2.expert_group_count"]
    assert isinstance(groups, int)
    whole = np.arange(size).reshape(groups, -1)[::-1, ::-1].reshape(-1)
    across = np.arange(size).reshape(groups, -1).T.reshape(-1)

    def moved(order: npt.NDArray[np.int64], names: tuple[str, ...]) -> Change:
        return lambda t: t.update({name: t[name][order] for name in names})

    def neurons(t: Tensors) -> None:
        t.update({name: t[name][..., ::-1].copy() if "down" in name else t[name][::-1].copy() for name in shared})

    def compare(change: Change) -> WeightsReport:
        return aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", change))

    for reorder, names in ((moved(whole, (*experts, router, bias)), {*experts, router, bias}), (neurons, set(shared))):
        report = compare(reorder)
        assert (report.exit_code, {one.name for one in report.of(Status.REORDERED)}) == (0, names)
    broken = compare(moved(across, (*experts, router, bias)))
    assert (broken.exit_code, {one.name for one in broken.unlike}) == (1, {*experts, router, bias})
    assert f"across the {groups} groups of which the router takes some" in broken.sentence
    assert {one.name for one in compare(moved(whole, (*experts, router))).unlike} == {*experts, router}


@pytest.mark.contract("WEIGHTS-SAME-1")
def test_neurons_in_another_order_on_both_sides(tiny_model: Tiny, tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(96)

    def change(t: Tensors) -> None:
        t[GATE], t[UP], t[DOWN] = t[GATE][order], t[UP][order], t[DOWN][:, order]

    model = tiny_model()
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", change, format="Q8_0"))
    assert (report.exit_code, {one.name for one in report.of(Status.REORDERED)}) == (0, {GATE, UP, DOWN})


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize("is_a_broken", [True, False])
def test_an_expert_in_the_place_of_another(is_a_broken: bool, tiny_model: Tiny, tmp_path: Path) -> None:
    def change(t: Tensors) -> None:
        for name in EXPERTS:
            t[name][5] = t[name][2]

    model = tiny_model(family="qwen3moe")
    other = changed_model(model, tmp_path / "b.gguf", change, format="Q8_0")
    report = aprgraph.compare_weights(*((other, model) if is_a_broken else (model, other)))
    text = "expert 5 of A is B's 2" if is_a_broken else "expert 5 of B is A's 2"
    assert {one.name: one.text for one in report.unlike} == dict.fromkeys(EXPERTS, text)


# -- formats ------------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize("format", ["F32", "BF16"])
def test_bytes_in_the_other_order(format: str, tiny_model: Tiny, tmp_path: Path) -> None:  # noqa: A002
    def swapped(raw: Bytes) -> None:
        size = 4 if format == "F32" else 2
        raw[:] = raw.reshape(len(raw), -1, size)[..., ::-1].reshape(raw.shape)

    model = tiny_model(format=format)
    report = aprgraph.compare_weights(model, planted(model, tmp_path / "b.gguf", blk__0__ffn_up__weight=swapped))
    assert found(report) == {UP: "byte-order"}


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize("stored", ["F32", "as taken"])
@pytest.mark.parametrize(("meant", "taken"), [("BF16", "F16"), ("F16", "BF16")])
def test_bits_of_one_16_bit_format_that_were_taken_for_the_other(
    meant: str, taken: str, stored: str, tiny_model: Tiny, tmp_path: Path
) -> None:
    dtypes = {"F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}

    def retaken(t: Tensors) -> None:
        t[UP] = t[UP].astype(dtypes[meant]).view(dtypes[taken]).astype(np.float32)

    model = tiny_model()
    broken = changed_model(model, tmp_path / "b.gguf", retaken, format="F32" if stored == "F32" else taken)
    for a, b, side in ((model, broken, "B"), (broken, model, "A")):
        report = aprgraph.compare_weights(a, b)
        assert {one.name: one.text for one in report.unlike} == {UP: f"the bits of {meant}, taken for {taken}, in {side}"}


@pytest.mark.contract("WEIGHTS-BOUND-1")
def test_what_float16_cannot_hold_is_no_rounding(tiny_model: Tiny, tmp_path: Path) -> None:
    def huge(t: Tensors) -> None:
        t[UP][3, 40] = -1e5
        t[UP][7] *= 1e6

    with np.errstate(over="ignore"):
        model = changed_model(tiny_model(), tmp_path / "a.gguf", huge)
        overflown = changed_model(model, tmp_path / "b.gguf", format="F16")
    for a, b, words in ((model, overflown, "; B holds {} Inf, where A has"), (overflown, model, "; A holds {} Inf, where B has")):
        (one,) = aprgraph.compare_weights(a, b).unlike
        count = int((np.abs(read_tensors(model)[UP]) > 65519).sum())
        assert (one.name, one.kind) == (UP, "damaged")
        assert one.text.endswith(words.format(count) + " numbers beyond the largest of float16, 65,504"), one.text


def test_bfloat16_that_was_cut_off(tiny_model: Tiny, tmp_path: Path) -> None:
    def cut(t: Tensors) -> None:
        for name, w in t.items():
            t[name] = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)

    model = tiny_model()
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", cut, format="BF16"))
    assert "BF16 of B was cut off, not rounded to nearest, in 16 tensors" in report.notes

    def near_the_next(t: Tensors) -> None:
        t[UP] = np.where(t[UP] < 0, -1, 1).astype(np.float32) * np.float32(1 + 2**-7 - 2**-12)

    farther = changed_model(model, tmp_path / "a.gguf", near_the_next)  # by cutting these off than by any rounding
    report = aprgraph.compare_weights(farther, changed_model(farther, tmp_path / "b.gguf", cut, format="BF16"))
    assert "BF16 of B was cut off, not rounded to nearest, in 16 tensors" in report.notes
    assert not aprgraph.compare_weights(model, changed_model(model, tmp_path / "c.gguf", format="BF16")).notes


def test_a_quantisation_of_a_quantisation_is_no_transform(tiny_model: Tiny, tmp_path: Path) -> None:
    """What rounding twice may cost is at most what is said of it; no transform is made up for it."""

    def twice(t: Tensors) -> None:
        for name, w in t.items():
            if w.ndim > 1:
                t[name] = gguf.dequantize(gguf.quantize(w, gguf.GGMLQuantizationType.Q4_0), gguf.GGMLQuantizationType.Q4_0)

    model = tiny_model()
    for format in ("Q4_0", "Q4_1"):  # noqa: A001
        report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", twice, format=format))
        assert set(found(report).values()) <= {""}
        assert all("times as far apart as rounding once" in one.text for one in report.unlike)


# -- checkpoints ---------------------------------------------------------------------------------------------------------------


def in_fp8(folder: Path, power: int = 1) -> dict[str, F32]:
    """Write a checkpoint's down projections as FP8 with scales of blocks; returns them by GGUF's name, without scales or divided by them."""
    file, made = folder / "model.safetensors", {}
    tensors = unpacked(file.read_bytes())
    for layer in range(2):
        name = f"model.layers.{layer}.mlp.down_proj.weight"
        _, dims, data = tensors[name]
        w = np.frombuffer(data, np.float32).reshape(dims)
        rows, columns = -(-dims[0] // 16), -(-dims[1] // 32)
        scales = np.array(
            [[np.abs(w[i * 16 : i * 16 + 16, j * 32 : j * 32 + 32]).max() / 448 for j in range(columns)] for i in range(rows)]
        )
        spread = np.kron(scales.astype(np.float32), np.ones((16, 32), np.float32))[: dims[0], : dims[1]]
        values = (w / spread).astype(ml_dtypes.float8_e4m3fn)
        tensors[name] = ("F8_E4M3", dims, values.tobytes())
        tensors[f"{name}_scale_inv"] = ("F32", [rows, columns], scales.astype(np.float32).tobytes())
        made[f"blk.{layer}.ffn_down.weight"] = values.astype(np.float32) / spread ** (power - 1)
    file.write_bytes(packed(tensors))
    quantization = {"quant_method": "fp8", "weight_block_size": [16, 32]}
    change(folder, lambda config: config.update(quantization_config=quantization))
    return made


@pytest.mark.contract("WEIGHTS-SAME-1")
def test_fp8_and_what_it_was_made_from(tmp_path: Path) -> None:
    folder, model = write_checkpoint("llama-f32-linear", tmp_path), gguf_of("llama-f32-linear")
    in_fp8(folder)
    for report in (aprgraph.compare_weights(folder, model), aprgraph.compare_weights(model, folder)):
        assert (report.exit_code, len(report.of(Status.ROUNDED))) == (0, 2)
        assert report.sentence.endswith("2 the same up to the rounding of F8_E4M3.")


@pytest.mark.contract("WEIGHTS-NAMED-1")
@pytest.mark.parametrize(("power", "words"), [(1, "B's values are FP8 without their scales"), (2, "divided by the scales of FP8")])
def test_a_conversion_of_fp8_without_its_scales(power: int, words: str, tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    made = in_fp8(folder, power)
    report = aprgraph.compare_weights(folder, changed_model(gguf_of("llama-f32-linear"), tmp_path / "b.gguf", lambda t: t.update(made)))
    assert found(report) == dict.fromkeys(made, "block-factors")
    assert all(words in one.text for one in report.unlike)
    factor = aprgraph.compare_weights(
        folder, changed_model(gguf_of("llama-f32-linear"), tmp_path / "c.gguf", lambda t: t.update({n: t[n] * 1.03 for n in made}))
    )
    assert found(factor) == dict.fromkeys(made, "factor")


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_two_checkpoints_of_which_one_kept_the_rows_of_a_gguf_file(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-bf16", tmp_path)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    tensors = unpacked((other / "model.safetensors").read_bytes())
    name = "model.layers.1.self_attn.q_proj.weight"
    kind, dims, data = tensors[name]
    w = np.frombuffer(data, np.uint16).reshape(dims)
    tensors[name] = kind, dims, w.reshape(4, 2, -1, dims[1]).swapaxes(1, 2).tobytes()
    (other / "model.safetensors").write_bytes(packed(tensors))
    report = aprgraph.compare_weights(folder, other)
    assert found(report) == {"blk.1.attn_q.weight": "head-rows"}
    assert "A pairs halves, B neighbours" in report.unlike[0].text


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_mxfp4_whose_codes_were_taken_for_neighbours(tmp_path: Path) -> None:
    def as_neighbours(raw: Bytes) -> None:
        blocks = raw.reshape(-1, 17)
        codes = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
        codes = codes.reshape(-1, 2, 16).swapaxes(1, 2).reshape(-1, 32)
        blocks[:, 1:] = codes[:, :16] | codes[:, 16:] << 4

    folder, model = write_checkpoint("gpt-oss-mxfp4", tmp_path), gguf_of("gpt-oss-mxfp4")
    report = aprgraph.compare_weights(folder, planted(model, tmp_path / "b.gguf", blk__0__ffn_up_exps__weight=as_neighbours))
    assert found(report) == {"blk.0.ffn_up_exps.weight": "column-order"}
    assert "two codes of a byte" in report.unlike[0].text


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_a_scale_of_mxfp4_that_is_nan_is_no_rounding(tmp_path: Path) -> None:
    def spoil(raw: Bytes) -> None:
        raw.reshape(-1, 17)[5, 0] = 255

    model = gguf_of("gpt-oss-mxfp4")
    report = aprgraph.compare_weights(model, planted(model, tmp_path / "b.gguf", blk__0__ffn_up_exps__weight=spoil))
    assert list(found(report)) == ["blk.0.ffn_up_exps.weight"]
    assert report.unlike[0].text.endswith("(row 2, columns 32..63); B holds 32 NaN or Inf")


@pytest.mark.contract("WEIGHTS-NAMED-1")
def test_norms_of_a_checkpoint_without_the_one(tmp_path: Path) -> None:
    def without(t: Tensors) -> None:
        for name in t:
            if name.endswith("norm.weight"):
                t[name] = t[name] - 1

    folder = write_checkpoint("gemma3-f32", tmp_path)
    report = aprgraph.compare_weights(folder, changed_model(gguf_of("gemma3-f32"), tmp_path / "b.gguf", without))
    assert set(found(report).values()) == {"norm-plus-one"}
    assert {one.text for one in report.unlike} == {"A holds 1 + w where B holds w"}


def test_a_head_of_its_own_where_the_other_file_has_none(tiny_model: Tiny, tmp_path: Path) -> None:
    def without(t: Tensors) -> None:
        del t["output.weight"]

    model = tiny_model()
    report = aprgraph.compare_weights(model, changed_model(model, tmp_path / "b.gguf", without))
    text = "B has no head, so that its embedding table is one: different, by no transform that is known here"
    assert [(one.name, one.text) for one in report.unlike] == [("output.weight", text)]
