"""In a command's process `import tvm` reads the compiler alone: what it compiles is what a host's process compiles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.codegen.cpu.levels import find_cpu
from aprgraph.codegen.kernels import requests_of
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.pipeline import compiled_graphs
from aprgraph.graph.tvm_libraries import compiler_alone
from tests.support.cli import run_python
from tests.support.compiled import shared_model


def digests(model: Path, target: str) -> dict[str, str]:
    """By what it is: the digest of what a target's compiler makes of the kernels of ``model``, and of what launches them."""
    requests = requests_of(compiled_graphs(build_graph(load_model(model)), target))
    with compiler_alone():
        if target == "llvm":
            from aprgraph.codegen.cpu.objects import compile_kernels

            code = dict(compile_kernels(requests, find_cpu("x86-64-v3")))
        else:
            from aprgraph.codegen.cuda.host_code import build_host_code

            host, source = build_host_code(requests)
            code = {"host": host, "source": source.code.encode(), "functions": source.functions.encode()}
    return {name: hashlib.sha256(data).hexdigest() for name, data in code.items()}


_COMMAND = """
import json, os, sys
from pathlib import Path
from aprgraph.graph.interrupts import own_process
from tests.codegen.test_compiler_alone import digests
own_process(lambda: None)
found = digests(Path(sys.argv[1]), sys.argv[2])
own_process(None)
read = sorted({"tvm.relax", "tvm.runtime.disco", "tvm.s_tir", "torch"} & set(sys.modules))
from tvm import relax
print(json.dumps([found, read, os.environ.get("TVM_DEVICE_BACKEND_AUTOLOAD"), relax.ExecBuilder.__name__]))
"""


@pytest.mark.parametrize("target", ["llvm", "cuda"])
def test_the_code_is_the_same_and_the_rest_can_be_imported_later(tiny_model: Callable[..., Path], target: str) -> None:
    model = shared_model(tiny_model)
    result = run_python(_COMMAND, model, target, cwd=Path(__file__).parents[2])
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == [digests(model, target), [], None, "ExecBuilder"]
