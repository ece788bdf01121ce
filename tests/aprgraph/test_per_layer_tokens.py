"""Tokens without embeddings for each layer, as those of images in Gemma 3n: they have what token 0 has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import aprgraph
from tests.graph.test_checkpoint_files import change, packed, unpacked
from tests.support.checkpoints import write_checkpoint

_TABLE, _ROWS = "model.embed_tokens_per_layer.weight", 90


@pytest.mark.contract("FAMILY-NUMBERS-1")
@pytest.mark.parametrize("target", ["reference", "llvm"])
def test_a_token_without_a_row_has_that_of_token_0(target: str, tmp_path: Path) -> None:
    """Of 96 tokens 90 have a row; the same model with the first row in place of the others is what transformers computes."""
    logits = {}
    for name, rows in (("short", _ROWS), ("whole", 96)):
        (tmp_path / name).mkdir()
        folder = write_checkpoint("gemma3n-f32", tmp_path / name)
        tensors = unpacked((folder / "model.safetensors").read_bytes())
        dtype, (_, columns), data = tensors[_TABLE]
        table = np.frombuffer(data, np.float32).reshape(96, columns).copy()
        table[_ROWS:] = table[0]
        tensors[_TABLE] = (dtype, [rows, columns], table[:rows].tobytes())
        (folder / "model.safetensors").write_bytes(packed(tensors))
        change(folder, lambda config, rows=rows: config.update(vocab_size_per_layer_input=rows))
        compiled = aprgraph.load(folder).compile(target, tmp_path / f"{name}.aprg")
        logits[name] = compiled.logits([17, 95, 3, 90, 89], positions="all")
    assert logits["short"].tobytes() == logits["whole"].tobytes()
