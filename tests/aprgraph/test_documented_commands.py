"""Every command that a document shows is run as it stands there, on tiny models: it works, or a difference is what it finds."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from tests.support.cli import run_cli
from tests.support.compiled import use_cache
from tests.support.own_families import own_families

ROOT = Path(__file__).parents[2]
#: What a command needs that is not here, by a word of it, and where the command is run instead.
ELSEWHERE = {
    "cuda": "test_cuda_run.py",
    "cuda:1": "test_cuda_run.py",
    "model.cuda.aprg": "test_cuda_run.py",
    "cuda-trace": "test_cuda_run.py",
    "--rpc": "test_run_rpc.py",
    "--split": "test_run_split.py",
    "--cpu": "test_compile.py, test_run_aarch64.py: for another machine it takes a cross linker",
    "checkpoint/": "tests/runtime/test_blame_two_models.py: it and the files beside it are of one model",
    "1780,314,216,34,27,34,47": "tests/runtime/test_blame_audit.py: ids of a real model",
    "--workers": "tests/runtime, test_sweep.py: it starts processes",
    "sweep": "test_sweep.py",
    "clear": "tests/codegen/test_artifact_cache.py: it would remove the kernels of all tests",
    "pico.py": "test_family_walkthrough.py",
}
#: 0 alike or sound, 1 a difference or a fault was found, 3 too little was recorded to say.
DONE = (0, 1, 3)
TEMPLATE = "tokenizer.chat_template=str:{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


def commands(document: Path) -> list[list[str]]:
    """The words of each command line below four spaces, in the order of the document."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (?:\$ )?(aprgraph [a-z].*)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if commands(path)]


def runs_here(words: list[str]) -> bool:
    return not set(words) & set(ELSEWHERE)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Path:
    """What the documents' names stand for: models, their traces, right and wrong, a dump, a family."""
    folder = tmp_path_factory.mktemp("documents")
    plain = tiny_model(hidden=64, layers=2)
    for name in ("model", "theirs", "original", "model-f16"):
        shutil.copyfile(plain, folder / f"{name}.gguf")
    for name in ("quantised", "model-q4_0", "model-Q4_0", "q4"):
        shutil.copyfile(tiny_model(hidden=64, layers=2, format="Q4_0"), folder / f"{name}.gguf")
    (folder / "mine.py").write_text(
        "from aprgraph.families import Llama\n\n\nclass Mine(Llama):\n    architecture = 'mined'\n", encoding="utf-8"
    )
    (folder / "mine.gguf").write_bytes(plain.read_bytes().replace(b"llama", b"mined"))  # of the same length
    for side, overrides in (("ours", {}), ("theirs", {"llama.rope.freq_base": 500.0})):
        model = aprgraph.load(folder / "model.gguf", overrides).compile("reference", folder / f"{side}.aprg")
        trace = model.run("all", "0..2", prompt="What is 2+2?", directory=folder / side)
        shutil.rmtree(folder / f"{side}.aprg")
    dump = {"layers.0.mlp": trace["layer0.ffn_out"], "layers.0.self_attn": trace["layer0.attn_out"]}
    np.savez(folder / "dump.npz", **{name: np.array(values) for name, values in dump.items()})
    np.savez(folder / "mine.npz", **{entry.key.name: trace.load(entry) for entry in trace}, tokens=np.array(model.encode("What is 2+2?")))
    aprgraph.load(folder / "model.gguf").compile("llvm", folder / "patched.llvm.aprg")
    make_small_model("import struct", folder / "tiny")
    return folder


def make_small_model(begins: str, place: Path) -> None:
    """Run the block of docs/testing.md that has the line ``begins``, which makes a model."""
    text = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if f"{begins}\n" in block]
    assert '"tiny"' in code
    exec(code.replace('"tiny"', repr(str(place))), {})


@pytest.fixture
def here(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all of it, as the current one."""
    shutil.copytree(material, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    use_cache(monkeypatch, tmp_path / "cache")
    return tmp_path / "here"


def run(words: list[str], folder: Path) -> None:
    for option, place in pairwise(words):
        if option in ("-o", "--html", "--repro") and (folder / place).is_dir():
            shutil.rmtree(folder / place)
    template = ("--override-kv", TEMPLATE) if "--chat" in words else ()
    with own_families():
        done = run_cli(*words, *template)
    assert done.code in DONE, (words, done)
    assert "Traceback" not in done.err, (words, done)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document(document: Path, here: Path) -> None:
    for words in commands(document):
        if runs_here(words):
            run(words, here)


def test_a_small_model_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    make_small_model("import torch", tmp_path / "tiny")
    trace = aprgraph.load(tmp_path / "tiny").compile("reference", tmp_path / "a.aprg").run("all", "0..2", tokens=[3, 1, 4, 1, 5, 9, 2])
    assert aprgraph.audit(trace, tmp_path / "tiny").sentence.endswith("right, the model explains all 35 tensors that could be replayed.")


def test_what_is_run_elsewhere_is_little() -> None:
    """And each word of that list is in some document."""
    every = [words for document in DOCUMENTS for words in commands(document)]
    assert len(every) > 60
    assert sum(map(runs_here, every)) > 45
    assert {word for words in every for word in words} >= set(ELSEWHERE)
