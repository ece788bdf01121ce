"""Captures without torch: what docs/captures.md shows, directories as `apr` leaves them, and what is imported when."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.capture import captured_model
from aprgraph.capture.function_hooks import watching
from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.families.llama import Llama
from aprgraph.graph.stages import STAGE_BY_NAME
from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.reader import Trace
from tests.support.own_families import own_families
from tests.support.traces import write_bare

DOCUMENT = Path(__file__).parents[2] / "docs" / "captures.md"
TOKENS = (3, 1, 4, 1, 5, 9)


# -- the document -------------------------------------------------------------------------------------------------------


def test_the_snippet_for_numpy_arrays_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("## Arrays")[2].partition("\n## ")[0]
    (snippet,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(snippet, {})
    trace = Trace.open("theirs")
    assert [entry.label for entry in trace.entries] == ["layer 0 attn_norm", "layer 0 ffn_out", "lm_head"]
    assert trace.info == TraceInfo(
        {"name": "my-model"}, "my-engine", (1780, 314, 216, 34, 27, 34, 47), "attn_norm,ffn_out,lm_head 0..1", "last", "",
        {"arithmetic": "float16", "writer": "my-engine 1.2"},
    )  # fmt: skip


def test_the_classes_are_those_of_the_table() -> None:
    named = re.findall(r"\w+(?:For(?:CausalLM|ConditionalGeneration)|LMHeadModel)\b|\w+Model\b", DOCUMENT.read_text(encoding="utf-8"))
    assert {name for name in named if not name.startswith("Auto")} - {"AutoModelForCausalLM"} == {
        name for family in FAMILIES.values() for name in family.hf_classes.split()
    }


def test_a_class_is_the_familys_that_names_it_not_of_those_that_derive_from_it() -> None:
    with own_families():

        @aprgraph.register
        class Mine(Llama):
            architecture = "mymod"

        @aprgraph.register
        class Other(Llama):
            architecture = "other"
            hf_classes = "OtherForCausalLM"

        classes = captured_model._classes()
        assert (classes["LlamaForCausalLM"], classes["OtherForCausalLM"]) == (Llama, Other)


# -- torch and transformers need not be there ---------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_a_capture_begins() -> None:
    code = (
        "import sys, aprgraph; aprgraph.capture.transformers; print(sorted({'torch', 'transformers', 'tvm', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_torch_a_capture_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("aprgraph.capture.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UnsupportedModelError, match="torch is not here; captures need torch and transformers 5, as the model does"):
        aprgraph.capture.transformers(object(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


# -- watching functions -------------------------------------------------------------------------------------------------


def test_watchers_come_and_go_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "watched", lambda x: 10 * x, raising=False)
    original, seen = module.watched, []  # type: ignore[attr-defined]

    def watcher(name: str) -> Callable[..., int]:
        def around(function: Callable[[int], int], x: int) -> int:
            seen.append(name)
            return function(x)

        return around

    first, second = watching(module, "watched", watcher("first")), watching(module, "watched", watcher("second"))
    first.__enter__()
    second.__enter__()
    assert module.watched(2) == 20  # type: ignore[attr-defined]
    first.__exit__(None, None, None)
    assert module.watched(3) == 30  # type: ignore[attr-defined]
    second.__exit__(None, None, None)
    assert sorted(seen) == ["first", "second", "second"]
    assert module.watched is original  # type: ignore[attr-defined]


# -- apr ----------------------------------------------------------------------------------------------------------------


def _as_apr(ours: Trace) -> dict[tuple[int | None, str], np.ndarray]:
    """What `apr` keeps of these tensors: no additions of ours, and of what belongs to experts the last position alone."""
    tensors = {(entry.layer, entry.stage): np.array(ours.load(entry)) for entry in ours.entries if not STAGE_BY_NAME[entry.stage].addition}
    return {key: values[-1:] if key[1].startswith("moe_") else values for key, values in tensors.items()}


@pytest.fixture(scope="module")
def ours(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """A mixture of experts by the float64 reference."""
    place = tmp_path_factory.mktemp("apr")
    compiled = aprgraph.load(tiny_model(family="qwen3moe", experts=4, layers=2)).compile("reference", place / "tiny.aprg")
    return compiled.run("all", "0..2", tokens=TOKENS, directory=place / "ours")


@pytest.mark.contract("CAPTURE-APR-1")
def test_a_directory_of_apr(ours: Trace, tmp_path: Path) -> None:
    tensors = _as_apr(ours)
    theirs = write_bare(tmp_path / "theirs", tensors)
    report = aprgraph.diff(ours.directory, theirs)
    assert report.exit_code == 0, report.verdict
    measured = {row.key[1:] for row in report.rows if row.classification.value != "UNMEASURED"}
    assert measured == set(tensors)
    assert {row.key[2] for row in report.rows if row.key[1:] not in measured} == {
        "q_norm", "k_norm", "moe_router_logits", "moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out",
    }  # fmt: skip
    assert any(
        note.startswith(
            "B holds one position only, which is taken for the last and is what is compared, for layer 0 moe_router, layer 0 moe_router_indices"
        )
        for note in report.notes
    )


@pytest.mark.contract("CAPTURE-APR-1")
@pytest.mark.parametrize("stage", ["moe_router", "moe_ffn_out", "attn_scores", "ffn_norm"])
def test_a_directory_of_apr_with_other_numbers(stage: str, ours: Trace, tmp_path: Path) -> None:
    tensors = _as_apr(ours)
    tensors[1, stage] = tensors[1, stage] * np.float32(1.01)
    report = aprgraph.diff(ours.directory, write_bare(tmp_path / "theirs", tensors))
    assert report.exit_code == 1
    assert [row.key[1:] for row in report.rows if row.classification.value not in ("IDENTICAL", "NOISE", "UNMEASURED")] == [(1, stage)]
