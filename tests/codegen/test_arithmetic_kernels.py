"""That every family has its kernels in an engine's arithmetic, on every compiled target."""

from __future__ import annotations

import pytest

from aprgraph.codegen.cpu.levels import native_cpu
from aprgraph.codegen.kernels import cpu, cuda, requests_of
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.outline import small_outline
from aprgraph.graph.passes import ApplyArithmetic
from aprgraph.graph.passes.pipeline import compiled_graphs

#: Ops that only an engine's arithmetic brings.
ROUNDING_OPS = {"round", "round_sum_errors", "rounded_linear", "gelu_half", "flash_attention", "rope_angles_chained"}


@pytest.mark.parametrize("target", ["llvm", "cuda"])
@pytest.mark.parametrize("flash", ["on", "off"])
def test_every_family_has_kernels(flash: str, target: str) -> None:
    """Those of every op are there, and those that round can be emitted."""
    graphs = [ApplyArithmetic(f"ggml-avx2,flash={flash}")(small_outline(family).graph) for family in FAMILIES.values()]
    requests = requests_of(each for graph in graphs for each in compiled_graphs(graph, target))
    for request in requests.values():
        kernel = cpu.find_kernel(request.op) if target == "llvm" else cuda.find_kernel(request.op)
        if request.op in ROUNDING_OPS:
            kernel(request, native_cpu()) if target == "llvm" else kernel(request)
    assert target == "llvm" or all(request.op != "rounded_linear" for request in requests.values())
