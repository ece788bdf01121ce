"""apr's own document of two APRT files, by the numbers of its own tests and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.runtime.trace.aprt import write_aprt
from tests.support.cli import run_cli
from tests.support.traces import values


def document(tmp_path: Path, a: Any, b: Any, *options: object, layer: int | None = 3) -> dict[str, Any]:
    for name, data in (("a.bin", a), ("b.bin", b)):
        write_aprt(tmp_path / name, layer, np.asarray(data, np.float32))
    result = run_cli("diff", tmp_path / "a.bin", tmp_path / "b.bin", "--apr-json", *options)
    assert (result.code, result.err) == (0, "")
    found: dict[str, Any] = json.loads(result.out)
    return found


@pytest.mark.contract("DIFF-APR-1")
def test_the_numbers_of_aprs_own_tests(tmp_path: Path) -> None:
    found = document(tmp_path, [1, 2, 3, 4], [1, 2.5, 3, 4])
    assert list(found) == [
        "schema", "path_a", "path_b", "layer", "dim_product", "max_abs_diff", "max_abs_diff_index", "rms_diff", "cosine_sim", "top_diffs",
    ]  # fmt: skip
    assert found == {
        "schema": "apr-stage-diff-v1", "path_a": f"{tmp_path}/a.bin", "path_b": f"{tmp_path}/b.bin", "layer": 3, "dim_product": 4,
        "max_abs_diff": 0.5, "max_abs_diff_index": 1, "rms_diff": 0.25, "cosine_sim": pytest.approx(31 / math.sqrt(30 * 32.25), rel=1e-15),
        "top_diffs": [
            {"index": 1, "a": 2.0, "b": 2.5, "abs_diff": 0.5}, *({"index": i, "a": i + 1.0, "b": i + 1.0, "abs_diff": 0.0} for i in (0, 2, 3)),
        ],
    }  # fmt: skip
    found = document(tmp_path, [0] * 5, [0.1, 0.5, -0.3, 0.05, 0.2], "--top", 3, layer=None)
    assert [one["index"] for one in found["top_diffs"]] == [1, 2, 4]
    assert (found["layer"], found["cosine_sim"], found["top_diffs"][1]["b"]) == ("whole-model", 0.0, -0.3)


@pytest.mark.contract("DIFF-APR-1")
def test_equal_files_and_what_is_not_finite(tmp_path: Path) -> None:
    tensor = values(64)
    found = document(tmp_path, tensor, tensor)
    assert (found["max_abs_diff"], found["max_abs_diff_index"], found["rms_diff"]) == (0.0, 0, 0.0)
    assert found["cosine_sim"] == pytest.approx(1, abs=1e-15)
    found = document(tmp_path, [np.nan, 1, 2], [0, 1, 4])
    assert (found["max_abs_diff"], found["max_abs_diff_index"], found["rms_diff"]) == (2.0, 2, None)
    assert found["top_diffs"][-1] == {"index": 0, "a": None, "b": 0.0, "abs_diff": None}
    assert document(tmp_path, [], [])["top_diffs"] == []


def test_what_apr_refuses_is_refused(tmp_path: Path) -> None:
    write_aprt(tmp_path / "a.bin", 0, values(3))
    write_aprt(tmp_path / "b.bin", 1, values(3))
    write_aprt(tmp_path / "c.bin", 0, values(4))
    for other, options, message in (
        ("b.bin", (), "is of layer 0 and"),
        ("c.bin", (), "has 3 elements and"),
        ("a.bin", ("--json",), "--json and --apr-json exclude each other"),
        (".", (), "a directory, and --apr-json is of two APRT files"),
        ("d.bin", (), "cannot be read: No such file or directory"),
    ):
        result = run_cli("diff", tmp_path / "a.bin", tmp_path / other, "--apr-json", *options)
        assert result.code == 2
        assert message in result.err
        assert result.err.count("\n") == 1
