"""Experts that lie one by one, as conversion to GGUF wrote them before April 2024."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.runtime.check import check
from tests.graph.test_loading import logits
from tests.support.blame import traced
from tests.support.cli import fails, files_under
from tests.support.gguf_copy import Copied, copy_in_parts

Tiny = Callable[..., Path]
EXPERTS = 4
#: Gives the numbers, or bytes, of a tensor by its name; None to leave it out.
Change = Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any] | None]


def apart(model: Path, path: Path, tensors: int = 0, change: Change = lambda _, values: values) -> list[Path]:
    """A copy of a model whose experts lie one by one, of each expert gate, up and down beside each other; the files."""

    def split(whole: Sequence[Copied]) -> list[Copied]:
        single = [one for one in whole if "_exps." not in one[0]]
        for expert in range(EXPERTS):
            single += [(name.replace("_exps.", f".{expert}."), data[expert], kind) for name, data, kind in whole if "_exps." in name]
        return [(name, values, kind) for name, data, kind in single if (values := change(name, data)) is not None]

    return copy_in_parts(model, path, tensors, change=split)


@pytest.fixture
def mixtral(tiny_model: Tiny) -> Callable[[str], Path]:
    def write(fmt: str) -> Path:
        return tiny_model(family="llama", experts=EXPERTS, format=fmt, formats={"ffn_up_exps.weight": "Q8_0"}, layers=2)

    return write


@pytest.mark.contract("LOAD-FORMS-1")
@pytest.mark.parametrize("fmt", ["F32", "Q4_0"])
def test_a_file_is_what_it_is_with_its_experts_together(fmt: str, mixtral: Callable[[str], Path], tmp_path: Path) -> None:
    together = mixtral(fmt)
    [single] = apart(together, tmp_path / "single.gguf")
    assert logits(single) == logits(together)
    assert "23 tensors are identical" in aprgraph.weights(together, single).sentence
    report = check(single)
    assert (report.exit_code, report.tensors) == (0, 23)
    assert [finding.rule.code for finding in report.findings] == ["template-absent"]


@pytest.mark.contract("LOAD-FORMS-1")
def test_kernels_read_each_expert_where_it_lies(mixtral: Callable[[str], Path], tmp_path: Path) -> None:
    """The trace has the bytes of that of the file with all experts together, but for what names the file."""
    files: list[Mapping[str, bytes]] = []
    for name, model in (("a", mixtral("Q4_0")), ("b", *apart(mixtral("Q4_0"), tmp_path / "single.gguf"))):
        aprgraph.load(model).compile().run("moe_expert_gate,moe_expert_out,lm_head", "0..2", tokens=(3, 1, 4), directory=tmp_path / name)
        files.append({path: data for path, data in files_under(tmp_path / name).items() if path.endswith(".bin")})
    assert files[0] == files[1]
    assert len(files[0]) == 5


@pytest.mark.contract("LOAD-FORMS-1")
def test_experts_may_lie_in_several_parts(mixtral: Callable[[str], Path], tmp_path: Path) -> None:
    parts = apart(mixtral("Q4_0"), tmp_path / "m.gguf", 15)
    assert len(parts) == 3
    assert logits(parts[1]) == logits(mixtral("Q4_0"))
    trace = traced(tmp_path / "trace", parts[0])
    assert aprgraph.audit(trace, parts[2]).exit_code == 0


@pytest.mark.contract("LOAD-TENSORS-1")
def test_experts_that_make_no_tensor_are_an_error(mixtral: Callable[[str], Path], tmp_path: Path) -> None:
    lost = "blk.1.ffn_up.2.weight"
    [incomplete] = apart(mixtral("F32"), tmp_path / "m.gguf", change=lambda name, values: None if name == lost else values)
    said = fails("run", incomplete, "--tokens", "1", "--target", "reference")
    assert "'blk.1.ffn_up_exps.weight' of 4 x 96 x 64 is missing; experts lie one by one ('blk.1.ffn_up.0.weight'), as conversion" in said
    assert said.endswith("and 3 of 4 are there; get the file again, or convert the model again")
    [uneven] = apart(mixtral("F32"), tmp_path / "n.gguf", change=lambda name, values: values[:-1] if name == lost else values)
    said = fails("run", uneven, "--tokens", "1", "--target", "reference")
    assert said.endswith(
        "not alike: 'blk.1.ffn_up.0.weight' is 96 x 64 Q8_0 and 'blk.1.ffn_up.2.weight' is 95 x 64 Q8_0; convert the model again"
    )


@pytest.mark.contract("LOAD-TENSORS-1")
def test_a_hole_in_one_of_them_is_said_without_bytes_that_are_not_its_own(mixtral: Callable[[str], Path], tmp_path: Path) -> None:
    def hole(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        copy = values.copy()
        if name == "blk.1.ffn_down.2.weight":
            copy.reshape(-1)[500:2500] = 0
        return copy

    [model] = apart(mixtral("F32"), tmp_path / "m.gguf", change=hole)
    [finding] = [one for one in check(model).findings if one.rule.code == "weight-hole"]
    assert finding.text == "expert 2: 8,000 bytes, from row 5 to row 26"
