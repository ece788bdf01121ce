"""Contracts and tests fit each other: each file has the form of the schema, each falsifier a test, each marked test a falsifier."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from aprgraph.contract_files import FOLDER, SCHEMA, find_gaps, load_contracts
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.stages import STAGE_ALIASES, STAGE_BY_NAME
from tests.plugin_contracts import COLLECTION

CHECKOUT = Path(__file__).resolve().parents[2]
FILES = sorted((CHECKOUT / FOLDER).glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(json.loads((CHECKOUT / FOLDER / SCHEMA).read_text(encoding="utf-8")))
GOOD = yaml.safe_load((CHECKOUT / FOLDER / "aprt.yaml").read_text(encoding="utf-8"))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_the_form_of_the_schema(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


def test_the_schema_refuses_other_forms() -> None:
    first = GOOD["falsifiers"][0]
    wrong = [
        {**GOOD, "owner": "me"},
        {key: value for key, value in GOOD.items() if key != "source"},
        {**GOOD, "falsifiers": []},
        {**GOOD, "source": "graph/stages.py"},
        {**GOOD, "falsifiers": [{**first, "id": "header"}]},
        {**GOOD, "falsifiers": [{**first, "test": "test_header"}]},
        {**GOOD, "falsifiers": [{"id": first["id"], "rule": first["rule"]}]},
    ]
    VALIDATOR.validate(GOOD)
    assert [VALIDATOR.is_valid(document) for document in wrong] == [False] * len(wrong)


def test_every_source_is_there() -> None:
    for contract in load_contracts(CHECKOUT):
        module, _, attribute = contract.source.partition(":")
        assert hasattr(importlib.import_module(module), attribute), contract.source


@pytest.mark.contract("STAGES-SINGLE-1")
def test_no_contract_repeats_the_stage_table() -> None:
    names = [name for name in (*STAGE_BY_NAME, *STAGE_ALIASES) if "_" in name]  # the others are words of English
    assert len(names) > 20
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert [name for name in names if name in text] == [], path.name


def test_every_falsifier_has_a_test_and_every_marked_test_a_falsifier(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Of the whole suite, whatever part of it is being run."""
    gaps = find_gaps(load_contracts(CHECKOUT), _marks(request.config, tmp_path))
    assert not gaps, "\n".join(gaps)


def _marks(config: pytest.Config, folder: Path) -> dict[str, list[str]]:
    """The falsifiers that each test names: of all tests, as this process has collected them, or else another does."""
    files = {path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tests").rglob("test_*.py")}
    if files <= config.stash[COLLECTION].files and not any("::" in argument for argument in config.args):
        return config.stash[COLLECTION].marks
    marks = folder / "marks.json"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", f"--contract-marks={marks}", "tests"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[str]] = json.loads(marks.read_text(encoding="utf-8"))
    return found


def test_gaps_are_named() -> None:
    (contract,) = [contract for contract in load_contracts(CHECKOUT) if contract.id == "PRUNE"]
    ids = [falsifier.id for falsifier in contract.falsifiers]
    assert find_gaps([contract], {"test_a": ids[:2], "test_b": ids[2:]}) == []
    assert find_gaps([contract], {"test_a": [*ids[1:], "PRUNE-SEED-1"], "test_b": []}) == [
        f"falsifier {ids[0]} has no test",
        "test_a names PRUNE-SEED-1, which no contract has",
        "test_b is marked and names no falsifier",
    ]


BROKEN = {
    "not yaml": ("id: [", "a.yaml: not a contract"),
    "a list": ("- id: A", "a.yaml: not a contract"),
    "not text": ("id: 7\ntitle: t\nstatement: s\nsource: x\nfalsifiers: []", "expected text, found 7"),
    "no falsifiers": ("id: A\ntitle: t\nstatement: s\nsource: x", "a.yaml: not a contract (KeyError: 'falsifiers')"),
    "other keys": ("id: A\ntitle: t\nfalsifiers: []\nowner: me", "a.yaml: not a contract (TypeError"),
    "id of another contract": (
        "id: A\ntitle: t\nstatement: s\nsource: x\nfalsifiers: [{id: B-X-1, rule: r, prediction: p}]",
        "falsifier 'B-X-1' of contract A, expected an id that begins with A-",
    ),
    "id twice": (
        "id: A\ntitle: t\nstatement: s\nsource: x\nfalsifiers: [{id: A-X-1, rule: r, prediction: p}, {id: A-X-1, rule: q, prediction: p}]",
        "the id A-X-1 is there twice",
    ),
    "nothing": (None, "holds no contract"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_one_clear_error(tmp_path: Path, case: str) -> None:
    text, message = BROKEN[case]
    folder = tmp_path / FOLDER
    folder.mkdir()
    if text is not None:
        (folder / "a.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(AprgraphError) as caught:
        load_contracts(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
