"""A fault that some prompts show: it is found in these, the others are right, and the page says what those have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.api import CompiledModel
from aprgraph.sweep.findings import find
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.models_here import forget_models
from aprgraph.sweep.page import write_pages
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
from tests.support.blame import spoil
from tests.support.sweeps import swept

Tiny = Callable[..., Path]


@pytest.mark.contract("SWEEP-SOME-1")
@pytest.mark.parametrize(("window", "last_right"), [(8, 8), (None, 24)], ids=["beyond a window", "beyond 24 positions"])
def test_compiled_attention_that_is_wrong_beyond_some_positions(
    window: int | None, last_right: int, tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a kernel that forgets its window, or whose tile of 24 rows is its last."""
    record = CompiledModel.record

    def record_wrongly(self: CompiledModel, run: Any, directory: Path, **how: Any) -> Any:
        trace = record(self, run, directory, **how)
        if self.artifact.target == "llvm" and len(run.tokens) > last_right:
            spoil(trace, "attn_softmax", 0, lambda values: _over_all(values, last_right))
        return trace

    monkeypatch.setattr(CompiledModel, "record", record_wrongly)
    forget_models()
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_model(**({} if window is None else {"family": "gemma3", "sliding_window": window})).read_bytes())
    lengths = (3, last_right, last_right + 1, last_right + 9)
    prompts = "".join(f"[[prompts]]\ntokens = {[number % 7 + 1 for number in range(length)]}\n" for length in lengths)
    matrix = tmp_path / "matrix.toml"
    matrix.write_text(f"models = ['m.gguf']\ntargets = ['reference', 'llvm']\n{prompts}[[compare]]\nalong = 'targets'\n")
    found, _ = swept(matrix)
    assert {(cell.tokens, cell.at.target, cell.along) for cell in found.off} == {
        (length, "llvm", along) for length in lengths[2:] for along in (None, "targets")
    }
    said = (
        f"Only prompts of {last_right + 1} tokens and more are off (2 prompts); those of up to {last_right} are not: look for what begins "
        f"beyond {last_right} positions, such as a window."
    )
    assert found.common == (
        "All of it has the target llvm; with reference nothing is off.",
        said,
        "First off: attn_softmax in 4 of 4 cells.",
    )
    plan = plan_sweep(read_matrix(matrix))
    write_pages(tmp_path / "page", find(plan, Store(plan.matrix.store)), plan, Store(plan.matrix.store))
    assert said.partition(";")[0] in (tmp_path / "page" / "index.html").read_text()


def _over_all(weights: np.ndarray, rows: int) -> np.ndarray:
    """Weights [heads, n, t] of which those of the rows behind the first ``rows`` are alike over all earlier positions."""
    wrong = weights.copy()
    for row in range(rows, weights.shape[1]):
        wrong[:, row, : row + 1] = np.float32(1 / (row + 1))
    return wrong
