"""Captures of Hugging Face transformers against our own reference, in every class: what they record, and that they change nothing."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import AprgraphError, PlanError, TraceError, UnsupportedModelError
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER
from aprgraph.runtime.trace.reader import Trace
from tests.support.cli import files_under
from tests.support.tiny import write_tiny_model

try:
    import torch
    import transformers

    from tests.golden.transformers_models import load
except ModuleNotFoundError:
    torch = transformers = load = None  # type: ignore[assignment]

# Each test is skipped rather than the file, so that the rules that they decide are known to have tests.
pytestmark = pytest.mark.skipif(
    torch is None, reason="torch and transformers are not here; install with `pip install torch==2.13.0 transformers`"
)

TOKENS = (17, 3, 30, 3, 0, 31, 29, 29)
STEPS = 3

#: Options of ``write_tiny_model`` beyond three layers.
_OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": {"family": "llama", "experts": 4},
    "qwen2": {},
    "qwen2moe": {"experts": 5},
    "qwen3": {},
    "qwen3moe": {"experts": 4},
    # The first layer that sees all positions is the sixth; the others forget the first half of the prompt.
    "gemma3": {"layers": 6, "kv_heads": 1, "heads": 2, "sliding_window": 4},
    "phi3": {"rope_long_and_short": True, "original_context": 64},
}
MIXTURES = ("mixtral", "qwen2moe", "qwen3moe")

_START = ["embedding", "attn_norm", "qkv_matmul", "q_post_rope", "k_post_rope", "attn_scores", "attn_softmax", "attention", "attn_out"]
_DENSE = ["ffn_gate", "ffn_up", "ffn_silu", "ffn_swigl", "ffn_out"]
_EXPERTS = [
    "moe_router_logits", "moe_router", "moe_router_indices", "moe_expert_gate", "moe_expert_up", "moe_expert_swigl", "moe_expert_out",
    "moe_ffn_out",
]  # fmt: skip
_BIASED = [stage.replace("qkv_matmul", "qkv_bias") for stage in _START]
_NORMED = [*_START[:3], "q_norm", "k_norm", *_START[3:]]
_END = ["post_ffn_residual", "final_norm", "lm_head"]
_MIDDLE = ["post_attn_residual", "ffn_norm"]
#: The stages that each model shows, in execution order.
STAGES = {
    "llama": [*_START, *_MIDDLE, *_DENSE, *_END],
    "mixtral": [*_START, *_MIDDLE, *_EXPERTS, *_END],
    "qwen2": [*_BIASED, *_MIDDLE, *_DENSE, *_END],
    "qwen2moe": [*_BIASED, *_MIDDLE, *_DENSE, *_EXPERTS, *_END],
    "qwen3": [*_NORMED, *_MIDDLE, *_DENSE, *_END],
    "qwen3moe": [*_NORMED, *_MIDDLE, *_EXPERTS, *_END],
    "gemma3": [*_NORMED, "attn_post_norm", *_MIDDLE, *_DENSE, "ffn_post_norm", *_END],
    "phi3": [*_START, *_MIDDLE, *_DENSE, *_END],
}


@dataclass(frozen=True)
class Subject:
    """A tiny model as a file, our own trace of it, and how to load the same weights into transformers."""

    family: str
    path: Path
    ours: Path
    layers: int

    def load(self, attention: str = "eager", experts: str = "eager", dtype: str = "float32") -> Any:
        model = load(self.path).model.to(getattr(torch, dtype))
        model.set_attn_implementation(attention)
        if self.family in MIXTURES:
            model.set_experts_implementation(experts)
        return model

    def compare(self, theirs: Path) -> Any:
        return aprgraph.diff(self.ours, theirs, profile="same-graph-f32")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    """A subject by its name; each is made once."""
    made: dict[str, Subject] = {}

    def make(family: str) -> Subject:
        if family not in made:
            place = tmp_path_factory.mktemp(family)
            options = {"family": family, "layers": 3, "vocabulary": 32, "tokenizer": False} | _OPTIONS[family]
            path = write_tiny_model(place / "tiny.gguf", **options)
            layers = int(options["layers"])
            compiled = aprgraph.load(path).compile("reference", place / "tiny.aprg")
            compiled.run("all", f"0..{layers}", tokens=TOKENS, directory=place / "ours", max_tokens=STEPS, steps=f"0..{STEPS}")
            made[family] = Subject(family, path, place / "ours", layers)
        return made[family]

    return make


def run(model: Any) -> torch.Tensor:
    """The logits of one pass."""
    with torch.no_grad():
        return model(torch.tensor([TOKENS]), use_cache=True).logits


def generate(model: Any) -> torch.Tensor:
    """The prompt and the next tokens."""
    return model.generate(torch.tensor([TOKENS]), max_new_tokens=STEPS, do_sample=False, use_cache=True)


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def functions(model: Any) -> tuple[Any, Any]:
    """What the model's attention layers call."""
    module = sys.modules[type(model.model.layers[0].self_attn).__module__]
    return module.apply_rotary_pos_emb, module.eager_attention_forward


# -- what is recorded ---------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1", "CAPTURE-TRANSFORMERS-2")
@pytest.mark.parametrize("family", _OPTIONS)
def test_a_generated_text_agrees_in_every_stage_of_every_layer_and_step(
    family: str, subject: Callable[[str], Subject], tmp_path: Path
) -> None:
    one = subject(family)
    model = one.load()
    with aprgraph.capture.transformers(model, tmp_path / "theirs") as capture:
        text = generate(model)
    trace = capture.trace
    seen: dict[int, list[str]] = {}
    for entry in trace.entries:
        stages = seen.setdefault(entry.step, [])
        stages += [entry.stage] if entry.stage not in stages else []
    assert seen == dict.fromkeys(range(STEPS), STAGES[family])
    report = one.compare(tmp_path / "theirs")
    assert report.exit_code == 0, report.verdict
    unmeasured = {row.key[2] for row in report.rows if row.classification.value == "UNMEASURED"}
    assert unmeasured == ({"qkv_matmul"} if "qkv_bias" in STAGES[family] else set())
    assert report.compared == len(trace)
    info, ours = Trace.open(tmp_path / "theirs").info, Trace.open(one.ours).info
    assert info is not None
    assert ours is not None
    assert info.tokens == TOKENS == ours.tokens
    assert [*TOKENS, *info.extra["generated"]] == text[0, :-1].tolist()
    assert info.extra["generated"] == ours.extra["generated"][:-1]


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1", "CAPTURE-TRANSFORMERS-2")
@pytest.mark.parametrize("family", _OPTIONS)
def test_sdpa_shows_all_but_scores_and_weights(family: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject(family)
    model = one.load("sdpa", "grouped_mm")
    with aprgraph.capture.transformers(model, tmp_path / "theirs") as capture:
        generate(model)
    expected = [stage for stage in STAGES[family] if stage not in ("attn_scores", "attn_softmax")]
    assert sorted({entry.stage for entry in capture.trace.entries}) == sorted(expected)
    report = one.compare(tmp_path / "theirs")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(capture.trace)
    assert capture.trace.info is not None
    assert "attn_scores and attn_softmax are not recorded" in capture.trace.info.extra["notes"][0]


@pytest.mark.contract("CAPTURE-TRANSFORMERS-2")
@pytest.mark.parametrize("experts", ["grouped_mm", "batched_mm"])
@pytest.mark.parametrize("family", MIXTURES)
def test_experts_however_they_are_computed(family: str, experts: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject(family)
    model = one.load(experts=experts)
    with aprgraph.capture.transformers(model, tmp_path / "theirs", taps=",".join(_EXPERTS)) as capture:
        run(model)
    assert len(capture.trace) == 3 * len(_EXPERTS)
    report = one.compare(tmp_path / "theirs")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(capture.trace)


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1")
def test_experts_that_cannot_be_followed_are_left_out_and_the_manifest_says_so(
    subject: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    def own(self: Any, x: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        gate, up = torch.einsum("ne,nkfe->nkf", x, self.gate_up_proj[chosen]).chunk(2, dim=-1)
        return torch.einsum("nkf,nkef,nk->ne", self.act_fn(gate) * up, self.down_proj[chosen], weights)

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "own", own)
    one = subject("qwen3moe")
    model = one.load()
    model.config._experts_implementation_internal = "own"
    with aprgraph.capture.transformers(model, tmp_path / "theirs") as capture:
        run(model)
    assert {entry.stage for entry in capture.trace.entries} == {
        stage for stage in STAGES["qwen3moe"] if not stage.startswith("moe_expert_")
    }
    assert capture.trace.info is not None
    assert "inside the experts" in capture.trace.info.extra["notes"][0]
    assert one.compare(tmp_path / "theirs").exit_code == 0


@pytest.mark.parametrize("family", ["llama", "qwen3moe"])
def test_bfloat16_is_recorded_as_it_is(family: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject(family)
    model = one.load(dtype="bfloat16")
    with aprgraph.capture.transformers(model, tmp_path / "theirs") as capture:
        run(model)
    trace = capture.trace
    assert {entry.stage for entry in trace.entries} == set(STAGES[family])
    assert trace.info is not None
    assert trace.info.extra["arithmetic"] == "bfloat16"
    for entry in trace.entries:
        bits = np.ascontiguousarray(trace.load(entry)).view(np.uint32)
        assert not (bits & 0xFFFF).any(), f"{entry.label} has digits that bfloat16 has not"
    report = aprgraph.diff(one.ours, tmp_path / "theirs")
    assert report.profile == "same-graph-bf16"
    assert report.exit_code == 0, report.verdict


@pytest.mark.contract("CAPTURE-TRANSFORMERS-2")
def test_mistral_has_the_row_order_of_llama(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject("llama")
    source = one.load()
    names = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    )
    config = transformers.MistralConfig(
        **{name: getattr(source.config, name) for name in names}, rms_norm_eps=source.config.rms_norm_eps,
        rope_parameters=source.config.rope_parameters, sliding_window=None, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config).eval()
    model.load_state_dict(source.state_dict())
    with aprgraph.capture.transformers(model, tmp_path / "theirs") as capture:
        run(model)
    report = one.compare(tmp_path / "theirs")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(capture.trace)
    assert {entry.stage for entry in capture.trace.entries} == set(STAGES["llama"])


def test_the_text_part_of_a_gemma3_that_sees(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject("gemma3")
    source = one.load()
    vision = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 28,
        "patch_size": 14,
    }
    config = transformers.Gemma3Config(
        text_config=source.config.to_dict(), vision_config=vision, mm_tokens_per_image=1, image_token_index=31, boi_token_index=30,
        eoi_token_index=30, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(config).eval()
    model.model.language_model.load_state_dict(source.model.state_dict())
    model.lm_head.load_state_dict(source.lm_head.state_dict())
    tokens = torch.tensor([[token for token in TOKENS if token != 31]])
    for index, single in enumerate((source, model)):
        with torch.no_grad(), aprgraph.capture.transformers(single, tmp_path / str(index)):
            single(tokens)
    report = aprgraph.diff(tmp_path / "0", tmp_path / "1")
    assert report.exit_code == 0, report.verdict
    assert report.compared == len(report.rows) == len(Trace.open(tmp_path / "1"))


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1")
def test_taps_layers_and_positions_select(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    one = subject("llama")
    model = one.load()
    with aprgraph.capture.transformers(model, tmp_path / "some", taps="layer_output, attn_scores,lm_head", layers="1..3", positions="all"):
        logits = run(model)
    assert sorted(files_under(tmp_path / "some")) == [
        "layer-1/attn_scores.bin", "layer-1/post_ffn_residual.bin", "layer-2/attn_scores.bin", "layer-2/post_ffn_residual.bin", "lm_head.bin",
        "trace.json",
    ]  # fmt: skip
    trace = Trace.open(tmp_path / "some")
    assert np.array_equal(trace.tensor("lm_head"), logits[0].numpy())
    assert trace.info is not None
    assert (trace.info.plan, trace.info.positions) == ("attn_scores,post_ffn_residual,lm_head 1..3", "all")
    assert one.compare(tmp_path / "some").exit_code == 0


@pytest.mark.contract("CAPTURE-TRANSFORMERS-1")
def test_the_manifest_names_the_run_and_not_the_machine(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    model = subject("qwen3moe").load()
    model.config._name_or_path = str(tmp_path / "somebody" / "Qwen3-tiny")
    for place in ("one", "two"):
        with aprgraph.capture.transformers(model, tmp_path / place):
            run(model)
    document = json.loads((tmp_path / "one" / MANIFEST).read_text())
    version = transformers.__version__
    assert {key: value for key, value in document.items() if key != "tensors"} == {
        "format": "aprgraph-trace", "version": 1, "model": {"name": "Qwen3-tiny", "architecture": "qwen3moe"}, "target": "transformers",
        "tokens": list(TOKENS), "positions": "last", "plan": "all 0..3", "graph": None, "arithmetic": "float32", "weights": "float", "qk_rows": "halves",
        "writer": f"transformers {version}, Qwen3MoeForCausalLM, eager, experts eager",
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "one" / MANIFEST).read_text()
    assert files_under(tmp_path / "one") == files_under(tmp_path / "two")


# -- faults that are planted in the model are found where they are ------------------------------------------------------


def _other_rope(model: Any) -> None:
    model.config.rope_parameters["rope_theta"] *= 1.01
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def _swap_rows(find: Callable[[Any], torch.Tensor]) -> Callable[[Any], None]:
    def plant(model: Any) -> None:
        with torch.no_grad():
            rows = find(model)
            rows[[0, 1]] = rows[[1, 0]].clone()

    return plant


def _other_eps(model: Any) -> None:
    model.model.layers[2].input_layernorm.variance_epsilon = 1e-2


#: Family, fault, and (layer, stage) of the first divergences.
FAULTS: dict[str, tuple[str, Callable[[Any], None], set[tuple[int | None, str]]]] = {
    "another base of RoPE": ("llama", _other_rope, {(0, "q_post_rope"), (0, "k_post_rope")}),
    "two rows of the down projection swapped": ("llama", _swap_rows(lambda m: m.model.layers[1].mlp.down_proj.weight), {(1, "ffn_out")}),
    "another eps": ("qwen3", _other_eps, {(2, "attn_norm")}),
    "two rows of a biased projection swapped": ("qwen2", _swap_rows(lambda m: m.model.layers[1].self_attn.k_proj.weight), {(1, "qkv_bias")}),
    "two weights of a norm swapped": ("qwen3", _swap_rows(lambda m: m.model.layers[1].self_attn.k_norm.weight), {(1, "k_norm")}),
    "two experts' scores swapped": ("qwen3moe", _swap_rows(lambda m: m.model.layers[1].mlp.gate.weight), {(1, "moe_router_logits")}),
    "two experts' down projections swapped": ("mixtral", _swap_rows(lambda m: m.model.layers[2].mlp.experts.down_proj), {(2, "moe_expert_out")}),
    "the head of one token": ("gemma3", _swap_rows(lambda m: m.lm_head.weight), {(None, "lm_head")}),
}  # fmt: skip


@pytest.mark.contract("CAPTURE-TRANSFORMERS-2")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_where_it_is(fault: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    family, plant, expected = FAULTS[fault]
    one = subject(family)
    model = one.load()
    if family == "gemma3":  # its head is its embedding
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    plant(model)
    with aprgraph.capture.transformers(model, tmp_path / "theirs"):
        run(model)
    report = one.compare(tmp_path / "theirs")
    assert report.exit_code == 1
    assert {first.key[1:] for first in report.first} == expected, report.verdict


# -- a capture changes nothing ------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-UNCHANGED-1")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", _OPTIONS)
def test_the_models_own_numbers_keep_their_bits(family: str, attention: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        model = subject(family).load(attention, "grouped_mm", dtype)
        before, originals = run(model), functions(model)
        with aprgraph.capture.transformers(model, tmp_path / "one"):
            during = run(model)
        assert torch.equal(before, during)
        assert torch.equal(before, run(model))
        assert hooks(model) == 0
        assert functions(model) == originals


@pytest.mark.contract("CAPTURE-UNCHANGED-1")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_generated_text_keeps_its_bits(attention: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    model = subject("qwen3moe").load(attention)
    options = {"max_new_tokens": STEPS, "do_sample": False, "use_cache": True, "output_logits": True, "return_dict_in_generate": True}
    before = model.generate(torch.tensor([TOKENS]), **options)
    with aprgraph.capture.transformers(model, tmp_path / "one"):
        during = model.generate(torch.tensor([TOKENS]), **options)
    assert torch.equal(before.sequences, during.sequences)
    assert len(before.logits) == STEPS
    assert all(torch.equal(a, b) for a, b in zip(before.logits, during.logits, strict=True))


@pytest.mark.contract("CAPTURE-UNCHANGED-1")
def test_hooks_that_were_there_stay_and_are_seen(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """A hook of somebody else that replaces an output is part of the model."""
    model = subject("llama").load()
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda _module, _args, output: output * 2)
    with aprgraph.capture.transformers(model, tmp_path / "theirs"):
        logits = run(model)
    assert torch.equal(logits, run(model))
    assert hooks(model) == 1
    report = subject("llama").compare(tmp_path / "theirs")
    assert [first.key[1:] for first in report.first] == [(0, "ffn_out")]


@pytest.mark.contract("CAPTURE-UNCHANGED-1")
def test_other_models_of_the_class_are_not_recorded(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    """They call the same functions, in this thread and in others, and captures of several models overlap."""
    first, second = subject("llama").load(), subject("llama").load()
    _other_rope(second)
    originals = functions(first)
    alone = aprgraph.capture.transformers(first, tmp_path / "alone")
    with alone:
        run(first)
        run(second)
        thread = threading.Thread(target=run, args=(second,))
        thread.start()
        thread.join()
    one, two = aprgraph.capture.transformers(first, tmp_path / "one"), aprgraph.capture.transformers(second, tmp_path / "two")
    one.__enter__()
    two.__enter__()
    run(first)
    one.__exit__(None, None, None)
    run(second)
    two.__exit__(None, None, None)
    assert functions(first) == originals
    assert files_under(tmp_path / "one") == files_under(tmp_path / "alone")
    assert subject("llama").compare(tmp_path / "one").exit_code == 0
    assert {first.key[2] for first in subject("llama").compare(tmp_path / "two").first} == {"q_post_rope", "k_post_rope"}


# -- what goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-FAILURE-1")
@pytest.mark.parametrize("when", ["before a pass", "after a pass", "within a pass"])
def test_an_exception_in_the_block_leaves_no_trace_and_no_hooks(when: str, subject: Callable[[str], Subject], tmp_path: Path) -> None:
    model = subject("qwen3moe").load()
    originals = functions(model)
    with pytest.raises(ZeroDivisionError), aprgraph.capture.transformers(model, tmp_path / "theirs"):  # noqa: PT012
        if when == "after a pass":
            run(model)
        if when == "within a pass":
            model.model.layers[2].mlp.experts.act_fn.register_forward_hook(lambda *_: 1 // 0)
            run(model)
        raise ZeroDivisionError
    assert hooks(model) == (when == "within a pass")
    assert functions(model) == originals
    names = set(files_under(tmp_path))
    assert not any(name.endswith(MANIFEST) for name in names)
    assert (f"theirs/{MARKER}" in names) is (when != "before a pass")
    if when != "before a pass":
        with pytest.raises(TraceError, match="was interrupted"):
            Trace.open(tmp_path / "theirs")
    if when != "within a pass":
        assert torch.isfinite(run(model)).all()


@pytest.mark.contract("CAPTURE-FAILURE-1")
def test_a_pass_that_failed_and_was_caught_makes_no_whole_trace(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    model = subject("llama").load()
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 // 0)
    capture = aprgraph.capture.transformers(model, tmp_path / "t")
    capture.__enter__()
    with pytest.raises(ZeroDivisionError):
        run(model)
    handle.remove()
    with pytest.raises(TraceError, match="the last pass inside the block did not end"):
        capture.__exit__(None, None, None)
    assert hooks(model) == 0
    assert not (tmp_path / "t" / MANIFEST).exists()


def _ids(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.long)


def _chunks(model: Any) -> None:
    cache = model(_ids(1, 4), use_cache=True).cache
    model(_ids(1, 3), cache=cache, use_cache=True)


def _static_cache(model: Any) -> None:
    model(_ids(1, 4), cache=transformers.StaticCache(config=model.config, max_cache_len=16), use_cache=True)


@pytest.mark.contract("CAPTURE-FAILURE-1")
@pytest.mark.parametrize(("passes", "message"), [
    (lambda _model: None, "no forward pass of the model ran inside the block"),
    (lambda model: model(_ids(2, 4)), "a batch of 2 texts, expected one"),
    (lambda model: model(_ids(1, 4), attention_mask=torch.tensor([[0, 1, 1, 1]])), "the attention mask has zeros"),
    (lambda model: model(_ids(1, 4), attention_mask=torch.zeros(1, 1, 4, 4)), "the attention mask has 4 dimensions, expected none"),
    (lambda model: model(inputs_embeds=torch.ones(1, 4, model.config.hidden_size)), "the model was given embeddings, expected input_ids"),
    (lambda model: model(_ids(1, 4), position_ids=torch.tensor([[0, 1, 1, 2]])), r"the positions are \[0, 1, 1, 2\], expected one after the other"),
    (lambda model: model(_ids(1, 4), position_ids=torch.tensor([[2, 3, 4, 5]])), "4 tokens from position 2, expected the whole prompt from position 0"),
    (lambda model: (model(_ids(1, 4)), model(_ids(1, 4))), "4 tokens from position 0, expected one token, at position 4"),
    (_chunks, "3 tokens from position 4, expected one token, at position 4"),
    (_static_cache, "attention is over 16 places of a cache for 4 positions, expected a cache that grows"),
    (lambda model: model(_ids(1, 4), logits_to_keep=2), "the model computed logits of 2 of 4 positions"),
])  # fmt: skip
def test_passes_that_are_no_single_text(
    passes: Callable[[Any], Any], message: str, subject: Callable[[str], Subject], tmp_path: Path
) -> None:
    model = subject("llama").load()
    with pytest.raises(TraceError, match=message), aprgraph.capture.transformers(model, tmp_path / "t", positions="all"), torch.no_grad():
        passes(model)
    assert hooks(model) == 0
    assert not (tmp_path / "t" / MANIFEST).exists()


@pytest.mark.contract("CAPTURE-FAILURE-1")
@pytest.mark.parametrize(("options", "kind", "message"), [
    ({"taps": "ffn_gaet"}, PlanError, "unknown stage 'ffn_gaet'"),
    ({"taps": "q_norm"}, PlanError, "this model does not show q_norm; what it shows is: embedding, attn_norm, qkv_matmul, q_post_rope"),
    ({"taps": "attn_scores"}, PlanError, r"does not show attn_scores \(attn_scores and attn_softmax are not recorded: only attn_imp"),
    ({"layers": "1..4"}, PlanError, r"layers 1\.\.4: the model has 3 layers, expected END of at most 3"),
    ({"layers": "2-3"}, PlanError, "expected START..END"),
    ({"positions": "first"}, PlanError, "positions 'first': expected 'last' or 'all'"),
])  # fmt: skip
def test_plans_that_do_not_fit(
    options: Any, kind: type[AprgraphError], message: str, subject: Callable[[str], Subject], tmp_path: Path
) -> None:
    model = subject("llama").load("sdpa")
    with pytest.raises(kind, match=message):
        aprgraph.capture.transformers(model, tmp_path / "t", **options)
    assert hooks(model) == 0
    assert not (tmp_path / "t").exists()


@pytest.mark.contract("CAPTURE-FAILURE-1")
def test_models_that_cannot_be_captured(subject: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = transformers.BloomForCausalLM(transformers.BloomConfig(hidden_size=8, n_layer=1, n_head=1, vocab_size=8))
    with pytest.raises(
        UnsupportedModelError, match="BloomForCausalLM cannot be captured, expected one of LlamaForCausalLM, MistralForCausalLM, "
    ):
        aprgraph.capture.transformers(other, tmp_path / "t")
    model = subject("llama").load()
    with pytest.raises(
        TraceError, match=r"LlamaForCausalLM is in training mode, where dropout is drawn anew each time; call model\.eval\(\) first"
    ):
        aprgraph.capture.transformers(model.train(), tmp_path / "t")
    softcapped = subject("gemma3").load()
    softcapped.config.final_logit_softcapping = 30.0
    with pytest.raises(UnsupportedModelError, match="Gemma3ForCausalLM with final_logit_softcapping cannot be captured"):
        aprgraph.capture.transformers(softcapped, tmp_path / "t")
    # Its first lazy import puts another module in the place of the one that is imported above.
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(UnsupportedModelError, match=r"transformers 4\.57\.1 is here, expected 5 or later"):
        aprgraph.capture.transformers(model.eval(), tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_the_trace_is_there_after_the_block(subject: Callable[[str], Subject], tmp_path: Path) -> None:
    model = subject("llama").load()
    with aprgraph.capture.transformers(model, tmp_path / "t") as capture:
        run(model)
        with pytest.raises(TraceError, match="the capture has not ended"):
            _ = capture.trace
    assert len(capture.trace) == len(Trace.open(tmp_path / "t"))
