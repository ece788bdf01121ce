"""The kernel library: one kernel per request, and linking."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from aprgraph.codegen import linker as linking
from aprgraph.codegen.kernels import requests_of
from aprgraph.codegen.linker import linker
from aprgraph.graph.calling_convention import OWN_KERNELS
from aprgraph.graph.errors import ToolchainError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.passes.pipeline import compiled_graphs
from tests.support.compiled import compiled, shared_model


def symbols(path: Path) -> set[str]:
    """The kernels that a model needs."""
    return set(requests_of(compiled_graphs(build_graph(load_model(path)))))


def test_kernels_do_not_grow_with_depth(tiny_model: Callable[..., Path]) -> None:
    """Twelve equal layers need what two need; a layer of another block format needs its own projection more."""
    assert symbols(tiny_model(layers=12)) == symbols(tiny_model(layers=2))
    mixed = symbols(tiny_model(layers=12, formats={"blk.7.ffn_down.weight": "Q8_0"}))
    assert len(mixed) == len(symbols(tiny_model(layers=2))) + 1


def test_the_library_has_the_kernels_of_the_manifest_and_no_others(tiny_model: Callable[..., Path]) -> None:
    model = compiled(shared_model(tiny_model))
    assert set(model.artifact.kernels) == symbols(model.model.path)
    listed = subprocess.run(["nm", "-D", "--defined-only", model.artifact.library], capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("nm is not here")
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    exported = {name.removeprefix("__tvm_ffi_") for name in names if name.startswith("__tvm_ffi_") and name[10] != "_"}
    assert exported == {*model.artifact.kernels, *OWN_KERNELS}


# -- the linker ---------------------------------------------------------------------------------------------------------


def have(monkeypatch: pytest.MonkeyPatch, *programs: str, ziglang: Path | None = None) -> None:
    monkeypatch.setattr(linking, "find_program", lambda name: f"/bin/{name}" if name in programs else None)
    found = None if ziglang is None else SimpleNamespace(submodule_search_locations=[str(ziglang)])
    monkeypatch.setattr(linking.importlib.util, "find_spec", lambda name: found if name == "ziglang" else None)


def test_a_compiler_that_is_installed_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zig").touch()
    for program in ("cc", "gcc", "clang"):
        have(monkeypatch, program, ziglang=tmp_path)
        assert linker() == [f"/bin/{program}"]


def test_else_the_package_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zig").touch()
    have(monkeypatch, ziglang=tmp_path)
    assert linker() == [str(tmp_path / "zig"), "cc"]


def test_no_linker(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch)
    with pytest.raises(ToolchainError, match=r"no linker: .* needs cc, gcc or clang, or the Python package ziglang; install one"):
        linker()


def test_for_another_machine_a_cross_compiler_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "zig").touch()
    for here, other, package in (("x86_64", "aarch64", "aarch64"), ("aarch64", "x86_64", "x86-64")):
        monkeypatch.setattr(linking.platform, "machine", lambda here=here: here)
        have(monkeypatch, "cc", f"{other}-linux-gnu-gcc", ziglang=tmp_path)
        assert linker(other) == [f"/bin/{other}-linux-gnu-gcc"]
        assert linker(here) == linker() == ["/bin/cc"]
        have(monkeypatch, "cc", ziglang=tmp_path)
        assert linker(other) == [str(tmp_path / "zig"), "cc", "-target", f"{other}-linux-gnu"]
        have(monkeypatch, "cc", "gcc", "clang")
        with pytest.raises(
            ToolchainError, match=rf"^no linker for {other}: .* \(Debian's package gcc-{package}-linux-gnu\), or the Python "
        ):
            linker(other)


def test_a_linker_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "cc"
    program.write_text("#!/bin/sh\necho first >&2\necho 'cannot find -lm' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(linking, "linker", lambda _machine: [str(program)])
    with pytest.raises(ToolchainError, match=r"linking the kernels failed \(.*cc, exit 3\): cannot find -lm"):
        linking.link_files(tmp_path / "out.so", [str(tmp_path / "a.o")])


def test_a_linker_that_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(linking, "linker", lambda _machine: ["false"])
    with pytest.raises(ToolchainError, match=r"linking the kernels failed \(false, exit 1\): no message"):
        linking.link_files(tmp_path / "out.so", [str(tmp_path / "a.o")])
