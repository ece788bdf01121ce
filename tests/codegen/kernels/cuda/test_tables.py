"""That the files beside this one have every CUDA kernel among them, and that there are those of the CPU."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from aprgraph.codegen.kernels import cpu, cuda
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise
from tests.codegen.kernels import cuda as tests_here


@pytest.mark.contract("CUDA-KERNELS-1")
def test_every_kernel_is_tested_and_there_are_those_of_the_cpu() -> None:
    modules = [importlib.import_module(f"{tests_here.__name__}.{found.name}") for found in pkgutil.iter_modules(tests_here.__path__)]
    formulas = {op.name for op in OPS.values() if isinstance(op, Elementwise)}
    assert {what.op for module in modules for what in getattr(module, "request", ())} == set(cuda.KERNELS) | formulas
    assert set(cuda.KERNELS) == set(cpu.KERNELS)
