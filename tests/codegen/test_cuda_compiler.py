"""CUDA architectures, which device runs what, and the compilers: what they make, and what they say when they cannot.

None of this needs a GPU. What compiles is skipped where there is neither nvcc nor NVRTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from aprgraph.codegen.cuda import compiler
from aprgraph.codegen.cuda.architectures import (
    DEFAULT_ARCHITECTURES,
    Architecture,
    check_runs_on,
    parse_architectures,
    ptx_architecture,
    runs_on,
)
from aprgraph.codegen.cuda.compiler import compile_fat_binary, compiler_name, find_compiler, find_nvcc, find_nvrtc
from aprgraph.codegen.cuda.fat_binary import _Cubin, read_fat_binary
from aprgraph.graph.errors import ArtifactError, ToolchainError
from aprgraph.option_words import option_words

# Each kernel does one sum: a product and a sum, a fused one, and what --use_fast_math would make approximate.
ARITHMETIC = """
extern "C" __global__ void two_roundings(float *a) { a[0] = a[1] * a[2] + a[3]; }
extern "C" __global__ void one_rounding(float *a) { a[0] = fmaf(a[1], a[2], a[3]); }
extern "C" __global__ void exact(float *a) { a[0] = sqrtf(a[1]) / a[2]; }
"""


def has_compiler() -> bool:
    try:
        find_compiler()
    except ToolchainError:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no CUDA compiler: neither nvcc with a C++ compiler nor NVRTC")
needs_nvrtc = pytest.mark.skipif(find_nvrtc() is None, reason="NVRTC, nvFatbin or their headers are not installed (the extra cuda)")


@dataclass(frozen=True)
class Compiled:
    kind: Literal["SASS", "PTX"]
    architecture: Architecture


SM_80, SM_86, SM_90, SM_90A = (Compiled("SASS", Architecture.parse(text)) for text in ("sm_80", "sm_86", "sm_90", "sm_90a"))
SM_100F = Compiled("SASS", Architecture(10, 0, "f"))
COMPUTE_80, COMPUTE_90, COMPUTE_90A = (Compiled("PTX", Architecture.parse(text)) for text in ("sm_80", "sm_90", "sm_90a"))


# --- architectures


@pytest.mark.parametrize(
    ("text", "architecture"),
    [("sm_75", Architecture(7, 5)), ("sm_89", Architecture(8, 9)), ("sm_90a", Architecture(9, 0, "a")), ("sm_120", Architecture(12, 0))],
)
def test_an_architecture_is_read_and_written_alike(text: str, architecture: Architecture) -> None:
    assert Architecture.parse(text) == architecture
    assert str(architecture) == text


@pytest.mark.parametrize("text", ["", "80", "sm80", "sm_8", "sm_8.0", "compute_80", "sm_1200", "sm_90b", "SM_80", "sm_80\n90", "x" * 1000])
def test_what_is_no_architecture_says_what_is_expected(text: str) -> None:
    with pytest.raises(ArtifactError, match="unknown CUDA architecture .*; expected sm_XY, such as sm_75") as raised:
        Architecture.parse(text)
    assert len(str(raised.value)) < 300


def test_architectures_are_sorted_once_each_and_default() -> None:
    assert parse_architectures(["sm_120", "sm_80", "sm_120"]) == (Architecture(8, 0), Architecture(12, 0))
    assert [str(a) for a in parse_architectures([])] == ["sm_80", "sm_90"]


def test_ptx_is_made_for_the_highest_without_suffix() -> None:
    assert ptx_architecture(DEFAULT_ARCHITECTURES) == Architecture(9, 0)
    assert ptx_architecture([Architecture(9, 0, "a"), Architecture(8, 9)]) == Architecture(9, 0)


# CUDA Programming Guide: a cubin runs on the same major version and no smaller minor, PTX on all that is no smaller.
@pytest.mark.parametrize(
    ("image", "runs", "does_not"),
    [
        (SM_80, [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        (SM_86, [(8, 6), (8, 9)], [(8, 0), (9, 0)]),
        (SM_90, [(9, 0)], [(8, 9), (10, 0)]),
        (SM_90A, [(9, 0)], [(9, 1), (10, 0)]),
        (SM_100F, [(10, 0), (10, 3)], [(9, 0), (11, 0), (12, 0)]),
        (COMPUTE_80, [(8, 0), (8, 6), (9, 0), (12, 1)], [(7, 5)]),
        (COMPUTE_90, [(9, 0), (10, 3), (12, 0)], [(8, 9)]),
        (COMPUTE_90A, [(9, 0)], [(10, 0)]),
    ],
    ids=str,
)
def test_which_device_runs_an_image(image: Compiled, runs: list[tuple[int, int]], does_not: list[tuple[int, int]]) -> None:
    assert [capability for capability in runs + does_not if runs_on([image], capability)] == runs


def test_one_image_that_runs_is_enough() -> None:
    assert runs_on([SM_80, SM_90, COMPUTE_90], (12, 0))
    assert not runs_on([], (8, 0))


def test_a_device_that_runs_none_is_told_what_to_compile_for() -> None:
    check_runs_on([SM_80, SM_90, COMPUTE_90], (8, 6), "NVIDIA A10", "model.cuda.aprg")
    with pytest.raises(ArtifactError) as raised:
        check_runs_on([COMPUTE_90, SM_90, SM_80], (7, 5), "NVIDIA T4", "model.cuda.aprg")
    compiled = "model.cuda.aprg: compiled for sm_80, sm_90, PTX compute_90; NVIDIA T4 is sm_75; compile again with"
    assert raised.value.text(option_words) == f"{compiled} `--arch sm_75`"
    assert str(raised.value) == f"{compiled} `architectures=['sm_75']`"


# --- what a compiler makes


@pytest.fixture(scope="module")
def arithmetic() -> bytes:
    return compile_fat_binary(ARITHMETIC, parse_architectures(["sm_90", "sm_80"]))


def ptx_kernels(text: str) -> dict[str, str]:
    """The body of each kernel, by name."""
    return dict(re.findall(r"\.entry (\w+)\(.*?\{(.*?)\n\}", text, re.DOTALL))


@needs_compiler
def test_exactly_the_images_that_were_asked_for(arithmetic: bytes) -> None:
    images = read_fat_binary(arithmetic)
    assert sorted(map(str, images)) == ["PTX compute_90", "sm_80", "sm_90"]
    assert {image.kernel_names for image in images} == {("exact", "one_rounding", "two_roundings")}
    assert not any(image.compressed for image in images)


@pytest.mark.contract("CUDA-ARITHMETIC-1")
@needs_compiler
def test_ptx_neither_fuses_nor_approximates(arithmetic: bytes) -> None:
    (text,) = (image.text for image in read_fat_binary(arithmetic) if image.kind == "PTX")
    assert text is not None
    assert ".ftz" not in text
    assert ".approx" not in text
    kernels = ptx_kernels(text)
    floats = {name: re.findall(r"\b(?:add|mul|fma|div|sqrt)[.\w]*\.f32", body) for name, body in kernels.items()}
    # .rn by name is what forbids the driver to fuse a mul and an add when it compiles the PTX (PTX ISA, "add").
    assert floats == {
        "two_roundings": ["mul.rn.f32", "add.rn.f32"],
        "one_rounding": ["fma.rn.f32"],
        "exact": ["sqrt.rn.f32", "div.rn.f32"],
    }


# The nine low bits of the sixteen bytes of an instruction, from Volta on, as nvdisasm 13.5 shows them.
FLOAT_INSTRUCTIONS = {0x020: "FMUL", 0x021: "FADD", 0x023: "FFMA"}


@needs_compiler
def test_machine_code_neither_fuses(arithmetic: bytes) -> None:
    for image in read_fat_binary(arithmetic):
        if image.kind == "SASS":
            cubin = _Cubin(arithmetic, image.offset, image.offset + image.size)
            for kernel, expected in (("two_roundings", ["FMUL", "FADD"]), ("one_rounding", ["FFMA"])):
                start, end = cubin._contents(cubin._sections[f".text.{kernel}"])
                codes = [int.from_bytes(arithmetic[at : at + 2], "little") & 0x1FF for at in range(start, end, 16)]
                assert [FLOAT_INSTRUCTIONS[code] for code in codes if code in FLOAT_INSTRUCTIONS] == expected, (str(image), kernel)


@needs_nvrtc
def test_nvrtc_makes_the_same_without_a_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    assert compiler_name().startswith("NVRTC 13.")
    made = compile_fat_binary("#include <cuda_fp16.h>\n#include <cuda/std/cstdint>\n" + ARITHMETIC, DEFAULT_ARCHITECTURES)
    assert sorted(map(str, read_fat_binary(made))) == ["PTX compute_90", "sm_80", "sm_90"]
    test_ptx_neither_fuses_nor_approximates(made)
    test_machine_code_neither_fuses(made)
    with pytest.raises(ToolchainError, match=r"NVRTC 13\.\d+, error 6\): kernels.cu\(1\): error: "):
        compile_fat_binary("no such thing;", DEFAULT_ARCHITECTURES)
    with pytest.raises(ToolchainError, match=r"NVRTC 13\.\d+ cannot compile for sm_70; it knows sm_75, .*before sm_75 need"):
        compile_fat_binary(ARITHMETIC, parse_architectures(["sm_70"]))


@pytest.mark.contract("CUDA-ARITHMETIC-1")
@needs_compiler
def test_the_environment_does_not_change_the_arithmetic(arithmetic: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "--use_fast_math")
    assert compile_fat_binary(ARITHMETIC, parse_architectures(["sm_80", "sm_90"])) == arithmetic


# --- what it says when it cannot


@needs_compiler
def test_a_source_that_does_not_compile() -> None:
    source = 'extern "C" __global__ void f(float *a) {\n  int unused;\n  a[0] = b;\n}'
    with pytest.raises(ToolchainError) as raised:
        compile_fat_binary(source, parse_architectures(["sm_80"]))
    (line,) = str(raised.value).splitlines()
    assert re.fullmatch(
        r"compiling the CUDA kernels failed \((nvcc [\d.]+, exit|NVRTC [\d.]+, error) \d+\): "
        r"kernels\.cu\(3\): error: identifier \"b\" is undefined, in 'a\[0\] = b;'",
        line,
    )


@needs_compiler
def test_an_architecture_that_the_compiler_does_not_know() -> None:
    with pytest.raises(
        ToolchainError, match=r"[\d.]+ cannot compile for sm_30; it knows sm_\d+, .*; GPUs before sm_75 need nvcc of a CUDA 12"
    ):
        compile_fat_binary(ARITHMETIC, parse_architectures(["sm_30", "sm_80"]))
    with pytest.raises(ToolchainError, match=r"[\d.]+ cannot compile for sm_99; it knows (sm_\d+, )+sm_\d+$"):
        compile_fat_binary(ARITHMETIC, parse_architectures(["sm_99", "sm_80"]))


def test_no_architecture_at_all() -> None:
    with pytest.raises(ToolchainError, match="name one, such as sm_80"):
        compile_fat_binary(ARITHMETIC, [])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine with no toolkit and none of the packages; its PATH is the one folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("NVCC_CCBIN", raising=False)
    monkeypatch.setattr(compiler, "_CONVENTIONAL_TOOLKIT", tmp_path / "none")
    monkeypatch.setattr(compiler, "_package_directories", list)
    monkeypatch.setattr(compiler, "_load", lambda name, packages: None)
    find_nvrtc.cache_clear()
    yield tmp_path
    find_nvrtc.cache_clear()


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def test_no_compiler_says_what_to_install(bare: Path) -> None:
    with pytest.raises(ToolchainError) as raised:
        compile_fat_binary(ARITHMETIC, DEFAULT_ARCHITECTURES)
    assert str(raised.value) == (
        "no CUDA compiler: neither nvcc (looked for on PATH, in CUDA_HOME/bin and in /usr/local/cuda/bin) nor NVRTC with its headers; "
        "install the CUDA toolkit, or: pip install 'aprgraph[cuda]'"
    )


def test_nvcc_is_found_in_a_toolkit_too(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(bare / "bin", "nvcc", "#!/bin/sh\n")
    monkeypatch.setenv("CUDA_HOME", str(bare))
    found = find_nvcc()
    assert found is not None
    assert found.path == str(bare / "bin/nvcc")


def test_nvcc_without_a_cpp_compiler_names_it(bare: Path) -> None:
    program(bare, "nvcc", "#!/bin/sh\n")
    with pytest.raises(ToolchainError, match=r"no C\+\+ compiler: .*/nvcc preprocesses with gcc.*apt install g\+\+.*aprgraph\[cuda\]"):
        find_compiler()


def test_an_nvcc_that_fails_without_a_word(bare: Path) -> None:
    program(bare, "gcc", "#!/bin/sh\n")
    program(bare, "nvcc", "#!/bin/sh\nexit 7\n")
    with pytest.raises(ToolchainError, match=r"failed \(nvcc of unknown version, exit 7\): no message$"):
        compile_fat_binary(ARITHMETIC, DEFAULT_ARCHITECTURES)


def test_an_nvcc_that_cannot_be_started(bare: Path) -> None:
    program(bare, "gcc", "#!/bin/sh\n")
    program(bare, "nvcc", "not a program")
    with pytest.raises(ToolchainError, match="nvcc cannot be started: Exec format error"):
        compile_fat_binary(ARITHMETIC, DEFAULT_ARCHITECTURES)
