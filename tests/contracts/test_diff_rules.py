"""What `aprgraph diff` may call identical, and what it tells the shell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aprgraph.runtime.diff import Class, diff
from tests.support.cli import run_cli
from tests.support.traces import Tensor, noisy, values, write_bare, write_trace


def class_of(directory: Path, a: Tensor, b: Tensor) -> Class:
    write_bare(directory / "a", {(0, "ffn_up"): a})
    write_bare(directory / "b", {(0, "ffn_up"): b})
    (row,) = diff(directory / "a", directory / "b").rows
    return row.classification


@pytest.mark.contract("DIFF-IDENTICAL-1")
def test_identical_means_the_same_bits(tmp_path: Path) -> None:
    x = values(4, 96)
    x[0, :3] = np.nan, np.inf, 0.0
    assert class_of(tmp_path, x, x) is Class.IDENTICAL
    other_zero, other_nan, other_last_bit = x.copy(), x.copy(), x.copy()
    other_zero[0, 2] = -0.0
    other_nan.view(np.uint32)[0, 0] ^= 1
    other_last_bit.view(np.uint32)[3, 7] ^= 1
    for other in (other_zero, other_nan, other_last_bit):
        assert class_of(tmp_path, x, other) is Class.NOISE
        assert class_of(tmp_path, other, x) is Class.NOISE


@pytest.mark.contract("DIFF-EXIT-1")
@pytest.mark.parametrize(("b", "code"), [("a", 0), ("noise", 0), ("fault", 1), ("tokens", 2), ("nowhere", 2), ("elsewhere", 3)])
def test_exit_codes_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, b: str, code: int) -> None:
    x = values(3, 96)
    write_trace(tmp_path / "a", {(0, "ffn_up"): x})
    write_trace(tmp_path / "noise", {(0, "ffn_up"): noisy(x, 1e-7)})
    write_trace(tmp_path / "fault", {(0, "ffn_up"): x * 2})
    write_trace(tmp_path / "tokens", {(0, "ffn_up"): x}, tokens=(1, 2, 4))
    write_trace(tmp_path / "elsewhere", {(1, "ffn_up"): x})
    monkeypatch.chdir(tmp_path)
    result = run_cli("diff", "a", b)
    assert result.code == code
    first = {0: "Alike", 1: "Diverged", 2: "", 3: "Nothing was measured"}[code]
    assert result.out.startswith(first)
