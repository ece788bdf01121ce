"""Slips of a port around heads: a reshape without a transpose, RoPE of another part, by other positions or twice; beside what the zoo plants."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from aprgraph.graph.ir import renamed
from aprgraph.graph.ops import Array
from aprgraph.graph.ops.attention import mask_of
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.blame import audit
from tests.zoo.faults.heads import merged_straight, split_straight
from tests.zoo.faults.patches import reading, then
from tests.zoo.planting import Call, Patch, Plant
from tests.zoo.runs import run
from tests.zoo.subjects import TOKENS, subject

LAYER = "layer1."
ROTATED = (f"{LAYER}q_post_rope", f"{LAYER}k_post_rope")
MERGED = "lies as [H, n, D] and is read as [n, H, D], without a transpose"


def said(
    patches: dict[str, Patch], *, family: str = "llama", variant: str = "plain", taps: str = "all", tokens: tuple[int, ...] = TOKENS
) -> dict[str, list[str]]:
    """By what is wrong, the words of all that explains it as well."""
    model = subject(family, variant)
    plan = parse_plan(taps, f"0..{model.model.family.layers}")
    found = audit(run(model, 1000, Plant(patches), tokens).trace("faulty", plan), model.replayed)
    return {local.label: [] if local.explanation is None else [one.words for one in local.explanation.candidates] for local in found.wrong}


def split_q_or_k(call: Call) -> Array:
    """What RoPE turns, split into heads without a transpose."""
    start, heads = call.node.attr_int("start"), call.node.attr_int("heads")
    columns = call.operands[0][:, start : start + heads * call.node.attr_int("head_size")]
    return call.compute([split_straight(columns, heads), call.operands[1]], start=0)


def turned_at(positions: Callable[[Array], Array]) -> Patch:
    """RoPE by the angles of other positions than the pass has."""

    def angles(call: Call) -> Array:
        node = call.subject.graph["rope_angles"]
        return call.arithmetic.compute(node, [positions(call.values["positions"])])

    return reading(1, angles)


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_what_the_projection_reads_is_merged_wrongly_behind_what_was_recorded() -> None:
    patch = {f"{LAYER}attn_out": reading(0, lambda call: merged_straight(call.operands[0], 4))}
    assert said(patch) == {"layer 1 attn_out": [f"what attn_out reads {MERGED}"]}
    # Where attention was not recorded, nothing tells it from attention that is merged so; it is one mistake, and one is named.
    assert said(patch, taps="attn_out,attn_softmax,qkv_matmul") == {"layer 1 attn_out": [f"attention {MERGED}"]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_q_and_k_that_were_not_recorded_are_split_wrongly_together() -> None:
    patches = dict.fromkeys(ROTATED, split_q_or_k)
    words = "q and k lie as [n, heads, D] and are read as [heads, n, D], without a transpose"
    assert said(patches, taps="qkv_matmul,attn_scores") == {"layer 1 attn_scores": [words]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_of_as_many_positions_as_heads_both_directions_are_named() -> None:
    """Then each undoes the other, and is the same."""
    patch = {f"{LAYER}attention": then(lambda value: merged_straight(value, 4))}
    assert said(patch, tokens=(3, 1, 4, 1)) == {
        "layer 1 attention": [f"attention {MERGED}", "attention lies as [n, H, D] and is read as [H, n, D], without a transpose"]
    }


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_rope_of_heads_that_are_split_wrongly_and_merged_by_the_reverse() -> None:
    def patch(call: Call) -> Array:
        return merged_straight(split_q_or_k(call), call.node.attr_int("heads"))

    (words,) = said({ROTATED[0]: patch})["layer 1 q_post_rope"]
    assert words == (
        "what q_post_rope reads lies as [n, H, D] and is read as [H, n, D], without a transpose, and back: a head is turned by the angles "
        "of another position"
    )


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_positions_that_begin_again() -> None:
    assert said({ROTATED[0]: turned_at(lambda positions: positions % 4)}) == {
        "layer 1 q_post_rope": ["positions begin again at 0 after every 4"]
    }
    # One token at a time, no other shows what 0 is; of the second, position 1 can be nothing else.
    decoded = turned_at(lambda positions: positions if len(positions) > 1 else positions - len(TOKENS))
    assert said({ROTATED[0]: decoded}, variant="generating") == {
        "step 1 layer 1 q_post_rope": ["RoPE is left out, or positions begin again at 0, which is the same"],
        "step 2 layer 1 q_post_rope": ["position 11 is turned as position 1"],
    }


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_positions_from_another_one_are_named_once() -> None:
    """The file's frequencies are those of its base too."""
    assert said({ROTATED[0]: turned_at(lambda positions: positions + 5)}) == {
        "layer 1 q_post_rope": ["RoPE turns by the file's frequencies and positions that begin at 5"]
    }


@pytest.mark.contract("BLAME-EXPLAINED-4")
def test_rope_of_the_whole_head_that_pairs_other_elements() -> None:
    """Two slips of one port, and with few taps one of them in q and k together."""

    def table(call: Call) -> Array:
        node = call.subject.graph["rope_angles"]
        return call.arithmetic.compute(renamed(node, attrs={**node.attrs, "dims": 16}), [call.values["positions"]])

    both = {ROTATED[0]: lambda call: call.compute([call.operands[0], table(call)], pairing="interleaved")}
    of_all = "RoPE turns all 16 elements of a head, in place of the first 8"
    assert said(both, family="phi2") == {
        "layer 1 q_post_rope": [f"RoPE pairs neighbours (2i, 2i + 1) in place of halves (i, i + 4), and {of_all}"]
    }
    one = dict.fromkeys(ROTATED, reading(1, table))
    assert said(one, family="phi2", taps="qkv_bias,attn_scores") == {"layer 1 attn_scores": [of_all]}


@pytest.mark.contract("BLAME-EXPLAINED-4")
@pytest.mark.parametrize("are_hidden", [True, False])
def test_queries_of_padding_that_see_no_key(are_hidden: bool) -> None:
    """What a softmax over nothing gives is NaN; what is computed from it accuses nobody."""

    def softmax(call: Call) -> Array:
        scores = call.operands[0]
        seen = mask_of(scores.shape[1], scores.shape[2], call.node.attrs)
        seen[:2] = False
        if are_hidden:
            seen[:, :2] = False
        weights = np.where(seen, np.exp(scores - scores.max()), 0)
        return np.asarray(weights / weights.sum(axis=-1, keepdims=True))

    others = ", and no query sees keys 0 to 1" if are_hidden else ""
    assert said({f"{LAYER}attn_softmax": softmax}) == {
        "layer 1 attn_softmax": [f"queries 0 to 1 see no key, so that the softmax is NaN there{others}: as where padding is masked"]
    }
