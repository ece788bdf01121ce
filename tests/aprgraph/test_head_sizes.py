"""Models whose heads of v are smaller or larger than those of q and k, compiled and interpreted."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprgraph.api import load
from tests.support.golden import nmse
from tests.support.tiny import write_tiny_model


@pytest.mark.parametrize("value_size", [4, 24])
def test_heads_of_v_have_a_size_of_their_own(value_size: int, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "m.gguf", family="qwen3", hidden=36, heads=4, kv_heads=2, head_size=12, value_size=value_size)
    actual, expected = (
        load(model).compile(target, tmp_path / f"{target}.aprg").run("all", "0..2", tokens=[5, 9, 17, 0], directory=tmp_path / target)
        for target in ("llvm", "reference")
    )
    assert actual.tensor("attention", layer=0).shape == (4, 4 * value_size)
    assert actual.tensor("qkv_matmul", layer=0).shape == (4, 4 * 12 + 2 * 12 + 2 * value_size)
    for entry in expected.entries:
        assert nmse(actual.load(actual.get(entry.stage, entry.layer)), expected.load(entry)) <= 1e-11, entry.label
