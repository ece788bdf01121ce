"""Forms of files that are the same model, tensors that are left out, and what is said of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, UnsupportedModelError
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.text import print_graph
from aprgraph.runtime.reference import interpret
from tests.support.checkpoints import gguf_of
from tests.support.cli import run_cli
from tests.support.gguf_bytes import ARRAY, F32, STRING, U32, RawGGUF, RawTensor, array, small_llama
from tests.support.models import require_gemma3, require_smollm2

Tiny = Callable[..., Path]
TOKENS = (1, 3, 0, 2)


def write(path: Path, file: RawGGUF) -> Path:
    path.write_bytes(file.pack())
    return path


def logits(path: Path, ignore: tuple[str, ...] = ()) -> bytes:
    model = load_model(path, ignore=ignore)
    return interpret(build_graph(model), model, TOKENS)["lm_head"].tobytes()


# -- forms ---------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("LOAD-FORMS-1")
@pytest.mark.parametrize("key", ["attention.head_count", "attention.head_count_kv", "feed_forward_length"])
def test_a_size_may_be_given_for_each_layer(key: str, tmp_path: Path) -> None:
    plain, listed = small_llama(2), small_llama(2)
    value = {"attention.head_count": 2, "attention.head_count_kv": 1, "feed_forward_length": 12}[key]
    listed.keys[f"llama.{key}"] = (ARRAY, array(U32, [value, value]))
    first, second = (write(tmp_path / name, file) for name, file in (("a.gguf", plain), ("b.gguf", listed)))
    texts = [print_graph(build_graph(load_model(path))).split("\n", 1)[1] for path in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.contract("LOAD-FORMS-1")
def test_tensors_may_have_leading_ones(tmp_path: Path) -> None:
    plain, padded = small_llama(), small_llama()
    padded.tensors = {name: RawTensor((1, *tensor.dims)) for name, tensor in padded.tensors.items()}
    padded.tensors["blk.0.attn_q.weight"] = RawTensor((1, 1, 8, 8))
    first, second = (write(tmp_path / name, file) for name, file in (("a.gguf", plain), ("b.gguf", padded)))
    texts = [print_graph(build_graph(load_model(path))).split("\n", 1)[1] for path in (first, second)]
    assert texts[0] == texts[1]
    assert logits(first) == logits(second)
    assert load_model(second).vocabulary == 4


@pytest.mark.contract("LOAD-FORMS-1")
def test_sizes_that_differ_between_layers_make_layers_of_their_own(tmp_path: Path) -> None:
    file = small_llama(2)
    file.keys["llama.feed_forward_length"] = (ARRAY, array(U32, [12, 20]))
    file.keys["llama.attention.head_count_kv"] = (ARRAY, array(U32, [1, 2]))
    file.tensors |= {f"blk.1.ffn_{part}.weight": RawTensor((20, 8)) for part in ("gate", "up")}
    file.tensors |= {"blk.1.ffn_down.weight": RawTensor((8, 20))} | {f"blk.1.attn_{part}.weight": RawTensor((8, 8)) for part in "kv"}
    graph = build_graph(load_model(write(tmp_path / "m.gguf", file)))
    assert [graph[f"layer{layer}.ffn_gate"].type.dims for layer in (0, 1)] == [("n", 12), ("n", 20)]
    assert [graph[f"layer{layer}.k_post_rope"].type.dims for layer in (0, 1)] == [("n", 4), ("n", 8)]
    assert [graph[f"layer{layer}.attn_scores"].attrs["kv_heads"] for layer in (0, 1)] == [1, 2]
    run = run_cli(
        "run", tmp_path / "m.gguf", "--tokens", "1,2,3", "--target", "reference", "--taps", "all", "--layers", "0..2", "-o", tmp_path / "t"
    )
    assert run.code == 0


def test_experts_that_differ_between_layers_are_refused_by_layer(tiny_model: Tiny) -> None:
    model = load_model(tiny_model(family="qwen3moe"))
    values = {**model.file.metadata, "qwen3moe.expert_used_count": _Numbers([2, 1])}
    from aprgraph.graph.metadata import Metadata

    with pytest.raises(UnsupportedModelError, match=r"qwen3moe\.expert_used_count is 2 in layer 0 and 1 in layer 1; supported is one"):
        type(model.family)(Metadata(model.path, values))


class _Numbers(list[int]):
    """An array of metadata."""

    def values(self) -> list[int]:
        return self


@pytest.mark.parametrize(("pattern", "sliding"), [(0, [True] * 3), (1, [False] * 3), (2, [True, False, True])])
def test_the_period_of_windows_is_llama_cpps(pattern: int, sliding: list[bool], tiny_model: Tiny) -> None:
    model = load_model(tiny_model(family="gemma3", layers=3), {"gemma3.attention.sliding_window_pattern": pattern})
    assert [window > 0 for window in model.family.windows] == sliding
    windows = [build_graph(model)[f"layer{layer}.attn_scores"].attrs["window"] for layer in range(3)]
    assert windows == [5 if slides else 0 for slides in sliding]


# -- tensors -------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("LOAD-TENSORS-1")
@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ("v.blk.0.attn_q.weight", "mm.input_projection.weight", "a.conv1.weight"),
            "tensors of the encoders of images and sounds are left out (3): v.blk.0.attn_q.weight, mm",
        ),
        (("blk.0.attn_rot_embd",), "tensors that repeat RoPE's frequencies are left out (1): blk.0.attn_rot_embd"),
        (("blk.0.attn.rotary_emb.inv_freq",), "tensors that repeat RoPE's frequencies are left out (1): blk.0.attn"),
        (("mtp.layers.0.weight", "blk.1.nextn.eh_proj.weight"), "tensors that predict later tokens are left out (2): mtp.layers.0.weight"),
        (("blk.1.nextn.eh_proj.weight", "blk.1.attn_norm.weight"), "tensors that predict later tokens are left out (2): blk.1.nextn"),
        (("cls.output.weight",), "tensors of a classifier are left out (1): cls"),
    ],
)
def test_what_cannot_touch_a_text_is_left_out_and_said(names: tuple[str, ...], said: str, tmp_path: Path) -> None:
    plain, more = small_llama(), small_llama()
    more.tensors |= {name: RawTensor((8,)) for name in names}
    first, second = (write(tmp_path / name, file) for name, file in (("a.gguf", plain), ("b.gguf", more)))
    assert logits(first) == logits(second)
    (notice,) = load_model(second).notices
    assert notice.startswith(said)


@pytest.mark.contract("LOAD-TENSORS-1")
def test_blocks_that_the_metadata_counts_as_predicting_later_tokens_are_no_layers(tmp_path: Path) -> None:
    file = small_llama(3)
    file.set("llama.nextn_predict_layers", U32, 1)
    model = load_model(write(tmp_path / "m.gguf", file))
    assert model.family.layers == 2
    assert max(node.layer or 0 for node in build_graph(model)) == 1
    assert model.notices == ("tensors that predict later tokens are left out (9): blk.2.attn_norm.weight, blk.2.attn_q.weight, …",)
    file.set("llama.nextn_predict_layers", U32, 3)
    with pytest.raises(ModelError, match="nextn_predict_layers is 3, expected a number below llama.block_count, 3"):
        load_model(write(tmp_path / "m.gguf", file))


@pytest.mark.contract("LOAD-TENSORS-1")
def test_others_are_refused_unless_they_are_to_be_ignored(tmp_path: Path) -> None:
    plain, more = small_llama(), small_llama()
    more.tensors |= {"blk.0.extra.weight": RawTensor((8,)), "blk.1.attn_norm.weight": RawTensor((8,))}
    first, second = (write(tmp_path / name, file) for name, file in (("a.gguf", plain), ("b.gguf", more)))
    with pytest.raises(
        UnsupportedModelError, match=r"'blk.0.extra.weight' and 1 more has no place .* ignore=\[r'blk\\.0\\.extra\\.weight'\]"
    ):
        build_graph(load_model(second))
    assert logits(second, (r"blk\.0\.extra.*", r"blk\.1\..*")) == logits(first)
    model = load_model(second, ignore=(r"blk\.(0\.extra|1).*",))
    assert model.notices == ("tensors that ignore= names are left out (2): blk.0.extra.weight, blk.1.attn_norm.weight",)
    with pytest.raises(
        UnsupportedModelError, match=r"ignore= leaves out the tensor 'blk.0.attn_norm.weight', which %layer0.attn_norm needs"
    ):
        build_graph(load_model(second, ignore=(r"blk\..*",)))
    with pytest.raises(AprgraphError, match=r"ignore=\['blk\.0\.extr'\]: no tensor and no metadata key .* matches as a whole"):
        load_model(second, ignore=("blk.0.extr",))
    with pytest.raises(AprgraphError, match=r"ignore=\['\('\]: not a regular expression"):
        load_model(second, ignore=("(",))


@pytest.mark.contract("LOAD-TENSORS-1")
def test_commands_take_ignore_and_keep_it(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors |= {"blk.0.extra.weight": RawTensor((8,))}
    path = write(tmp_path / "m.gguf", file)
    option = ("--ignore", r"blk\.0\.extra.*")
    note = "note: tensors that --ignore names are left out (1): blk.0.extra.weight\n"
    for command in (("stages", path), ("graph", path), ("compile", path, "--target", "reference", "-o", tmp_path / "m.aprg")):
        assert run_cli(*command).code == 2
        found = run_cli(*command, *option)
        assert (found.code, found.err) == (0, note), command
    tapped = ("--tokens", "1,2,3", "--taps", "attn_norm,lm_head", "-o", tmp_path / "t")
    assert run_cli("run", tmp_path / "m.aprg", *tapped).err == note  # the artifact remembers
    manifest = json.loads((tmp_path / "t" / "trace.json").read_text(encoding="utf-8"))
    assert manifest["model"]["ignore"] == [option[1]]
    assert manifest["notes"] == [note.removeprefix("note: ").strip()]
    assert run_cli("run", tmp_path / "m.aprg", *option).code == 2
    for command in (("audit", tmp_path / "t"), ("diff", tmp_path / "t", tmp_path / "t")):
        found = run_cli(*command, "--model", path, *option)
        assert (found.code, found.err) == (0, note)
    assert run_cli("diff", tmp_path / "t", tmp_path / "t", *option).code == 2


# -- what is said --------------------------------------------------------------------------------------------------------


@pytest.mark.contract("LOAD-DEFAULTS-1")
def test_a_missing_base_of_rope_is_said_by_the_run_and_its_manifest(tiny_model: Tiny, tmp_path: Path) -> None:
    path = tiny_model(family="qwen2", rope_base=None)
    sentence = "qwen2.rope.freq_base is not in the file: 10000 was taken; if the model has another base, give it with --override-kv qwen2"
    run = run_cli("run", path, "--tokens", "1,2,3", "--target", "reference", "--taps", "lm_head", "-o", tmp_path / "t")
    assert run.err.startswith(f"note: {sentence}")
    (note,) = json.loads((tmp_path / "t" / "trace.json").read_text(encoding="utf-8"))["notes"]
    assert note.startswith(sentence)
    assert load_model(path).defaults == {
        "qwen2.rope.dimension_count": 16, "qwen2.rope.freq_base": 10000.0, "qwen2.attention.scale": 0.25,
    }  # fmt: skip
    assert load_model(path, {"qwen2.rope.freq_base": 1e6}).notices == ()
    assert [load_model(gguf_of(name)).notices for name in ("gpt2-f32", "phi2-f32", "gemma2-f32")] == [()] * 3  # no file of theirs has it
    (other,) = load_model(tiny_model(family="qwen3moe", rope_base=None)).notices
    assert "1000000 was taken (llama.cpp takes 10000)" in other


def test_long_rope_without_its_factors_is_said(tiny_model: Tiny) -> None:
    keys = {"phi3.rope.scaling.type": "longrope", "phi3.rope.scaling.original_context_length": 16}
    (notice,) = load_model(tiny_model(family="phi3"), keys).notices
    assert notice.startswith("phi3.rope.scaling.type is longrope, but the file has no rope_factors_long.weight")
    assert load_model(tiny_model(family="phi3", rope_long_and_short=True, original_context=16)).notices == ()


@pytest.mark.parametrize("options", [{"rope_yarn_factor": 4.0}, {"family": "phi3", "rope_long_and_short": True, "original_context": 5}])
def test_a_stretched_rope_without_its_original_context_is_said(options: dict[str, object], tiny_model: Tiny) -> None:
    path = tiny_model(**options)
    model = load_model(path)
    name = f"{model.family.architecture}.rope.scaling.original_context_length"
    said = f"{name} is not in the file: 64, the context itself, was taken, as llama.cpp does"
    if "original_context" in options:
        assert model.notices == ()
        model = replace(model, metadata=Metadata(path, {key: value for key, value in model.metadata.items() if key != name}))
    assert said in model.notices


def test_a_generation_across_the_limit_of_long_rope_says_whose_factors_turn_the_prompt(tiny_model: Tiny) -> None:
    path = tiny_model(family="phi3", rope_long_and_short=True, original_context=5)
    command = ("run", path, "--target", "reference", "--tokens")
    said = run_cli(*command, "1,2,3,4", "-n", "3").err
    assert "with 2 generated positions the run goes beyond 5, so all of it, the prompt of 4 too, turns by the long factors" in said
    for arguments in (("1,2,3,4", "-n", "2"), ("1,2,3,4,5,6", "-n", "3"), ("1,2",)):
        assert "goes beyond" not in run_cli(*command, *arguments).err


@pytest.mark.parametrize(("tokens", "said"), [(6, "6 tokens in the vocabulary, 4 rows in token_embd.weight: ids from 4 on cannot be run"),
                                              (3, "3 tokens in the vocabulary, 4 rows in token_embd.weight: ids from 3 on have no text")])  # fmt: skip
def test_a_vocabulary_of_another_size_is_said(tokens: int, said: str, tmp_path: Path) -> None:
    file = small_llama()
    file.keys["tokenizer.ggml.tokens"] = (ARRAY, array(STRING, [f"t{index}" for index in range(tokens)]))
    path = write(tmp_path / "m.gguf", file)
    assert load_model(path).notices == (said,)
    assert run_cli("stages", path).err == f"note: {said}\n"
    beyond = run_cli("run", path, "--tokens", "1,5", "--target", "reference")
    assert beyond.code == 2
    assert "token" in beyond.err


def test_notices_do_not_command_a_terminal(tmp_path: Path) -> None:
    file = small_llama()
    file.set("llama.\x1b[2J\nnote", F32, 1.0)
    found = run_cli("stages", write(tmp_path / "m.gguf", file))
    assert found.err == "note: llama.\\x1b[2J\\nnote is 1.0: nothing here knows or reads this key\n"


@pytest.mark.contract("LOAD-DEFAULTS-1")
@pytest.mark.parametrize("path", [require_smollm2, require_gemma3])
def test_real_files_give_no_needless_notice(path: Callable[[], Path]) -> None:
    assert load_model(path()).notices == ()
