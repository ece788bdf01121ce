"""Python as people use it: completion and help, tensors by name, arrays as sides, tables, progress."""

from __future__ import annotations

import io
import pydoc
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import ComparisonError, NotRecordedError, TraceError
from aprgraph.progress import is_watched, progress_line
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.reader import Trace
from tests.support.blame import TOKENS, traced

BASE = 5000.0


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


@pytest.fixture(scope="module")
def ours(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return traced(tmp_path_factory.mktemp("python") / "ours", model)


@pytest.fixture(scope="module")
def dump(ours: Trace) -> dict[str, np.ndarray]:
    """What an engine dumps that computes one stage wrongly."""
    return {name: np.array(np.abs(ours[name]) if name == "layer1.ffn_up" else ours[name]) for name in ours.keys()}  # noqa: SIM118 -- entries are iterated


def test_completion_and_help_show_what_there_is() -> None:
    names = {"load", "diff", "audit", "weights", "check", "Trace", "capture", "register", "testing", "__version__"}
    assert names <= set(dir(aprgraph))
    assert aprgraph.__version__.count(".") == 2
    assert "__version__" not in aprgraph.__all__
    text = pydoc.plain(pydoc.render_doc(aprgraph))
    for name in ("diff(a:", "audit(trace:", "load(path:", "class Trace(", "weights(a:"):
        assert name in text, name


def test_tensors_by_name(ours: Trace) -> None:
    assert ours.keys()[0] == "layer0.embedding"
    assert ours.keys()[-1] == "lm_head"
    assert ours._ipython_key_completions_() == list(ours.keys())
    for key in ("layer1.ffn_out", "layer-1/ffn_out", (1, "ffn_out"), (1, "ffn_out", 0), Place(0, 1, "ffn_out")):
        assert key in ours
        assert np.array_equal(ours[key], ours.tensor("ffn_out", layer=1))
    assert dict(ours).keys() == set(ours.keys())  # type: ignore[call-overload]  # what has keys() and [] is one for dict
    assert [entry.label for entry in ours][:1] == ["layer 0 embedding"]
    assert "nonsense" not in ours
    assert 3 not in ours


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "layer1.ffn_uot",
            "'layer1.ffn_uot' is the name of no tensor, expected such as 'layer3.ffn_gate' or 'lm_head'; did you mean layer1.ffn_out",
        ),
        ("layer9.ffn_out", "layer 9 ffn_out was not recorded; tap it with taps= and layers=; did you mean layer1.ffn_out"),
        (3, "3 is the name of no tensor, expected such as 'layer3.ffn_gate' or 'lm_head'; it holds layer0.embedding,"),
    ],
)
def test_a_tensor_that_is_not_there(ours: Trace, key: object, message: str) -> None:
    with pytest.raises(KeyError) as caught:
        _ = ours[key]  # type: ignore[index]
    assert isinstance(caught.value, NotRecordedError)
    assert str(caught.value).startswith(f"{ours.directory}: {message}")


@pytest.mark.contract("CAPTURE-ARRAYS-1")
def test_a_dict_of_arrays_is_a_side(ours: Trace, dump: dict[str, np.ndarray], model: Path) -> None:
    report = aprgraph.diff(ours, dump, tokens=TOKENS, model=model)
    assert report.exit_code == 1
    assert [key.name for key in report.blame.wrong] == ["layer1.ffn_up", "layer1.ffn_swigl"]  # type: ignore[union-attr]
    assert report.headline.startswith("arrays (B) is")
    found = aprgraph.audit({**dump, "tokens": np.array([TOKENS])}, aprgraph.load(model))
    assert [one.key.name for one in found.wrong] == ["layer1.ffn_up", "layer1.ffn_swigl"]
    assert found.prompt.tokens == TOKENS
    by_place = {(entry.layer, entry.stage): ours.load(entry) for entry in ours}
    assert aprgraph.diff(by_place, ours).exit_code == 0
    renamed = {name.replace("layer1.ffn_up", "model.layers.1.up"): value for name, value in dump.items()}
    assert aprgraph.audit(renamed, model, tokens=TOKENS, names=[r"layers\.(\d+)\.up=layer\1.ffn_up"]).wrong == found.wrong
    left = aprgraph.diff(ours, renamed)
    assert "model.layers.1.up" in left.headline + str(left.notes)


def test_what_is_no_side(ours: Trace) -> None:
    cases = [
        (3, "3: expected a trace: a path, an open Trace, or a dict of arrays"),
        ({"weights": np.zeros(3)}, "arrays: its one array is not called as a stage is; "),
        ({"layer0.ffn_up": object()}, "arrays: layer 0 ffn_up is a object, expected float16"),
        ({3: np.zeros(3)}, "arrays: 3 names no tensor, expected (layer, stage)"),
        ({"layer0.ffn_up": np.zeros((3, 96)), (0, "ffn_up"): np.zeros((3, 96))}, "arrays: layer0.ffn_up is given twice"),
    ]
    for side, message in cases:
        with pytest.raises((TraceError, ComparisonError)) as caught:
            aprgraph.diff(ours, side)  # type: ignore[arg-type]
        assert str(caught.value).startswith(message), str(caught.value)


def test_frames_have_columns_of_one_length_and_type(ours: Trace, dump: dict[str, np.ndarray], model: Path) -> None:
    report = aprgraph.diff(ours, dump, model=model, tokens=TOKENS)
    for frame, rows in ((report.frame(), len(report.rows)), (aprgraph.audit(ours, model).frame(), len(ours)), (ours.frame(), len(ours))):
        for name, column in frame.items():
            assert len(column) == rows, name
            assert len({type(value) for value in column} - {type(None)}) <= 1, name
    frame = report.frame()
    at = frame["tensor"].index("layer1.ffn_up")
    assert (frame["verdict"][at], frame["class"][at], frame["layer"][at], frame["shape"][at]) == ("B WRONG", "INTRODUCED", 1, "7 x 96")
    assert frame["local_error_b"][at] > 1 > frame["limit"][at]
    assert set(aprgraph.diff(ours, ours).frame()["verdict"]) == {None}


def test_representations_are_bounded(ours: Trace, dump: dict[str, np.ndarray], model: Path) -> None:
    loaded = aprgraph.load(model)
    report = aprgraph.diff(ours, dump, model=model, tokens=TOKENS)
    for value in (ours, report, report.blame, aprgraph.audit(ours, model), loaded, loaded.model, loaded.graph, aprgraph.check(model)):
        assert repr(value).startswith(f"<{type(value).__name__}")
        assert len(repr(value)) < 500


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_where_somebody_watches(ours: Trace, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = io.StringIO()
    monkeypatch.setattr(sys, "stderr", quiet)
    aprgraph.audit(ours, model)
    assert quiet.getvalue() == ""
    watched = _Terminal()
    monkeypatch.setattr(sys, "stderr", watched)
    aprgraph.audit(ours, model, progress=False)
    aprgraph.diff(ours, ours, progress=False)
    assert watched.getvalue() == ""
    aprgraph.audit(ours, model)
    assert watched.getvalue().startswith("\rreplaying in float64")
    assert watched.getvalue().endswith(" \r")
    seen: list[str] = []
    before = watched.getvalue()
    aprgraph.audit(ours, model, progress=seen.append)
    assert (len(seen), watched.getvalue()) == (len(ours), before)


def test_a_line_of_progress_fits_and_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = _Terminal()
    monkeypatch.setattr(sys, "stderr", watched)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setattr("aprgraph.progress._EVERY", 0)

    def interrupted() -> None:
        with progress_line(None, "a\x1b[31m") as say:
            say("b" * 100)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    lines = watched.getvalue().split("\r")
    assert "\x1b" not in watched.getvalue()
    assert all(len(line) < 30 for line in lines)
    assert lines[-2:] == [" " * 29, ""]


def test_in_a_notebook_progress_is_an_output_that_is_empty_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Display(types.ModuleType):
        def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Display:
            assert raw
            assert display_id
            self.update(data, raw=raw)
            return self

        def update(self, data: dict[str, str], *, raw: bool) -> None:
            assert raw
            shown.append(data["text/plain"])

    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setitem(sys.modules, "IPython.display", Display("IPython.display"))
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setattr("aprgraph.progress._EVERY", 0)
    assert is_watched()
    with progress_line(None, "replaying") as say:
        say("layer 0 ffn_up\x1b")
    assert shown == ["replaying", "replaying", "replaying: layer 0 ffn_up\ufffd", ""]
    assert stream.getvalue() == ""
