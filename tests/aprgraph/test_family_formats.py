"""Compiled kernels in every family with every block format: one model each, in which neighbours differ in their formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.model import load_model
from tests.support.compiled import compiled
from tests.support.golden import nmse
from tests.support.graphs import ops_of

TOKENS = (5, 200, 17, 5, 44, 0, 287)
LAYERS = 2
TOLERANCE = 1e-11

#: Family and more options; Mixtral is a llama with experts.
MODELS: dict[str, dict[str, Any]] = {**{name: {"family": name} for name in FAMILIES}, "mixtral": {"experts": 4}}

_PARTS = (
    "attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_exps", "ffn_up_exps",
    "ffn_down_exps", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_k_b", "attn_v_b",
    "ssm_in", "ssm_out",
)  # fmt: skip


def all_formats() -> dict[str, str]:
    """For each layer's matrices another order of all formats."""
    names = list(BLOCK_FORMATS)
    tensors = ["token_embd.weight", "output.weight", *(f"blk.{layer}.{part}.weight" for part in _PARTS for layer in range(LAYERS))]
    return {tensor: names[index * 5 % len(names)] for index, tensor in enumerate(tensors)}


def _kinds(name: str) -> set[str]:
    """The ops of a model, and what MODELS says beside the family."""
    options = MODELS[name]
    return ops_of(options.get("family", "llama")) | options.keys()


@pytest.fixture(scope="module")
def paths(tiny_model: Callable[..., Path]) -> dict[str, Path]:
    return {name: tiny_model(layers=LAYERS, formats=all_formats(), hidden=256, ffn=256, **options) for name, options in MODELS.items()}


def test_every_format_is_in_every_kind_of_tensor(paths: dict[str, Path]) -> None:
    found: dict[str, set[str]] = {}
    for path in paths.values():
        for tensor in load_model(path).file.tensors.values():
            found.setdefault("experts" if len(tensor.dims) == 3 else "matrices", set()).add(tensor.format.name)
    assert found["experts"] | found["matrices"] == set(BLOCK_FORMATS)
    assert len(found["experts"]) >= 6
    for path in paths.values():
        formats = {tensor.format.name for tensor in load_model(path).file.tensors.values() if len(tensor.dims) > 1}
        assert len(formats) >= 6, path


@pytest.mark.each_choice(of=_kinds)
@pytest.mark.parametrize("name", MODELS)
def test_every_stage_agrees_with_the_reference(name: str, paths: dict[str, Path], tmp_path: Path) -> None:
    """The reference is checked against transformers, family by family and format by format, in tests/runtime."""
    model = compiled(paths[name])
    given = {"tokens": TOKENS, "positions": "all" if model.gives_logits else "last"}
    run = {
        target: compiled(paths[name], target).run("all", f"0..{LAYERS}", directory=tmp_path / target, **given)
        for target in ("llvm", "reference")
    }
    assert [entry.key for entry in run["llvm"].entries] == [entry.key for entry in run["reference"].entries]
    for entry in run["reference"].entries:
        error = nmse(run["llvm"].tensor(entry.stage, entry.layer), run["reference"].load(entry))
        assert error <= TOLERANCE, f"{entry.label}: NMSE {error:.1e}"
