"""How much memory of a GPU a run needs, what a user is told where it is not there, and which GPU a target names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.api import RunOptions, load
from aprgraph.graph.errors import ArtifactError, DeviceError
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.runs.gpu_memory import check_gpu_memory
from aprgraph.runtime.cuda.driver import Gpu
from aprgraph.runtime.cuda.memory import states_nbytes, values_nbytes, weights_nbytes
from aprgraph.target_words import parse_target
from tests.support.compiled import shared_model

GPU = Gpu(0, "a GPU", (8, 0))
GIB = 1 << 30


def test_values_of_a_size_count_as_often_as_there_are_at_once(tiny_model: Callable[..., Path]) -> None:
    loaded = load(shared_model(tiny_model))
    tapped = executed_graph(loaded.plan(parse_plan("all", "0..3"), [1, 2, 3]).graph, one_pass=True)
    plain = executed_graph(loaded.plan(Plan(), [1, 2, 3]).graph, one_pass=True)
    # Values are let go after their last use, so depth costs nothing; scores grow with the square.
    one = values_nbytes(plain, 3, 3)
    assert 0 < one < sum(4096 for node in plain if node.op not in ("input", "weight"))
    long, longer = (values_nbytes(tapped, n, n) for n in (1000, 2000))
    assert 2 < longer / long < 4.01
    assert values_nbytes(tapped, 1000, 1000) > values_nbytes(plain, 1000, 1000)


def test_weights_count_once_and_only_those_that_are_read(tiny_model: Callable[..., Path]) -> None:
    loaded = load(shared_model(tiny_model))
    whole = executed_graph(loaded.plan(Plan(), [1]).graph, one_pass=True)
    part = executed_graph(loaded.plan(parse_plan("qkv_matmul", "0..1"), [1]).graph, one_pass=True)
    file = sum(info.nbytes for info in loaded.model.file.tensors.values())
    assert weights_nbytes([whole, whole, part]) == weights_nbytes([whole]) == file
    assert weights_nbytes([part]) < weights_nbytes([whole])


def test_caches_have_a_row_for_each_position(tiny_model: Callable[..., Path]) -> None:
    whole = executed_graph(load(shared_model(tiny_model)).plan(Plan(), [1]).graph, one_pass=False)
    assert states_nbytes([whole], 10) == 10 * states_nbytes([whole], 1) > 0


def test_a_run_that_fits_says_nothing_and_one_that_does_not_says_what_would(tiny_model: Callable[..., Path]) -> None:
    loaded = load(shared_model(tiny_model))
    tokens = [1] * 60
    run = loaded.plan(Plan(), tokens)
    weights = weights_nbytes(run.graphs())
    values = values_nbytes(executed_graph(run.graph, one_pass=True), 60, 60)
    check_gpu_memory(run, GPU, 10 * GIB, 10 * GIB)
    free = weights + values // 2
    with pytest.raises(DeviceError, match=r"GPU 0 \(a GPU\): the run needs .* of weights, .* are free; prefill_chunk=(\d+) fits") as error:
        check_gpu_memory(run, GPU, free, 0)
    chunk = int(str(error.value).split("prefill_chunk=")[1].split()[0])
    check_gpu_memory(loaded.plan(Plan(), tokens, RunOptions(prefill_chunk=chunk)), GPU, free, 0)
    with pytest.raises(DeviceError, match=r"use target='llvm'"):
        check_gpu_memory(run, GPU, weights // 2, 0)
    tapped = loaded.plan(parse_plan("all", "0..3"), [1])
    with pytest.raises(DeviceError, match=r"the first layer fits|the first 2 layers fit") as error:
        check_gpu_memory(tapped, GPU, weights - weights // 8, 0)
    layers = str(error.value).split("layers='")[1].split("'")[0]
    check_gpu_memory(loaded.plan(parse_plan("qkv_matmul,ffn_out", layers), [1]), GPU, weights - weights // 8, 0)


@pytest.mark.parametrize(("text", "target"), [("llvm", ("llvm", 0)), ("cuda", ("cuda", 0)), ("cuda:3", ("cuda", 3))])
def test_targets(text: str, target: tuple[str, int]) -> None:
    assert parse_target(text, "--target") == target


@pytest.mark.parametrize("text", ["cuda:", "cuda:-1", "cuda:x", "llvm:1", ":1", "cuda:1:2", "cuda:¹"])
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(ArtifactError, match="expected a target alone, or cuda:N"):
        parse_target(text, "--target")
