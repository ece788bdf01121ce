"""Large traces are compared by several processes: the report is that of one. In a process of its own, to be forked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.support.traces import write_trace

RNG = np.random.default_rng(3)
STAGES = ("attn_norm", "attn_out", "ffn_norm", "ffn_gate", "ffn_up", "ffn_out")

_BEGIN = """
import os
from unittest import mock
from aprgraph.graph import forks
from aprgraph.graph.errors import TraceError
from aprgraph.runtime.diff import diff, pair_rules
from aprgraph.runtime.diff.measure import Measurer

mock.patch.object(forks, "threads", return_value=3).start()
mock.patch.object(pair_rules, "_LARGE", 0).start()
"""


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    values = {(layer, stage): RNG.standard_normal((4, 64)).astype(np.float32) for layer in range(3) for stage in STAGES}
    wrong = {key: value.copy() for key, value in values.items()}
    wrong[1, "ffn_gate"][2, 5] += 1
    for name, tensors in (("a", values), ("b", wrong)):
        write_trace(tmp_path / name, tensors, tokens=(1, 2, 3, 4))
    return tmp_path / "a", tmp_path / "b"


def _run(folder: Path, script: str) -> None:
    command = [sys.executable, "-c", _BEGIN + textwrap.dedent(script)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_report_is_the_same(sides: tuple[Path, Path]) -> None:
    _run(
        sides[0].parent,
        f"""
        one_by_one, labels, parent, measure = diff("a", "b").to_json(), [], os.getpid(), Measurer.measure
        def measure_in_a_fork(self, pair):
            assert os.getpid() != parent
            return measure(self, pair)
        mock.patch.object(Measurer, "measure", measure_in_a_fork).start()
        together = diff("a", "b", progress=lambda done, total, label: labels.append(label), forks=True).to_json()
        assert together == one_by_one
        assert len(labels) == len(set(labels)) == {3 * len(STAGES)}
        """,
    )


def test_the_first_file_that_cannot_be_read_is_named(sides: tuple[Path, Path]) -> None:
    for layer in (2, 1):
        (sides[0] / f"layer-{layer}" / "attn_out.bin").write_bytes(b"APRT")
    _run(
        sides[0].parent,
        """
        try:
            diff("a", "b", forks=True)
        except TraceError as error:
            assert "layer-1/attn_out.bin" in str(error), error
        else:
            raise SystemExit("nothing was raised")
        """,
    )
