"""Bits of BF16 that were taken for F16, and the reverse, as `aprgraph check` tells them from weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.check import check
from aprgraph.runtime.check.survey import Surveyor
from aprgraph.runtime.check.weight_rules import judge_tensor
from tests.support.changed_model import Tensors, changed_model
from tests.support.tiny_blocks import encode

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[Any]]

_DTYPES: dict[str, Any] = {"F16": np.float16, "BF16": ml_dtypes.bfloat16}


def _found(path: Path, draw: Draw, stored: str) -> str:
    """What is said of the bits of one matrix."""
    values = draw(np.random.default_rng(0), (96, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("w.weight", encode(values, stored), raw_dtype=gguf.GGMLQuantizationType[stored])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GGUFFile(path)
    surveyor = Surveyor(file)
    found = judge_tensor(surveyor.survey(file.tensors["w.weight"]), surveyor.locate)
    return "; ".join(one.text for one in found if one.rule.code == "weight-other-float")


def _misread(draw: Draw, taken: str, meant: str) -> Draw:
    return lambda rng, shape: draw(rng, shape).astype(_DTYPES[meant]).view(_DTYPES[taken])


WEIGHTS: dict[str, Draw] = {
    "normal, 0.02": lambda rng, shape: rng.normal(0, 0.02, shape),
    "normal, 0.2": lambda rng, shape: rng.normal(0, 0.2, shape),
    "normal, 0.002": lambda rng, shape: rng.normal(0, 0.002, shape),
    "Laplace": lambda rng, shape: rng.laplace(0, 0.03, shape),
    "Student": lambda rng, shape: rng.standard_t(4, shape) * 0.02,
    "uniform": lambda rng, shape: rng.uniform(-0.05, 0.05, shape),
    "rows of different sizes": lambda rng, shape: rng.normal(0, 0.02, shape) * rng.uniform(0.5, 2, (*shape[:-1], 1)),
}


@pytest.mark.contract("CHECK-FLOAT-1")
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("taken", "meant"), [("F16", "BF16"), ("BF16", "F16")])
def test_bits_of_the_other_format_are_told(weights: str, taken: str, meant: str, tmp_path: Path) -> None:
    """Also where the numbers went on into F32; in the right format nothing is said."""
    draw = WEIGHTS[weights]
    for stored in (taken, "F32"):
        text = _found(tmp_path / "m.gguf", _misread(draw, taken, meant), stored)
        assert text.startswith(f"as {taken}, 98% of its elements are between ")
        assert f"; the same bits as {meant} are weights of about " in text
    for stored in ("F32", "F16", "BF16", "Q8_0"):
        assert not _found(tmp_path / "m.gguf", draw, stored)


@pytest.mark.contract("CHECK-FLOAT-1")
def test_a_file_of_misread_weights_has_an_error(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    def misread(tensors: Tensors) -> None:
        for name, values in tensors.items():
            if values.ndim > 1:
                tensors[name] = values.astype(ml_dtypes.bfloat16).view(np.float16).astype(np.float32)

    report = check(changed_model(tiny_model(), tmp_path / "m.gguf", misread, format="F16"))
    assert report.exit_code == 1
    assert "blk.1.ffn_down.weight" in {one.name for one in report.findings if one.rule.code == "weight-other-float"}


@pytest.mark.contract("CHECK-FLOAT-1")
@pytest.mark.parametrize("draw", [
    lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], shape),
    lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    lambda rng, shape: rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.5, shape),
    lambda rng, shape: rng.normal(0, 1e-9, shape),
    lambda rng, shape: rng.normal(0, 1e-30, shape),
    lambda rng, shape: rng.normal(0, 1, shape),
    lambda rng, shape: np.exp(rng.normal(0, 2, shape)),
    lambda rng, shape: 2.0 ** -rng.integers(0, 12, shape),
    lambda rng, shape: np.zeros(shape),
], ids=["ternary", "signs", "around 1", "1e-9", "1e-30", "large", "log-normal", "powers of 2", "zeros"])  # fmt: skip
@pytest.mark.parametrize("stored", ["F16", "BF16", "F32"])
def test_odd_weights_are_not_taken_for_it(draw: Draw, stored: str, tmp_path: Path) -> None:
    assert not _found(tmp_path / "m.gguf", draw, stored)
