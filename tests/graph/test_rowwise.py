"""Ops of rows that a family's own file brings, written in NumPy: the reference runs them, and no kernel is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.families import load_family_file, rowwise
from aprgraph.graph.errors import AprgraphError, GraphError
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.outline import small_outline
from tests.support.cli import run_cli
from tests.support.own_families import own_families

FILE = '''
import numpy as np
from aprgraph.families import Llama, rowwise

@rowwise("my_layer_norm", weights=["weight"])
def layer_norm(x, weight, *, eps):
    """LayerNorm (arXiv:1607.06450) without a bias."""
    centred = x - x.mean({axis}, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean({axis}, keepdims=True) + eps) * weight

class Mine(Llama):
    architecture = "mymod"

    def layer(self, g, x, layer):
        if layer == 1:
            x = g.apply("ffn_norm", layer_norm, x, g.weight("ffn_norm", self.hidden), eps=self.eps)
            return g.add("post_ffn_residual", x, self.feed_forward(g, x, layer))
        return super().layer(g, x, layer)
'''


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with own_families():
        yield


@pytest.fixture
def family(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE.replace("{axis}", "-1"))
    return path


@pytest.fixture
def model(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    path = tmp_path / "mine.gguf"
    path.write_bytes(tiny_model().read_bytes().replace(b"llama", b"mymod"))
    return path


def run(model: Path, family: Path, place: Path, *options: object) -> tuple[int, str]:
    result = run_cli(
        "run", model, "--family", family, "--tokens", "1,2,3,4,5", "--taps", "all", "--layers", "0..2", "--ignore",
        r"blk\.1\.attn.*", "-o", place, *options,
    )  # fmt: skip
    return result.code, result.err


def test_the_reference_runs_it(family: Path, model: Path, tmp_path: Path) -> None:
    code, said = run(model, family, tmp_path / "t", "--target", "reference", "--max-tokens", 2, "--steps", "0..2")
    assert code == 0, said
    trace = aprgraph.Trace.open(tmp_path / "t")
    loaded = aprgraph.load(model, ignore=[r"blk\.1\.attn.*"]).model
    weight = loaded.file.tensor_bytes(loaded.tensor("blk.1.ffn_norm.weight")).view("<f4").reshape(-1)
    for step in range(2):
        x = trace.tensor("post_ffn_residual", 0, step).astype(np.float64)
        expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * weight
        np.testing.assert_allclose(trace.tensor("ffn_norm", 1, step), expected, rtol=1e-4, atol=1e-6)
    audit = run_cli("audit", tmp_path / "t", "--model", model, "--ignore", r"blk\.1\.attn.*")
    assert audit.code == 0, audit
    assert "%layer1.ffn_norm = my_layer_norm(%layer0.post_ffn_residual, %blk.1.ffn_norm.weight) {eps = 1e-05}" in str(
        small_outline(load_family_file(family)[0])
    )


@pytest.mark.parametrize(("target", "kernel"), [("llvm", "kernel"), ("cuda", "CUDA kernel")])
def test_there_is_no_kernel_of_it(target: str, kernel: str, family: Path, model: Path, tmp_path: Path) -> None:
    result = run_cli("compile", model, "--family", family, "--target", target, "--ignore", r"blk\.1\.attn.*", "-o", tmp_path / "a.aprg")
    assert (result.code, result.out) == (2, "")
    assert f"no {kernel} for the op 'my_layer_norm'; there are kernels for " in result.err
    assert result.err.endswith("none is needed with --target reference\n")


def test_one_that_looks_at_other_rows_is_an_error(family: Path, model: Path, tmp_path: Path) -> None:
    family.write_text(FILE.replace("{axis}", "0"))
    code, said = run(model, family, tmp_path / "t", "--target", "reference")
    assert code == 2
    assert "mine.py:5) looks at other rows: the last one alone gives something else" in said


def test_its_types_and_columns() -> None:
    @rowwise("rows_test", weights=["weight"], columns=lambda x, y, weight: weight[0])
    def function(x, y, weight, *, flag: bool = False):  # type: ignore[no-untyped-def]
        return (x + y) @ weight.T

    rows, weight = TensorType("f32", ("n", 8)), TensorType("q8_0", (4, 8))
    assert function.result([rows, rows, weight], {}) == TensorType("f32", ("n", 4))
    assert (function.operands, function.attrs, function.defaults) == (("x", "y", "weight"), {"flag": bool}, {"flag": False})
    with pytest.raises(GraphError, match=r"y is f32\[1, 8\], expected f32 with the rows of x, which is f32\[n, 8\]"):
        function.result([rows, TensorType("f32", (1, 8)), weight], {})
    x = np.arange(16.0).reshape(2, 8)
    assert function.reference is not None
    np.testing.assert_array_equal(function.reference([x, x, np.eye(4, 8)], {}), 2 * x[:, :4])
    with pytest.raises(GraphError, match=r"the op 'rows_test' \(.*test_rowwise\.py:\d+\) could not be computed: ValueError: matmul"):
        function.reference([x, x, np.eye(4)], {})


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: rowwise("Rows!")(lambda x: x), "an op is called 'Rows!', expected small letters, digits and underscores"),
        (lambda: rowwise("linear")(lambda x: x), r"two ops are called 'linear': .*test_rowwise\.py:\d+ and one of aprgraph's own"),
        (
            lambda: rowwise("rows_b", weights=["x"])(lambda x: x),
            r"the op 'rows_b' \(.*\): weights names x, expected operands after the first",
        ),
        (
            lambda: rowwise("rows_b")(lambda *x: x),
            r"the op 'rows_b' \(.*\): expected a function of operands, then attributes behind a '\*'",
        ),
    ],
)
def test_what_is_no_declaration_is_refused(declare: Callable[[], object], message: str) -> None:
    with pytest.raises(AprgraphError, match=message):
        declare()
    assert "rows_b" not in OPS


def test_the_same_function_may_be_declared_again() -> None:
    def twice(x: np.ndarray) -> np.ndarray:
        return x + x

    first = rowwise("rows_c")(twice)
    assert rowwise("rows_c")(twice) is first
    with pytest.raises(GraphError, match="two ops are called 'rows_c'"):
        rowwise("rows_c")(lambda x: x)
