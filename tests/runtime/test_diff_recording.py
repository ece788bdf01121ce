"""What another program recorded in another form is told from what it computed otherwise, from the values alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.comparison import diff as compare
from aprgraph.runtime.diff import Class, DiffReport, diff
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import run_cli
from tests.support.traces import Tensor, noisy, trace_model, values, write_bare, write_trace

TOKENS = (3, 1, 4, 1, 5, 9, 2)
Key = tuple[int | None, str]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> Trace:
    return trace_model(tmp_path_factory.mktemp("recording") / "ours", tiny_model(layers=3), layers=3, tokens=TOKENS, noise=2e-7)


def theirs(directory: Path, ours: Trace, change: Callable[[int | None, str, Tensor], Tensor | None], *, manifest: bool = False) -> Path:
    """As another program dumps it: each tensor as ``change`` has it, None for those that it lacks."""
    tensors: dict[Key, Tensor] = {}
    for number, entry in enumerate(ours.entries):
        changed = change(entry.layer, entry.stage, noisy(ours.load(entry), 2e-7, seed=number))
        if changed is not None:
            tensors[entry.layer, entry.stage] = np.ascontiguousarray(changed, np.float32)
    if manifest:
        return write_trace(directory, tensors, tokens=TOKENS, graph="").directory
    return write_bare(directory, tensors)


def causal(n: int) -> Tensor:
    return np.tril(np.ones((n, n), bool))


def heads_first(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1, 16).transpose(1, 0, 2)


def as_halves(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1, 8, 2).swapaxes(2, 3).reshape(x.shape)


CHANGES: Mapping[str, tuple[tuple[str, ...], Callable[[Tensor], Tensor], str]] = {
    "before the scale": (("attn_scores",), lambda x: x * 4.0, "4 times as large, as before its scale"),
    "-inf": (("attn_scores",), lambda x: np.where(causal(len(TOKENS)), x, -np.inf), "-inf at masked places"),
    "finfo.min": (("attn_scores",), lambda x: np.where(causal(len(TOKENS)), x, np.finfo(np.float32).min), "-3.403e+38 at masked places"),
    "NaN": (("attn_scores",), lambda x: np.where(causal(len(TOKENS)), x, np.nan), "NaN at masked places"),
    "-1e9 before the scale": (("attn_scores",), lambda x: np.where(causal(len(TOKENS)), 4 * x, -1e9), "-1e+09 at masked places, 4 times"),
    "heads first": (("q_post_rope",), heads_first, "heads first, as [H, n, D]"),
    "transposed": (("ffn_gate",), lambda x: x.T, "transposed"),
    "halves": (("q_post_rope", "k_post_rope"), as_halves, "with RoPE's pairs as halves"),
    "doubled": (("ffn_up",), lambda x: -x, "with the opposite sign"),
}  # fmt: skip


@pytest.mark.contract("DIFF-RECORDING-1")
@pytest.mark.parametrize("name", CHANGES)
def test_another_form_is_the_recording_where_what_follows_agrees(tmp_path: Path, ours: Trace, name: str) -> None:
    stages, change, words = CHANGES[name]
    manifest = len(name) % 2 == 0
    other = theirs(tmp_path / "theirs", ours, lambda _, stage, x: change(x).reshape(x.shape) if stage in stages else x, manifest=manifest)
    for swap in (False, True):
        report = diff(*((other, ours) if swap else (ours, other)))
        assert report.exit_code == 0, report.verdict
        found = {row.key[2] for row in report.rows if row.classification is Class.OTHER_FORM}
        assert found == set(stages)
        assert len([row for row in report.rows if row.classification is Class.OTHER_FORM]) == 3 * len(stages)
        side = "theirs (A)" if swap else "theirs (B)"
        assert (
            f"This looks like the recording, not the computation: {side} has {' and '.join(stages)} of 3 layers recorded {words}"
            in report.verdict
        )
        assert report.verdict.startswith("Alike: all 51 compared tensors agree")


@pytest.mark.contract("DIFF-RECORDING-2")
def test_a_factor_that_was_computed_is_no_recording(tmp_path: Path, tiny_model: Callable[..., Path], ours: Trace) -> None:
    """Scores without their scale, and the softmax of those."""

    def unscaled(layer: int | None, stage: str, x: Tensor) -> Tensor:
        if stage not in ("attn_scores", "attn_softmax"):
            return x
        scores = np.where(causal(len(TOKENS)), 4 * ours.tensor("attn_scores", layer), -np.inf)
        if stage == "attn_scores":
            return np.where(causal(len(TOKENS)), scores, 0)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return weights / weights.sum(axis=-1, keepdims=True)

    report = diff(ours, theirs(tmp_path / "theirs", ours, unscaled))
    assert report.exit_code == 1
    assert report.verdict.startswith("Diverged: first at layer 0 attn_scores")
    assert not [row for row in report.rows if row.classification is Class.OTHER_FORM]
    assert "or B is recorded 4 times as large, as before its scale: what is computed from it does not agree" in report.verdict


@pytest.mark.contract("DIFF-RECORDING-2")
def test_what_nothing_bears_out_stays_divergent(tmp_path: Path, ours: Trace) -> None:
    """Nothing was recorded after the logits, and norms take a factor away."""
    logits = theirs(tmp_path / "logits", ours, lambda _, stage, x: 2 * x if stage == "lm_head" else x)
    assert diff(ours, logits).exit_code == 1
    alone = theirs(
        tmp_path / "alone",
        ours,
        lambda _, stage, x: 3 * x if stage == "post_ffn_residual" else x if stage in ("attn_norm", "final_norm") else None,
    )
    report = diff(ours, alone)
    assert report.exit_code == 1
    assert "or B is recorded 3 times as large" in report.verdict
    silent = theirs(
        tmp_path / "silent", ours, lambda _, stage, x: 4 * x if stage == "attn_scores" else None if stage == "attn_softmax" else x
    )
    # The nearest that was measured after it is the product with v, which agrees.
    assert diff(ours, silent).exit_code == 0


@pytest.mark.contract("DIFF-RECORDING-2")
@pytest.mark.parametrize(("witness", "tells"), [("attn_softmax", True), ("attention", True), ("lm_head", False), ("final_norm", False)])
def test_scores_at_masked_places_are_borne_out_by_what_reads_masked_positions(
    tmp_path: Path, ours: Trace, witness: str, tells: bool
) -> None:
    """The last position sees all others anyway, and so does what was recorded of it alone."""

    def seen(layer: int | None, stage: str, x: Tensor) -> Tensor | None:
        if stage == "attn_scores" and layer == 2:
            return np.where(causal(len(TOKENS)), x, 1 + values(*x.shape))
        return None if layer not in (2, None) or stage != witness else x[-1:] if stage == "final_norm" else x

    report = diff(ours, theirs(tmp_path / "theirs", ours, seen, manifest=True))
    assert report.exit_code == (0 if tells else 1), report.verdict
    if not tells:
        assert "or B is recorded masked places holding scores too, as before the mask" in report.verdict


@pytest.mark.contract("DIFF-RECORDING-2")
@pytest.mark.parametrize(("witness", "tells"), [("moe_router_indices", False), ("moe_expert_gate", False), ("moe_router", True)])
def test_a_choice_of_experts_cannot_tell_a_factor(tmp_path: Path, witness: str, tells: bool) -> None:
    """Larger logits choose the same experts with other weights."""
    x = values(4, 6)
    order = np.argsort(-x, axis=1)[:, :2].astype(np.float32)
    after = {"moe_router_indices": order, "moe_expert_gate": values(4, 2, 3), "moe_router": values(4, 2, seed=1)}[witness]
    a = {(0, "ffn_norm"): values(4, 5), (0, "moe_router_logits"): x, (0, witness): after}
    sides = [
        write_trace(tmp_path / name, a | {(0, "moe_router_logits"): x * size}, tokens=(1, 2, 3, 4)) for name, size in (("a", 1), ("b", 2))
    ]
    report = diff(*sides)
    assert report.exit_code == (0 if tells else 1), report.verdict


@pytest.mark.contract("DIFF-RECORDING-2")
def test_neither_norms_nor_picked_tokens_nor_a_softmax_of_one_can_tell_a_factor(tmp_path: Path) -> None:
    """The norm was not recorded, but lies between; the next token is the largest logit's."""
    x, q = values(4, 6), values(4, 18, seed=1)
    hidden = {(0, "post_ffn_residual"): x, (1, "qkv_matmul"): q}
    picked = {(None, "lm_head"): values(9), (0, "embedding", 1): values(1, 6)}
    one = {(0, "attn_scores"): values(2, 1, 1), (0, "attn_softmax"): values(2, 1, 1) * 0 + 1}
    for name, tensors, key, count in (
        ("hidden", hidden, (0, "post_ffn_residual"), 4),
        ("picked", picked, (None, "lm_head"), 4),
        ("one", one, (0, "attn_scores"), 1),
    ):
        tokens = tuple(range(count))
        a = write_trace(tmp_path / f"{name}-a", tensors, tokens=tokens)
        b = write_trace(tmp_path / f"{name}-b", {**tensors, key: tensors[key] * 2}, tokens=tokens)
        report = diff(a, b)
        assert report.exit_code == 1, report.verdict
        assert "or B is recorded 2 times as large" in report.verdict


@pytest.mark.contract("DIFF-RECORDING-2")
@pytest.mark.parametrize("fault", ["noise", "one head", "one position", "another tensor"])
def test_faults_have_no_reading(tmp_path: Path, ours: Trace, fault: str) -> None:
    """Though nothing that follows differs."""

    def wrong(layer: int | None, stage: str, x: Tensor) -> Tensor:
        if (layer, stage) != (1, "q_post_rope"):
            return x
        broken = x.copy()
        if fault == "noise":
            broken = noisy(x, 1e-3)
        elif fault == "one head":
            broken[:, :16] *= 2
        elif fault == "one position":
            broken[3] = x[2]
        else:
            broken = ours.tensor("q_post_rope", 2)
        return broken

    report = diff(ours, theirs(tmp_path / "theirs", ours, wrong))
    assert [(first.key[1], first.key[2]) for first in report.first] == [(1, "q_post_rope")]
    assert report.exit_code == 1


@pytest.mark.contract("DIFF-RECORDING-1")
def test_a_fault_behind_another_form_is_still_found(tmp_path: Path, ours: Trace) -> None:
    def both(layer: int | None, stage: str, x: Tensor) -> Tensor:
        return 4 * x if stage == "attn_scores" else noisy(x, 1e-2) if (layer, stage) == (1, "ffn_out") else x

    report = diff(ours, theirs(tmp_path / "theirs", ours, both))
    assert [(first.key[1], first.key[2]) for first in report.first] == [(1, "ffn_out")]
    assert report.exit_code == 1
    assert "attn_scores of 3 layers recorded 4 times as large" in report.verdict


def shifted(directory: Path, ours: Trace, name: str) -> Path:
    moved: dict[Key, Tensor] = {}
    for entry in ours.entries:
        key: Key | None = (entry.layer, entry.stage)
        if name == "layers from 1" and entry.layer is not None and entry.stage != "embedding":
            key = (entry.layer + 1, entry.stage)
        elif name == "hidden states":
            key = {"embedding": (0, "post_ffn_residual"), "final_norm": (3, "post_ffn_residual")}.get(entry.stage)
            if entry.stage == "post_ffn_residual" and entry.layer is not None and entry.layer < 2:
                key = (entry.layer + 1, "post_ffn_residual")
        elif name == "last one normed":
            key = {(None, "final_norm"): (2, "post_ffn_residual"), (2, "post_ffn_residual"): None}.get((entry.layer, entry.stage), key)
        if key is not None:
            moved[key] = ours.load(entry)
    return write_bare(directory, moved)


@pytest.mark.contract("DIFF-RECORDING-3")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("layers from 1", "its layers are counted from 1"),
        ("hidden states", "counted from the embedding"),
        ("last one normed", "after the final norm"),
    ],
)
def test_other_places_are_the_recording_where_all_agrees_there(tmp_path: Path, ours: Trace, name: str, words: str) -> None:
    other = shifted(tmp_path / "theirs", ours, name)
    for sides in ((ours, other), (other, ours.directory)):
        report = diff(*sides)
        assert report.exit_code == 0, report.verdict
        assert "This looks like the recording, not the computation: of theirs (" in report.verdict
        assert words in report.verdict
    page = tmp_path / "page.html"
    result = run_cli("diff", ours.directory, other, "--html", page)
    assert (result.code, page.exists()) == (0, True)


@pytest.mark.contract("DIFF-RECORDING-3")
def test_a_fault_in_every_layer_is_no_shift(tmp_path: Path, ours: Trace, tiny_model: Callable[..., Path]) -> None:
    other = trace_model(tmp_path / "theirs", tiny_model(layers=3, seed=1), layers=3, tokens=TOKENS)
    (other.directory / "trace.json").unlink()
    report = diff(ours, other.directory)
    assert report.exit_code == 1
    assert "recording" not in report.verdict


@pytest.mark.contract("DIFF-RECORDING-3")
@pytest.mark.parametrize("fault", ["NaN", "zeros", "the layer before"])
def test_what_is_there_twice_holds_the_same(tmp_path: Path, ours: Trace, fault: str) -> None:
    """The last hidden state may be the normed one, which is there already; it is left out for nothing else."""

    def last(x: Tensor) -> Callable[[int | None, str, Tensor], Tensor]:
        return lambda layer, stage, right: x if (layer, stage) == (2, "post_ffn_residual") else right

    normed = diff(ours, theirs(tmp_path / "normed", ours, last(ours.tensor("final_norm", None))))
    assert normed.exit_code == 0, normed.verdict
    x = ours.tensor("post_ffn_residual", 2)
    wrong = {"NaN": x * np.nan, "zeros": x * 0, "the layer before": ours.tensor("post_ffn_residual", 1)}[fault]
    report = diff(ours, theirs(tmp_path / "theirs", ours, last(wrong), manifest=True))
    assert report.exit_code == 1
    assert [first.key for first in report.first] == [(0, 2, "post_ffn_residual")]


@pytest.mark.contract("DIFF-RECORDING-3")
@pytest.mark.parametrize("fault", ["no residual", "zeros", "its input"])
def test_a_first_layer_alone_is_no_hidden_state_before_it(tmp_path: Path, ours: Trace, fault: str) -> None:
    """Nothing behind it was recorded that could bear out that it is the embedding."""
    out = ours.tensor("ffn_out", 0)
    wrong = {"no residual": out, "zeros": out * 0, "its input": ours.tensor("embedding", 0)}[fault]
    tensors = {(e.layer, e.stage): ours.load(e) for e in ours.entries if e.layer == 0} | {(0, "post_ffn_residual"): wrong}
    report = diff(ours, write_bare(tmp_path / "theirs", tensors))
    assert report.exit_code == 1
    assert [first.key for first in report.first] == [(0, 0, "post_ffn_residual")]


def repeated(x: Tensor) -> Tensor:
    """Keys [n, 2*16] as engines repeat them for 4 query heads."""
    return x.reshape(len(x), 2, 16).repeat(2, axis=1).reshape(len(x), -1)


@pytest.mark.contract("DIFF-RECORDING-1")
@pytest.mark.parametrize("manifest", [False, True])
def test_keys_repeated_for_their_query_heads_are_read_once(tmp_path: Path, ours: Trace, manifest: bool) -> None:
    def keys(change: Callable[[Tensor], Tensor]) -> Callable[[int | None, str, Tensor], Tensor]:
        return lambda _, stage, x: change(x) if stage == "k_post_rope" else x

    other = theirs(tmp_path / "theirs", ours, keys(repeated), manifest=manifest)
    for sides in ((ours, other), (other, ours.directory)):
        report = diff(*sides)
        assert report.exit_code == 0, report.verdict
        assert (
            "k_post_rope hold each KV head as many times as query heads share it (3 tensors), of which one of each is read"
            in report.verdict
        )
        assert "recording, not the computation" in report.verdict
    swapped = theirs(tmp_path / "swapped", ours, keys(lambda x: repeated(x.reshape(len(x), 2, 16)[:, ::-1])), manifest=manifest)
    report = diff(ours, swapped)
    assert [(first.key[1], first.key[2]) for first in report.first][:1] == [(0, "k_post_rope")]
    assert report.exit_code == 1
    tiled = theirs(tmp_path / "tiled", ours, keys(lambda x: np.concatenate([x, x], axis=1)), manifest=manifest)
    assert diff(ours, tiled).exit_code == 1, "which head stands where is another matter"


def test_tensors_in_each_others_place_are_named_so(tmp_path: Path, ours: Trace) -> None:
    """It stays a divergence: whoever multiplies by the other matrix holds the same."""
    exchange = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}
    other = theirs(tmp_path / "theirs", ours, lambda layer, stage, x: ours.tensor(exchange[stage], layer) if stage in exchange else x)
    for swap in (False, True):
        report = diff(*((other, ours) if swap else (ours, other)))
        side = "A" if swap else "B"
        assert report.exit_code == 1
        assert f"; or {side} holds ffn_up there" in (report.row((0, 0, "ffn_gate")).reason or "")
        assert f"; or {side} holds ffn_gate there" in (report.row((0, 0, "ffn_up")).reason or "")


def test_with_the_model_the_same_is_said(tmp_path: Path, ours: Trace, tiny_model: Callable[..., Path]) -> None:
    other = theirs(tmp_path / "theirs", ours, lambda _, stage, x: 4 * x if stage == "attn_scores" else x, manifest=True)
    report: DiffReport = compare(ours, other, model=tiny_model(layers=3))
    assert report.exit_code == 0, report.headline


def test_two_bare_traces_are_read_by_the_letters_of_the_table(tmp_path: Path) -> None:
    x = values(4, 6)
    a = {(0, "ffn_norm"): values(4, 5), (0, "ffn_gate"): x, (0, "ffn_silu"): np.tanh(x)}
    write_trace(tmp_path / "a", a, tokens=(1, 2, 3, 4), graph="")
    write_bare(tmp_path / "b", {**a, (0, "ffn_gate"): x.T})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.row((0, 0, "ffn_gate")).classification is Class.OTHER_FORM
    assert report.row((0, 0, "ffn_gate")).remark == "B is recorded transposed"


def _at_hidden(x: Tensor, fill: float) -> Tensor:
    return np.where(causal(x.shape[-1]), x, fill)


@pytest.mark.contract("DIFF-RECORDING-1")
@pytest.mark.parametrize("fills", [(0.0, -np.inf), (-1e9, -np.inf), (0.0, -1e4), (-1e9, -1e9), (0.0, np.nan), (-np.inf, np.nan)])
@pytest.mark.parametrize("graphs", [True, False])
def test_what_stands_for_the_mask_is_no_error_beside_a_fault(tmp_path: Path, ours: Trace, fills: tuple[float, float], graphs: bool) -> None:
    """Whatever else differs: before the scores (k), in them, or after them."""
    first = {(e.layer, e.stage): _at_hidden(ours.load(e), fills[0]) if e.stage == "attn_scores" else ours.load(e) for e in ours.entries}
    graph = ours.info.graph_text if graphs and ours.info is not None else ""
    one = write_trace(tmp_path / "one", first, tokens=TOKENS, graph=graph).directory
    for at in ("k_post_rope", "attn_scores", "ffn_gate"):

        def change(layer: int | None, stage: str, x: Tensor, at: str = at) -> Tensor:
            x = noisy(x, 0.1, seed=5) if stage == at and layer == 1 else x
            return _at_hidden(x, fills[1]) if stage == "attn_scores" else x

        other = theirs(tmp_path / at, ours, change, manifest=True)
        for swap in (False, True):
            report = diff(*((other, one) if swap else (one, other)))
            assert report.verdict.startswith(f"Diverged: first at layer 1 {at}"), report.verdict
            assert not any(row.classification is Class.NAN for row in report.rows)
            scores = report.row((0, 1, "attn_scores")).classification
            if at == "attn_scores":
                assert scores is Class.INTRODUCED
            if fills[0] != fills[1]:
                assert isinstance(row := report.row((0, 1, at)).metrics, TensorMetrics)
                assert row.nan_a == row.nan_b == 0
                assert at == "attn_scores" or scores is Class.OTHER_FORM
                words = [*map(str, report.notes), report.verdict]
                fill = "NaN" if np.isnan(fills[1]) else f"{fills[1]:.4g}"
                assert any(fill in text and "at masked places" in text for text in words)


@pytest.mark.contract("DIFF-RECORDING-1")
@pytest.mark.parametrize("fill", [-np.inf, -1e9, np.nan])
def test_what_stands_for_a_mask_where_none_is_stays_an_error(tmp_path: Path, ours: Trace, fill: float) -> None:
    def hidden_too_much(layer: int | None, stage: str, x: Tensor) -> Tensor:
        if stage == "attn_scores":
            x = _at_hidden(x, fill)
            if layer == 1:
                x[:, 3, 2] = fill
        return x

    report = diff(ours, theirs(tmp_path / "theirs", ours, hidden_too_much))
    row = report.row((0, 1, "attn_scores"))
    assert row.classification is (Class.INTRODUCED if fill == -1e9 else Class.NAN)
    assert report.exit_code == 1
    assert isinstance(row.metrics, TensorMetrics)
    assert (row.metrics.inf_b, row.metrics.nan_b) == (4 * np.isinf(fill), 4 * np.isnan(fill))
    if fill != -1e9:
        what = "Inf" if np.isinf(fill) else "NaN"
        assert f"none in A, 4 {what} in B, first at head 0, position 3, key 2" in str(row.reason)


@pytest.mark.contract("DIFF-RECORDING-1")
def test_nan_at_masked_places_of_a_softmax_is_borne_out_by_attention(tmp_path: Path, ours: Trace) -> None:
    """What nobody reads is no divergence. Where attention holds NaN too, it was read; and where it was not recorded, nothing tells."""

    def changed(of_attention: Callable[[Tensor], Tensor | None]) -> Callable[[int | None, str, Tensor], Tensor | None]:
        def change(layer: int | None, stage: str, x: Tensor) -> Tensor | None:
            if layer == 1 and stage == "attention":
                return of_attention(x)
            return _at_hidden(x, np.nan) if stage == "attn_softmax" and layer == 1 else x

        return change

    at = (0, 1, "attn_softmax")
    for manifest in (True, False):
        report = diff(ours, theirs(tmp_path / f"right-{manifest}", ours, changed(lambda x: x), manifest=manifest))
        assert (report.exit_code, report.row(at).classification) == (0, Class.OTHER_FORM)
        assert report.row(at).remark == "B is recorded NaN at masked places"
    read = diff(ours, theirs(tmp_path / "read", ours, changed(lambda x: np.full_like(x, np.nan))))
    assert (read.exit_code, read.row(at).classification) == (1, Class.NAN)
    assert read.verdict.startswith("Diverged: first at layer 1 attn_softmax")


@pytest.mark.contract("DIFF-RECORDING-1")
def test_a_window_hides_places_by_the_graph_alone(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """Layer 0 of gemma3 has a window, and decoded tokens lie beyond it; without its graph nothing says that it has one."""
    tokens = tuple(range(1, 7))
    model = aprgraph.load(tiny_model(family="gemma3", layers=2, sliding_window=3)).compile("reference", tmp_path / "m.aprg")
    ours = model.run("attn_scores,ffn_out", "all", tokens=tokens, directory=tmp_path / "ours", max_tokens=2, steps="0..2")
    windowed = {entry.key for entry in ours.entries if entry.stage == "attn_scores" and (ours.load(entry)[:, -1, 0] == 0).all()}
    assert {key.step for key in windowed} == {0, 1}

    def with_fills(at_window: float) -> dict[str, Tensor]:
        dump: dict[str, Tensor] = {"tokens": np.array(tokens)}
        for entry in ours.entries:
            dump[entry.key.name] = noisy(ours.load(entry), 0.1 if entry.key.layer == 1 and entry.stage == "ffn_out" else 2e-7)
            if entry.stage == "attn_scores":
                dump[entry.key.name] = np.where(ours.load(entry) == 0, at_window, dump[entry.key.name])
        return dump

    report = aprgraph.diff(ours, with_fills(-np.inf))
    assert report.verdict.startswith("Diverged: first at layer 1 ffn_out"), report.verdict
    assert all(report.row(key).classification is Class.OTHER_FORM for key in windowed)
    bare = {entry.key.name: ours.load(entry) for entry in ours.entries}
    alone = aprgraph.diff(bare | {"tokens": np.array(tokens)}, with_fills(-np.inf))
    assert {row.classification for row in alone.rows if row.key in windowed} == {Class.NAN}
