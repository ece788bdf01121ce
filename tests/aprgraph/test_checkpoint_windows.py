"""Sliding windows of checkpoints whose GGUF files have none in llama.cpp, against transformers' logits."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.weights.compare_files import compare_files
from tests.support.checkpoints import gguf_of, write_checkpoint
from tests.support.golden import GOLDEN, golden_models, nmse

VARIANTS: dict[str, Any] = json.loads((GOLDEN / "windows.json").read_text())


@cache
def tokens_of(name: str) -> tuple[int, ...]:
    return next(model.tokens for model in golden_models() if model.name == name)


def write_variant(variant: str, folder: Path, **more: Any) -> tuple[Path, str]:
    """The checkpoint with what the variant changes in config.json, and its name."""
    name, changes = VARIANTS[variant]
    path = write_checkpoint(name, folder)
    config = json.loads((path / "config.json").read_text()) | changes | more
    (path / "config.json").write_text(json.dumps({field: value for field, value in config.items() if value is not None}))
    return path, name


@pytest.mark.contract("FILE-HF-6")
@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    path, name = write_variant(variant, tmp_path)
    logits = aprgraph.load(path).compile("reference", directory=tmp_path / "x.aprg").logits(tokens_of(name), positions="all")
    with np.load(GOLDEN / "window_logits.npz") as file:
        assert nmse(logits, file[variant]) <= 1e-11


@pytest.mark.contract("FILE-HF-6")
def test_a_gguf_file_without_the_window_holds_the_same_model(tmp_path: Path) -> None:
    """Within the window their numbers agree; beyond it, transformers and llama.cpp differ."""
    path, name = write_variant("mistral", tmp_path)
    logits = {
        file: aprgraph.load(file).compile("reference", directory=tmp_path / f"{file.name}.aprg").logits(tokens_of(name), positions="all")
        for file in (path, gguf_of(name))
    }
    ours, theirs = logits.values()
    assert nmse(ours[:4], theirs[:4]) <= 1e-12
    assert nmse(ours[5:], theirs[5:]) > 1e-6
    assert compare_files(open_source(path), open_source(gguf_of(name))).exit_code == 0


@pytest.mark.contract("FILE-HF-6")
def test_windows_by_layer(tmp_path: Path) -> None:
    for variant, wanted in {"mistral": (4, 4), "qwen2": (0, 4), "qwen2-layer-types": (4, 0), "qwen2moe-none": (0, 0)}.items():
        (tmp_path / variant).mkdir()
        assert load_model(write_variant(variant, tmp_path / variant)[0]).family.windows == wanted, variant
    (tmp_path / "off").mkdir()
    path, _ = write_variant("qwen2", tmp_path / "off", use_sliding_window=False)
    assert load_model(path).family.windows == (0, 0)
    (tmp_path / "default").mkdir()
    model = load_model(write_variant("mistral", tmp_path / "default", sliding_window=None)[0])
    assert model.family.windows == (4096, 4096)
    assert any("sliding_window = 4096" in str(notice) for notice in model.notices)
    (tmp_path / "bad").mkdir()
    with pytest.raises(ModelError, match=r"sliding_window is -3, expected a number of positions"):
        load_model(write_variant("mistral", tmp_path / "bad", sliding_window=-3)[0])
