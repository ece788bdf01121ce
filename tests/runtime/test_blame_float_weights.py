"""A trace of float weights is replayed with the file's quantised ones: a stage may be off by what their block formats cost, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.comparison import audit
from aprgraph.graph.ir import Node
from aprgraph.graph.model import load_model
from aprgraph.runtime.decoded_weights import decode_weight
from tests.runtime.test_diff_noise_models import trace_in
from tests.support.arithmetic import F64, to_bfloat16

FLOAT = {"weights": "float", "arithmetic": "float32"}


@pytest.mark.contract("BLAME-FLOAT-1")
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "phi3", "qwen3moe"])
@pytest.mark.parametrize("fmt", ["Q8_0", "Q5_0", "Q4_0"])
def test_right_float_weights_are_right(tmp_path: Path, tiny_model: Callable[..., Path], family: str, fmt: str) -> None:
    theirs = trace_in(tmp_path / "theirs", tiny_model(family=family), says=FLOAT)
    found = audit(theirs, tiny_model(family=family, format=fmt))
    assert found.profile == "quant-vs-float"
    assert found.exit_code == 0, found.sentence


@pytest.mark.contract("BLAME-FLOAT-1")
@pytest.mark.parametrize("roundings", [{}, {"inputs": to_bfloat16, "outputs": to_bfloat16}], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("fmt", ["Q8_0", "Q4_0"])
def test_a_part_of_a_matrix_that_the_file_has_otherwise_is_found(
    tmp_path: Path, tiny_model: Callable[..., Path], roundings: dict[str, Callable[[F64], F64]], fmt: str
) -> None:
    """By an NMSE of 0.013 in Q8_0, which the noise of four bits would hide, and of 0.1 in Q4_0."""
    path = tiny_model()
    model = load_model(path)

    def weight(node: Node) -> F64:
        value = np.array(decode_weight(model, node))
        if node.attr_str("tensor") == "blk.1.ffn_down.weight":
            value[:, :32] *= 1.2 if fmt == "Q8_0" else 1.6
        return value

    says = {**FLOAT, "arithmetic": "bfloat16" if roundings else "float32"}
    theirs = trace_in(tmp_path / "theirs", path, roundings, says, weights=weight)
    found = audit(theirs, tiny_model(format=fmt))
    assert [local.key for local in found.wrong] == [(0, 1, "ffn_out")], found.sentence
    assert audit(theirs, tiny_model(format=fmt), tolerances=["ffn_out=nmse:0.5"]).exit_code == 0


@pytest.mark.contract("BLAME-FLOAT-1")
@pytest.mark.parametrize("fmt", ["Q8_0", "Q4_0"])
def test_norms_read_no_quantised_weights(tmp_path: Path, tiny_model: Callable[..., Path], fmt: str) -> None:
    """Their weights are F32 in the file, so that an epsilon of 1e-3 for 1e-5 is no noise of four bits."""
    theirs = trace_in(tmp_path / "theirs", tiny_model(), says=FLOAT)
    path = tiny_model(format=fmt)
    assert audit(theirs, path).exit_code == 0
    found = audit(theirs, load_model(path, {"llama.attention.layer_norm_rms_epsilon": 1e-3}))
    assert {local.key[2] for local in found.wrong} <= {"attn_norm", "ffn_norm", "final_norm"}
    assert found.exit_code == 1, found.sentence
    coarse = trace_in(
        tmp_path / "coarse", tiny_model(), {"inputs": to_bfloat16, "outputs": to_bfloat16}, {**FLOAT, "arithmetic": "bfloat16"}
    )
    assert audit(coarse, path).exit_code == 0
