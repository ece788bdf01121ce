"""One rank of a tensor-parallel run is told from a run of fewer positions, in diff and in audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from aprgraph.comparison import audit
from aprgraph.comparison import diff as compare
from aprgraph.graph.errors import ComparisonError
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.shards import Held, find_shard
from aprgraph.runtime.trace.reader import Trace
from tests.support.traces import Tensor, trace_model, write_bare, write_trace

TOKENS = (3, 1, 4, 1, 5, 9, 2, 6)


def rank_of(trace: Trace, ranks: int, stages: tuple[str, ...] | None = None) -> Mapping[tuple[int | None, str], Tensor]:
    """What the first of ``ranks`` has of a whole run: heads and columns of the FFN are split, hidden states are not."""
    tensors = {}
    for entry in trace.entries:
        values, dims = trace.load(entry), STAGE_BY_NAME[entry.stage].dims
        if dims[0] == "H":
            values = values[: len(values) // ranks]
        elif dims[-1] != "E":
            values = values[..., : values.shape[-1] // ranks]
        if stages is None or entry.stage in stages:
            tensors[entry.layer, entry.stage] = np.ascontiguousarray(values)
    return tensors


@pytest.fixture
def ours(tmp_path: Path, tiny_model: Callable[..., Path]) -> Trace:
    return trace_model(tmp_path / "ours", tiny_model(family="qwen2"), tokens=TOKENS)


@pytest.mark.contract("DIFF-SHARD-1")
@pytest.mark.parametrize(
    ("ranks", "words"), [(2, "half the width is what one rank of two"), (4, "a quarter of the width is what one rank of four")]
)
@pytest.mark.parametrize("bare", [True, False])
def test_a_part_of_the_width_is_one_rank(
    tmp_path: Path, ours: Trace, tiny_model: Callable[..., Path], ranks: int, words: str, bare: bool
) -> None:
    theirs = tmp_path / "theirs"
    tensors = rank_of(ours, ranks)
    write_bare(theirs, tensors) if bare else write_trace(theirs, tensors, tokens=TOKENS)
    report = diff(ours, theirs)
    assert report.exit_code == 1
    assert words in report.verdict.lower()
    assert f"theirs (B) holds {128 // ranks} of 128 columns of qkv_matmul, " in report.verdict
    assert "gather the ranks before writing" in report.verdict
    assert words in diff(theirs, ours.directory).verdict.lower()
    model = tiny_model(family="qwen2")
    assert words in compare(ours, theirs, model=model, tokens=list(TOKENS) if bare else None).headline.lower()
    found = audit(theirs, model, tokens=TOKENS if bare else None)
    assert "as one rank of" in next(local.reason or "" for local in found.locals if local.key[2] == "ffn_gate")
    assert found.by_key[0, 0, "post_ffn_residual"].error is not None, "hidden states are whole"


@pytest.mark.contract("DIFF-SHARD-1")
def test_fewer_positions_are_not_taken_for_a_rank(tmp_path: Path, ours: Trace, tiny_model: Callable[..., Path]) -> None:
    half = trace_model(tmp_path / "half", tiny_model(family="qwen2"), tokens=TOKENS[:4])
    (half.directory / "trace.json").unlink()
    report = diff(ours, half.directory)
    assert report.exit_code == 1
    assert "rank" not in report.verdict
    with pytest.raises(ComparisonError, match="its tensors are of 4 positions, but the prompt has 8 tokens"):
        audit(half.directory, tiny_model(family="qwen2"), tokens=TOKENS)
    # Where nothing is whole, both would explain the sizes.
    split = write_bare(tmp_path / "split", rank_of(ours, 2, ("q_post_rope", "ffn_gate")))
    assert "rank" not in diff(ours, split).verdict


def test_the_last_position_alone_is_no_rank(tmp_path: Path, ours: Trace) -> None:
    last = {(entry.layer, entry.stage): ours.load(entry)[-1:] for entry in ours.entries if entry.stage in ("ffn_gate", "ffn_up")}
    whole = {(entry.layer, entry.stage): ours.load(entry) for entry in ours.entries if entry.stage == "ffn_norm"}
    assert diff(ours, write_bare(tmp_path / "theirs", {**whole, **last})).verdict.startswith("Alike")


@pytest.mark.parametrize(
    ("tensors", "ranks"),
    [
        ([Held("ffn_gate", 4, 8, 8, certain=True)], 2),
        ([Held("ffn_gate", 4, 8, 8)], None),
        ([Held("ffn_gate", 4, 8, 8), Held("attn_norm", 8, 8, 8)], 2),
        ([Held("ffn_gate", 4, 8, 8), Held("attn_norm", 4, 8, 8)], None),
        ([Held("ffn_gate", 3, 8, 8), Held("attn_norm", 8, 8, 8)], None),
        ([Held("attn_out", 4, 8, 8, certain=True)], None),
        ([Held("k_post_rope", 8, 8, 8), Held("q_post_rope", 4, 8, 8), Held("ffn_up", 4, 8, 8), Held("attn_norm", 8, 8, 8)], 2),
        ([Held("attn_scores", 2 * 9, 4 * 9, 4, certain=True)], 2),
        ([Held("attn_scores", 3 * 9, 4 * 9, 4, certain=True)], None),
        ([], None),
    ],
)
def test_what_sizes_say(tensors: list[Held], ranks: int | None) -> None:
    found = find_shard(tensors)
    assert (None if found is None else found.ranks) == ranks
