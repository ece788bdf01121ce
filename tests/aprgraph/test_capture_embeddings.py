"""Captures of embedding models: what comes behind transformers' model, of sentence-transformers or of a program's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import TraceError
from tests.support.cli import run_cli

try:
    import torch

    from tests.golden.family_models import make_model
except ModuleNotFoundError:
    torch = make_model = None  # type: ignore[assignment]

pytestmark = pytest.mark.skipif(
    torch is None, reason="torch and transformers are not here; install with `pip install torch==2.13.0 transformers`"
)
TOKENS = (17, 3, 30, 3, 0, 31, 29)
#: How a text's positions are pooled, by the model's name.
_POOLINGS = {"gemma-embedding-f32": "mean", "bert-f32": "first", "qwen3-embedding-f32": "last"}


def _pool(rows: Any, how: str) -> Any:
    """As model cards have it: rows [1, n, E] to [1, E]."""
    return {"mean": rows.mean(1), "first": rows[:, 0], "last": rows[:, -1]}[how]


class _Model:
    """A model, its GGUF file, and our own trace of it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.path = name, folder / "model.gguf"
        self.loaded = make_model(name, self.path)
        ours = aprgraph.load(self.path)
        self.layers = ours.model.family.layers
        self.directory = folder / "ours"
        ours.compile("reference", folder / "model.aprg").run("all", f"0..{self.layers}", tokens=TOKENS, directory=self.directory)

    def hidden(self) -> Any:
        with torch.no_grad():
            return self.loaded.model(torch.tensor([TOKENS])).last_hidden_state


@pytest.fixture(scope="module", params=_POOLINGS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> _Model:
    return _Model(request.param, tmp_path_factory.mktemp(request.param))


def notes(trace: aprgraph.Trace) -> list[str]:
    return list(trace.info.extra.get("notes", []))


@pytest.mark.contract("EMBEDDING-CAPTURE-1")
def test_a_program_s_own_pooling(model: _Model, tmp_path: Path) -> None:
    with aprgraph.capture.transformers(model.loaded.model, tmp_path / "theirs") as capture:
        row = capture.record("pooled", _pool(model.hidden(), _POOLINGS[model.name]))
        for stage, matrix in zip(("pooled_up", "pooled_down"), model.loaded.dense, strict=False):
            row = capture.record(stage, row @ torch.from_numpy(matrix).double().T)
        row = capture.record("pooled_normed", torch.nn.functional.normalize(row).numpy())
    assert row.shape[0] == 1
    assert not [note for note in notes(capture.trace) if "pooled" in note]
    report = aprgraph.diff(model.directory, tmp_path / "theirs", profile="same-graph-f32")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(capture.trace)


@pytest.mark.contract("EMBEDDING-CAPTURE-1")
def test_a_pooling_that_is_another_is_named(model: _Model, tmp_path: Path) -> None:
    with aprgraph.capture.transformers(model.loaded.model, tmp_path / "theirs") as capture:
        hidden = model.hidden()
        capture.record("pooled", _pool(hidden, "first" if _POOLINGS[model.name] == "last" else "last"))
    found = run_cli("diff", model.directory, tmp_path / "theirs", "--model", model.path)
    assert found.code == 1
    assert found.out.startswith("theirs (B) is wrong; ours (A) is right.\nWHERE  pooled: local error ")


def _module(kind: str, forward: Any, **parts: Any) -> Any:
    """A module of a class of sentence-transformers, as that shows itself: it changes the features that it is given."""

    def changes(self: Any, features: dict[str, Any]) -> dict[str, Any]:
        return features | {"sentence_embedding": forward(self, features)}

    made = type(kind, (torch.nn.Module,), {"__module__": "sentence_transformers.modules", "forward": changes})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def _dense(matrix: Any, activation: Any) -> Any:
    linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    linear.weight.data = torch.from_numpy(matrix).double()
    return _module(
        "Dense", lambda self, features: self.activation_function(self.linear(features["sentence_embedding"])),
        linear=linear, activation_function=activation,
    )  # fmt: skip


@pytest.mark.contract("EMBEDDING-CAPTURE-1")
def test_modules_of_sentence_transformers(model: _Model, tmp_path: Path) -> None:
    """Of stand-ins of its classes. With sentence-transformers 6.2 itself tried once: the same stages, and `encode`'s embedding."""
    how = _POOLINGS[model.name]
    parts = [
        _module("Transformer", lambda _, features: None, auto_model=model.loaded.model),
        _module("Pooling", lambda _, features: _pool(features["token_embeddings"], how)),
        *(_dense(matrix, torch.nn.Identity()) for matrix in model.loaded.dense),
        _module("Normalize", lambda _, features: torch.nn.functional.normalize(features["sentence_embedding"])),
    ]
    whole = torch.nn.Sequential(*parts).eval()
    with torch.no_grad(), aprgraph.capture.transformers(whole, tmp_path / "theirs") as capture:
        features = {"token_embeddings": model.hidden()}
        for part in parts[1:]:
            features = part(features)
    text = [entry.stage for entry in capture.trace.entries if entry.layer is None and entry.stage.startswith("pooled")]
    assert text == ["pooled", *["pooled_up", "pooled_down"][: len(model.loaded.dense)], "pooled_normed"]
    assert torch.equal(torch.tensor(capture.trace.tensor("pooled_normed")), features["sentence_embedding"][0].float())
    assert aprgraph.diff(model.directory, tmp_path / "theirs", profile="same-graph-f32").exit_code == 0
    assert all("recorded" not in note or "qkv_matmul" in note for note in notes(capture.trace))


@pytest.mark.contract("EMBEDDING-CAPTURE-1")
def test_a_dense_layer_with_an_activation_shows_both(tmp_path: Path) -> None:
    model = _Model("bert-f32", tmp_path)
    matrix = torch.eye(24).numpy()
    dense = _dense(matrix, torch.nn.Tanh())
    whole = torch.nn.ModuleList([model.loaded.model, dense]).eval()
    with torch.no_grad(), aprgraph.capture.transformers(whole, tmp_path / "theirs") as capture:
        features = dense({"sentence_embedding": model.hidden()[:, 0]})
    assert torch.equal(torch.tensor(capture.trace.tensor("pooled_down_act")), features["sentence_embedding"][0].float())
    np.testing.assert_allclose(np.tanh(capture.trace.tensor("pooled_down")), capture.trace.tensor("pooled_down_act"), rtol=1e-6)


@pytest.mark.contract("EMBEDDING-CAPTURE-1")
def test_what_cannot_be_recorded_so_is_said(tmp_path: Path) -> None:
    model = _Model("bert-f32", tmp_path)

    def capture(*recorded: tuple[str, Any], **options: Any) -> aprgraph.Trace:
        with aprgraph.capture.transformers(model.loaded.model, tmp_path / "theirs", **options) as inside:
            model.hidden()
            for stage, values in recorded:
                inside.record(stage, values)
        return inside.trace

    with pytest.raises(TraceError, match=r"pooled was not recorded: it comes behind the model, so .* record\('pooled', values\)"):
        capture(taps="pooled")
    assert any(note.endswith("BertModel has no head; what a program pools, Capture.record takes") for note in notes(capture()))
    row = torch.zeros(24)
    for stage, values, said in (
        ("ffn_out", row, "record takes pooled, pooled_up, .* not 'ffn_out': what the model computes is recorded anyway"),
        ("pooled", torch.zeros(2, 24), r"pooled has the shape \[2, 24\], expected one row of numbers: one text at a time"),
        ("pooled", torch.zeros(()), r"pooled has the shape \[\], expected one row"),
        ("pooled", torch.zeros(1, 36), "pooled has 36 elements, expected 24, as a position has; is it behind a dense layer"),
    ):
        with pytest.raises(TraceError, match=said):
            capture((stage, values))
    with pytest.raises(TraceError, match="pooled is computed twice in one pass"):
        capture(("pooled", row), ("pooled", row))
    alone = aprgraph.capture.transformers(model.loaded.model, tmp_path / "theirs")
    with pytest.raises(TraceError, match="pooled is recorded inside the block, when the model has run on the text"):
        alone.record("pooled", row)
    with alone:
        model.hidden()
    with pytest.raises(TraceError, match="pooled is recorded inside the block"):
        alone.record("pooled", row)
