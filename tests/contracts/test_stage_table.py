"""Everything that has to do with stages reads one table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

import aprgraph
from aprgraph.cli.stages import stages as list_stages
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.stages import STAGE_BY_NAME, STAGES, execution_key
from aprgraph.graph.tap_plan import parse_plan

Tiny = Callable[..., Path]

#: No two of these sizes are equal, nor is one of them the number of tokens below.
SIZES = {"heads": 6, "kv_heads": 2, "head_size": 10, "hidden": 36, "ffn": 20, "vocabulary": 290}
LETTERS = {"H": 6, "E": 36, "F": 20, "V": 290, "H*D": 60, "K*D": 20, "(H+2K)*D": 100}
TOKENS = (3, 1, 4, 1, 5, 9, 2)
NAMES = [stage.name for stage in STAGES]


@pytest.mark.contract("STAGES-SINGLE-1")
def test_plans_listings_and_sorting_know_the_stages_of_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    list_stages(json=True)
    assert [stage["name"] for stage in json.loads(capsys.readouterr().out)["stages"]] == NAMES
    assert list(parse_plan("all").stages) == NAMES
    assert list(parse_plan(",".join(reversed(NAMES))).stages) == NAMES
    in_layer_0 = [(0 if stage.per_layer else None, stage.name) for stage in STAGES]
    shuffled = random.Random(0).sample(in_layer_0, len(in_layer_0))
    assert sorted(shuffled, key=lambda pair: execution_key(*pair)) == in_layer_0


@pytest.mark.contract("STAGES-ORDER-1")
@pytest.mark.parametrize("options", [{}, {"layers": 3, "qkv_bias": True, "output_bias": True, "ffn_bias": True}])
def test_a_graph_computes_its_stages_in_the_order_of_the_table(tiny_model: Tiny, options: dict[str, object]) -> None:
    graph = build_graph(load_model(tiny_model(**options)))
    staged = graph.staged()
    keys = [execution_key(node.layer, str(node.stage)) for node in staged]
    assert keys == sorted(set(keys)), "in order, each once"
    for node, key in zip(staged, keys, strict=True):
        before = [other for other in staged if other.name != node.name and other.name in graph.ancestors([node.name])]
        assert all(execution_key(other.layer, str(other.stage)) < key for other in before)
        assert len(before) > 0 or node.stage == NAMES[0]


@pytest.mark.contract("STAGES-ORDER-1", "STAGES-SHAPE-1", "STAGES-COMPLETE-1")
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_a_trace_of_everything_is_what_the_table_says(tmp_path: Path, tiny_model: Tiny, qkv_bias: bool) -> None:
    model = aprgraph.load(tiny_model(**SIZES, layers=2, qkv_bias=qkv_bias))
    directory = tmp_path / "trace"
    model.compile("reference", tmp_path / "model.aprg").run("all", "0..2", tokens=TOKENS, directory=directory)
    tensors = json.loads((directory / "trace.json").read_text())["tensors"]
    keys = [execution_key(tensor["layer"], tensor["stage"]) for tensor in tensors]
    assert keys == sorted(set(keys))
    sizes = {**LETTERS, "n": len(TOKENS), "t": len(TOKENS)}
    for tensor in tensors:
        assert tensor["shape"] == [sizes[letter] for letter in STAGE_BY_NAME[tensor["stage"]].dims], tensor["stage"]
    own = {node.stage for node in model.graph.staged()}
    assert ("qkv_bias" in own) is qkv_bias
    expected = []
    for stage in STAGES:
        if stage.name in own and not stage.per_layer:
            expected.append(f"{stage.name}.bin")
        elif stage.name in own:
            expected += [f"layer-{layer}/{stage.name}.bin" for layer in range(1 if stage.first_layer_only else 2)]
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert found == {*expected, "trace.json"}
    assert sorted(tensor["file"] for tensor in tensors) == sorted(expected)
