"""Arrays of q, k and v for the one stage that holds them side by side, and arrays that a rule leaves out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph import audit
from aprgraph.graph.errors import NotRecordedError, TraceError
from aprgraph.runtime.trace.name_map import NameMap
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.token_arrays import read_tokens
from aprgraph.testing import assert_right
from tests.support.cli import run_cli
from tests.support.traces import trace_model, values

TOKENS = (5, 6, 7)  # n = 3; H = 2, K = 1, D = 4, E = 6
Q, K, V = values(3, 8), values(3, 4, seed=1), values(3, 4, seed=2)
WHOLE = np.concatenate([Q, K, V], axis=-1)
#: The short form of a rule, with the layer in the one group of its expression, and blanks around it.
RULES = [r"layers\.(\d+)\.q_proj = qkv_matmul[q]", r"layers\.(\d+)\.(k|v)_proj=layer\1.qkv_matmul[\2]"]


def write(place: Path, tensors: Any, tokens: Any = TOKENS) -> Trace:
    return Trace.write(place / "t", tensors, tokens=tokens)


@pytest.mark.contract("CAPTURE-ARRAYS-3")
@pytest.mark.parametrize("parts", [
    (Q, K, V), (Q[None], K, V[:, None]), (Q.reshape(3, 2, 4), K.reshape(3, 1, 4), V), (Q.reshape(1, 3, 2, 4), K[None], V.astype(np.float64)),
], ids=["rows", "axes of one", "heads apart", "mixed"])  # fmt: skip
def test_parts_are_one_stage(tmp_path: Path, parts: tuple[Any, ...]) -> None:
    """In whatever order and form each comes."""
    q, k, v = parts
    trace = write(
        tmp_path, {"layer0.qkv_matmul[v]": v, (0, "qkv_matmul[q]"): q, "layer0.attn_norm": values(3, 6), "layer0.qkv_matmul[k]": k}
    )
    assert trace.keys() == ("layer0.attn_norm", "layer0.qkv_matmul")
    assert trace["layer0.qkv_matmul"].tobytes() == WHOLE.tobytes()
    with pytest.raises(NotRecordedError, match=r"is the name of no tensor, .* did you mean layer0\.qkv_matmul"):
        trace["layer0.qkv_matmul[q]"]


def test_where_q_k_and_v_are_as_wide_heads_are_not_mixed(tmp_path: Path) -> None:
    """Heads apart, and as many of each: q lies before k in a row, not beside it in each head. What q leaves open, the others tell."""
    parts = {f"layer0.qkv_matmul[{part}]": values(3, 2, 4, seed=seed) for seed, part in enumerate("qkv")}
    whole = np.concatenate([array.reshape(3, 8) for array in parts.values()], axis=-1)
    assert np.array_equal(write(tmp_path, parts)["layer0.qkv_matmul"], whole)
    batch = {name: array.reshape(1, 3, 8) for name, array in parts.items()}
    with pytest.raises(TraceError, match=r"layer 0 qkv_matmul\[q\] has the shape 1 x 3 x 8, which can be 1 x n x H\*D or n x H x D"):
        write(tmp_path, batch, ())
    assert np.array_equal(write(tmp_path, batch | {"layer0.ffn_norm": values(3, 6)}, ())["layer0.qkv_matmul"], whole)


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("tensors", "message"), [
    ({"layer0.qkv_matmul[q]": Q},
     r"layer 0 qkv_matmul is compared whole, and k and v are not there beside q; where the layer computes .*, its place is layer0\.qkv_matmul$"),
    ({"layer0.qkv_matmul[q]": Q, "layer0.qkv_matmul[v]": V, "layer0.ffn_out": values(3, 6)}, "and k is not there beside q and v"),
    ({"layer0.qkv_matmul[q]": Q, "layer0.qkv_matmul": WHOLE}, "layer 0 qkv_matmul is there whole, and in parts too"),
    ({"layer0.qkv_matmul[q]": Q, "layer0.qkv_matmul[k]": K[:1], "layer0.qkv_matmul[v]": V},
     "the parts of layer 0 qkv_matmul are not of the same positions: q has 3, k has 1 and v has 3"),
    ({"layer0.qkv_matmul[w]": Q}, r"qkv_matmul has no part 'w', expected qkv_matmul\[q\], qkv_matmul\[k\] or qkv_matmul\[v\]"),
    ({"layer0.attn_norm[q]": Q}, "attn_norm has no part 'q', expected attn_norm alone"),
    ({"layer0.qkv_matmull[q]": Q}, "unknown stage 'qkv_matmull' .did you mean 'qkv_matmul'?"),
    ({"layer0.qkv_matmul[q]": Q.reshape(2, 3, 4), "layer0.attn_norm": values(3, 6)}, "it looks like heads first"),
    ({"layer0.q_post_rope": values(3, 12), "layer0.qkv_matmul[q]": Q}, "with H.D = 12, but layer 0 qkv_matmul.q. says 8"),
])  # fmt: skip
def test_parts_that_do_not_fit(tmp_path: Path, tensors: Any, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        write(tmp_path, tensors)
    assert not (tmp_path / "t").exists()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Path]) -> tuple[Path, Trace, dict[str, Any]]:
    """A model, our trace, and what an engine of another author dumps of the same run."""
    folder = tmp_path_factory.mktemp("own")
    model = tiny_model(hidden=64, layers=2)
    trace = trace_model(folder / "ours", model)
    heads = trace["layer0.q_post_rope"].shape[1]
    of_keys = trace["layer0.k_post_rope"].shape[1]
    dump: dict[str, Any] = {"input_ids": np.array([trace.info.tokens if trace.info else ()])}
    for layer in range(2):
        q, k, v = np.split(trace[f"layer{layer}.qkv_matmul"], [heads, heads + of_keys], axis=1)
        before = f"model.layers.{layer}"
        dump |= {f"{before}.q_proj": q[None], f"{before}.k_proj": k[None], f"{before}.v_proj": v[None], f"{before}.debug": q}
        dump |= {f"layer{layer}.{stage}": trace[f"layer{layer}.{stage}"] for stage in ("attn_norm", "q_post_rope")}
    return model, trace, dump


@pytest.mark.contract("CAPTURE-FILES-1")
def test_separate_projections_of_an_engine(own: tuple[Path, Trace, dict[str, Any]], tmp_path: Path) -> None:
    """`inspect`, `diff`, `audit` and the assertion take them; a fault in k alone is found, and what was left out is told."""
    model, ours, dump = own
    np.savez(tmp_path / "right.npz", **dump)
    options = [word for rule in (*RULES, "debug=ignore") for word in ("--map", rule)]
    shown = run_cli("inspect", tmp_path / "right.npz", *options)
    assert "model.layers.0.q_proj + model.layers.0.k_proj + model.layers.0.v_proj" in shown.out
    assert "left out: model.layers.0.debug, model.layers.1.debug\n" in shown.out
    note = "2 arrays of {} left out, as asked for by --map: model.layers.0.debug, model.layers.1.debug"
    compared = run_cli("diff", ours.directory, tmp_path / "right.npz", *options)
    assert compared.code == 0, compared
    assert note.format("B") in compared.out
    audited = run_cli("audit", tmp_path / "right.npz", "--model", model, *options)
    assert audited.code == 0, audited
    assert note.format("right.npz") in audited.out
    wrong = {**dump, "model.layers.1.k_proj": dump["model.layers.1.k_proj"] * 1.5}
    assert audit(wrong, model, names=[*RULES, "debug=ignore"], progress=False).wrong[0].label == "layer 1 qkv_matmul"
    with pytest.raises(AssertionError, match="layer 1 qkv_matmul"):
        assert_right(wrong, model, names=[*RULES, "debug=ignore"])


@pytest.mark.contract("CAPTURE-FILES-1")
def test_a_part_alone_is_not_compared_and_says_so(own: tuple[Path, Trace, dict[str, Any]], tmp_path: Path) -> None:
    _, ours, dump = own
    np.savez(tmp_path / "q.npz", **{name: array for name, array in dump.items() if not name.endswith("0.k_proj")})
    found = Trace.open(tmp_path / "q.npz", names=[*RULES, "debug=ignore"])
    assert "layer0.qkv_matmul" not in found
    assert np.array_equal(found["layer1.qkv_matmul"], ours["layer1.qkv_matmul"])
    assert [one.file for one in found.unread] == ["model.layers.0.q_proj", "model.layers.0.v_proj"]
    assert found.unread[0].why.startswith("layer 0 qkv_matmul is compared whole, and k is not there beside q and v;")
    np.savez(tmp_path / "one.npz", **{"layers.0.q_proj": Q})
    with pytest.raises(TraceError, match="k and v are not there beside q"):
        Trace.open(tmp_path / "one.npz", names=RULES[:1])


@pytest.mark.contract("CAPTURE-FILES-2")
def test_what_cannot_be_left_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{"a.b": Q, "layer0.attn_norm": Q})
    for rules, message in (
        ([".*=ignore"], "all of its arrays are left out"),
        (["a.b=layer0.ffn_out", "b=ignore"], "'a.b' is layer 0 ffn_out by 'a.b=layer0.ffn_out' and left out by 'b=ignore'"),
        (["c=ignore"], "'c=ignore' matches no array"),
    ):
        with pytest.raises(TraceError, match=message):
            Trace.open(tmp_path / "a.npz", names=rules)
    assert Trace.open(tmp_path / "a.npz", names=["attn_norm=ignore", "a.b=layer0.ffn_out"]).keys() == ("layer0.ffn_out",)


#: Names as those programs have them of which the rules in docs/captures.md tell, and where these put them.
DOCUMENTED = {
    "model.layers.3.mlp": "layer3.ffn_out", "step1.h2.mlp": "step1.layer2.ffn_out", "step0.h2.mlp": "layer2.ffn_out",
    "prefill.1.mlp": "layer1.ffn_out", "decode_first.1.mlp": "step1.layer1.ffn_out",
    "layers.5.self_attn.k_proj": None, "layers.5.k_proj": "layer5.qkv_matmul[k]", "layers.5.debug": "left out",
}  # fmt: skip


def test_the_rules_of_the_documents() -> None:
    """Each does to the names that it is for what the table says, and together they do not contradict each other."""
    text = (Path(__file__).parents[2] / "docs/captures.md").read_text(encoding="utf-8")
    table = text[text.index("| Rule | Says |") :].split("\n\n")[0]
    rules = [rule for line in table.splitlines()[2:] for rule in re.findall(r"`([^`]*=[^`]*)`", line)]
    assert len(rules) == 7
    names = NameMap(rules)
    places = {name: names.place_of("", name) for name in DOCUMENTED}
    assert {name: None if place is None else place.name for name, place in places.items()} == DOCUMENTED
    names.check_used([("", list(DOCUMENTED))])


@pytest.mark.contract("CAPTURE-FILES-1")
@pytest.mark.parametrize(("second", "third", "generated"), [
    ([7], [8], (7, 8)), ([3, 1, 7], [3, 1, 7, 8], (7, 8)), ([3, 1, 7], [8], (7, 8)),
    ([3, 2, 7], [3, 2, 7, 8], ()), ([3, 1, 7], [3, 1, 9, 8], (7,)), ([1, 7], [8], ()),
])  # fmt: skip
def test_the_ids_of_a_step_are_its_own_or_those_of_the_text_so_far(second: list[int], third: list[int], generated: tuple[int, ...]) -> None:
    """As an engine has them that computes all of it again for each token; of another text they say nothing."""
    arrays = {f"step_{step}.input_ids": np.array([ids]) for step, ids in enumerate(([3, 1], second, third))}
    found = read_tokens("dump", arrays, ())
    assert (found.prompt, found.generated) == ((3, 1), generated)
