"""split-layers: parts that together compute what the graph does, in every family."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import GraphError, PlanError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.ir import Graph
from aprgraph.graph.layer_split import parse_split, split_of_model
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import Array, has_state, is_received, is_tap, is_weight, weights_of
from aprgraph.graph.passes import SplitLayers, run_passes
from aprgraph.graph.passes.pipeline import early_graph, executed_graph, recorded_graph
from aprgraph.graph.passes.split_layers import split_graphs
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.graph.verify import verify
from aprgraph.runtime.decoded_weights import DecodedWeights
from aprgraph.runtime.reference import evaluate
from tests.support.graphs import TOY, graph_of

#: The passes of a run: which graph, the tokens, and the position of the first.
Passes = Sequence[tuple[int, Sequence[int], int]]


def _run(parts: Sequence[Sequence[Graph]], model: Model, passes: Passes) -> Iterator[tuple[str, bytes]]:
    """Taps and outputs of each pass in float64, by name; ``parts`` are the graphs of each machine."""
    states: list[dict[str, Array]] = [{} for _ in parts]
    weights = DecodedWeights(model)
    for index, tokens, start in passes:
        values: dict[str, Array] = {"tokens": np.array(tokens), "positions": np.arange(start, start + len(tokens))}
        for graphs, state in zip(parts, states, strict=True):
            graph = graphs[index]
            given = {name: values[name] for name in values if name in graph}
            for node, value in evaluate(graph, given, weights.read_in_parts, state):
                if is_tap(node) or (node.name in graph.outputs and not has_state(node)):
                    values[node.name] = value
                if is_tap(node):
                    yield node.name, value.tobytes()
        yield from ((name, values[name].tobytes()) for name in parts[-1][index].outputs if name == "lm_head")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parts_of_a_graph_compute_what_it_does(family: str, tiny_model: Callable[..., Path]) -> None:
    """In one pass, and in parts of a prompt and decoded tokens, of which some are recorded."""
    model = load_model(tiny_model(family=family, layers=4))
    graph, prompt = build_graph(model), [3, 1, 4, 1, 5, 9]
    plan, layers = parse_plan("all", "all"), [range(1), range(1, 3), range(3, 4)]
    recorded = recorded_graph(graph, plan, "last", len(prompt) + 2, keep_outputs=True)
    kinds: list[tuple[list[Graph], Passes]] = [([executed_graph(recorded, one_pass=True)], [(0, prompt, 0)])]
    if model.family.causal:
        untapped = recorded_graph(graph, Plan(), "last", len(prompt) + 2)
        in_parts = [executed_graph(one, one_pass=False) for one in (early_graph(untapped), recorded, untapped)]
        kinds.append((in_parts, [(0, prompt[:2], 0), (0, prompt[2:4], 2), (2, prompt[4:], 4), (1, [2], 6), (2, [6], 7)]))
    for graphs, passes in kinds:
        split = split_graphs(graphs, layers)
        for parts in split:
            for part in parts:
                verify(part)
        whole = list(_run([graphs], model, passes))
        assert len(whole) > len(layers)
        assert list(_run(split, model, passes)) == whole


def test_a_part_reads_the_weights_of_its_layers_alone(tiny_model: Callable[..., Path]) -> None:
    """But for those that others read too, such as an embedding table that is also the output's weight."""
    graph = build_graph(load_model(tiny_model(layers=3, tied=True)))
    first, second = (parts[0] for parts in split_graphs([graph], [range(2), range(2, 3)]))
    names = [{node.attr_str("tensor") for node in weights_of(part)} for part in (first, second)]
    assert names[0] & names[1] == {"token_embd.weight"}
    assert names[0] | names[1] == {node.attr_str("tensor") for node in weights_of(graph)}
    assert {name.split(".")[1] for name in names[0] if name.startswith("blk.")} == {"0", "1"}
    assert {name for name in names[1] if not name.startswith("blk.2.")} == {"token_embd.weight", "output_norm.weight"}
    assert {node.name for node in second if is_received(node)} == {"layer1.post_ffn_residual", "rope_angles"} == set(first.outputs)


def test_a_cache_that_layers_of_another_part_read_is_kept_there_too(tiny_model: Callable[..., Path]) -> None:
    graph = build_graph(load_model(tiny_model(family="gemma3n", layers=4)))
    first, second = (parts[0] for parts in split_graphs([graph], [range(3), range(3, 4)]))
    shared = {node.name for node in second if has_state(node)}
    assert shared
    assert shared < {node.name for node in first}
    assert {first.operand_names(name)[0] for name in shared} < set(first.outputs)
    assert not {node.name for node in second if is_received(node) and "t" in node.type.dims}


def test_it_is_a_pass() -> None:
    part = run_passes(graph_of(TOY), [SplitLayers(1, 2)])
    assert [(node.name, node.op) for node in part if not is_weight(node)] == [
        ("layer0.post_ffn_residual", "received"), ("layer1.attn_norm", "rms_norm"), ("layer1.post_ffn_residual", "add"),
        ("final_norm", "rms_norm"), ("last", "last_row"), ("lm_head", "linear"),
    ]  # fmt: skip
    assert part.outputs == ("lm_head",)
    assert run_passes(graph_of(TOY), [SplitLayers(0, 1)]).outputs == ("layer0.post_ffn_residual",)


def test_layers_that_are_not_in_order() -> None:
    text = TOY.replace("stage attn_norm layer 1", "stage attn_norm layer 2")
    with pytest.raises(
        GraphError, match="%layer1.post_ffn_residual of layer 1 comes behind a node of layer 2, so the layers cannot be split"
    ):
        run_passes(graph_of(text), [SplitLayers(0, 1)])


def test_ranges() -> None:
    split = split_of_model(parse_split(" 4.. @two:9090/key, 0..4@[::1]:9090"), 6)
    assert [(one.layers, one.place) for one in split] == [(range(4), "[::1]:9090"), (range(4, 6), "two:9090/key")]
    assert [str(one) for one in split_of_model(parse_split("0..3,3"), 4)] == ["0..3", "3..4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no range of layers at a place; expected ranges of layers with commas between, such as 0..16@one:9090"),
        ("0..2@a:1,", "'' is no range of layers at a place"),
        ("0..2@", "'0..2@' is no range of layers at a place"),
        ("x..2@a:1", "split='x..2'.*expected START..END with two whole numbers"),
        ("0..2@a:1,2..4", "2..4 has no place, and others have"),
        ("0..2@a:1,2..4@a:1", "a:1 appears twice, and a server serves one client at a time"),
        ("0..2@a:1,3..4@b:1", "no range has layer 2; each begins where the one before it ends"),
        ("0..3@a:1,2..4@b:1", "layer 2 is in two ranges"),
        ("2..4@a:1", "no range has the layers 0 to 1; each begins"),
        ("0..2@a:1", "no range has the layers 2 to 3; the last is to end with 4"),
        ("0..5@a:1", "0..5@a:1 goes beyond the model's 4 layers"),
        ("0..4@a:1,4..@b:1", "4..@b:1 goes beyond the model's 4 layers"),
    ],
)
def test_bad_splits(text: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        split_of_model(parse_split(text), 4)
