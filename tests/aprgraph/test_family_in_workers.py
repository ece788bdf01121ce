"""A family that a file brings, in workers that have not that file: its text goes with what they are to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import aprgraph
from aprgraph.families import FAMILIES, load_family_file
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import audit
from aprgraph.runtime.executors import WorkersExecutor, open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.models_here import forget_models
from aprgraph.sweep.plan import SweepPlan, plan_sweep
from aprgraph.sweep.store import Store
from tests.support.cli import error_of, files_under, run_cli
from tests.support.own_families import own_families
from tests.support.sweeps import swept

Tiny = Callable[..., Path]

#: A Llama whose logits are halved, with a stage and an op of the file's own.
FILE = """
from aprgraph.families import Llama, Stage, StageKind, elementwise

times = elementwise("times", lambda m, x, *, factor: x * factor)

class Mine(Llama):
    architecture = "mymod"
    stages = ((Stage("my_logits", ("V",), StageKind.MATMUL, "logits before they are halved", per_layer=False), "lm_head"),)

    def logits(self, g, x):
        return g.apply("lm_head", times, g.head("my_logits", x), factor=0.5)
"""
MATRIX = """
models = ['mine.gguf']
prompts = [{ tokens = [5, 6, 7] }]
taps = 'ffn_out,my_logits,lm_head'
layers = 'all'
"""


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    forget_models()
    with own_families():
        yield


@pytest.fixture
def model(tmp_path: Path, tiny_model: Tiny) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_model(layers=2).read_bytes().replace(b"llama", b"mymod"))
    path.with_suffix(".py").write_text(FILE)
    (tmp_path / "matrix.toml").write_text(MATRIX)
    return path


@pytest.fixture(scope="module", params=["local", "submitit-local"])
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkersExecutor]:
    """Of Ray: tests/runtime/test_executor_ray.py."""
    if request.param != "local":
        pytest.importorskip("submitit", reason="submitit is optional: aprgraph[slurm]; .ci/run installs it")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("jobs"))
        with open_executor(request.param, 1, threads=1) as made:
            yield made


def planned(model: Path, family: str = "mine.py") -> SweepPlan:
    """Planned as in a new process."""
    forget_models()
    with own_families():
        load_family_file(model.with_name(family))
        return plan_sweep(read_matrix(model.with_name("matrix.toml")))


@pytest.mark.contract("SWEEP-FAMILY-1")
def test_workers_of_a_sweep_and_of_an_audit_get_its_text(model: Path, tmp_path: Path, executor: WorkersExecutor) -> None:
    file = model.with_suffix(".py")
    plan = planned(model)
    file.unlink()
    there = Store(tmp_path / "there")
    assert run_sweep(plan, there, executor).failures == {}
    assert find(plan, there).exit_code == 0
    assert "mymod" not in FAMILIES
    file.write_text(FILE)
    load_family_file(file)
    assert swept(tmp_path / "matrix.toml", tmp_path / "here")[0].exit_code == 0
    assert files_under(tmp_path / "here") == files_under(tmp_path / "there")

    trace = aprgraph.load(model).compile("reference", tmp_path / "m.aprg").run("all", "all", tokens=(5, 6), directory=tmp_path / "t")
    file.unlink()
    alone, together = (audit(trace, load_model(model), executor=one) for one in (None, executor))
    assert (together.exit_code, together.to_json()) == (0, alone.to_json())


@pytest.mark.contract("SWEEP-FAMILY-1")
def test_its_content_is_part_of_a_cells_name_and_its_place_is_not(model: Path, tiny_model: Tiny) -> None:
    file = model.with_suffix(".py")
    (first,) = planned(model).runs
    file.rename(model.with_name("moved.py"))
    (moved,) = planned(model, "moved.py").runs
    model.with_name("moved.py").write_text(FILE.replace("0.5", "0.25"))
    (changed,) = planned(model, "moved.py").runs
    assert first.cell.key == moved.cell.key != changed.cell.key
    # A model of another family has nothing of the file in its name.
    model.write_bytes(tiny_model(layers=2).read_bytes())
    model.with_name("matrix.toml").write_text(MATRIX.replace("my_logits,", ""))
    (other,) = planned(model, "moved.py").runs
    assert (other.cell.model.families, "family" in other.cell.document["model"]) == ((), False)


@pytest.mark.contract("SWEEP-FAMILY-1")
def test_workers_that_run_layers_get_its_text(model: Path, tmp_path: Path) -> None:
    load_family_file(model.with_suffix(".py"))
    compiled = aprgraph.load(model).compile("llvm", tmp_path / "m.aprg")
    model.with_suffix(".py").unlink()
    for model_or_split, place in ((compiled, "here"), (compiled.across("0.."), "there")):
        model_or_split.run("all", "all", tokens=(5, 6), directory=tmp_path / place)
    assert files_under(tmp_path / "here") == files_under(tmp_path / "there")


def test_the_option_and_what_a_sweep_says_without_it(model: Path) -> None:
    matrix, file = model.with_name("matrix.toml"), model.with_suffix(".py")
    assert "general.architecture is 'mymod'" in error_of(run_cli("sweep", matrix, "--status"))
    assert run_cli("sweep", matrix, "--status", "--quiet", "--family", file).out == "Nothing is computed yet of 1 cell.\n"
    file.unlink()
    error = error_of(run_cli("sweep", matrix, "--family", file))
    assert error.endswith("mine.py: No such file or directory; expected a Python file that declares a family")
    # A matrix is read as data: it names no code.
    matrix.write_text(f"families = ['mine.py']\n{MATRIX}")
    assert "there is no key families; expected taps, " in error_of(run_cli("sweep", matrix))
