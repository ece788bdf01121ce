"""Workers in a real Ray cluster of two nodes on loopback: calls, layers, an audit, cells. Stores: `make sweep-acceptance`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cli import files_under, run_python
from tests.support.ray_nodes import TwoNodes, two_nodes

pytest.importorskip("ray", reason="Ray is optional: aprgraph[ray]; .ci/run installs it")

#: In a process of its own, since Ray's client warns of what it does itself.
_CALLS = """
import os, signal, sys
from aprgraph.graph.errors import ExecutorError
from aprgraph.runtime.executors import open_executor
notices = []
with open_executor(sys.argv[1], attempts=2, on_notice=notices.append) as executor:
    assert executor.workers == 2, executor.workers
    assert list(executor.map(pow, range(8), [2] * 8)) == [number * number for number in range(8)]
    try:
        executor.submit(os.kill, 0, "x").result()
    except TypeError as error:
        print("the call's own error")
    try:
        executor.submit(os._exit, 3).result()
    except ExecutorError as error:
        print(error)
    print(executor.submit(len, "abc").result(), len(notices))
"""


#: What runs, audits and sweeps leave on the cluster beside what they leave here; the family's file is on none of its nodes.
_OF_A_FAMILY = """
import sys
from pathlib import Path
import aprgraph
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from aprgraph.runtime.executors import open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
aprgraph.families.load_family_file("mine.py")
Path("mine.py").unlink()
compiled = aprgraph.load("mine.gguf").compile("llvm", "mine.aprg")
for run, place in ((compiled, "here"), (compiled.across("0..1,1..", sys.argv[1]), "there")):
    trace = run.run("all", "all", tokens=(5, 6, 7), max_tokens=2, steps="0..2", directory=place)
alone = audit(trace, load_model("mine.gguf")).to_json()
with open_executor(sys.argv[1], 2) as executor:
    print(audit(trace, load_model("mine.gguf"), executor=executor).to_json() == alone, alone["exit_code"])
    plan = plan_sweep(read_matrix(Path("matrix.toml")))
    store = Store(plan.matrix.store)
    print(run_sweep(plan, store, executor).failures, find(plan, store).counts)
"""


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary, two_nodes(temporary) as nodes:
        yield nodes


def test_calls_are_done_on_two_nodes_and_a_dead_worker_is_seen(tmp_path: Path, nodes: TwoNodes) -> None:
    done = run_python(_CALLS, nodes.address, cwd=tmp_path, env={"PYTHONWARNINGS": "ignore"})
    assert done.code == 0, done.err
    first, second, third = done.out.splitlines()
    assert (first, third) == ("the call's own error", "3 1")
    assert second.startswith("given up after 2 attempts: a Ray worker is gone or never came: ")


@pytest.mark.contract("SPLIT-BITS-1")
@pytest.mark.contract("BLAME-WORKERS-1")
@pytest.mark.contract("SWEEP-FAMILY-1")
def test_layers_replays_and_cells_on_two_nodes(tiny_model: Callable[..., Path], tmp_path: Path, nodes: TwoNodes) -> None:
    (tmp_path / "mine.gguf").write_bytes(tiny_model(layers=2).read_bytes().replace(b"llama", b"mined"))
    (tmp_path / "mine.py").write_text("from aprgraph.families import Llama\n\nclass Mine(Llama):\n    architecture = 'mined'\n")
    (tmp_path / "matrix.toml").write_text(
        "models = ['mine.gguf']\ntargets = ['llvm', 'reference']\nprompts = [{ tokens = [5, 6] }]\n[[compare]]\nalong = 'targets'\n"
    )
    done = run_python(_OF_A_FAMILY, nodes.address, cwd=tmp_path, env={"PYTHONWARNINGS": "ignore"})
    assert (done.code, done.out) == (0, "True 0\n{} {'RIGHT': 2, 'ALIKE': 1}\n"), done.err
    assert files_under(tmp_path / "there") == files_under(tmp_path / "here")
