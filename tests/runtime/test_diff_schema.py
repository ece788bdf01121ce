"""docs/diff.schema.json describes what `aprgraph diff --json` prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator, ValidationError

from aprgraph.comparison import diff as compare
from aprgraph.runtime.blame import Verdict
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.report import FORMAT, VERSION
from aprgraph.runtime.diff.tolerances import PROFILES
from tests.support.traces import noisy, trace_model, values, write_bare, write_trace

SCHEMA: dict[str, Any] = json.loads((Path(__file__).parents[2] / "docs" / "diff.schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)


def check(report: DiffReport) -> Any:
    """The report as another program reads it, validated."""
    document = json.loads(json.dumps(report.to_json(), allow_nan=False))
    VALIDATOR.validate(document)
    return document


def test_the_schema_is_one_and_names_what_there_is() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["format"]["const"] == FORMAT
    assert SCHEMA["properties"]["version"]["const"] == VERSION
    assert SCHEMA["properties"]["profile"]["enum"] == list(PROFILES)
    assert SCHEMA["$defs"]["class"]["enum"] == [name.value for name in Class]


@pytest.mark.contract("DIFF-JSON-1")
def test_reports_of_models_validate(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(family="qwen3moe")
    trace_model(tmp_path / "a", path)
    trace_model(tmp_path / "noise", path, noise=5e-7)
    trace_model(tmp_path / "base", path, overrides={"qwen3moe.rope.freq_base": 500.0}, layers=1)
    found = set()
    for other in ("a", "noise", "base"):
        document = check(diff(tmp_path / "a", tmp_path / other, tolerances=["ffn_norm=nmse:1e-9"]))
        found |= set(document["counts"])
        assert len(document["rows"]) > 30
    assert {"IDENTICAL", "NOISE", "INTRODUCED", "PROPAGATED", "UNMEASURED"} <= found


@pytest.mark.contract("DIFF-JSON-1")
def test_reports_with_blame_validate(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(family="qwen3moe")
    trace_model(tmp_path / "a", path)
    trace_model(tmp_path / "b", path, overrides={"qwen3moe.rope.freq_base": 500.0}, layers=1)
    (tmp_path / "b" / "trace.json").unlink()
    document = check(compare(tmp_path / "a", tmp_path / "b", model=path))
    blame = document["blame"]
    verdicts = {item["verdict"] for item in blame["tensors"]}
    assert {"B WRONG", "FOLLOWS", "RIGHT"} <= verdicts == set(blame["counts"])
    assert set(SCHEMA["$defs"]["verdict"]["enum"]) == {verdict.value for verdict in Verdict}
    # q and k after RoPE, and the logits, whose replay goes through the layer that was not recorded.
    assert blame["sides"]["b"]["wrong"] == 3
    assert document["headline"] == blame["sentence"]
    blame["tensors"][0]["a"]["state"] = "GUILTY"
    with pytest.raises(ValidationError):
        VALIDATOR.validate(document)


@pytest.mark.contract("DIFF-JSON-1")
def test_reports_of_every_oddity_validate(tmp_path: Path) -> None:
    x, scores = values(3, 8), np.array([[3, 2, 1], [3, 2, 1], [3, 2, 2]], np.float32)
    ids = np.array([[0, 1], [0, 1], [0, 1]], np.float32)
    other = np.array([[0, 2], [1, 0], [0, np.nan]], np.float32)
    nan = x.copy()
    nan[0, 0] = np.nan
    nothing = np.full((1, 8), np.nan, np.float32)
    a = {(0, "ffn_up"): x, (0, "ffn_gate"): x, (0, "moe_router_indices"): ids, (0, "moe_router_logits"): scores, (None, "lm_head"): x[-1:]}
    write_trace(tmp_path / "a", {**a, (0, "ffn_out"): x, (0, "attn_out"): x, (1, "ffn_up"): x})
    b = {
        (0, "ffn_up"): nan,
        (0, "ffn_gate"): x.T,
        (0, "moe_router_indices"): other,
        (0, "moe_router_logits"): scores,
        (None, "lm_head"): nothing,
    }
    write_trace(tmp_path / "b", {**b, (0, "ffn_out"): x * 0, (0, "attn_out"): noisy(x, 1e-7)})
    write_bare(tmp_path / "bare", {(0, "ffn_up"): x, (0, "moe_router_indices"): ids})
    write_bare(tmp_path / "bare2", {(0, "ffn_up"): -x, (0, "moe_router_indices"): other})
    write_trace(tmp_path / "elsewhere", {(9, "ffn_up"): x})
    documents = [
        check(diff(tmp_path / one, tmp_path / two))
        for one, two in [("a", "b"), ("b", "a"), ("a", "bare"), ("bare", "bare2"), ("a", "elsewhere")]
    ]
    assert {"NAN", "SHAPE", "INTRODUCED", "NOISE", "UNMEASURED"} <= set(documents[0]["counts"])
    assert documents[4]["exit_code"] == 3
    choices = next(row for row in documents[0]["rows"] if row["kind"] == "ids")["metrics"]["choices"]
    assert {choice["state"] for choice in choices} == {"unexplained"}


@pytest.mark.contract("DIFF-JSON-1")
def test_the_schema_refuses_what_is_not_a_report(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", {(0, "ffn_up"): values(3, 8)})
    document = check(diff(tmp_path / "a", tmp_path / "a"))
    for path, wrong in (
        (("version",), 1),
        (("exit_code",), 2),
        (("rows", 0, "class"), "FINE"),
        (("rows", 0, "limit"), None),
        (("rows", 0, "metrics", "count"), -1),
        (("rows", 0, "metrics"), None),
        (("rows", 0, "surprise"), 1),
    ):
        broken = json.loads(json.dumps(document))
        target = broken
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = wrong
        with pytest.raises(ValidationError):
            VALIDATOR.validate(broken)
