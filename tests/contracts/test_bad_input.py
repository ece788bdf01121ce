"""What a user can get wrong, from the command line: one line on stderr, exit code 2, nothing lost."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.api import CompiledModel
from aprgraph.graph.errors import AprgraphError, TokenError, TraceError
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import error_of, run_cli
from tests.support.traces import values, write_trace

Tiny = Callable[..., Path]


def read(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def compiled(tiny_model: Tiny, tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    """On the reference target, which needs no kernels."""
    return aprgraph.load(tiny_model()).compile("reference", tmp_path_factory.mktemp("artifact") / "tiny.aprg")


#: The command line, in a folder that holds tiny.gguf, tiny.aprg, the traces a and b (of other tokens), and damaged files.
COMMANDS = {
    "model missing": ("run nowhere.gguf", "nowhere.gguf"),
    "model is a text": ("compile notes.txt", "notes.txt"),
    "model is a folder without an artifact": ("run a --taps all", "not an artifact"),
    "model truncated": ("graph cut.gguf", "cut.gguf"),
    "model truncated, its stages": ("stages cut.gguf", "cut.gguf"),
    "no such target": ("compile tiny.gguf --target abacus", "abacus"),
    "compiling over what is no artifact": ("compile tiny.gguf --target reference -o a", "is no artifact"),
    "unknown stage": ("run tiny.aprg --taps attn_nrom", "attn_nrom"),
    "empty stage": ("run tiny.aprg --taps attn_norm,,lm_head", "empty stage name"),
    "layers backwards": ("run tiny.aprg --taps all --layers 7..3", "7..3"),
    "layers the model lacks": ("run tiny.aprg --taps all --layers 0..9", "0..9"),
    "stage the model lacks": ("run tiny.aprg --taps moe_router", "moe_router"),
    "tokens that are none": ("run tiny.aprg --tokens 1,two", "1,two"),
    "token outside": ("run tiny.aprg --tokens 288", "288"),
    "no tokens": ("run tiny.aprg --prompt=", "no tokens"),
    "too many tokens": (f"run tiny.aprg --tokens {','.join(['1'] * 65)}", "context of 64"),
    "two inputs": ("run tiny.aprg --tokens 1 --prompt hello", "exclude each other"),
    "override without a type": ("run tiny.gguf --override-kv llama.rope.freq_base=1", "llama.rope.freq_base"),
    "no such trace": ("diff a nowhere", "nowhere"),
    "other tokens": ("diff a b", "different tokens"),
    "a damaged tensor": ("diff a damaged", "layer-0/ffn_up.bin"),
    "no such format": ("graph tiny.gguf --format crayon", "crayon"),
    "unknown pass": ("graph tiny.gguf --passes fold", "fold"),
    "a damaged tensor, looked at": ("inspect damaged/layer-0/ffn_up.bin", "ffn_up.bin"),
    "a foreign file": ("inspect notes.txt", "notes.txt"),
    "nothing there": ("inspect nowhere", "nowhere"),
}


@pytest.fixture(scope="module")
def folder(compiled: CompiledModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("folder")
    shutil.copy(compiled.model.path, place / "tiny.gguf")
    shutil.copytree(compiled.artifact.directory, place / "tiny.aprg")
    (place / "cut.gguf").write_bytes(compiled.model.path.read_bytes()[:-100])
    (place / "notes.txt").write_text("not a model\n")
    for name, tokens in (("a", (1, 2, 3)), ("b", (1, 2, 4)), ("damaged", (1, 2, 3))):
        write_trace(place / name, {(0, "ffn_up"): values(3, 8)}, tokens=tokens)
    path = place / "damaged/layer-0/ffn_up.bin"
    path.write_bytes(path.read_bytes()[:-1])
    return place


@pytest.mark.contract("ERR-LINE-1")
@pytest.mark.parametrize("case", COMMANDS)
def test_an_error_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    command, message = COMMANDS[case]
    monkeypatch.chdir(folder)
    before = read(folder)
    result = run_cli(*command.split())
    assert message in error_of(result)
    assert result.out == ""
    assert read(folder) == before


@pytest.mark.contract("PLAN-FIRST-1")
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("--taps attn_nrom", "unknown stage 'attn_nrom'"),
        ("--taps all --layers 5..5", "--layers '5..5'"),
        ("--taps all --layers 0..1", "nowhere.gguf"),
    ],
)
def test_a_plan_is_checked_before_a_model_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    err = run_cli("run", "nowhere.gguf", *plan.split()).err
    assert message in err
    assert ("nowhere.gguf" in err) is (message == "nowhere.gguf")


@pytest.mark.contract("ERR-TOKENS-1")
def test_tokens_at_the_limits(compiled: CompiledModel, tmp_path: Path) -> None:
    context, vocabulary = 64, 288
    for tokens in ([], [vocabulary], [-1], [0, vocabulary], [1] * (context + 1)):
        with pytest.raises(TokenError):
            compiled.run("lm_head", tokens=tokens, directory=tmp_path / "trace")
    assert not (tmp_path / "trace").exists()
    for tokens in ([vocabulary - 1], [0], [1] * context):
        assert np.isfinite(compiled.run("embedding", tokens=tokens, directory=tmp_path / "trace").tensor("embedding", 0)).all()


@pytest.mark.contract("ERR-WRITE-1")
def test_a_disk_that_fills_up_leaves_whole_files_and_no_manifest(compiled: CompiledModel, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: norms of 64 columns fit, projections of 128 do not."""
    compiled.run("all", tokens=[9, 9, 9], directory=tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(TraceError, match=r"qkv_matmul\.bin: cannot be written"):
            compiled.run("all", tokens=[1, 2, 3], directory=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "trace.json").exists(), "the old one no longer describes the files"
    left = read(tmp_path)
    assert left.pop("trace.incomplete") == b"", "nobody takes what is there for a trace"
    assert all(name.endswith(".bin") and not Path(name).name.startswith(".") for name in left)
    # Every file is whole, and of the new run: the old one went with its first tensor.
    new = compiled.run("embedding,attn_norm", tokens=[1, 2, 3], directory=tmp_path / "new")
    assert left == {str(entry.file): (new.directory / str(entry.file)).read_bytes() for entry in new.entries}


@pytest.mark.contract("ERR-WRITE-1")
def test_a_place_where_nothing_can_be_made(compiled: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file/trace"):
        with pytest.raises(AprgraphError, match="file"):
            compiled.run("lm_head", tokens=[1], directory=place)
    assert read(tmp_path) == {"file": b"mine"}


@pytest.mark.contract("ERR-ROOM-1")
def test_a_plan_without_room_is_refused_before_it_starts(compiled: CompiledModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.run("all", tokens=[1, 2, 3], directory=tmp_path)
    before = read(tmp_path)
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 -- as shutil's
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(1 << 40, 1 << 40, 5000))
    with pytest.raises(TraceError, match="only 5,000 are free"):
        compiled.run("all", tokens=[4, 5, 6], directory=tmp_path)
    assert read(tmp_path) == before
    assert len(Trace.open(tmp_path)) == len(before) - 1
