"""docs/sweep.schema.json describes what `aprgraph sweep --json` prints."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from aprgraph.sweep.findings import FAILED, FORMAT, MISSING, PAIR_STATES, RUN_STATES, VERSION
from aprgraph.sweep.matrix import AXES, read_matrix
from aprgraph.sweep.store import Store
from tests.support.cli import run_cli
from tests.support.sweeps import swept, write_window_matrix

Tiny = Callable[..., Path]
SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "sweep.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def test_the_schema_is_one_and_names_what_there_is() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert (SCHEMA["properties"]["format"]["const"], SCHEMA["properties"]["version"]["const"]) == (FORMAT, VERSION)
    assert SCHEMA["$defs"]["state"]["enum"] == [*RUN_STATES.values(), *PAIR_STATES.values(), MISSING, FAILED]
    assert SCHEMA["$defs"]["cell"]["properties"]["along"]["enum"] == [*AXES, None]


@pytest.mark.contract("SWEEP-JSON-1")
def test_findings_of_every_state_validate(tiny_model: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "win.gguf").write_bytes(tiny_model(family="gemma3", sliding_window=32).read_bytes())
    more = "targets = ['reference', 'cuda:999']\n"
    matrix = write_window_matrix(tmp_path / "win.gguf", (5, 25), more, along=("overrides", "versions"))
    found, _ = swept(matrix)
    documents = [json.loads(run_cli("sweep", matrix, "--status", "--json").out), found.to_json()]
    # What the audit of a run, and the comparison of two, found of another day.
    # Runs and pairs are counted apart: the order of keys among both is another with each version of the code.
    store = Store(read_matrix(matrix).store)
    codes = {"pair": itertools.cycle((0, 1, 2)), "run": itertools.cycle((0, 1, 3))}
    for key in sorted(store.keys()):
        path = store.place(key) / "cell.json"
        cell = json.loads(path.read_text())
        cell["exit_code"] = next(codes[cell["kind"]])
        path.write_text(json.dumps(cell))
    documents += [json.loads(run_cli("sweep", matrix, "--status", "--json").out)]
    monkeypatch.chdir(tmp_path)
    documents += [json.loads(run_cli("sweep", matrix, "--status", "--json", "--store", "empty").out)]
    for document in documents:
        VALIDATOR.validate(json.loads(json.dumps(document, allow_nan=False)))
    states = {cell["state"] for document in documents for cell in document["cells"]}
    assert states >= {"RIGHT", "WRONG", "UNKNOWN", "ALIKE", "DIVERGED", MISSING, FAILED, "NOTHING MEASURED"}
    assert any(cell["stages"] and cell["since"] for cell in documents[1]["cells"])

    for change in (
        lambda one: one.update(version=2),
        lambda one: one.update(exit_code=4),
        lambda one: one["counts"].update(FINE=1),
        lambda one: one["cells"][0].update(state="FINE"),
        lambda one: one["cells"][0].update(cell="x"),
        lambda one: one["cells"][0].pop("tokens"),
        lambda one: one["stages"][0].update(more=1),
    ):
        wrong = copy.deepcopy(documents[1])
        change(wrong)
        with pytest.raises(ValidationError):
            VALIDATOR.validate(wrong)
