"""Whole models on the GPU: every family with every block format, and SmolLM2, against the CPU; and the same bits however they run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aprgraph.api import CompiledModel, open_artifact
from aprgraph.codegen.cuda.architectures import Architecture
from aprgraph.comparison import diff
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.cuda.driver import Gpu
from aprgraph.runtime.diff import Class
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import files_under
from tests.support.golden import golden_json
from tests.support.models import require_smollm2

TOKENS = (5, 200, 17, 5, 44, 0, 287, 91, 92, 3, 250)
GENERATED = 4
LIMIT = 1e-9

#: Family, layers (as many as give each format a matrix) and more options; Mixtral is a llama with experts.
MODELS: dict[str, dict[str, Any]] = {**{name: {"family": name, "layers": 2} for name in FAMILIES}, "mixtral": {"experts": 4, "layers": 2}}
for _name, _layers in {"gemma2": 3, "gemma3": 3, "glm4": 3, "granite": 3, "phi3": 4}.items():
    MODELS[_name]["layers"] = _layers

_COMPILE = """
import sys
from aprgraph import load
_, model, target, place, *architectures = sys.argv
load(model).compile(target, place, None, architectures)
"""


@dataclass(frozen=True)
class Pair:
    """A model, compiled for both."""

    cpu: CompiledModel
    cuda: CompiledModel

    @property
    def layers(self) -> str:
        return f"0..{self.cpu.model.family.layers}"


def compile_pair(model: Path, gpu: Gpu, directory: Path, pool: ThreadPoolExecutor) -> Callable[[], Pair]:
    """Start to compile; the result waits for it."""

    def start(target: str, *architectures: str) -> Future[Path]:
        place = directory / f"{model.stem}.{target}.aprg"
        command = [sys.executable, "-c", _COMPILE, str(model), target, str(place), *architectures]

        def run() -> Path:
            done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return place

        return pool.submit(run)

    places = start("llvm"), start("cuda", str(Architecture(*gpu.compute_capability)))
    return lambda: Pair(*(open_artifact(place.result(), model) for place in places))


@pytest.fixture(scope="module")
def pairs(
    request: pytest.FixtureRequest, gpu: Gpu, tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Callable[[], Pair]]]:
    """The models that the chosen tests ask for, compiled side by side."""
    chosen = {item.name for item in request.session.items}
    directory = tmp_path_factory.mktemp("models")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = [name for name in MODELS if any(item.endswith(f"[{name}]") for item in chosen)]
        yield {name: compile_pair(_with_every_format(tiny_model, name), gpu, directory, pool) for name in names}


def _with_every_format(tiny_model: Callable[..., Path], name: str) -> Path:
    """The formats in turn, over all matrices of the model."""
    options = {"hidden": 256, "ffn": 256, **MODELS[name]}
    tensors = GGUFFile(tiny_model(**options)).tensors.values()
    # Routers and biases are always F32. The order is that of the file: what "output.weight" is the end of comes before it.
    matrices = [
        tensor.name for tensor in tensors if len(tensor.dims) > 1 and "ffn_gate_inp" not in tensor.name and not tensor.name.endswith("bias")
    ]
    formats = list(BLOCK_FORMATS)
    path = tiny_model(**options, formats={tensor: formats[index % len(formats)] for index, tensor in enumerate(matrices)})
    found = {tensor.format.name for tensor in GGUFFile(path).tensors.values() if tensor.name in matrices}
    assert found == set(formats), f"{name}: {set(formats) - found} in no matrix"
    return path


each_model = pytest.mark.parametrize("name", MODELS)


def assert_alike(cpu: Trace, cuda: Trace) -> None:
    """NOISE or IDENTICAL in every stage."""
    report = diff(cpu.directory, cuda.directory)
    assert report.compared == len(report.rows) == len(cpu) == len(cuda)
    for row in report.rows:
        assert row.classification in (Class.NOISE, Class.IDENTICAL), f"{row.label}: {row.classification}"
        assert row.classification is Class.IDENTICAL or (row.error is not None and row.error <= LIMIT), f"{row.label}: {row.error}"


def assert_same_bits(model: CompiledModel, layers: str, tokens: tuple[int, ...], few: str, chunks: tuple[int, ...], place: Path) -> None:
    """Run by run, in parts, and with few taps."""
    whole = model.run("all", layers, tokens=tokens, directory=place / "whole")
    expected = files_under(whole.directory)
    for number in range(3):
        assert files_under(model.run("all", layers, tokens=tokens, directory=place / f"again-{number}").directory) == expected
    for chunk in chunks:
        part = model.run("all", layers, tokens=tokens, directory=place / f"chunk-{chunk}", prefill_chunk=chunk)
        assert files_under(part.directory) == expected, f"--prefill-chunk {chunk}"
    for taps in few.split(","):
        trace = model.run(taps, layers, tokens=tokens, directory=place / taps)
        for entry in trace.entries:
            assert trace.load(entry).tobytes() == whole.tensor(entry.stage, entry.layer).tobytes(), entry.label


# -- every family with every block format


@each_model
def test_every_stage_agrees_with_the_cpu(name: str, pairs: Mapping[str, Callable[[], Pair]], tmp_path: Path) -> None:
    """The prompt, and tokens after it one by one."""
    pair = pairs[name]()
    steps = {"max_tokens": GENERATED, "steps": f"0..{GENERATED}", "tokens": TOKENS}
    cpu, cuda = (model.run("all", pair.layers, directory=tmp_path / model.artifact.target, **steps) for model in (pair.cpu, pair.cuda))
    assert cuda.info.extra["generated"] == cpu.info.extra["generated"]
    assert_alike(cpu, cuda)


@pytest.mark.contract("DET-POSITION-1")
@each_model
def test_nothing_changes_a_bit(name: str, pairs: Mapping[str, Callable[[], Pair]], tmp_path: Path) -> None:
    pair = pairs[name]()
    assert_same_bits(pair.cuda, pair.layers, TOKENS, "attn_out,attn_softmax,lm_head", (1, 3), tmp_path)


# -- SmolLM2


@pytest.fixture(scope="module")
def smollm2(gpu: Gpu, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    with ThreadPoolExecutor(2) as pool:
        return compile_pair(require_smollm2(), gpu, tmp_path_factory.mktemp("smollm2"), pool)()


@pytest.fixture(scope="module")
def golden() -> Mapping[str, Any]:
    found: Mapping[str, Any] = golden_json("smollm2_generation.json")
    return found


def test_every_stage_of_smollm2_agrees_with_the_cpu(smollm2: Pair, golden: Mapping[str, Any], tmp_path: Path) -> None:
    options = {"tokens": golden["prompt"], "positions": "all"}
    assert_alike(
        *(model.run("all", smollm2.layers, directory=tmp_path / model.artifact.target, **options) for model in (smollm2.cpu, smollm2.cuda))
    )


def test_smollm2_says_what_it_says_in_full_precision(smollm2: Pair, golden: Mapping[str, Any]) -> None:
    assert list(smollm2.cuda.generate(40, tokens=golden["prompt"])) == golden["generated"]


def test_nothing_changes_a_bit_of_smollm2(smollm2: Pair, golden: Mapping[str, Any], tmp_path: Path) -> None:
    assert_same_bits(smollm2.cuda, smollm2.layers, tuple(golden["prompt"]), "qkv_matmul,attn_softmax,ffn_out", (1, 10), tmp_path)
