"""The graph of every family, as text: what a change of families or of the builder does to a graph shows as lines.

`python -m tests.graph.test_graph_texts` writes the texts anew. A text is compressed where the model is a real one of many layers.
"""

from __future__ import annotations

import gzip
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import parse_graph, print_graph
from tests.support.golden import golden_models
from tests.support.models import gemma3_path, require_gemma3, require_smollm2, smollm2_path
from tests.support.tiny import write_tiny_model

_TEXTS = Path(__file__).parent / "texts"

#: Options of ``write_tiny_model``: what the golden files do not have.
TINY: dict[str, dict[str, Any]] = {
    "tiny-llama": {},
    "tiny-mixtral": {"experts": 4},
    "tiny-llama-biases": {"qkv_bias": True, "output_bias": True, "ffn_bias": True, "tied": True, "rope_freqs": True},
    "tiny-llama-embedding": {"causal": False},
    "tiny-qwen2-yarn": {"family": "qwen2", "rope_yarn_factor": 4.0, "original_context": 32},
    "tiny-qwen2moe": {"family": "qwen2moe"},
    "tiny-qwen3": {"family": "qwen3"},
    "tiny-qwen3moe": {"family": "qwen3moe", "rope_base": None},
    "tiny-gemma3": {"family": "gemma3", "layers": 7, "rope_linear_factor": 8.0},
    "tiny-phi3-long": {"family": "phi3", "rope_long_and_short": True, "original_context": 8, "sliding_window": 7},
}


GOLDEN = {golden.name: golden.path for golden in golden_models()}


def text_of(path: Path) -> str:
    """The text of a model's graph, which parses back to the graph itself."""
    graph = build_graph(load_model(path))
    text = print_graph(graph)
    assert parse_graph(text) == graph
    return text


def read(name: str) -> str:
    """A stored text."""
    plain = _TEXTS / f"{name}.mlir"
    return plain.read_text(encoding="utf-8") if plain.exists() else gzip.decompress((_TEXTS / f"{name}.mlir.gz").read_bytes()).decode()


@pytest.mark.contract("FAMILY-GRAPHS-1")
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_models(name: str) -> None:
    assert text_of(GOLDEN[name]) == read(name)


@pytest.mark.contract("FAMILY-GRAPHS-1")
@pytest.mark.parametrize("name", TINY)
def test_tiny_models(name: str, tmp_path: Path) -> None:
    assert text_of(write_tiny_model(tmp_path / "tiny.gguf", **TINY[name])) == read(name)


@pytest.mark.contract("FAMILY-GRAPHS-1")
def test_smollm2() -> None:
    assert text_of(require_smollm2()) == read("smollm2")


@pytest.mark.contract("FAMILY-GRAPHS-1")
def test_gemma3() -> None:
    assert text_of(require_gemma3()) == read("gemma-3-270m")


def _texts() -> Iterator[tuple[str, str]]:
    for name, path in GOLDEN.items():
        yield f"{name}.mlir", text_of(path)
    with tempfile.TemporaryDirectory() as folder:
        for name, options in TINY.items():
            yield f"{name}.mlir", text_of(write_tiny_model(Path(folder) / "tiny.gguf", **options))
    for name, path in (("smollm2", smollm2_path()), ("gemma-3-270m", gemma3_path())):
        if path is not None:
            yield f"{name}.mlir.gz", text_of(path)


if __name__ == "__main__":
    _TEXTS.mkdir(exist_ok=True)
    for file_name, written in _texts():
        data = written.encode()
        (_TEXTS / file_name).write_bytes(gzip.compress(data, mtime=0) if file_name.endswith(".gz") else data)
