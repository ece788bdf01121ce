"""Decision 2: what no tap needs is neither computed nor read."""

from __future__ import annotations

import mmap
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aprgraph.api import CompiledModel, RunPlan
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.tap_plan import parse_plan
from tests.support.cli import files_under, run_python
from tests.support.compiled import compiled
from tests.support.models import require_smollm2

TOKENS = [5, 200, 17, 0]
QKV = ("attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight")
BIASES = ("attn_q.bias", "attn_k.bias", "attn_v.bias")
BLOCK = (*QKV, *BIASES, "attn_output.weight", "ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight")


def blk(layer: int, *names: str) -> set[str]:
    return {f"blk.{layer}.{name}" for name in names}


#: (taps, layers, the weights that they need)
CASES: list[tuple[str, str, set[str]]] = [
    ("embedding", "0..1", {"token_embd.weight"}),
    ("attn_norm", "0..1", {"token_embd.weight"} | blk(0, "attn_norm.weight")),
    ("qkv_matmul", "0..1", {"token_embd.weight"} | blk(0, *QKV)),
    ("q_post_rope", "0..1", {"token_embd.weight"} | blk(0, *QKV, *BIASES)),
    ("ffn_silu", "0..1", {"token_embd.weight"} | blk(0, *QKV, *BIASES, "attn_output.weight", "ffn_norm.weight", "ffn_gate.weight")),
    ("qkv_matmul", "1..2", {"token_embd.weight"} | blk(0, *BLOCK) | blk(1, *QKV)),
    ("post_ffn_residual", "1..2", {"token_embd.weight"} | blk(0, *BLOCK) | blk(1, *BLOCK)),
    ("final_norm", "0..1", {"token_embd.weight", "output_norm.weight"} | blk(0, *BLOCK) | blk(1, *BLOCK) | blk(2, *BLOCK)),
]


def plan(model: CompiledModel, taps: str, layers: str, tokens: Sequence[int] = TOKENS) -> RunPlan:
    return model.plan(parse_plan(taps, layers), tokens)


@pytest.mark.parametrize(("taps", "layers", "needed"), CASES)
def test_the_weights_of_a_plan(tiny: CompiledModel, taps: str, layers: str, needed: set[str]) -> None:
    assert {node.name for node in plan(tiny, taps, layers).graph.with_op("weight")} == needed


def spoiled(model: Model, path: Path, needed: set[str], rows: Sequence[int]) -> Model:
    """A copy in which every byte that is neither metadata nor in ``needed`` is 0xFF: NaN in each float.

    Of the embedding table, only the ``rows`` stay.
    """
    shutil.copyfile(model.path, path)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        for info in model.file.tensors.values():
            whole = np.frombuffer(data, np.uint8, info.nbytes, info.offset).reshape(-1, info.row_bytes).copy()
            kept = np.full_like(whole, 0xFF)
            if info.name == "token_embd.weight":
                kept[rows] = whole[rows]
            elif info.name in needed:
                kept = whole
            data[info.offset : info.offset + info.nbytes] = kept.tobytes()
    return load_model(path)


@pytest.mark.parametrize(("taps", "layers", "needed"), CASES)
@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_other_weights_do_not_matter(model_path: Path, tmp_path: Path, target: str, taps: str, layers: str, needed: set[str]) -> None:
    """The same bytes come from a file in which all that the plan does not need is NaN."""
    good = compiled(model_path, target)
    bad = replace(good, model=spoiled(good.model, tmp_path / model_path.name, needed, TOKENS))
    good.run(taps, layers, tokens=TOKENS, directory=tmp_path / "good")
    bad.run(taps, layers, tokens=TOKENS, directory=tmp_path / "bad")
    assert files_under(tmp_path / "good") == files_under(tmp_path / "bad")


def test_a_weight_that_is_needed_does_matter(tiny: CompiledModel, tmp_path: Path) -> None:
    """The spoiling of the test above works: with one weight less, NaN arrives."""
    needed = CASES[2][2] - {"blk.0.attn_k.weight"}
    bad = replace(tiny, model=spoiled(tiny.model, tmp_path / "m.gguf", needed, TOKENS))
    values = bad.run("qkv_matmul", tokens=TOKENS, directory=tmp_path / "t").tensor("qkv_matmul", 0)
    assert np.isnan(values).all(axis=0).tolist() == [False] * 64 + [True] * 32 + [False] * 32


_RESIDENT = """
import mmap, re, sys
from aprgraph import open_artifact

model = open_artifact(sys.argv[1], sys.argv[2])
mapping = model.model.file.mapping

def resident():
    kilobytes, ours = 0, False
    for line in open("/proc/self/smaps"):
        if re.match("[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.rstrip().endswith(sys.argv[2])
        elif ours and line.startswith("Rss:"):
            kilobytes += int(line.split()[1])
    return kilobytes * 1024

mapping.madvise(mmap.MADV_DONTNEED)
assert resident() == 0
for taps in sys.argv[4:]:
    model.run(taps, tokens=[2, 3, 5], directory=sys.argv[3])
    print(resident())
"""


def test_pages_of_other_weights_are_not_read(tmp_path: Path) -> None:
    """What the kernel says of the mapping: after one layer's projections, a small part of SmolLM2's file is in memory."""
    path = require_smollm2().resolve()
    model = compiled(path)
    result = run_python(_RESIDENT, model.artifact.directory, path, tmp_path / "t", "qkv_matmul", "lm_head", cwd=tmp_path)
    assert result.code == 0, result.err
    projections, whole = map(int, re.findall(r"\d+", result.out))
    weights = plan(model, "qkv_matmul", "0..1", [2, 3, 5]).graph.with_op("weight")
    needed = sum(model.model.file.tensors[node.name].nbytes for node in weights if node.name != "token_embd.weight")
    # Three embedding rows, one norm, three matrices beside each other: at most seven places. A fault maps what the page cache has in
    # one piece around it: 64 KiB as a rule, 2 MiB at most.
    assert needed <= projections <= needed + 7 * (2 << 20)
    assert projections < 0.2 * path.stat().st_size
    assert whole > 0.9 * path.stat().st_size
