"""The pytest plugin: a red test that names the fault, kept pages, properties, and what GitHub shows."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import aprgraph
from aprgraph.testing import assert_alike, assert_right
from aprgraph.testing.github import annotation, summary
from aprgraph.testing.judgement import LISTENERS
from aprgraph.testing.records import Record, page_name, read
from tests.support.blame import spoil, traced
from tests.support.cli import run_python

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "examples/numpy_engine"
#: In place of the words of the example, which a tiny model's tokenizer makes too few tokens of.
BASE = 100000.0


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    """As SmolLM2, of a base of RoPE that is not the usual one."""
    return tiny_model(rope_base=BASE)


@pytest.fixture
def engine(pytester: pytest.Pytester) -> Path:
    """The example's folder, where its tests run."""
    for name in ("engine.py", "test_engine.py"):
        shutil.copyfile(ENGINE / name, pytester.path / name)
    return pytester.path / "engine.py"


def run(pytester: pytest.Pytester, *options: object) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *map(str, options))


@pytest.mark.contract("TESTING-RED-1")
def test_the_example_is_red_and_names_its_bug_and_green_without_it(
    pytester: pytest.Pytester, engine: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(pytester.path))
    result = run(pytester, f"--aprgraph-model={model}", "--aprgraph-html=pages", "--aprgraph-summary=summary.md", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    said = result.stdout.str()
    assert "E       WHY    RoPE's base is 10000 in place of 100000: fits exactly at " in said
    assert all(len(line) <= 84 for line in said.splitlines() if line.startswith("E  ") and "pytest --aprgraph-html" not in line)
    assert "E              pytest --aprgraph-html=pages test_engine.py::test_two_layers" in said
    assert "E       WRONG  q_post_rope, layers 0..1" in said
    assert "assertions.py" not in said  # the test is at fault, not what tells
    page = "pages/test_engine.py-test_two_layers.html"
    assert "1 page in pages" in said
    assert "in place of 100000" in (pytester.path / page).read_text(encoding="utf-8")
    assert "::error file=test_engine.py,line=12,title=aprgraph%3A test_two_layers does not hold::WHERE q_post_rope and " in said
    written = (pytester.path / "summary.md").read_text(encoding="utf-8")
    assert "### aprgraph: 0 assertions of 1 hold" in written
    assert "| does not hold | test\\_engine.py::test\\_two\\_layers | **where** q\\_post\\_rope and " in written
    properties = {one.get("name"): one.get("value") for one in ET.parse(pytester.path / "junit.xml").iter("property")}
    assert properties["aprgraph.page"] == page
    assert properties["aprgraph.exit_code"] == "1"
    assert "in place of 100000" in str(properties["aprgraph.verdict"])
    assert str(properties["aprgraph.why"]).startswith("RoPE's base is 10000 in place of 100000: fits exactly at ")
    assert str(properties["aprgraph.whose"]).startswith("arrays, or ")
    assert LISTENERS == []

    bug = engine.read_text(encoding="utf-8")
    assert "self.base = 10000.0\n" in bug
    engine.write_text(bug.replace("self.base = 10000.0\n", 'self.base = self.keys["llama.rope.freq_base"]\n'), encoding="utf-8")
    monkeypatch.delitem(__import__("sys").modules, "engine", raising=False)
    pytester.makeini(f"[pytest]\naprgraph_model = {model}\n")
    result = run(pytester)
    result.assert_outcomes(passed=1)
    assert "::error" not in result.stdout.str()


def test_without_a_model_the_fixture_says_what_to_give(pytester: pytest.Pytester, engine: Path) -> None:
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["no model for the fixture aprgraph_model: give --aprgraph-model MODEL, or aprgraph_model = *"])
    result = run(pytester, "--aprgraph-model=lost.gguf")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*lost.gguf: *"])
    assert "Traceback" not in result.stdout.str()


def test_pages_that_cannot_be_kept(pytester: pytest.Pytester, engine: Path, model: Path) -> None:
    (pytester.path / "file").write_text("")
    result = run(pytester, "--aprgraph-html=file")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --aprgraph-html file: no folder can be made there: *"])
    (pytester.path / "pages/test_engine.py-test_two_layers.html").mkdir(parents=True)
    result = run(pytester, f"--aprgraph-model={model}", "--aprgraph-html=pages", "--junitxml=junit.xml")
    result.assert_outcomes(failed=1)
    assert "its page could not be kept: " in (pytester.path / "junit.xml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def traces(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    place = tmp_path_factory.mktemp("plugin")
    a, b = traced(place / "ours", model), traced(place / "theirs", model)
    spoil(b, "ffn_up", 1, np.abs)
    return a, b


@pytest.mark.contract("TESTING-RED-1")
def test_what_assertions_return_and_say(traces: tuple[Any, Any], model: Path) -> None:
    ours, theirs = traces
    assert assert_alike(ours, ours).exit_code == 0
    assert assert_right(ours, model).exit_code == 0
    with pytest.raises(AssertionError) as alike:
        assert_alike(ours, theirs)
    assert str(alike.value).startswith("Diverged: 1 of 35 compared tensors differs.\nWHERE  layer 1 ffn_up: ")
    assert "INTRODUCED  layer 1 ffn_up" in str(alike.value)
    with pytest.raises(AssertionError) as blamed:
        assert_alike(ours, theirs, model=model)
    assert str(blamed.value).startswith("theirs (B) is wrong; ours (A) is right.\nWHERE  layer 1 ffn_up")
    with pytest.raises(AssertionError, match="nothing could be replayed"):
        assert_right({"layer1.ffn_up": ours["layer1.ffn_up"]}, model)
    with pytest.raises(aprgraph.AprgraphError, match="lost: no such file"):
        assert_right("lost", model)


@pytest.mark.contract("TESTING-OPEN-1")
def test_what_a_passed_test_leaves_open_is_said(pytester: pytest.Pytester, traces: tuple[Any, Any], model: Path) -> None:
    pytester.makepyfile(
        f"""
        from aprgraph import Trace
        from aprgraph.testing import assert_right

        def test_part():
            trace = Trace.open({str(traces[0].directory)!r})
            part = {{name: trace[name] for name in trace.keys() if "layer0.attn" in name or name == "layer1.ffn_up"}}
            assert_right(part, {str(model)!r})
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        ["*= aprgraph =*", "test_what_a_passed_test_leaves_open_is_said.py::test_part holds; * could not be replayed"]
    )


def test_the_plugin_loads_nothing_that_takes_time(tmp_path: Path) -> None:
    code = "import sys, aprgraph.pytest_plugin; print([name for name in ('numpy', 'tvm', 'networkx') if name in sys.modules])"
    assert run_python(code, cwd=tmp_path).out == "[]\n"


def test_records_survive_properties() -> None:
    records = [Record("a.py::t", "one", 0, ("x", "y")), Record("a.py::t", "two", 1, (), "p.html")]
    properties = [("other", 1), *(pair for one in records for pair in one.properties), ("other", 2)]
    assert read("a.py::t", properties) == records
    tests = ("a.py::t[x/y]", "a.py::t[x-y]", "a.py::t[x y]", "a/b.py::t", "é" * 500)
    names = {page_name(test, number) for test in tests for number in (0, 1)}
    assert len(names) == 10
    assert all(len(name) < 160 and name.isascii() and "/" not in name for name in names)


def test_what_github_is_told_is_escaped(tmp_path: Path) -> None:
    record = Record("t.py::t[a,b:c]", "50% of <b>it</b>\n::error::@all | `x`", 1, ("open",), "p.html")
    line = annotation(record, tmp_path / "sub" / "t.py", 3, {"GITHUB_WORKSPACE": str(tmp_path)})
    assert line.startswith("::error file=sub/t.py,line=3,title=aprgraph%3A t[a%2Cb%3Ac] does not hold::50%25 of ")
    assert "\n" not in line
    text = summary([record])
    assert "<b>" not in text
    assert "@all" not in text
    assert text.count("\n| ") == 2
    assert "300 more" not in summary([record] * 200)
    assert "\n101 more that hold" in summary([Record("t", "s", 0)] * 300 + [record])


def test_the_action_is_one() -> None:
    """Its form, and that what a caller gives is no part of a script's text."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]
    given = [value for step in action["runs"]["steps"] for value in step.get("env", {}).values() if "inputs." in value]
    assert {value.split("inputs.")[1].split(" ")[0] for value in given} >= set(action["inputs"]) - {"pages"}
