"""Experts: choices that differ are judged by their margins, tensors of the chosen ones are aligned by expert."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.ops.router import Groups
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.experts import groups_of_choice
from aprgraph.runtime.diff.indices import ChoiceState, IndexMetrics, compare_indices
from aprgraph.runtime.diff.margins import judge_choices
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import Tensor, noisy, trace_model, values, write_bare, write_trace

IDS = (0, 0, "moe_router_indices")


def scores_of(*rows: list[float]) -> Tensor:
    return np.array(rows, np.float32)


def chosen(scores: Tensor, k: int = 2) -> Tensor:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.float32)


def traces(
    directory: Path, a: Tensor | None, b: Tensor | None, ids_a: Tensor, ids_b: Tensor, **tensors: tuple[Tensor, Tensor]
) -> tuple[Trace, Trace]:
    sides = []
    for index, (scores, ids) in enumerate(((a, ids_a), (b, ids_b))):
        recorded = {(0, "moe_router_indices"): ids} | {(0, stage): both[index] for stage, both in tensors.items()}
        if scores is not None:
            recorded[0, "moe_router_logits"] = scores
        sides.append(write_trace(directory / "ab"[index], recorded))
    return sides[0], sides[1]


def both_ways(a: Trace, b: Trace, **options: object) -> tuple[DiffReport, IndexMetrics]:
    """The report of a against b, whose classes have to be those of b against a."""
    report, swapped = diff(a, b, **options), diff(b, a, **options)  # type: ignore[arg-type]
    assert [row.classification for row in report.rows] == [row.classification for row in swapped.rows]
    assert [first.key for first in report.first] == [first.key for first in swapped.first]
    metrics = report.row(IDS).metrics
    assert isinstance(metrics, IndexMetrics)
    return report, metrics


ROWS = ([3.0, 2.0, 1.0, 0.0], [0.0, 5.0, -1.0, 2.0], [1.0, 0.5, 0.5 - 2e-7, -3.0])


@pytest.mark.contract("DIFF-MARGIN-1")
def test_a_near_tie_is_noise_and_reported_with_its_margins(tmp_path: Path) -> None:
    a = scores_of(*ROWS)
    b = a.copy()
    b[2, 1], b[2, 2] = a[2, 2], a[2, 1]
    report, metrics = both_ways(*traces(tmp_path, a, b, chosen(a), chosen(b)))
    assert report.row(IDS).classification is Class.NOISE
    assert report.exit_code == 0
    (choice,) = metrics.choices
    assert (choice.position, choice.only_a, choice.only_b, choice.state) == (2, (1,), (2,), ChoiceState.NEAR_TIE)
    assert choice.margin_a == choice.margin_b == pytest.approx(2e-7, rel=0.3)
    assert (metrics.differing, metrics.near_ties, metrics.unexplained, metrics.near_tie_positions) == (1, 1, 0, (2,))
    note = next(note for note in report.notes if "near-tie" in note)
    assert "position 2 chose {1} in A, {2} in B; margin" in note


@pytest.mark.contract("DIFF-MARGIN-1")
@pytest.mark.parametrize("side", ["a", "b"])
def test_one_side_that_recorded_its_scores_is_enough(tmp_path: Path, side: str) -> None:
    a = scores_of(*ROWS)
    other = chosen(a)
    other[2, 1] = 2
    report, metrics = both_ways(
        *traces(
            tmp_path, a if side == "a" else None, a if side == "b" else None, *((chosen(a), other) if side == "a" else (other, chosen(a)))
        )
    )
    assert report.exit_code == 0
    assert metrics.near_ties == 1
    other[0] = [0, 3]
    report, metrics = both_ways(
        *traces(
            tmp_path / "2",
            a if side == "a" else None,
            a if side == "b" else None,
            *((chosen(a), other) if side == "a" else (other, chosen(a))),
        )
    )
    assert report.exit_code == 1
    assert (metrics.near_ties, metrics.unexplained) == (1, 1)
    assert "position 0 chose {1} in A, {3} in B" in report.verdict or "position 0 chose {3} in A, {1} in B" in report.verdict
    assert "where noise explains" in report.verdict


@pytest.mark.contract("DIFF-MARGIN-1")
def test_a_tie_that_was_broken_differently_diverges(tmp_path: Path) -> None:
    a = scores_of([3.0, 2.0, 2.0, 0.0])
    report, metrics = both_ways(*traces(tmp_path, a, a, chosen(a), np.array([[0, 2]], np.float32)))
    assert report.exit_code == 1
    assert metrics.ties == 1
    assert "a tie, broken differently (the lower id comes first)" in report.verdict


@pytest.mark.contract("DIFF-MARGIN-1")
def test_a_choice_that_its_own_scores_contradict_diverges(tmp_path: Path) -> None:
    """However small the margin: with these very scores, nothing but the choosing can have gone wrong."""
    a = scores_of(*ROWS)
    wrong = chosen(a)
    wrong[2, 1] = 2
    report, metrics = both_ways(*traces(tmp_path, a, a, chosen(a), wrong))
    assert report.exit_code == 1
    assert "not the best by the scores of B" in report.verdict
    assert metrics.near_ties == 0
    assert [first.key for first in report.first] == [IDS]


@pytest.mark.contract("DIFF-MARGIN-1")
def test_the_expert_that_was_chosen_counts_not_the_first_unchosen(tmp_path: Path) -> None:
    """2 is as good as 1, so that the margin is tiny; but B chose 3, which is far worse."""
    a = scores_of([3.0, 1.0, 1.0 - 1e-7, -5.0])
    report, metrics = both_ways(*traces(tmp_path, a, None, chosen(a), np.array([[0, 3]], np.float32)))
    assert metrics.choices[0].margin_a == pytest.approx(1e-7, rel=0.5)
    assert report.exit_code == 1


def test_without_scores_the_share_decides_and_a_note_says_what_to_tap(tmp_path: Path) -> None:
    ids = np.tile(np.array([[1, 2]], np.float32), (50, 1))
    other = ids.copy()
    other[7, 0] = 5
    sides = traces(tmp_path, None, None, ids, other)
    report, metrics = both_ways(*sides)
    assert not metrics.judged
    assert report.exit_code == 1
    assert any(note.endswith("tap moe_router_logits") for note in report.notes)
    assert both_ways(*sides, profile="same-graph-f16")[0].exit_code == 0


def test_scores_that_are_not_finite_explain_nothing(tmp_path: Path) -> None:
    a = scores_of(*ROWS)
    b = a.copy()
    a[2, 3] = b[2, 3] = np.nan
    other = chosen(scores_of(*ROWS))
    other[2, 1] = 2
    report, metrics = both_ways(*traces(tmp_path, a, b, chosen(scores_of(*ROWS)), other))
    assert report.exit_code == 1
    assert metrics.near_ties == 0


# -- tensors of the chosen experts -------------------------------------------------------------------------------------


def slotted(ids: Tensor, table: Tensor) -> Tensor:
    """The row of each chosen expert at each position: [n, k, F] out of [n, X, F]."""
    return np.take_along_axis(table, ids.astype(np.int64)[:, :, None], axis=1)


@pytest.mark.contract("DIFF-SLOTS-1")
def test_the_same_experts_in_another_order_are_compared_expert_by_expert(tmp_path: Path) -> None:
    table, ids = values(4, 6, 10), np.array([[1, 5, 0], [2, 3, 4], [0, 1, 2], [5, 4, 3]], np.float32)
    other = ids.copy()
    other[1], other[3] = ids[1][[2, 0, 1]], ids[3][[1, 0, 2]]
    weights = values(4, 6)
    tensors = {
        "moe_expert_out": (slotted(ids, table), noisy(slotted(other, table), 1e-7)),
        "moe_router": (slotted(ids, weights[..., None])[..., 0], slotted(other, weights[..., None])[..., 0]),
    }
    report, metrics = both_ways(*traces(tmp_path, None, None, ids, other, **tensors))
    assert report.exit_code == 0
    assert metrics.reordered == 2
    assert {row.classification for row in report.rows} == {Class.NOISE}, "what had to be moved is not the same bits"
    assert report.row((0, 0, "moe_expert_out")).remark == "slots put in order by expert at 2 positions"
    swapped = slotted(other, table)
    swapped[1] = swapped[1][[1, 0, 2]]
    report, _ = both_ways(*traces(tmp_path / "2", None, None, ids, other, moe_expert_out=(slotted(ids, table), swapped)))
    assert [first.key[2] for first in report.first] == ["moe_expert_out"]


@pytest.mark.contract("DIFF-SLOTS-1")
def test_experts_that_one_side_alone_chose_are_left_out_and_counted(tmp_path: Path) -> None:
    table = values(3, 4, 10)
    a = scores_of(*ROWS)
    b = a.copy()
    b[2, 1], b[2, 2] = a[2, 2], a[2, 1]
    tensors = {"moe_expert_up": (slotted(chosen(a), table), slotted(chosen(b), table))}
    report, _ = both_ways(*traces(tmp_path, a, b, chosen(a), chosen(b), **tensors))
    row = report.row((0, 0, "moe_expert_up"))
    assert row.classification is Class.NOISE
    assert row.remark == "1 of 6 slots left out, whose experts one side alone chose"
    assert report.exit_code == 0
    wrong = slotted(chosen(b), table)
    wrong[2, 0] *= 2
    report, _ = both_ways(*traces(tmp_path / "2", a, b, chosen(a), chosen(b), moe_expert_up=(slotted(chosen(a), table), wrong)))
    assert report.row((0, 0, "moe_expert_up")).classification is Class.INTRODUCED, "the expert that both chose is compared"


def test_no_expert_in_common_is_unmeasured(tmp_path: Path) -> None:
    ids = np.array([[0, 1]], np.float32)
    report, _ = both_ways(*traces(tmp_path, None, None, ids, ids + 2, moe_expert_up=(values(1, 2, 8), values(1, 2, 8))))
    row = report.row((0, 0, "moe_expert_up"))
    assert (row.classification, row.reason) == (Class.UNMEASURED, "the two sides chose no expert in common")


def test_the_experts_of_a_side_that_holds_the_last_position_only(tmp_path: Path) -> None:
    ids, weights = np.array([[0, 1], [2, 3], [1, 3]], np.float32), values(3, 2)
    write_trace(tmp_path / "a", {(0, "moe_router"): weights, (0, "moe_router_indices"): ids})
    write_bare(tmp_path / "b", {(0, "moe_router"): weights[-1:, ::-1], (0, "moe_router_indices"): ids[-1:, ::-1]})
    report, metrics = both_ways(Trace.open(tmp_path / "a"), Trace.open(tmp_path / "b"))
    assert report.exit_code == 0
    assert metrics.reordered == 1


# -- what lies behind a near-tie ---------------------------------------------------------------------------------------


def with_a_flip(directory: Path, path: Path, position: int) -> tuple[Trace, Trace]:
    """A model's trace, and what another engine records whose router of layer 0 has, at one position, the last chosen and the first
    unchosen expert as equals but for noise."""
    a = trace_model(directory / "a", path)
    ids, logits = a.tensor("moe_router_indices", 0), np.array(a.tensor("moe_router_logits", 0))
    order = np.argsort(-logits[position], kind="stable")
    k = ids.shape[1]
    last, first = order[k - 1], order[k]
    logits[position, first] = logits[position, last] - 1e-7

    def recorded(swap: bool) -> Callable[[str, Tensor], Tensor]:
        def change(name: str, x: Tensor) -> Tensor:
            x = np.array(x)
            if name == "layer0.moe_router_logits":
                x[...] = logits
                if swap:
                    x[position, first], x[position, last] = logits[position, last], logits[position, first]
            if swap and name == "layer0.moe_router_indices":
                x[position, k - 1] = first
            if swap and (name.startswith("layer1.") or name in ("final_norm", "lm_head")):
                axis = 1 if x.ndim == 3 and "expert" not in name else 0
                index = [slice(None)] * x.ndim
                index[axis] = slice(0 if name == "lm_head" else position, None)
                if "indices" not in name:
                    x[tuple(index)] *= 1.5
            if swap and name in ("layer0.moe_ffn_out", "layer0.post_ffn_residual"):
                x[position] *= 1.5
            return x

        return change

    return trace_model(directory / "a2", path, fault=recorded(False)), trace_model(directory / "b", path, fault=recorded(True))


@pytest.mark.contract("DIFF-MARGIN-2")
def test_what_a_near_tie_explains_is_no_divergence(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    a, b = with_a_flip(tmp_path, tiny_model(family="qwen3moe"), 3)
    report, metrics = both_ways(a, b)
    assert metrics.near_tie_positions == (3,)
    assert report.exit_code == 0, report.verdict
    assert report.row((0, 0, "moe_ffn_out")).classification is Class.NOISE
    assert "1 positions left out" in str(report.row((0, 0, "moe_ffn_out")).remark)
    assert "2 positions left out" in str(report.row((0, 1, "attn_norm")).remark)
    assert report.row((0, None, "lm_head")).classification is Class.UNMEASURED
    assert "near-tie" in str(report.row((0, None, "lm_head")).reason)


@pytest.mark.contract("DIFF-MARGIN-2")
def test_a_near_tie_explains_earlier_positions_too_where_these_attend_to_later_ones(
    tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    a, b = with_a_flip(tmp_path, tiny_model(family="qwen3moe", causal=False), 3)
    report, _ = both_ways(a, b)
    assert report.exit_code == 0, report.verdict
    assert report.row((0, 1, "attn_norm")).classification is Class.UNMEASURED
    assert "all of it lies behind experts" in str(report.row((0, 1, "attn_norm")).reason)


@pytest.mark.contract("DIFF-MARGIN-2")
def test_a_fault_at_the_positions_before_a_near_tie_is_found(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(family="qwen3moe")
    a, b = with_a_flip(tmp_path, path, 3)
    faulty = np.array(b.tensor("ffn_norm", 1))
    faulty[1] *= 1.5
    file = b.directory / "layer-1" / "ffn_norm.bin"
    file.write_bytes(file.read_bytes()[:12] + faulty.tobytes())
    report, _ = both_ways(a, b)
    assert report.exit_code == 1
    assert [first.key for first in report.first] == [(0, 1, "ffn_norm")]
    assert "without the positions behind a near-tie" in str(report.row((0, 1, "ffn_norm")).reason)


def test_a_choice_by_scores_with_a_bias_is_judged_by_these(tmp_path: Path) -> None:
    """The router's logits would accuse both sides: by them neither choice is the best."""
    logits = scores_of([3.0, 2.0, 1.0, 0.0])
    scores = {"a": scores_of([0.5, 0.9, 0.7, 0.7 - 2e-7]), "b": scores_of([0.5, 0.9, 0.7 - 2e-7, 0.7])}
    for side, own in scores.items():
        recorded = {(0, "moe_router_logits"): logits, (0, "moe_router_scores"): own, (0, "moe_router_indices"): chosen(own)}
        write_trace(tmp_path / side, recorded)
    metrics = diff(tmp_path / "a", tmp_path / "b").row(IDS).metrics
    assert isinstance(metrics, IndexMetrics)
    assert (metrics.differing, metrics.near_ties, metrics.chosen_by) == (1, 1, "moe_router_scores")


#: Groups {0, 1} and {2, 3} are as good as each other, and one of them is used beside {4, 5}: experts 0 or 2 come with it.
GROUPS = Groups(count=4, used=2, best=2)
GROUP_ROW = [0.875, 0.125, 0.625, 0.375, 0.8, 0.7, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "state"),
    [(2e-7, ChoiceState.NEAR_TIE), (0.0, ChoiceState.TIE), (0.3, ChoiceState.UNEXPLAINED), (-0.3, ChoiceState.UNEXPLAINED)],
)
def test_a_choice_by_groups_is_judged_by_the_scores_of_groups(change: float, state: ChoiceState) -> None:
    """Without its groups, the choice of {2, 4, 5} would be accused of leaving the best expert aside."""
    a = np.array([GROUP_ROW], np.float32) + np.float32([[max(change, 0.0), *[0] * 7]])
    b = np.array([GROUP_ROW], np.float32) + np.float32([[0, 0, 0, change, *[0] * 4]])
    ids = scores_of([0, 4, 5]), scores_of([4, 5, 2])
    compared = compare_indices(*ids)
    assert compared is not None
    metrics = judge_choices(compared, *ids, [a, b], 1e-9, GROUPS)
    assert [choice.state for choice in metrics.choices] == [state]
    plain = judge_choices(metrics, *ids, [a, b], 1e-9)
    assert [choice.state for choice in plain.choices] == [ChoiceState.UNEXPLAINED]


def test_the_groups_of_a_choice_are_those_of_the_graph(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    trace = trace_model(tmp_path / "a", tiny_model(family="deepseek2"))
    assert groups_of_choice(Place(0, 1, IDS[2]), trace, trace) == Groups(4, 2, 2)
