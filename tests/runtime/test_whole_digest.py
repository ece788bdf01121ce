"""Model files by every byte: what samples of the weights do not see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.comparison import diff
from aprgraph.graph.errors import PlanError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.whole_digest import sampled_share, whole_digest
from aprgraph.runtime.blame import audit
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, spoil
from tests.support.cli import run_cli
from tests.support.traces import Tensor

Tiny = Callable[..., Path]
#: A model whose data is four times as large as what the samples see.
_LARGE = {"vocabulary": 14000, "layers": 1}


@pytest.fixture
def model(tiny_model: Tiny, tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(tiny_model(**_LARGE).read_bytes())
    return path


def damaged(model: Path, name: str) -> Path:
    """A copy with zeros where no sample of the fingerprint lies."""
    file, copy = GGUFFile(model), model.with_name(name)
    data = bytearray(model.read_bytes())
    room = len(data) - file.data_start - 4096
    start = file.data_start + room * 128 // 255 + 4096
    data[start : start + 512] = bytes(512)
    copy.write_bytes(data)
    assert GGUFFile(copy).fingerprint() == file.fingerprint()
    return copy


def run(model: Path, directory: Path, fingerprint: str = "full") -> Trace:
    compiled = aprgraph.load(model).compile("reference", directory.with_suffix(".aprg"))
    return compiled.run("ffn_norm,ffn_out", tokens=TOKENS, directory=directory, fingerprint=fingerprint)


@pytest.mark.contract("FILE-DIGEST-1")
def test_a_digest_sees_what_samples_do_not(model: Path) -> None:
    other = damaged(model, "other.gguf")
    assert whole_digest(open_source(model)) != whole_digest(open_source(other))
    assert whole_digest(open_source(model)) == whole_digest(open_source(model))
    share = sampled_share(open_source(model))
    assert 0.1 < share < 0.5
    assert f"the header and {share:.2%} of the weights" in run_cli("inspect", model).out
    model.write_bytes(other.read_bytes())
    assert whole_digest(open_source(model)) == whole_digest(open_source(other))


@pytest.mark.contract("FILE-DIGEST-1")
def test_traces_of_files_that_have_one_fingerprint(model: Path, tmp_path: Path) -> None:
    other = damaged(model, "other.gguf")
    a, b = run(model, tmp_path / "a"), run(other, tmp_path / "b")
    assert "different model files, which differ where their common fingerprint does not look" in diff(a.directory, b.directory).headline
    found = audit(b, load_model(model))
    assert any("its weights differ where their common fingerprint does not look" in note for note in found.notes)
    assert not any("differ where" in note for note in audit(a, load_model(model)).notes)

    def fault(values: Tensor) -> Tensor:
        return np.asarray(values * np.float32(1.5))

    spoil(b, "ffn_out", 0, fault)
    assert audit(b, load_model(model)).suspect is not None  # the file may be what is wrong
    spoil(a, "ffn_out", 0, fault)
    found = audit(a, load_model(model))
    assert found.suspect is None
    assert not any("of the weights" in note for note in found.notes)
    sampled = run(model, tmp_path / "sampled", "sampled")
    spoil(sampled, "ffn_out", 0, fault)
    assert any("is known by the header and" in note for note in audit(sampled, load_model(model)).notes)


def test_another_fingerprint(model: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="fingerprint 'half': expected sampled or full"):
        run(model, tmp_path / "t", "half")
    assert "--fingerprint 'half': expected sampled or full" in run_cli("run", model, "--fingerprint", "half", "--taps", "all").err
