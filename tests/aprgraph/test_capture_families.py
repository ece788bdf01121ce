"""Captures of families whose layers are otherwise: norms behind, scales and caps behind the head. Every stage agrees with our reference."""

from __future__ import annotations

from pathlib import Path

import pytest

import aprgraph
from aprgraph.graph.errors import UnsupportedModelError
from aprgraph.graph.families import FAMILIES

try:
    import torch

    from tests.golden.family_models import MODELS, make_model
except ModuleNotFoundError:
    torch = None
    MODELS, make_model = {}, None  # type: ignore[assignment]

#: None of them is the padding, after which some models count positions.
TOKENS = (17, 3, 30, 3, 0, 31, 29, 29, 5, 8, 9)
_CLASSES = {name for family in FAMILIES.values() for name in family.hf_classes.split()}
#: Families whose attention goes through no function that can be watched.
_REFUSED = ("falcon",)
#: Families whose layers the golden files' own code makes of Llama's parts.
_MADE_HERE = ("deci",)
_NAMES = [
    name
    for name, spec in MODELS.items()
    if spec.architecture not in (*_REFUSED, *_MADE_HERE)
    and _CLASSES
    & {
        f"{spec.name.removesuffix('Text')}ForCausalLM",
        f"{spec.name}LMHeadModel",
        f"{spec.name}Model",
        f"{spec.name}ForConditionalGeneration",
    }
]
#: Stages of the graph that are not to be seen: there, experts' activation is no module, or their weights are not those of a module called so.
_INSIDE = {"moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out"}
_HIDDEN = {"gpt-oss": _INSIDE, "dbrx": _INSIDE | {"moe_router", "moe_router_indices", "moe_ffn_out"}}

pytestmark = pytest.mark.skipif(
    torch is None, reason="torch and transformers are not here; install with `pip install torch==2.13.0 transformers`"
)


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1", "CAPTURE-TRANSFORMERS-2")
@pytest.mark.parametrize("name", _NAMES)
def test_every_stage_of_the_family_is_captured_and_agrees(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    theirs = make_model(name, path).model
    ours = aprgraph.load(path)
    layers = ours.model.family.layers
    ours.compile("reference", tmp_path / "model.aprg").run("all", f"0..{layers}", tokens=TOKENS, directory=tmp_path / "ours")
    with torch.no_grad(), aprgraph.capture.transformers(theirs, tmp_path / "theirs") as capture:
        output = theirs(torch.tensor([TOKENS]))
    hidden = _HIDDEN.get(MODELS[name].architecture, set())
    if MODELS[name].pooling:  # which comes behind what transformers computes
        hidden = hidden | {"pooled", "pooled_up", "pooled_down", "pooled_normed"}
    else:
        assert torch.equal(torch.tensor(capture.trace.tensor("lm_head")), output.logits[0, -1].float())
    staged = {(node.layer, node.stage) for node in ours.graph.staged()}
    if any(stage == "qkv_bias" for _, stage in staged):
        hidden = hidden | {"qkv_matmul"}
    # transformers has latent attention over heads of k and v, where a file may have it over the latent.
    theirs_alone = {"kv_b"} if MODELS[name].absorbed else set()
    hidden = hidden | ({"q_absorbed", "attn_latent"} if theirs_alone else set())
    seen = {(entry.layer, entry.stage) for entry in capture.trace.entries}
    shared = {one for one in seen if one[1] not in theirs_alone}
    assert theirs_alone <= {stage for _, stage in seen}
    assert shared == {one for one in staged if one[1] not in hidden}
    report = aprgraph.diff(tmp_path / "ours", tmp_path / "theirs", profile="same-graph-f32")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(shared)


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1")
@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.architecture in _REFUSED])
def test_attention_that_cannot_be_watched_is_refused(name: str, tmp_path: Path) -> None:
    theirs = make_model(name, tmp_path / "model.gguf").model
    with (
        pytest.raises(UnsupportedModelError, match="has no eager_attention_forward.*: this model has other attention"),
        aprgraph.capture.transformers(theirs, tmp_path / "theirs"),
    ):
        pass
