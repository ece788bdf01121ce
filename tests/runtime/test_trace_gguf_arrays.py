"""GGUF files of arrays that a run left, and those of other kinds, as sides of a comparison."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, run_cli
from tests.support.gguf_bytes import STRING, RawGGUF, RawTensor
from tests.support.gguf_copy import write_gguf_arrays
from tests.support.traces import values

#: As llama.cpp calls its nodes.
ARRAYS = {"attn_norm-0": values(3, 6), "l_out-1": values(3, 6, seed=1), "result_output": values(9)}
RULES = [r"attn_norm\-(\d+)=layer\1.attn_norm", r"l_out\-(\d+)=layer\1.post_ffn_residual", "result_output=lm_head"]


@pytest.mark.contract("CAPTURE-FILES-1")
def test_tokens_and_half_precisions_are_read_too(tmp_path: Path) -> None:
    arrays = ARRAYS | {
        "tokens": np.array([3, 1, 4], np.int32),
        "l_out-1": ARRAYS["l_out-1"].astype(ml_dtypes.bfloat16),
        "attn_norm-0": ARRAYS["attn_norm-0"].astype(np.float16),
    }
    trace = Trace.open(write_gguf_arrays(tmp_path / "a.gguf", arrays), names=RULES)
    assert trace.info is not None
    assert (trace.info.tokens, trace.info.target) == ((3, 1, 4), "gguf")
    assert {entry.label: entry.shape for entry in trace} == {
        "layer 0 attn_norm": (3, 6), "layer 1 post_ffn_residual": (3, 6), "lm_head": (9,),
    }  # fmt: skip
    for stage, layer, name in (("attn_norm", 0, "attn_norm-0"), ("post_ffn_residual", 1, "l_out-1"), ("lm_head", None, "result_output")):
        assert np.array_equal(trace.tensor(stage, layer), np.asarray(arrays[name], np.float32))


@pytest.mark.contract("CAPTURE-FILES-1")
def test_inspect_suggests_rules_and_a_run_says_what_it_is(tmp_path: Path) -> None:
    path = write_gguf_arrays(tmp_path / "a.gguf", ARRAYS)
    document = json.loads(run_cli("inspect", path, "--json").out)
    assert document["arrays"]["attn_norm-{}"] == "1 of 3x6"
    assert [f"--map '{rule}'" for rule in RULES] == [*document["rules that their names suggest"]]
    for arguments in (["diff", path, path], ["audit", path, "--model", path]):
        assert "none of its 3 arrays is called as a stage is" in fails(*arguments)
    said = fails("run", path, "--tokens", "1")
    assert said.startswith(f"{path}: this is a GGUF file of arrays, none of which is called as a weight is; give the model's .gguf file; ")


@pytest.mark.contract("CAPTURE-FILES-2")
def test_one_that_is_cut_off_is_one_sentence(tmp_path: Path) -> None:
    whole = write_gguf_arrays(tmp_path / "a.gguf", ARRAYS).read_bytes()
    (tmp_path / "b.gguf").write_bytes(whole[:-40])
    said = fails("diff", tmp_path / "b.gguf", tmp_path / "b.gguf")
    assert said.startswith(f"{tmp_path}/b.gguf: tensor 'result_output' ends at byte ")
    assert said.endswith("the file is truncated: copy or download it again")


@pytest.mark.contract("CAPTURE-FILES-2")
def test_what_is_no_whole_model_is_not_called_one(tmp_path: Path) -> None:
    """The advice for a model, to audit a trace by it, would lead from one error to the next."""
    file = RawGGUF()
    file.set("general.type", STRING, "imatrix")
    file.tensors["blk.0.attn_q.weight.in_sum2"] = RawTensor((1, 8))
    (path := tmp_path / "m.gguf").write_bytes(file.pack())
    write_gguf_arrays(tmp_path / "a.gguf", {"lm_head": values(9)})
    for arguments in (["diff", tmp_path / "a.gguf", path], ["audit", path, "--model", tmp_path / "a.gguf"]):
        assert fails(*arguments).startswith(f"{path}: not a trace, nor an APRT file, but an importance matrix (imatrix); ")
