"""Random damage to GGUF headers: an expected error or success, never anything else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from tests.support.damage import attempt, with_odd_keys, write
from tests.support.gguf_bytes import BOOL, F32, F64, I32, STRING, U32, U64, small_llama


@pytest.mark.contract("ERR-GGUF-1")
def test_random_bytes_in_the_header(tmp_path: Path) -> None:
    """Errors or success, and both happen; 4,000 files that differ from a sound one in 1 to 4 bytes of the header."""
    file = with_odd_keys()
    path, header = write(tmp_path, file), file.header()
    generator = np.random.default_rng(20240817)
    favourites = np.array([0, 1, 2, 3, 8, 9, 10, 127, 128, 255], np.uint8)
    failed = 0
    with path.open("r+b") as handle:
        for _ in range(4000):
            where = generator.integers(0, len(header), generator.integers(1, 5))
            what = generator.integers(0, 256, len(where), dtype=np.uint8)
            what = np.where(generator.random(len(where)) < 0.5, generator.choice(favourites, len(where)), what)
            for position, value in zip(where, what, strict=True):
                os.pwrite(handle.fileno(), bytes([value]), int(position))
            failed += attempt(path) is not None
            for position in where:
                os.pwrite(handle.fileno(), header[position : position + 1], int(position))
    assert 1000 < failed < 4000


@pytest.mark.contract("ERR-MODEL-1")
def test_random_values_of_every_hyperparameter(tmp_path: Path) -> None:
    """Every number of the metadata in turn, as every kind of value."""
    values: list[tuple[int, object]] = [(U32, n) for n in (0, 1, 2, 3, 5, 2**16, 2**31, 2**32 - 1)]
    values += [
        (I32, -1),
        (I32, -(2**31)),
        (U64, 2**64 - 1),
        (F32, 0.0),
        (F32, -1.5),
        (F32, float("nan")),
        (F32, float("inf")),
        (F64, 5e-324),
        (F64, 1e308),
    ]
    values += [(BOOL, False), (BOOL, True), (STRING, ""), (STRING, "llama")]
    others = ("attention.key_length", "attention.value_length", "attention.scale", "rope.scaling.factor", "expert_count")
    names = [*small_llama().keys, *(f"llama.{name}" for name in others)]
    outcomes = set()
    for name in names:
        for kind, value in values:
            file = small_llama()
            file.set(str(name), kind, value)
            outcomes.add(type(attempt(write(tmp_path, file))))
    assert outcomes == {type(None), ModelError, UnsupportedModelError}
