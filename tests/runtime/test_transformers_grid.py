"""The reference interpreter against Hugging Face transformers: every stage, for every family in every block format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.fix_context import fix_context
from aprgraph.runtime.reference import run_reference
from tests.support.golden import nmse
from tests.support.tiny import FORMATS, write_tiny_model

for package in ("torch", "transformers"):
    pytest.importorskip(package, reason=f"{package} is not here; install with `pip install torch==2.13.0 transformers`")

from tests.golden.transformers_models import load  # noqa: E402 -- imports what may not be there
from tests.golden.transformers_recorder import Recorder  # noqa: E402

TOLERANCE = 1e-9
TOKENS = (17, 3, 30, 3, 0, 31, 29, 29)

#: Small enough for the whole grid to take a minute; the layers are as many as show everything.
_OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"family": "llama", "experts": 4},
    "qwen2": {},
    "qwen2moe": {"experts": 5},
    "qwen3": {},
    "qwen3moe": {"experts": 4},
    # The first layer that sees all positions is the sixth.
    "gemma3": {"layers": 6, "kv_heads": 1, "heads": 2},
    "phi3": {"rope_long_and_short": True, "original_context": 5},
}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("family", _OPTIONS)
def test_every_stage(family: str, fmt: str, tmp_path: Path) -> None:
    options = {"family": family, "layers": 2, "vocabulary": 32, "tokenizer": False} | _OPTIONS[family]
    path = write_tiny_model(tmp_path / "tiny.gguf", format=fmt, **options)
    _check(path, Recorder(load(path)).run(TOKENS), {})


@pytest.mark.contract("BIDIRECTIONAL-WITNESS-1")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_every_stage_of_a_model_that_is_not_causal(family: str, tmp_path: Path) -> None:
    options = {"family": family, "layers": 2, "vocabulary": 32, "tokenizer": False, "sliding_window": 40 if family == "gemma3" else None}
    path = write_tiny_model(tmp_path / "tiny.gguf", **options)  # type: ignore[arg-type]
    _check(path, Recorder(load(path)).run(TOKENS, causal=False), {f"{family}.attention.causal": False})


def _check(path: Path, expected: dict[Any, Any], overrides: dict[str, Any]) -> None:
    model = load_model(path, overrides)
    seen = set()
    for node, value in run_reference(fix_context(build_graph(model), len(TOKENS)), model, TOKENS):
        if node.stage is None:
            continue
        golden = expected[node.layer, node.stage]
        assert value.shape == ((1, *golden.shape) if node.stage == "lm_head" else golden.shape)
        error = nmse(value, golden)
        assert error <= TOLERANCE, f"layer {node.layer} {node.stage}: NMSE {error:.1e}"
        seen.add((node.layer, node.stage))
    assert seen == set(expected)
