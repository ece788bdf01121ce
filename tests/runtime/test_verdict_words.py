"""The words of verdicts and classes: documented in one place, and no word for two things; the names of sides."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from referencing import Registry, Resource

from aprgraph.graph.export.divergence import CLASSES, VERDICTS
from aprgraph.graph.model import load_model
from aprgraph.runtime.blame import LocalState, Verdict, audit
from aprgraph.runtime.blame.local_errors import FORMAT, VERSION
from aprgraph.runtime.diff import Class
from aprgraph.runtime.diff.side_names import LONGEST, name_of, side_names
from tests.support.blame import spoil, traced, with_nan

DOCS = Path(__file__).parents[2] / "docs"
SCHEMA, DIFF_SCHEMA = (json.loads((DOCS / f"{name}.schema.json").read_text(encoding="utf-8")) for name in ("audit", "diff"))
VALIDATOR = Draft202012Validator(SCHEMA, registry=Registry().with_resource(DIFF_SCHEMA["$id"], Resource.from_contents(DIFF_SCHEMA)))


def section(title: str) -> str:
    """The part of docs/verdicts.md below a heading."""
    return (DOCS / "verdicts.md").read_text(encoding="utf-8").split(f"\n## {title}", 1)[1].split("\n## ", 1)[0]


def words(title: str) -> list[str]:
    """The first cells of the table below a heading."""
    return re.findall(r"^\| ([A-Z ]+) \|", section(title), re.MULTILINE)


@pytest.mark.contract("BLAME-WORDS-1")
def test_no_word_is_both_a_class_and_a_verdict() -> None:
    assert not {name.value for name in Class} & {name.value for name in Verdict}
    assert {look.name for look in CLASSES} == {name.value for name in Class}
    assert {look.name for look in VERDICTS} == {name.value for name in Verdict}


@pytest.mark.contract("BLAME-WORDS-1")
def test_every_word_is_documented_and_no_other() -> None:
    assert set(words("Classes")) == {name.value for name in Class}
    assert set(words("Verdicts")) == {name.value for name in Verdict}
    assert set(words("States")) == {name.value for name in LocalState}
    assert DIFF_SCHEMA["$defs"]["local"]["properties"]["state"]["enum"] == [state.value for state in LocalState]
    for schema in (SCHEMA, DIFF_SCHEMA):
        name, version = (schema["properties"][field]["const"] for field in ("format", "version"))
        assert f"| `{name}` | {version} |" in section("JSON")
        assert schema["$id"] == f"{name}-{version}"


@pytest.mark.contract("BLAME-WORDS-1")
def test_audits_validate(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    model = tiny_model()
    trace = traced(tmp_path / "theirs", model)
    spoil(trace, "attention", 1, with_nan)
    document: Any = json.loads(json.dumps(audit(trace, load_model(model)).to_json(), allow_nan=False))
    VALIDATOR.validate(document)
    assert (document["format"], document["version"], document["name"]) == (FORMAT, VERSION, "theirs")
    assert {one["state"] for one in document["tensors"]} == {"RIGHT", "WRONG", "UNKNOWN"}
    document["tensors"][0]["state"] = "GUILTY"
    with pytest.raises(ValidationError):
        VALIDATOR.validate(document)


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ("ours", "theirs", ("ours", "theirs")),
        ("/runs/monday/ours/", "theirs", ("ours", "theirs")),
        ("/runs/monday/trace", "/runs/tuesday/trace", ("monday/trace", "tuesday/trace")),
        ("/runs/trace", "trace", ("runs/trace", "trace")),
        ("x/layer-0/ffn_up.bin", "y/layer-0/ffn_up.bin", ("x/layer-0/ffn_up.bin", "y/layer-0/ffn_up.bin")),
        ("same", "same/", ("same", "same")),
        ("/", "/a", ("/", "a")),
        ("a\x1b[2Jb", "b\nc", ("a�[2Jb", "b�c")),
    ],
)
def test_sides_are_called_as_they_were_named(a: str, b: str, names: tuple[str, str]) -> None:
    found = side_names(a, b)
    assert (found.a, found.b) == names
    swapped = side_names(b, a)
    assert (swapped.b, swapped.a) == names
    assert found.of("B") == f"{names[1]} (B)"


def test_long_names_are_shortened_but_stay_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "checkpoint-" * 20
    assert name_of(long + "end").startswith("checkpoint-")
    assert name_of(long + "end").endswith("end")
    assert len(name_of(long)) <= LONGEST
    deep = side_names(f"one/{'deep/' * 20}x.bin", f"two/{'deep/' * 20}x.bin")
    assert (deep.a, deep.b) == ("one/…/x.bin", "two/…/x.bin")
    middles = side_names(f"{long}1{long}", f"{long}2{long}")
    assert middles.a != middles.b
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert side_names(".", "..") == side_names("here", tmp_path.name)
