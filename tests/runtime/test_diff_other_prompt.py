"""Dumps that do not say their tokens, of another prompt: no weight is accused of that, and what the two have in common is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.report import DiffReport
from aprgraph.runtime.diff.summary import summary_of_diff
from tests.support.traces import Tensor, values, write_bare, write_trace

N, WIDTH = 5, 16


def compared(folder: Path, a: Tensor, b: Tensor, stage: str = "embedding") -> DiffReport:
    """A trace that names its tokens, as ``write_trace`` has them, beside one that does not; with something behind that differs as well."""
    write_trace(folder / "a", {(0, stage): a, (0, "ffn_gate"): a[:, :8]})
    write_bare(folder / "b", {(0, stage): b, (0, "ffn_gate"): b[:, :8]})
    return diff(folder / "a", folder / "b")


def cause(folder: Path, a: Tensor, b: Tensor, stage: str = "embedding") -> str:
    """Why they differ."""
    (line,) = summary_of_diff(compared(folder, a, b, stage)).why
    return str(line)


@pytest.mark.contract("DIFF-TOKENS-2")
@pytest.mark.parametrize("stage", ["embedding", "attn_norm"])
def test_other_tokens_are_named_by_position(tmp_path: Path, stage: str) -> None:
    a, b = values(N, WIDTH), values(N, WIDTH)
    b[[1, 3]] = values(2, WIDTH, seed=7)
    assert cause(tmp_path, a, b, stage) == (
        "this is as where the tokens are others: the rows at positions 1, 3 of 5 have nothing in common, and all others agree; the tokens "
        "of b (B) are not known: run both on the same tokens="
    )


@pytest.mark.contract("DIFF-TOKENS-2")
@pytest.mark.parametrize(("front", "behind", "words"), [
    (1, 0, ": b (B) has one token, such as BOS, in front of what a (A) has"),
    (3, 0, ": b (B) has 3 tokens, as of a chat template, in front of what a (A) has"),
    (3, 2, ": b (B) has 3 tokens, as of a chat template, in front of what a (A) has, and goes on behind it"),
    (0, 2, ": b (B) goes on where a (A) ends"),
])  # fmt: skip
def test_prompts_of_different_lengths(tmp_path: Path, front: int, behind: int, words: str) -> None:
    a = values(N, WIDTH)
    b = np.concatenate([values(front, WIDTH, seed=1), a, values(behind, WIDTH, seed=2)])
    begin = f"the prompts are of different lengths, 5 positions in a (A) and {N + front + behind} in b (B)"
    assert cause(tmp_path, a, b).startswith(f"{begin}{words}; ")
    other = cause(tmp_path / "other", a, values(len(b), WIDTH, seed=9))
    assert other.startswith(f"{begin}; ")


@pytest.mark.contract("DIFF-TOKENS-2")
def test_one_token_in_front_and_the_last_one_cut_off(tmp_path: Path) -> None:
    a = values(N, WIDTH)
    b = np.concatenate([values(1, WIDTH, seed=1), a[:-1]])
    words = "has one token, such as BOS, in front of what {} has, and is without the last; "
    assert cause(tmp_path / "1", a, b).startswith(f"b (B) {words.format('a (A)')}")
    assert cause(tmp_path / "2", b, a).startswith(f"a (A) {words.format('b (B)')}")


@pytest.mark.contract("DIFF-TOKENS-2")
def test_a_fault_is_no_other_prompt(tmp_path: Path) -> None:
    """All rows are off, or hold nothing; the products of some are, where the rows that they read agree; or both name their tokens."""
    a = values(N, WIDTH)
    lost = a.copy()
    lost[2] = 0
    for number, b in enumerate((a * 2, lost, values(N, WIDTH, seed=3))):
        assert cause(tmp_path / str(number), a, b).startswith("not known; ")
    broken = a[:, :8].copy()
    broken[2] = values(1, 8, seed=4)
    write_trace(tmp_path / "a", {(0, "embedding"): a, (0, "ffn_gate"): a[:, :8]})
    write_bare(tmp_path / "b", {(0, "embedding"): a, (0, "ffn_gate"): broken})
    assert not any(one.is_cause for one in diff(tmp_path / "a", tmp_path / "b").reservations)
    b = a.copy()
    b[2] = values(1, WIDTH, seed=4)
    write_trace(tmp_path / "named", {(0, "embedding"): b, (0, "ffn_gate"): b[:, :8]})
    assert not any(one.is_cause for one in diff(tmp_path / "a", tmp_path / "named").reservations)
