"""Weights as the reference reads them: whole, or in the parts that ids pick."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import traits_of
from aprgraph.graph.ops.linear import multiplied
from aprgraph.runtime import decoded_weights
from aprgraph.runtime.decoded_weights import DecodedWeights, decode_weight


def test_what_ids_pick_from_is_whole_where_it_is_small_and_kept(tiny_model: Callable[..., Path]) -> None:
    model = load_model(tiny_model(family="qwen3moe", format="Q4_0"))
    graph = build_graph(model)
    passing, keeping = DecodedWeights(model), DecodedWeights(model, keep=1 << 24)
    picked = [(node, user) for node in graph.with_op("weight") for user in graph.users(node.name) if traits_of(user).picks_rows_by]
    assert {user.op for _, user in picked} == {"embed", "expert_linear"}
    for node, user in picked:
        whole, parts = keeping.read(node, user), passing.read(node, user)
        assert isinstance(whole, np.ndarray)
        assert keeping.read(node, user) is whole
        assert not isinstance(parts, np.ndarray)
        one = np.array([1]) if user.op == "embed" else 1
        np.testing.assert_array_equal(parts[one], whole[one])
        np.testing.assert_array_equal(decode_weight(model, node), whole)


def test_a_large_matrix_is_decoded_in_tiles_which_two_replays_share(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model(format="Q4_0"))
    graph = build_graph(model)
    user = graph.with_op("linear")[-2]
    node = graph.operands(user.name)[1]
    whole = decode_weight(model, node)
    for module_limit in ("_SMALL", "_TILE"):
        monkeypatch.setattr(decoded_weights, module_limit, 64)
    np.testing.assert_array_equal(decode_weight(model, node), whole)
    weights = DecodedWeights(model, keep=whole.nbytes)
    assert isinstance(weights.read(node, user), np.ndarray)  # for explanations, which compute with it

    weights = DecodedWeights(model, keep=whole.nbytes)
    parts = weights.read_in_parts(node, user)
    assert not isinstance(parts, np.ndarray)
    x = np.ones((3, whole.shape[1]))
    np.testing.assert_array_equal(multiplied(x, parts), multiplied(x, whole))
    assert parts[2:5] is not parts[2:5]
    weights.keep_parts = True
    assert weights.read_in_parts(node, user)[2:5] is parts[2:5]
