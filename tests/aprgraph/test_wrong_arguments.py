"""Arguments that are swapped, or of another kind than a command takes: each error says what was given, and what takes it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ArtifactError, ModelFileError, TraceError
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import fails, run_cli

#: What is said of each thing that lies in the folder, and of what takes it.
MODEL = "a model; `aprgraph run` records a trace of it, and `aprgraph compile` makes an artifact"
NO_TRACE, RUN = "tiny.gguf: not a trace, nor an APRT file, but a model; ", "`aprgraph run` records a trace of it"
TRACE, A_TRACE = (f"{one}is for `aprgraph diff`, `aprgraph audit` and `aprgraph inspect`" for one in ("it ", "a trace "))
ARRAYS = "an archive of NumPy arrays (.npz); "
ARTIFACT = "an artifact, which holds no weights; give the model's .gguf file; an artifact is for `aprgraph run` and `aprgraph inspect`"


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """A model, its artifact and its trace, arrays, and folders with nothing in them that is known."""
    folder = tmp_path_factory.mktemp("things")
    shutil.copyfile(tiny_model(), folder / "tiny.gguf")
    compiled = aprgraph.load(folder / "tiny.gguf").compile("reference", folder / "tiny.aprg")
    trace = compiled.run("attn_out", tokens=[3, 1, 4], directory=folder / "trace")
    np.savez(folder / "x.npz", **{"layer0.attn_out": trace["layer0.attn_out"], "tokens": np.array([3, 1, 4])})
    np.savez(folder / "bare.npz", **{"layer0.attn_out": trace["layer0.attn_out"]})
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes/a.txt").write_text("a", encoding="utf-8")
    (folder / "models").mkdir()
    shutil.copyfile(folder / "tiny.gguf", folder / "models/tiny.gguf")
    return folder


@pytest.mark.parametrize(("words", "message"), [
    ("trust tiny", "tiny: not there (did you mean 'tiny.aprg' or 'tiny.gguf'?); expected the directory of an artifact, which `aprgraph comp"),
    ("trust tiny.gguf", f"tiny.gguf: not an artifact (no artifact.json) but {MODEL}"),
    ("trust trace", f"trace: not an artifact (no artifact.json) but a trace; {TRACE}"),
    ("trust x.npz", f"x.npz: not an artifact (no artifact.json) but {ARRAYS}{TRACE}"),
    ("trust empty", "empty: not an artifact (no artifact.json) but an empty folder; make one with `aprgraph compile MODEL.gguf`"),
    ("run trace", f"trace: not an artifact (no artifact.json) but a trace; {TRACE}"),
    ("run x.npz", f"x.npz: not a GGUF file but {ARRAYS}give the model's .gguf file; what another program recorded {TRACE[3:]}"),
    ("run tiny", "tiny: not there (did you mean 'tiny.aprg' or 'tiny.gguf'?); expected a GGUF file, an .apr file, a checkpoint, or the dir"),
    ("compile trace", f"trace: a trace, not a GGUF file; give the model's .gguf file; {A_TRACE}"),
    ("check tiny", "tiny: not there (did you mean 'tiny.aprg' or 'tiny.gguf'?); give the path of a .gguf file"),
    ("check empty", "empty: an empty folder; give the path of a .gguf file"),
    ("check notes", "notes: a folder with 'a.txt'; give the path of a .gguf file"),
    ("stages traces", "traces: not there (did you mean 'trace'?); expected "),
    ("audit tiny.gguf --model tiny.gguf", f"{NO_TRACE}`aprgraph audit TRACE --model tiny.gguf` says whether a trace is a run of it, and {RUN}"),
    ("audit tiny.gguf --model trace", f"{NO_TRACE}`aprgraph audit trace --model tiny.gguf` is the other way round, and {RUN}"),
    ("audit tiny.gguf --model x.npz", f"{NO_TRACE}`aprgraph audit x.npz --model tiny.gguf` is the other way round, and {RUN}"),
    ("audit trace tiny.gguf", "tiny.gguf is more than it takes; a model goes behind --model; see `aprgraph audit --help`"),
    ("audit trace --model trace", f"trace: a trace, not a GGUF file; give the model's .gguf file; {A_TRACE}"),
    ("audit trace --model x.npz", f"x.npz: not a GGUF file but {ARRAYS}give the model's .gguf file; "),
    ("audit tiny.aprg --model tiny.gguf", "it is an artifact; give the directory of a trace, which `aprgraph run` writes"),
    ("audit trace --model tiny.aprg", f"tiny.aprg: {ARTIFACT.replace(';', ', not a GGUF file;', 1)}"),
    ("audit empty --model tiny.gguf", "(layer-<N>/<stage>.bin); it is an empty folder"),
    ("audit trac --model tiny.gguf", "trac: no such file or directory (did you mean 'trace'?); expected a trace directory"),
    ("audit trace/trace.json --model tiny.gguf", "trace/trace.json: is what a trace says of itself; give its folder, trace"),
    ("audit bare.npz --model tiny.gguf --tokens x.npz",
     "--tokens 'x.npz': is a file, expected the token ids themselves, such as 1,2,3; an array `tokens` in a file of arrays is "),
    ("audit x.npz --model tiny.gguf --tokens 1,2,3",
     "x.npz: its array of token ids names other tokens than those that were given; leave them out"),
    ("run tiny.gguf --tokens trace/trace.json", "--tokens 'trace/trace.json': is a file, expected the token ids themselves, such as 1,2,3"),
    ("diff trace tiny.gguf", f"{NO_TRACE}`aprgraph audit trace --model tiny.gguf` says whether that is a run of it, and {RUN}"),
    ("diff tiny.gguf x.npz", f"{NO_TRACE}`aprgraph audit x.npz --model tiny.gguf` says whether that is a run of it, and {RUN}"),
    ("diff tiny.gguf models/tiny.gguf", "tiny.gguf and models/tiny.gguf are models, not traces; `aprgraph weights tiny.gguf models/tiny.gguf` compares two"),
    ("weights trace tiny.gguf", f"trace: a trace, not a GGUF file; give the model's .gguf file; {A_TRACE}"),
    ("diff trace trace/layer-0", "trace/layer-0: is one folder of a trace, whose tensors are told by where they lie; give the trace, trace"),
    ("graph tiny.gguf --taps qkv", "unknown stage 'qkv' (did you mean 'qkv_matmul'?); this model's stages are: qkv_matmul, embedding, attn_norm, "),
    ("diff trace models", "it holds a model; run it first, with `aprgraph run` or in your own engine"),
    ("diff trace notes", "it is a folder with 'a.txt'"),
    ("graph --diff tiny.gguf trace", f"{NO_TRACE}`aprgraph audit trace --model tiny.gguf` says whether that is a run of it"),
    ("weights tiny.gguf trace", f"trace: a trace, not a GGUF file; give the model's .gguf file; {A_TRACE}"),
    ("sweep tiny.gguf", f"tiny.gguf: not a matrix but {MODEL}"),
    ("sweep trace", f"trace: not a matrix but a trace; {TRACE}"),
    ("tiny.gguf", f"there is no command 'tiny.gguf'; tiny.gguf is {MODEL.replace(';', ':', 1)}; see `aprgraph --help`"),
    ("trace", f"there is no command 'trace'; trace is a trace: {TRACE}; see `aprgraph --help`"),
    ("run tiny.gguf hello", "hello is more than it takes; a prompt goes behind --prompt; see `aprgraph run --help`"),
    ("run models", "models: not an artifact (no artifact.json) but a folder; give one of its files: 'tiny.gguf'"),
    ("inspect models", "models: a folder; give one of its files: 'tiny.gguf'; expected "),
])  # fmt: skip
def test_what_was_given_is_said(things: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    monkeypatch.chdir(things)
    said = fails(*words.split())
    assert message in said


@pytest.mark.parametrize(("given", "advice"), [
    ("x.npz", f"{ARRAYS[:-2]}\n  give the model's .gguf file; what another program recorded {TRACE[3:]}"),
    ("trace", f"a trace\n  give the model's .gguf file; {A_TRACE}"), ("tiny.aprg", ARTIFACT.replace("; ", "\n  ", 1)),
])  # fmt: skip
def test_check_says_it_as_a_finding(things: Path, monkeypatch: pytest.MonkeyPatch, given: str, advice: str) -> None:
    monkeypatch.chdir(things)
    result = run_cli("check", given)
    assert result.code == 1
    assert f"error: this is no whole model: this is {advice}\n" in result.out


def test_the_current_folder_has_a_name(things: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(things)
    assert run_cli("check", ".").out.startswith(".: 1 error: this is a folder.\n")


def test_python_is_told_the_same_in_its_own_words(things: Path) -> None:
    made = "`CompiledModel.run` records a trace of it, and `LoadedModel.compile` makes an artifact"
    with pytest.raises(TraceError, match=f"not a trace.* but a model; {re.escape(made)}$"):
        Trace.open(things / "tiny.gguf")
    model, trace = str(things / "tiny.gguf"), str(things / "trace")
    for call, meant in (
        (lambda: aprgraph.audit(model, trace), f"`aprgraph.audit({trace!r}, {model!r})` is the other way round"),
        (lambda: aprgraph.diff({"lm_head": [1.0]}, model), f"`aprgraph.audit(arrays, {model!r})` says whether that is a run of it"),
        (lambda: aprgraph.diff(model, model), f"`aprgraph.weights({model!r}, {model!r})` compares two models"),
    ):
        with pytest.raises(TraceError, match=re.escape(meant)):
            call()
    for place in ("trace", "x.npz"):
        with pytest.raises(ArtifactError, match="it is for `aprgraph.diff`, `aprgraph.audit` and `aprgraph inspect`$"):
            aprgraph.open_artifact(things / place)
    with pytest.raises(ModelFileError, match=r"cannot be opened: No such file or directory \(did you mean .*tiny\.gguf"):
        aprgraph.load(things / "tinny.gguf")
