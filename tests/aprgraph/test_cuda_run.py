"""`aprgraph compile` and `run --target cuda`, whole, on an emulated GPU: the CPU's numbers, always the same bits, and errors of one line.

Models are compiled and run in processes of their own, two at a time and several commands in each: see ``Runs``.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from aprgraph import trust
from aprgraph.codegen.cuda import compiler
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import Result, error_of, fails, files_under, run_cli, run_process
from tests.support.cuda_emulator import host_compiler, toolkit
from tests.support.cuda_runs import Command, command, run_emulated
from tests.support.golden import golden_models
from tests.support.rpc_server import rpc_server

emulated = pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")

#: 11 positions: more than the 8 that have linear kernels of their own, and than any window.
TOKENS = (5, 90, 17, 17, 0, 87, 3, 9, 50, 42, 7)
#: A token of `qwen2moe` whose embedding is NaN.
NAN = 95
GENERATED = 4
LAYERS = {"gemma3": 7, "qwen2moe": 2, "llama": 2, "gemma2": 3, "gpt-oss": 2}
FEW = {"llama": "attn_out,ffn_silu", "qwen2moe": "moe_router,attn_softmax,lm_head", "gemma3": "attn_scores,post_ffn_residual",
       "gemma2": "attn_softmax,lm_head_raw", "gpt-oss": "attention,moe_expert_gate"}  # fmt: skip
#: What a GPU may do in another order.
OTHERWISE = {"streams": "ahead", "order": "descending", "guard": "start"}

each_model = pytest.mark.parametrize("name", LAYERS)


def ids(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens))


def traced(name: str, to: str, *more: object, tokens: Sequence[int] = TOKENS, source: str | None = None, taps: str = "all") -> Command:
    """A command that traces all layers of a model into ``NAME-TO``."""
    where = ("--layers", f"0..{LAYERS[name]}", "--positions", "all", "-o", f"{name}-{to}")
    return command("run", source or f"{name}.aprg", "--tokens", ids(tokens), "--taps", taps, *where, *more)


@dataclass
class Runs:
    """What ran in the folder ``place``, by model: commands in the usual order of things, and then in another."""

    place: Path
    first: Mapping[str, Future[dict[str, Result]]]
    second: Mapping[str, Future[dict[str, Result]]]

    def trace(self, name: str, to: str) -> Trace:
        """A trace, which must have been written without a word on standard error."""
        result = self.first[name].result() | self.second[name].result()
        assert (result[to].code, result[to].err) == (0, ""), result[to]
        return Trace.open(self.place / f"{name}-{to}")

    def files(self, name: str, to: str) -> dict[str, bytes]:
        return files_under(self.trace(name, to).directory)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A folder with the models."""
    found = tmp_path_factory.mktemp("cuda")
    formats = {"attn_v.weight": "F16", "ffn_up.weight": "MXFP4", "ffn_down.weight": "Q4_1"}
    shutil.copyfile(tiny_model(format="Q8_0", formats=formats, qkv_bias=True), found / "llama.gguf")
    for golden in golden_models():
        name = golden.name.removesuffix("-f32")
        if name in ("qwen2moe", "gemma3", "gemma2", "gpt-oss"):
            shutil.copyfile(golden.path, found / f"{name}.gguf")
    table = GGUFFile(found / "qwen2moe.gguf").tensors["token_embd.weight"]
    with (found / "qwen2moe.gguf").open("r+b") as file:
        file.seek(table.offset + NAN * table.row_bytes)
        file.write(np.full(24, np.nan, np.float32).tobytes())
    return found


def run_first(place: Path, name: str) -> dict[str, Result]:
    """Compile for both targets, and run: the whole, the same otherwise, and what fails on the way."""
    model = f"{name}.gguf"
    steps = ("--max-tokens", GENERATED, "--steps", f"0..{GENERATED}")
    commands = {
        "compile": command("compile", model, "--target", "cuda", "-o", f"{name}.aprg"),
        "cuda": traced(name, "cuda"),
        "few": traced(name, "few", taps=FEW[name]),
        "chunk-3": traced(name, "chunk-3", "--prefill-chunk", 3),
        "steps": traced(name, "steps", *steps),
        "cpu": traced(name, "cpu", source=model),
        "ids": command("run", model, "--tokens", ids(TOKENS), "--max-tokens", GENERATED, "--json"),
        "diff": command("diff", f"{name}-cpu", f"{name}-cuda", "--json"),
    }
    if name == "llama":
        commands |= {
            "chunk-1": traced(name, "chunk-1", "--prefill-chunk", 1),
            "stats": traced(name, "stats", "--stats-only"),
            "no architecture": command("compile", model, "--target", "cuda", "--arch", "sm_999", "-o", "none.aprg"),
            "no GPU": command("run", f"{name}.aprg", "--target", "cuda:3", "--tokens", 1),
        }
    if name == "qwen2moe":
        (place / f"{name}-taken/layer-1/ffn_out.bin").mkdir(parents=True)
        commands |= {
            "full": Command(traced(name, "full").arguments, room_for=20),
            "taken": traced(name, "taken"),
            "nan": traced(name, "nan", tokens=(1, 2, NAN, 4)),
        }
    return dict(zip(commands, run_emulated(list(commands.values()), place), strict=True))


def run_second(place: Path, name: str, first: Future[dict[str, Result]]) -> dict[str, Result]:
    """The whole on a GPU that works in another order, and the prompt with the generated tokens but the last."""
    generated = json.loads(first.result()["ids"].out)["generated"]
    commands = {
        "again": traced(name, "again"),
        "long": traced(name, "long", tokens=[*TOKENS, *generated[:-1]]),
        "generate": command("run", f"{name}.aprg", "--tokens", ids(TOKENS), "--max-tokens", GENERATED, "--json"),
    }
    return dict(zip(commands, run_emulated(list(commands.values()), place, OTHERWISE), strict=True))


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def runs(place: Path, pool: ThreadPoolExecutor) -> Runs:
    toolkit()  # built by one thread alone
    first = {name: pool.submit(run_first, place, name) for name in LAYERS}
    return Runs(place, first, {name: pool.submit(run_second, place, name, first[name]) for name in LAYERS})


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models' folder as the current one."""
    monkeypatch.chdir(place)
    return place


def bits(values: npt.NDArray[np.float32]) -> bytes:
    return np.ascontiguousarray(values).tobytes()


# --- the CPU's numbers


@pytest.mark.contract("CUDA-NOISE-1")
@emulated
@each_model
def test_every_stage_agrees_with_the_cpu(name: str, runs: Runs) -> None:
    """As `aprgraph diff` says it: nothing but rounding, in every tensor that there is."""
    cpu, cuda = runs.trace(name, "cpu"), runs.trace(name, "cuda")
    assert [entry.key for entry in cuda.entries] == [entry.key for entry in cpu.entries]
    assert (cpu.info.target.split()[0], cuda.info.target) == ("llvm", "cuda sm_80")
    found = runs.first[name].result()["diff"]
    assert found.code == 0, found.out
    report = json.loads(found.out)
    assert len(report["rows"]) == len(cuda)
    for tensor in report["rows"]:
        assert tensor["class"] in ("NOISE", "IDENTICAL"), tensor
        assert tensor["class"] == "IDENTICAL" or tensor["metrics"]["nmse"] <= 1e-9, tensor


@pytest.mark.contract("CUDA-NOISE-1")
@emulated
@each_model
def test_generated_tokens_are_those_of_the_cpu(name: str, runs: Runs) -> None:
    cpu = json.loads(runs.first[name].result()["ids"].out)
    cuda = json.loads(runs.second[name].result()["generate"].out)
    assert len(cuda["generated"]) == GENERATED
    assert (cuda["generated"], cuda["ended_by"]) == (cpu["generated"], cpu["ended_by"])
    assert runs.trace(name, "steps").info.extra["generated"] == cuda["generated"]


# --- the same bits


@pytest.mark.contract("CUDA-BITS-1")
@emulated
@each_model
def test_a_gpu_that_works_in_another_order_gives_the_same_bytes(name: str, runs: Runs) -> None:
    assert runs.files(name, "again") == runs.files(name, "cuda")


@pytest.mark.contract("CUDA-BITS-1")
@emulated
@each_model
def test_a_prompt_in_parts_gives_the_same_bytes(name: str, runs: Runs) -> None:
    """The manifest, with its statistics, among them."""
    for chunk in ("chunk-3", *(["chunk-1"] if name == "llama" else [])):
        assert runs.files(name, chunk) == runs.files(name, "cuda"), chunk


@pytest.mark.contract("CUDA-BITS-1")
@emulated
@each_model
def test_another_plan_gives_the_same_bits(name: str, runs: Runs) -> None:
    few, whole = runs.trace(name, "few"), runs.trace(name, "cuda")
    assert {entry.stage for entry in few.entries} == set(FEW[name].split(","))
    for entry in few.entries:
        assert bits(few.load(entry)) == bits(whole.tensor(entry.stage, entry.layer)), entry.label


@pytest.mark.contract("CUDA-BITS-1")
@emulated
@each_model
def test_a_step_gives_the_bits_of_that_position_in_a_prompt(name: str, runs: Runs) -> None:
    steps, long = runs.trace(name, "steps"), runs.trace(name, "long")
    count = len(TOKENS)
    assert len(steps) == GENERATED * len(long)
    for entry in steps.entries:
        expected = long.tensor(entry.stage, entry.layer)
        positions = slice(count) if entry.step == 0 else slice(count + entry.step - 1, count + entry.step)
        by_head = entry.stage in ("attn_scores", "attn_softmax")
        expected = expected[:, positions, : positions.stop] if by_head else expected[positions]
        assert bits(steps.load(entry)) == bits(expected), entry.label


@emulated
def test_the_command_gives_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    """In a process for it alone, in which TVM has no compiler: the programs are there."""
    expected = runs.files("llama", "cuda")
    arguments = list(traced("llama", "cuda").arguments)
    arguments[1], arguments[-1] = str(runs.place / arguments[1]), "t"
    result = run_process(*arguments, cwd=tmp_path, env=toolkit().environment())
    assert (result.code, result.err) == (0, "")
    assert files_under(tmp_path / "t") == expected


@emulated
def test_statistics_alone(runs: Runs) -> None:
    stats, whole = runs.trace("llama", "stats"), runs.trace("llama", "cuda")
    assert list(runs.files("llama", "stats")) == ["trace.json"]
    assert [entry.statistics for entry in stats.entries] == [entry.statistics for entry in whole.entries]


# --- what fails on the way


@emulated
def test_a_router_without_a_choice(runs: Runs) -> None:
    """The trace is whole: it shows where the NaN comes from."""
    result = runs.first["qwen2moe"].result()["nan"]
    assert error_of(result).startswith(
        "layer 0 moe_router_logits: the router's scores at position 2 hold a NaN, so no expert can be chosen"
    )
    trace = Trace.open(runs.place / "qwen2moe-nan")
    assert len(trace) == len(runs.trace("qwen2moe", "cuda"))
    embedding = trace.tensor("embedding", 0)
    assert np.isnan(embedding).all(axis=1).tolist() == [False, False, True, False]


@emulated
@pytest.mark.parametrize(
    ("run", "expected"),
    [("full", "cannot be written: No space left on device; free some space, or give another place with -o"),
     ("taken", "qwen2moe-taken/layer-1/ffn_out.bin: cannot be written: Is a directory")],
)  # fmt: skip
def test_a_tap_that_cannot_be_written(run: str, expected: str, runs: Runs) -> None:
    """Whole files stay, and there is no manifest; the run that follows in that process is as if nothing had been."""
    assert expected in error_of(runs.first["qwen2moe"].result()[run])
    left = files_under(runs.place / f"qwen2moe-{run}")
    assert "trace.json" not in left
    whole = runs.files("qwen2moe", "cuda")
    tensors = {path: content for path, content in left.items() if path.endswith(".bin")}
    assert len(tensors) >= 20
    assert all(content == whole[path] for path, content in tensors.items())


# --- devices and memory


@dataclass
class Devices:
    """Runs on devices of other kinds: what each said."""

    place: Path
    done: Mapping[str, Future[list[Result]]]

    def results(self, name: str) -> list[Result]:
        return self.done[name].result()


TRACE = ("--taps", "all", "--layers", "0..2")
#: A prompt whose values are most of what a run needs.
LONG = tuple(range(1, 65))
#: Bytes of a GPU: for the weights of `qwen2moe` and the values of a few positions; and for most of the weights alone.
SMALL, SMALLER = 300_000, 150_000


@pytest.fixture(scope="module")
def devices(place: Path, runs: Runs, pool: ThreadPoolExecutor) -> Devices:
    run = ("run", "qwen2moe.aprg", "--tokens")
    one = command(*run, ids(TOKENS), *TRACE, "-o")
    small = [
        command(*run, ids(LONG), *TRACE, "-o", "values"),
        command(*run, ids(LONG), *TRACE, "-o", "values", "--prefill-chunk", 8),
        Command((*one.arguments, "after")),
    ]
    smaller = [
        Command((*one.arguments, "weights")),
        command(*run, ids(TOKENS), "--taps", "embedding,attn_out,ffn_out", "--layers", "0..1", "-o", "weights"),
        command(*run, ids(TOKENS), "--max-tokens", 2),
    ]

    def on(commands: Sequence[Command], **settings: object) -> Future[list[Result]]:
        return pool.submit(run_emulated, commands, place, settings)

    def named(to: str) -> list[Command]:
        return [Command((*one.arguments, to))]

    for first in runs.first.values():
        first.result()
    return Devices(
        place,
        {
            "none": on([*named("none"), command("run", "qwen2moe.gguf", "--tokens", "1", "--target", "cuda")], devices=0),
            "small": on(small, memory=SMALL),
            "smaller": on(smaller, memory=SMALLER),
            "7.5": on(named("turing"), arch="7.5"),
            "12.0": on(named("blackwell"), arch="12.0"),
        },
    )


@emulated
def test_a_machine_without_a_gpu(devices: Devices) -> None:
    for result in devices.results("none"):
        assert error_of(result).startswith("no NVIDIA GPU here, though there is a driver; ")
    assert not (devices.place / "none").exists()


@emulated
def test_a_gpu_that_is_not_there(runs: Runs) -> None:
    message = error_of(runs.first["llama"].result()["no GPU"])
    assert message == "--target cuda:3: no such GPU; there is GPU 0 (emulated CUDA device)"


@emulated
def test_values_that_do_not_fit(devices: Devices) -> None:
    """What the message advises does. The run after it finds the memory free again, all of it: with weights of another it would not fit."""
    refused, advised, after = devices.results("small")
    message = error_of(refused)
    assert message.startswith("GPU 0 (emulated CUDA device): the run needs 0.1 MiB of weights, ")
    assert message.endswith("; --prefill-chunk 8 fits")
    assert (advised.code, advised.err) == (0, "")
    assert Trace.open(devices.place / "values").tensor("lm_head").shape == (96,)
    assert (after.code, after.err) == (0, "")


@emulated
def test_weights_that_do_not_fit(devices: Devices) -> None:
    refused, advised, without_advice = devices.results("smaller")
    advice = "the first layer fits: --layers 0..1, with --taps that name neither final_norm nor lm_head, which need all layers"
    assert error_of(refused).endswith(f"; {advice}")
    assert (advised.code, advised.err) == (0, "")
    assert len(Trace.open(devices.place / "weights")) == 3
    assert error_of(without_advice).endswith(
        "; free memory there, take a larger GPU, or use --target llvm, which reads weights from the file as it needs them"
    )


@emulated
def test_a_gpu_that_is_older_than_the_architectures(devices: Devices) -> None:
    (result,) = devices.results("7.5")
    message = "compiled for sm_80, sm_90, PTX compute_90; emulated CUDA device is sm_75; compile again with `--arch sm_75`"
    assert error_of(result) == f"qwen2moe.aprg: {message}"
    assert not (devices.place / "turing").exists()


@emulated
def test_a_gpu_that_is_newer_runs_the_ptx(devices: Devices, runs: Runs) -> None:
    (result,) = devices.results("12.0")
    assert (result.code, result.err) == (0, "")
    trace, whole = Trace.open(devices.place / "blackwell"), runs.trace("qwen2moe", "cuda")
    assert trace.info.target == "cuda sm_120"
    assert bits(trace.tensor("ffn_out", 1)) == bits(whole.tensor("ffn_out", 1))


def test_a_machine_without_a_driver(here: Path) -> None:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver here")
    before = set(here.iterdir())
    message = fails("run", "gemma3.gguf", "--tokens", "1", "--target", "cuda", *TRACE, "-o", "nowhere")
    assert message.startswith("no NVIDIA driver here: libcuda.so.1 cannot be loaded; a CUDA artifact can be compiled here and run on ")
    assert set(here.iterdir()) - before <= {here / "gemma3.aprg"}
    assert not (here / "nowhere").exists()


# --- options


@pytest.mark.parametrize("target", ["cuda:x", "cuda:", "cuda:-1", "cuda:1.5", "llvm:0", "reference:1"])
def test_targets_that_cannot_be(target: str, here: Path) -> None:
    expected = f"--target {target!r}: expected a target alone, or cuda:N with N the number of a GPU, from 0 on"
    assert fails("run", "qwen2moe.gguf", "--tokens", "1", "--target", target) == expected


@pytest.mark.parametrize("arch", ["foo", "80", "sm_8", "compute_80", "sm_90x", ""])
def test_architectures_that_cannot_be(arch: str, here: Path) -> None:
    message = fails("compile", "llama.gguf", "--target", "cuda", "--arch", arch, "-o", "none.aprg")
    assert message.startswith(f"unknown CUDA architecture {arch!r}; expected sm_XY, such as sm_75 (Turing), ")
    assert not (here / "none.aprg").exists()


@emulated
def test_an_architecture_that_the_compiler_does_not_know(runs: Runs) -> None:
    message = error_of(runs.first["llama"].result()["no architecture"])
    assert message.startswith("nvcc 13.0.0 cannot compile for sm_999; it knows sm_75, sm_80, ")
    assert not [path for path in runs.place.iterdir() if "none.aprg" in path.name]


@pytest.mark.parametrize("target", ["llvm", "reference"])
def test_architectures_are_for_cuda(target: str, here: Path) -> None:
    message = fails("compile", "llama.gguf", "--target", target, "--arch", "sm_80", "-o", "none.aprg")
    assert message == f"--arch sm_80 is for --target cuda, and the target is {target}"


def test_cpus_are_not(here: Path) -> None:
    message = fails("compile", "llama.gguf", "--target", "cuda", "--cpu", "x86-64-v3", "-o", "none.aprg")
    assert message == "--cpu x86-64-v3 is for --target llvm, and the target is cuda"


def test_a_machine_without_a_compiler(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    monkeypatch.setattr(compiler, "find_nvrtc", lambda: None)
    message = fails("compile", "llama.gguf", "--target", "cuda", "-o", "none.aprg")
    assert message.startswith("no CUDA compiler: neither nvcc (looked for on PATH, in CUDA_HOME/bin and in /usr/local/cuda/bin) nor NVRTC ")
    assert message.endswith("install the CUDA toolkit, or: pip install 'aprgraph[cuda]'")
    assert not [path for path in here.iterdir() if "none.aprg" in path.name]


# --- artifacts


@emulated
def test_an_artifact_for_another_target(runs: Runs, here: Path) -> None:
    runs.first["llama"].result()
    message = fails("run", "llama.aprg", "--tokens", "1", "--target", "llvm")
    assert message == "llama.aprg: compiled for cuda, not for llvm; compile the model with --target llvm"


@emulated
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_damaged_kernels(damage: str, runs: Runs, here: Path, tmp_path: Path) -> None:
    runs.first["llama"].result()
    shutil.copytree(here / "llama.aprg", tmp_path / "m.aprg")
    (kernels,) = (tmp_path / "m.aprg").glob("kernels-*.fatbin")
    content = bytearray(kernels.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        kernels.unlink()
    else:
        kernels.write_bytes(content if damage == "changed" else content[:1000])
    message = fails("run", tmp_path / "m.aprg", "--model", here / "llama.gguf", "--tokens", "1", *TRACE, "-o", tmp_path / "t")
    said = "cannot be read: No such file or directory" if damage == "gone" else "not the kernels that were compiled"
    assert message == f"{kernels}: {said}; compile the model again"
    assert run_cli("inspect", kernels).code in (0, 2)
    assert not (tmp_path / "t").exists()


@emulated
def test_kernels_that_the_driver_refuses(runs: Runs, tmp_path: Path) -> None:
    """They are what the artifact's manifest says, and yet no kernels."""
    runs.first["qwen2moe"].result()
    directory = shutil.copytree(runs.place / "qwen2moe.aprg", tmp_path / "m.aprg")
    (kernels,) = directory.glob("kernels-*.fatbin")
    content = b"none" + kernels.read_bytes()[4:]
    old, new = (hashlib.sha256(data).hexdigest() for data in (kernels.read_bytes(), content))
    (directory / f"kernels-{new[:24]}.fatbin").write_bytes(content)
    manifest = directory / "artifact.json"
    manifest.write_text(manifest.read_text().replace(old, new))
    trust(directory)
    result = run_process("run", "m.aprg", "--tokens", 1, cwd=tmp_path, env=toolkit().environment())
    emulator, message = result.err.splitlines()
    assert emulator.startswith("CUDA emulator: cuModuleLoadData: ")
    assert message.startswith("error: GPU 0 (emulated CUDA device) failed: cuModuleLoadData(")
    assert message.endswith(") failed with error: CUDA_ERROR_INVALID_IMAGE")
    assert result.code == 2


# --- on a server


@emulated
def test_a_servers_gpu_leaves_the_files_of_one_here(runs: Runs, here: Path, tmp_path: Path) -> None:
    """The artifact goes there, fat binary and all; this process has no CUDA."""
    expected = runs.files("llama", "cuda")
    with rpc_server(tmp_path / "server.log", variables=toolkit().environment()) as server:
        arguments = traced("llama", "remote").arguments
        result = run_cli(*arguments, "--rpc", server.address)
        assert (result.code, result.err) == (0, "")
        assert files_under(here / "llama-remote") == expected
        shutil.rmtree(here / "llama-remote")
        assert error_of(run_cli(*arguments, "--rpc", server.address, "--target", "cuda:2")).startswith(
            f"{server.address}: the server has no GPU 2"
        )
