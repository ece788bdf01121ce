"""Forms of JSON documents: what they refuse, in which words, and that the published schemas say the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.graph.json_documents import (
    Document,
    Exactly,
    Flag,
    Form,
    FormError,
    ListOf,
    MapOf,
    Number,
    OneOf,
    Optional,
    Record,
    Text,
    Whole,
)
from tests.support.published_schemas import DOCS, PUBLISHED, text_of

TENSOR = Record({"layer": Optional(Whole(0, 9)), "shape": ListOf(Whole(), 3)}, {"kind": Exactly(("a", 1))})
FORM = Record({"format": Text(), "version": Whole(), "tensors": ListOf(TENSOR, 4), "by": MapOf(OneOf((Flag(), Number(), Text(3))))})
KIND = Document("test", FORM, TraceError, "write it again", "f", 1)
GOOD: dict[str, Any] = {
    "format": "f",
    "version": 1,
    "tensors": [{"layer": None, "shape": [1, 2]}, {"layer": 3, "shape": [], "kind": "a"}],
    "by": {"x": 1.5},
}


def found(form: Form, value: object) -> str | None:
    try:
        form.check(value)
    except FormError as error:
        return str(error)
    return None


@pytest.mark.contract("ERR-FORM-1")
@pytest.mark.parametrize(("change", "message"), [
    (lambda d: d["tensors"][1].update(layer=10), "tensors[1].layer is 10, expected null or a whole number from 0 to 9"),
    (lambda d: d["tensors"][1].update(layer=True), "tensors[1].layer is true, expected null or a whole number from 0 to 9"),
    (lambda d: d["tensors"][0].update(shape=[1, -1]), "tensors[0].shape[1] is -1, expected a whole number from 0 to 9223372036854775807"),
    (lambda d: d["tensors"][0].update(shape=[1] * 4), "tensors[0].shape is [1, 1, 1, 1], expected a list of at most 3 values"),
    (lambda d: d["tensors"][0].pop("shape"), "tensors[0].shape is missing, expected a list of at most 3 values"),
    (lambda d: d["tensors"].append(None), "tensors[2] is null, expected an object with layer, shape"),
    (lambda d: d["tensors"][0].update(kind=1.0), "tensors[0].kind is 1.0, expected 'a' or 1"),
    (lambda d: d["by"].update({"a b": []}), "by['a b'] is [], expected true or false or a finite number or text of at most 3 characters"),
    (lambda d: d.update(format=3), "format is 3, expected text of at most"),
    (lambda d: d["by"].update(y=10**30), "by.y is 1000000000000000000000000000000, expected true or false or a finite number"),
])  # fmt: skip
def test_an_error_names_the_key_and_what_was_expected(change: Any, message: str) -> None:
    document = copy.deepcopy(GOOD)
    change(document)
    assert str(found(FORM, document)).startswith(message)
    assert found(FORM, GOOD) is None
    assert found(FORM, {**GOOD, "more": object()}) is None  # unknown keys are not looked at


@pytest.mark.contract("ERR-FORM-1")
@pytest.mark.parametrize(("text", "message"), [
    (b"{\xff}", "'utf-8' codec can't decode byte 0xff"),
    (b'{"a": NaN}', "NaN is no number of JSON"),
    (b'{"a": -Infinity}', "-Infinity is no number of JSON"),
    (b'{"a": 1e999}', "'1e999' is beyond the numbers"),
    (b'{"a": 1, "a": 2}', "'a' appears twice in one object"),
    (b'{"a": "\\ud800"}', "holds half a character"),
    (b'{"\\udfff": 1}', "holds half a character"),
    (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 64 deep"),
    (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "more than 64 deep"),
    (b'{"a": ' + b"9" * 10_000 + b"}", "Exceeds the limit"),
    (b"[]", "it is [], expected an object"),
    (b"null", "it is null, expected an object"),
    (b"", "Expecting value"),
])  # fmt: skip
def test_what_is_no_document(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(TraceError) as caught:
        KIND.read(path)
    assert str(caught.value).startswith(f"{path}: not a whole test (")
    assert message in str(caught.value)
    assert str(caught.value).endswith("; write it again")
    assert len(str(caught.value)) < 400 + len(str(path))


def test_characters_and_names_of_files_come_through(tmp_path: Path) -> None:
    """A pair of surrogates is a character; those from DC80 on are how Python writes a name that is no UTF-8."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({**GOOD, "more": "\U0001f600", "name": "\udc80"}))
    assert KIND.read(path)["more"] == "\U0001f600"


def test_another_version_is_told_before_its_form_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"format": "f", "version": 2}))
    with pytest.raises(TraceError, match="x.json: format 'f' version 2, expected 'f' version 1; write it again"):
        KIND.read(path)


# -- the published schemas ----------------------------------------------------------------------------------------------


@pytest.mark.contract("ERR-FORM-1")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schema_is_made_of_the_form(name: str) -> None:
    """Where it is not: python -m tests.support.published_schemas."""
    text = (DOCS / f"{name}.schema.json").read_text(encoding="utf-8")
    assert text == text_of(PUBLISHED[name])
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def spoiled(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place of a document, with what may be put there."""
    yield from ((path, wrong) for wrong in (None, True, -1, 5, 1.5, 2**70, "", "x" * 70, [], {}, [[]], [None], {"a": None}))
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from spoiled(inner, (*path, name))
    elif isinstance(value, list) and value:
        yield from spoiled(value[0], (*path, 0))


@pytest.mark.contract("ERR-FORM-1")
def test_a_schema_says_what_its_form_does() -> None:
    """By an implementation of somebody else's, at every place of a document."""
    validator = jsonschema.Draft202012Validator(FORM.schema())
    refused = 0
    for path, wrong in spoiled(GOOD):
        if not path:
            continue
        document = copy.deepcopy(GOOD)
        holder = document
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = wrong
        problem = found(FORM, document)
        # JSON Schema has no bound for numbers, and ours have 64 bits.
        assert (problem is None) == (not list(validator.iter_errors(document))) or wrong == 2**70, (path, wrong, problem)
        refused += problem is not None
    assert refused > 60
