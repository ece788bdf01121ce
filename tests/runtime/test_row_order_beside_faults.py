"""A dump of a llama whose q and k are in the order of the checkpoint, and a fault beside: the fault is named, and the order is no fault."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.ir import Node
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.ops import Array
from aprgraph.runtime.blame import Audit, audit
from aprgraph.runtime.blame.local_errors import LocalState, Verdict
from aprgraph.runtime.decoded_weights import DecodedWeights
from aprgraph.runtime.reference import compute_node, evaluate
from aprgraph.runtime.trace.reader import Trace
from aprgraph.testing import assert_right
from tests.support.traces import Tensor, noisy

TOKENS = (3, 1, 4, 1, 5, 9, 2)
HEADS, KV_HEADS, SIZE = 4, 2, 16
TURNED = {"qkv_matmul": HEADS + KV_HEADS, "q_post_rope": HEADS, "k_post_rope": KV_HEADS}
ROTATED = ("q_post_rope", "k_post_rope")
ORDER = "with RoPE's pairs as halves (i, i + D/2), where the file has neighbours (2i, 2i + 1)"

Values = dict[tuple[int | None, str], Tensor]
Change = Callable[[Node, Array, Mapping[str, Array]], Array]


def in_halves(stage: str, values: Array) -> Array:
    """Columns of q and k as a checkpoint has them: of each head first the even ones, then the odd ones."""
    columns = TURNED.get(stage, 0) * SIZE
    turned = values[:, :columns].reshape(len(values), -1, SIZE // 2, 2).swapaxes(2, 3).reshape(len(values), columns) if columns else values
    return np.concatenate([turned, values[:, columns:]], axis=1) if columns else values


def other_heads(node: Node, value: Array, before: Mapping[str, Array]) -> Array:
    """Scores of which the query heads read the other KV head."""
    if node.stage != "attn_scores":
        return value
    k = np.roll(before[f"layer{node.layer}.k_post_rope"], SIZE, axis=1)
    return compute_node(node, [before[f"layer{node.layer}.q_post_rope"], k], {})


def late_angles(node: Node, value: Array, _before: Mapping[str, Array]) -> Array:
    """Each position turned by the angles of the one behind it."""
    return np.roll(value, -1, axis=0) if node.op == "rope_angles" else value


def noise(node: Node, value: Array, _before: Mapping[str, Array]) -> Array:
    """Scores that nothing explains."""
    return noisy(value.astype(np.float32), 0.5).astype(np.float64) if node.stage == "attn_scores" else value


def noise_in_layer_1(node: Node, value: Array, before: Mapping[str, Array]) -> Array:
    return noise(node, value, before) if node.layer == 1 else value


def rows_of_the_checkpoint(node: Node, value: Array, _before: Mapping[str, Array]) -> Array:
    """Rows of q and k that nobody permuted, and that RoPE turns as if somebody had: no recording, but a fault."""
    return in_halves("qkv_matmul", value) if node.stage == "qkv_matmul" else value


def then(*changes: Change) -> Change:
    def all_of_them(node: Node, value: Array, before: Mapping[str, Array]) -> Array:
        for change in changes:
            value = change(node, value, before)
        return value

    return all_of_them


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model()


def run(model: Path, change: Change | None = None, **overrides: float) -> Values:
    """What an engine computes that has other ``overrides`` and makes a ``change`` to nodes."""
    loaded = aprgraph.load(model, {f"llama.{key.replace('__', '.')}": value for key, value in overrides.items()}).model
    graph, before, found = build_graph(loaded), dict[str, Array](), Values()

    def changed(node: Node, value: Array) -> Array:
        before[node.name] = value = value if change is None else change(node, value, before)
        if node.stage is not None:
            found[node.layer, node.stage] = value.astype(np.float32)
        return value

    inputs = {"tokens": np.array(TOKENS), "positions": np.arange(len(TOKENS))}
    for _ in evaluate(graph, inputs, DecodedWeights(loaded, keep=1 << 30).read, change=changed):
        pass
    return found


def dump(place: Path, values: Values, *, without: Collection[str] = (), halves: bool = True, parts: bool = False) -> Path:
    """``values`` as a program with the checkpoint's rows records them."""
    tensors: dict[str, Tensor] = {}
    for (layer, stage), tensor in values.items():
        recorded = in_halves(stage, tensor) if halves else tensor
        name = stage if layer is None else f"layer{layer}.{stage}"
        if parts and stage == "qkv_matmul":
            ends = (HEADS * SIZE, (HEADS + KV_HEADS) * SIZE)
            tensors |= {f"{name}[{part}]": one for part, one in zip("qkv", np.split(recorded, ends, axis=1), strict=True)}
        elif stage not in without:
            tensors[name] = recorded
    Trace.write(place, tensors, tokens=TOKENS, arithmetic="float32")
    return place


def audited(place: Path, model: Path) -> Audit:
    return audit(Trace.open(place), aprgraph.load(model).model)


def wrong_stages(found: Audit) -> list[str]:
    return list(dict.fromkeys(local.key.stage for local in found.wrong))


#: Beside the order: what the engine does wrong, what is wrong where q and k after RoPE were recorded, and where not, and what it is called.
FAULTS: dict[str, tuple[Change | None, dict[str, float], tuple[str, ...], tuple[str, ...], str]] = {
    "none": (None, {}, (), (), ""),
    "base": (None, {"rope__freq_base": 500000.0}, ROTATED, ("attn_scores",), "RoPE's base is 500000 in place of 10000"),
    "scale": (None, {"attention__scale": 1.0}, ("attn_scores",), ("attn_scores",), ""),
    "heads": (other_heads, {}, ("attn_scores",), ("attn_scores",), "KV head"),
    "angles": (late_angles, {}, ROTATED, ("attn_scores",), "RoPE turns each position by the row of angles behind its own"),
}


@pytest.mark.contract("BLAME-RECORDING-4")
@pytest.mark.parametrize("rotated", [True, False], ids=["q and k after RoPE", "without them"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_beside_the_order_is_named_alone(tmp_path: Path, model: Path, fault: str, rotated: bool) -> None:
    change, overrides, with_them, without_them, words = FAULTS[fault]
    parts = fault == "base"  # q, k and v as three arrays
    found = audited(dump(tmp_path / "dump", run(model, change, **overrides), without=() if rotated else ROTATED, parts=parts), model)
    assert wrong_stages(found) == list(with_them if rotated else without_them)
    assert found.exit_code == (1 if found.wrong else 0)
    assert LocalState.UNKNOWN not in found.counts
    assert all(found.by_key[0, layer, "qkv_matmul"].reading == ORDER for layer in (0, 1))
    assert f"it was recorded {ORDER}: this looks like the recording" in found.sentence
    for local in found.wrong:
        assert words in str(local.telltale or ""), local.label
        assert "pairs" not in str(local.telltale or "")
        assert (local.reading == ORDER) is (local.key.stage in ROTATED)
    if with_them == ROTATED and rotated:
        assert f"k_post_rope of the layers 0 to 1 were recorded {ORDER}; what is wrong there is so beside that" in found.sentence


@pytest.mark.contract("BLAME-RECORDING-4")
@pytest.mark.parametrize("last", ["attn_softmax", "attention", "attn_out"])
def test_however_far_behind_the_fault_shows(tmp_path: Path, model: Path, last: str) -> None:
    """Where little of the error arrives, the two readings leave about as much of it, and the explanation decides."""
    between = ("attn_scores", "attn_softmax", "attention", "attn_out")
    values = run(model, rope__freq_base=500000.0)
    found = audited(dump(tmp_path / "dump", values, without=(*ROTATED, *between[: between.index(last)])), model)
    assert wrong_stages(found) == [last]
    assert {local.cause for local in found.wrong} == {"RoPE's base is 500000 in place of 10000"}


@pytest.mark.contract("BLAME-RECORDING-4")
def test_what_nothing_explains_leaves_the_order_open(tmp_path: Path, model: Path) -> None:
    """Both readings are possible then; with q and k after RoPE one is."""
    values = run(model, noise)
    found = audited(dump(tmp_path / "a", values, without=ROTATED), model)
    assert wrong_stages(found) == ["attn_scores"]
    assert [local.label for local in found.undecided] == ["layer 0 qkv_matmul", "layer 1 qkv_matmul"]
    (first, _) = found.undecided
    assert (first.state, first.explanation, first.is_open) == (LocalState.UNKNOWN, None, True)
    why = "layer 0 attn_scores, which is computed from it, follows from neither; record q_post_rope and k_post_rope too, which tell"
    assert first.reason == f"it was recorded {ORDER}, or computed so: {why}"
    said = f"neither right nor wrong are qkv_matmul of the layers 0 to 1 ({first.reason})"
    assert said in found.sentence
    assert said in found.summary.text()
    assert "could not be replayed" not in found.sentence
    found = audited(dump(tmp_path / "b", values), model)
    assert (wrong_stages(found), found.undecided) == (["attn_scores"], ())


@pytest.mark.contract("BLAME-RECORDING-4")
def test_a_layer_that_tells_speaks_for_the_others(tmp_path: Path, model: Path) -> None:
    found = audited(dump(tmp_path / "dump", run(model, noise_in_layer_1), without=ROTATED), model)
    assert [local.label for local in found.wrong] == ["layer 1 attn_scores"]
    said = found.by_key[0, 1, "qkv_matmul"].explanation
    assert said is not None
    assert said.borne_out == "read so, it follows from its inputs, and others of this trace were recorded so"


@pytest.mark.contract("BLAME-RECORDING-4")
def test_where_nothing_reads_it_the_order_is_open_and_no_fault(tmp_path: Path, model: Path) -> None:
    values = {key: tensor for key, tensor in run(model).items() if key in {(0, "embedding"), (0, "attn_norm"), (0, "qkv_matmul")}}
    found = audited(dump(tmp_path / "dump", values), model)
    assert (found.wrong, found.exit_code) == ((), 0)
    assert "computed so: nothing that was recorded tells; record q_post_rope and k_post_rope too, which tell" in found.sentence
    report = aprgraph.diff(dump(tmp_path / "ours", values, halves=False), tmp_path / "dump", model=model)
    assert report.blame is not None
    assert report.blame.verdicts[0, 0, "qkv_matmul"] is Verdict.UNKNOWN  # no elimination accuses it
    assert "neither right nor wrong" in report.summary.text()


@pytest.mark.contract("BLAME-RECORDING-4")
@pytest.mark.parametrize("rotated", [True, False], ids=["q and k after RoPE", "without them"])
@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_rows_that_were_computed_so_are_wrong(tmp_path: Path, model: Path, base: float, rotated: bool) -> None:
    """Whatever is wrong beside them, which is named."""
    values = run(model, rows_of_the_checkpoint, rope__freq_base=base)
    found = audited(dump(tmp_path / "dump", values, halves=False, without=() if rotated else ROTATED), model)
    behind = [] if base == 10000.0 else list(ROTATED) if rotated else ["attn_scores"]
    assert wrong_stages(found) == ["qkv_matmul", *behind]
    for local in found.wrong:
        if local.key.stage == "qkv_matmul":
            assert "is computed from it as it stands" in str(local.reason)
        else:
            assert (local.cause, local.reading) == ("RoPE's base is 500000 in place of 10000", None)


@pytest.mark.contract("BLAME-RECORDING-4")
def test_rows_that_were_computed_so_beside_what_nothing_explains(tmp_path: Path, model: Path) -> None:
    """The same values up to the scores as of a recording: the one is not told from the other."""
    values = run(model, then(rows_of_the_checkpoint, noise))
    found = audited(dump(tmp_path / "dump", values, halves=False, without=ROTATED), model)
    assert (wrong_stages(found), {local.key.stage for local in found.undecided}) == (["attn_scores"], {"qkv_matmul"})
    found = audited(dump(tmp_path / "all", values, halves=False), model)
    assert wrong_stages(found) == ["qkv_matmul", "attn_scores"]


@pytest.mark.contract("BLAME-RECORDING-4")
@pytest.mark.parametrize("rotated", [True, False], ids=["q and k after RoPE", "without them"])
def test_two_sides_and_a_test_say_the_same(tmp_path: Path, model: Path, rotated: bool) -> None:
    without = () if rotated else ROTATED
    ours = dump(tmp_path / "ours", run(model), halves=False, without=without)
    theirs = dump(tmp_path / "theirs", run(model, rope__freq_base=500000.0), without=without)
    for a, b, verdict in ((ours, theirs, Verdict.B_WRONG), (theirs, ours, Verdict.A_WRONG)):
        report = aprgraph.diff(a, b, model=model)
        assert report.blame is not None
        assert {report.blame.verdicts[key] for key in report.blame.wrong} == {verdict}
        assert {stage for _, _, stage in report.blame.wrong} == set(ROTATED if rotated else ("attn_scores",))
        assert report.blame.verdicts[0, 0, "qkv_matmul"] is Verdict.RECORDING
        assert "RoPE's base is 500000 in place of 10000: fits" in report.summary.text()
    with pytest.raises(AssertionError, match="RoPE's base is 500000 in place of 10000") as raised:
        assert_right(theirs, model)
    assert "attn_q.weight are in the order" not in str(raised.value)
