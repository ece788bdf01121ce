"""`aprgraph inspect`: what it says of each kind of file, and of what is none of them."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph import Trace
from aprgraph.api import CompiledModel
from aprgraph.runtime.trace.aprt import write_aprt
from tests.support.cli import fails, run_cli
from tests.support.gguf_bytes import F32, STRING, small_llama
from tests.support.traces import EMPTY_GRAPH, values, write_bare, write_trace


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of the command."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspect(path: object) -> tuple[dict[str, Any], list[str]]:
    """What is said as JSON, and the lines of the text."""
    text, data = run_cli("inspect", path), run_cli("inspect", path, "--json")
    assert (text.code, data.code, text.err, data.err) == (0, 0, "", "")
    return json.loads(data.out), text.out.splitlines()


def test_an_aprt_file() -> None:
    write_aprt("ffn_up.bin", 7, np.array([1.0, -3.0, np.nan, np.inf], np.float32))
    document, lines = inspect("ffn_up.bin")
    assert document == {
        "kind": "APRT file", "stage": "ffn_up", "layer": 7, "count": 4, "min": -3.0, "max": 1.0, "mean": -1.0, "rms": 5**0.5, "nan": 1, "inf": 1,
    }  # fmt: skip
    assert lines[:4] == ["kind: APRT file", "stage: ffn_up", "layer: 7", "count: 4"]


def test_elements_of_an_aprt_file_in_a_trace_by_its_shape() -> None:
    write_trace(Path("t"), {(0, "ffn_up"): np.arange(12, dtype=np.float32).reshape(3, 4) - 4})
    document = json.loads(run_cli("inspect", "t/layer-0/ffn_up.bin", "--at", "2,1", "--at=-1,-1", "--top", 2, "--json").out)
    assert (document["shape"], document["elements"]) == ([3, 4], {"[2, 1]": 5.0, "[2, 3]": 7.0})
    assert document["largest"] == {"[2, 3]": 7.0, "[2, 2]": 6.0}
    assert "  [2, 1]: 5.0" in run_cli("inspect", "t/layer-0/ffn_up.bin", "--at", "2,1").out.splitlines()
    for at, expected in (("3,0", "axis 0 has 3 elements, expected -3 to 2 there"), ("5", "the shape is 3 x 4; expected 2 whole numbers")):
        assert expected in fails("inspect", "t/layer-0/ffn_up.bin", "--at", at)
    assert "--at and --top are of one tensor" in fails("inspect", "t", "--at", "0")


def test_elements_without_a_manifest_are_a_row_and_nan_is_the_largest() -> None:
    write_aprt("ffn_up.bin", 7, np.array([1.0, -3.0, np.nan, 2.0], np.float32))
    document = json.loads(run_cli("inspect", "ffn_up.bin", "--at", "1", "--top", 2, "--json").out)
    assert (document["elements"], document["largest"]) == ({"[1]": -3.0}, {"[2]": "nan", "[1]": -3.0})


def test_a_damaged_manifest_does_not_keep_a_tensor_from_being_read() -> None:
    write_trace(Path("t"), {(0, "ffn_up"): values(3, 4)})
    Path("t/trace.json").write_text("{")
    document, _ = inspect("t/layer-0/ffn_up.bin")
    assert (document["count"], "shape" in document) == (12, False)


def test_a_npy_file() -> None:
    np.save("guilty.npy", np.array([[1, -9], [3, 4]], np.int64))
    document = json.loads(run_cli("inspect", "guilty.npy", "--top", 1, "--at", "1,0", "--json").out)
    assert (document["kind"], document["dtype"], document["shape"], document["max"]) == (".npy file", "int64", [2, 2], 4.0)
    assert (document["largest"], document["elements"]) == ({"[0, 1]": -9}, {"[1, 0]": 3})
    np.save("words.npy", np.array(["a"]))
    assert "expected numbers" in fails("inspect", "words.npy")
    Path("broken.npy").write_bytes(b"\x93NUMPY\x01")
    assert "broken.npy: " in fails("inspect", "broken.npy")


def test_an_aprt_file_of_the_whole_model() -> None:
    write_aprt("lm_head.bin", None, np.empty(0, np.float32))
    document, _ = inspect("lm_head.bin")
    assert (document["layer"], document["count"], document["min"]) == ("whole model", 0, None)


def test_a_trace() -> None:
    write_trace(Path("t"), {(0, "ffn_up"): values(3, 4), (None, "lm_head"): values(9)}, tokens=(5, 6))
    document, lines = inspect("t")
    assert (document["kind"], document["manifest"], document["tokens"]) == ("trace", True, [5, 6])
    assert document["tensors"] == {"layer 0 ffn_up": "3x4  layer-0/ffn_up.bin", "lm_head": "9  lm_head.bin"}
    assert "  layer 0 ffn_up: 3x4  layer-0/ffn_up.bin" in lines


def test_a_trace_without_a_manifest() -> None:
    write_bare(Path("t"), {(0, "ffn_up"): values(3, 4)})
    document, _ = inspect("t")
    assert document == {"kind": "trace", "manifest": False, "tensors": {"layer 0 ffn_up": "12  layer-0/ffn_up.bin"}}


@pytest.mark.parametrize("write", [write_trace, write_bare])
def test_a_damaged_trace_is_shown_whole_and_the_exit_code_says_so(write: Callable[..., Any]) -> None:
    """A file that is cut off, and one that has gone where a manifest lists it: 1, as `aprgraph check` has for what it finds."""
    write(Path("t"), {(0, "ffn_up"): values(3, 4), (0, "ffn_gate"): values(3, 4), (None, "lm_head"): values(9)})
    Path("t/layer-0/ffn_up.bin").write_bytes(Path("t/layer-0/ffn_up.bin").read_bytes()[:-1])
    Path("t/lm_head.bin").unlink()
    text, data = run_cli("inspect", "t"), run_cli("inspect", "t", "--json")
    assert (text.code, data.code, text.err, data.err) == (1, 1, "", "")
    document = json.loads(data.out)
    assert "layer 0 ffn_gate" in document["tensors"]
    assert "59 bytes" in document["damaged"]["layer-0/ffn_up.bin"]
    assert list(document["damaged"]) == ["layer-0/ffn_up.bin", *(["lm_head.bin"] if write is write_trace else [])]
    assert "unread" not in document
    assert any(line.startswith("  layer-0/ffn_up.bin: ") for line in text.out.splitlines())


def test_a_file_of_another_name_is_no_damage() -> None:
    write_bare(Path("t"), {(0, "ffn_up"): values(3, 4)})
    write_aprt("t/layer-0/ffn_upp.bin", 0, values(3, 4))
    document, _ = inspect("t")
    assert (list(document["unread"]), "damaged" in document) == (["layer-0/ffn_upp.bin"], False)


def test_an_artifact(tiny: CompiledModel) -> None:
    document, lines = inspect(tiny.artifact.directory)
    assert (document["kind"], document["target"]) == ("artifact", tiny.artifact.target_name)
    assert document["kernels"] == dict(tiny.artifact.kernels)
    assert "overrides: none" in lines


def test_a_model(model_path: Path) -> None:
    document, _ = inspect(model_path)
    assert (document["kind"], document["version"], document["bytes"]) == ("GGUF file", 3, model_path.stat().st_size)
    assert document["metadata"]["llama.block_count"] == 3
    assert document["metadata"]["tokenizer.ggml.tokens"] == "array of 291"
    assert document["tensors"]["blk.2.attn_v.weight"] == "F16 32 x 64"
    assert document["tensors"]["blk.0.ffn_up.weight"] == "Q8_0 96 x 64"
    assert list(document["findings"]) == ["note: the file has no chat template"]
    assert document["weights"].startswith("not read; `aprgraph check ")


def test_what_a_model_file_lacks(tiny_model: Callable[..., Path]) -> None:
    """The cheap part of `aprgraph check`: keys, names and shapes, the vocabulary; not the weights."""
    document, lines = inspect(tiny_model(family="qwen2", rope_base=None))
    (said,) = document["findings"]["warning: the metadata leave out what the numbers depend on"]
    assert said.startswith("qwen2.rope.freq_base is not in the file: 10000 was taken")
    assert any("qwen2.rope.freq_base is not in the file" in line for line in lines)


def test_what_a_gguf_file_is_that_is_no_model() -> None:
    file = small_llama()
    file.set("general.type", STRING, "mmproj")
    Path("m.gguf").write_bytes(file.pack())
    assert inspect("m.gguf")[0]["findings"] == {"error: this is no whole model": ["this is a projector of images or sound (mmproj)"]}


def test_a_model_of_another_architecture() -> None:
    """What cannot be run can be looked at."""
    file = small_llama()
    file.set("general.architecture", STRING, "gpt9")
    Path("m.gguf").write_bytes(file.pack())
    assert inspect("m.gguf")[0]["metadata"]["general.architecture"] == "gpt9"


def test_metadata_that_json_and_terminals_do_not_hold() -> None:
    """NaN and Inf; line ends and what moves a cursor, in names and values."""
    file = small_llama()
    for key, number in (("nan", "nan"), ("inf", "inf")):
        file.keys[f"general.{key}"] = (F32, struct.pack("<f", float(number)))
    file.set("general.na\nme", STRING, "a\nb\x1b[2Jc\r\u2028d")
    Path("m.gguf").write_bytes(file.pack())
    document, lines = inspect("m.gguf")
    assert (document["metadata"]["general.nan"], document["metadata"]["general.inf"]) == ("nan", "inf")
    assert "  general.na\\nme: a\\nb\\x1b[2Jc\\r\\u2028d" in lines


def test_long_values_are_cut() -> None:
    file = small_llama()
    file.set("general.description", STRING, "x" * 5000)
    Path("m.gguf").write_bytes(file.pack())
    document, lines = inspect("m.gguf")
    assert len(document["metadata"]["general.description"]) == 5000
    assert max(map(len, lines)) < 200


@pytest.mark.parametrize(("make", "expected"), [
    (lambda: None, "x: not there; expected an APRT or .npy file, a GGUF file, an .apr file, a checkpoint, or the directory of a trace or an artifact"),
    (lambda: Path("x").write_bytes(b"abcdef"), "x: begins with b'abcd'; expected an APRT or .npy file, a GGUF file, "),
    (lambda: Path("x").write_bytes(b""), "x: an empty file; "),
    (lambda: Path("x").write_bytes(b"PK\x03\x04 and so on"), "x: a ZIP archive; unpack it first; expected an APRT or .npy file"),
    (lambda: (Path("x").mkdir(), Path("x/config.json").write_text("{}")), "x: a Hugging Face folder; aprgraph reads config.json with *.safetensors beside it"),
    (lambda: Path("x").write_bytes(b"APRT"), "x: 4 bytes, too short for an APRT file"),
    (lambda: Path("x").write_bytes(b"APRT" + bytes(9)), "x: 13 bytes, expected 12 for the 0 elements"),
    (lambda: Path("x").write_bytes(b"GGUF" + bytes(4)), "x: GGUF version 0, expected 2 or 3"),
    (lambda: Path("x").mkdir(), "x: holds neither a manifest (trace.json) nor APRT files of known stages"),
    (lambda: os.mkfifo("x"), "x: is a pipe; expected an APRT or .npy file"),
    (lambda: Path("x").symlink_to("nowhere"), "x: not there; expected"),
    (lambda: (Path("x").mkdir(), Path("x/trace.json").write_text("{}")), "x/trace.json: not a whole trace manifest (format is missing); run the trace again"),
    (lambda: (Path("x").mkdir(), Path("x/artifact.json").write_text("{}")), "x/artifact.json: format None, expected 'aprgraph-artifact'; compile the model again"),
])  # fmt: skip
def test_what_is_none_of_them(make: Any, expected: str) -> None:
    make()
    assert expected in fails("inspect", "x")


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x").write_bytes(b"APRT")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", denied)
    assert fails("inspect", "x") == "x: cannot be read: Permission denied"


def test_an_empty_graph_is_no_obstacle() -> None:
    write_trace(Path("t"), {}, graph=EMPTY_GRAPH)
    assert inspect("t")[0]["tensors"] == {}


def test_arrays_of_other_names_are_listed_with_the_rules_that_place_them(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """As a new user needs them: what is in a file, and options to copy."""
    model = tiny_model(layers=2)
    trace = (
        aprgraph.load(model)
        .compile("reference", tmp_path / "m.aprg")
        .run("all", "all", tokens=[3, 1, 4, 1, 5], directory=tmp_path / "ours", max_tokens=2, steps="0..2")
    )
    called = {"attn_norm": "norm1", "ffn_norm": "norm2", "ffn_gate": "gate", "ffn_up": "up", "ffn_out": "mlp"}
    dump: dict[str, Any] = {"token_ids": np.array([3, 1, 4, 1, 5])}
    for entry in trace.entries:
        step = f"step{entry.step}." if entry.step else ""
        if entry.stage in called:
            dump[f"{step}blocks.{entry.layer}.{called[entry.stage]}"] = trace.load(entry)
        elif entry.stage == "lm_head":
            dump[f"{step}logits"] = trace.load(entry)
    dump["blocks.0.q"] = np.ones((5, 64), np.float32)
    np.savez("dump.npz", **dump)
    document, lines = inspect("dump.npz")
    assert document["arrays"]["blocks.{}.norm2"] == "2 of 5x64"
    assert document["arrays"]["step{}.blocks.{}.mlp"] == "2 of 1x64"
    assert document["arrays"]["blocks.{}.q"].startswith("1 of 5x64 (one of three parts of qkv_matmul")
    assert document["arrays"]["token_ids"] == "1 of 5 (the prompt's token ids)"
    options = list(document["rules that their names suggest"])
    assert not any("token_ids" in option for option in options)
    assert r"--map '^blocks\.(\d+)\.gate=layer\1.ffn_gate'" in options
    assert r"--map 'step(\d+)\.blocks\.(\d+)\.gate=step\1.layer\2.ffn_gate'" in options
    assert f"  {options[0]}: {document['rules that their names suggest'][options[0]]}" in lines
    rules = [option.removeprefix("--map '").removesuffix("'") for option in options]
    placed = Trace.open("dump.npz", names=rules)
    assert {entry.key for entry in placed.entries} == {entry.key for entry in trace.entries if entry.stage in (*called, "lm_head")}
    for entry in placed.entries:
        assert np.array_equal(placed.load(entry).reshape(-1), trace.load(trace.get(entry.stage, entry.layer, entry.step)).reshape(-1))
    assert [one.file for one in placed.unread] == ["blocks.0.q"]
    # The first step is step 0 here, under the name that another program has for steps.
    words = {name if name in ("token_ids", "blocks.0.q") else f"s0.{name}" if name[:4] != "step" else f"s{name[4:]}": name for name in dump}
    np.savez(
        "steps.npz", **{word: dump[name] for word, name in words.items()}, norm_f=np.ones((5, 64), np.float32), mlp_norm=dump["blocks.0.q"]
    )
    document, _ = inspect("steps.npz")
    options = list(document["rules that their names suggest"])
    assert r"--map 's(\d+)\.blocks\.(\d+)\.gate=step\1.layer\2.ffn_gate'" in options
    assert r"--map 's(\d+)\.logits=step\1.lm_head'" in options
    assert "--map 'norm_f=final_norm'" in options
    assert not any("mlp_norm" in option for option in options)  # it is of a layer that nothing names
    again = Trace.open("steps.npz", names=[option.removeprefix("--map '").removesuffix("'") for option in options])
    assert {entry.key for entry in again.entries if entry.stage != "final_norm"} == {entry.key for entry in placed.entries}
    # Counted from 1 or apart, no one rule has the steps; those that would clash are not suggested.
    np.savez(
        "apart.npz", **{f"{step}.blocks.{layer}.gate": dump[f"blocks.{layer}.gate"] for step in ("s1", "s2", "later") for layer in (0, 1)}
    )
    document, _ = inspect("apart.npz")
    assert list(document["rules that their names suggest"]) == [r"--map 's1\.blocks\.(\d+)\.gate=layer\1.ffn_gate'"]
    said = r"(its place would be that of s1.blocks.{}.gate; if it is of step 1, the rule is s2\.blocks\.(\d+)\.gate=step1.layer\1.ffn_gate)"
    assert list(document["arrays"].values())[1].endswith(said)
    assert list(document["arrays"].values())[2].endswith(said.replace("s2", "later"))


def test_rules_for_the_names_of_other_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp has the layer at the end, also 0; vLLM and SGLang one projection of gate and up, and behind it their product."""
    monkeypatch.chdir(tmp_path)
    array = np.ones((5, 8), np.float32)

    def rules(*names: str) -> list[str]:
        np.savez("dump.npz", **{name.format(layer): array for name in names for layer in range(2)})
        return list(inspect("dump.npz")[0]["rules that their names suggest"])

    assert rules("attn_norm-{}", "kqv_out-{}", "l_out-{}") == [
        r"--map 'attn_norm\-(\d+)=layer\1.attn_norm'",
        r"--map 'kqv_out\-(\d+)=layer\1.attention'",
        r"--map 'l_out\-(\d+)=layer\1.post_ffn_residual'",
    ]
    of_layer = [f"model.layers.{{}}.{name}" for name in ("self_attn.attn", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.act_fn")]
    assert rules(*of_layer) == [
        r"--map 'model\.layers\.(\d+)\.self_attn\.attn=layer\1.attention'",
        r"--map 'model\.layers\.(\d+)\.self_attn\.o_proj=layer\1.attn_out'",
        r"--map 'model\.layers\.(\d+)\.mlp\.act_fn=layer\1.ffn_swigl'",
    ]
    assert rules(of_layer[-1]) == [r"--map 'model\.layers\.(\d+)\.mlp\.act_fn=layer\1.ffn_silu'"]
    # vLLM's layers give a bias beside each product, and the stream beside each norm.
    several = ("self_attn.qkv_proj.0", "mlp.gate_up_proj.0", "mlp.act_fn", "post_attention_layernorm.0", "post_attention_layernorm.1")
    assert rules(*(f"model.layers.{{}}.{name}" for name in several)) == [
        r"--map 'model\.layers\.(\d+)\.self_attn\.qkv_proj\.0=layer\1.qkv_matmul'",
        r"--map 'model\.layers\.(\d+)\.mlp\.act_fn=layer\1.ffn_swigl'",
        r"--map 'model\.layers\.(\d+)\.post_attention_layernorm\.1=layer\1.post_attn_residual'",
    ]


@pytest.mark.parametrize("files", [("step_0", "step_1", "step_2"), ("000", "001", "002"), ("prefill", "decode_1", "decode_2")])
def test_rules_for_steps_in_files_of_their_own(tmp_path: Path, files: tuple[str, ...]) -> None:
    """Each with its tokens, of which those of generated tokens are one each."""
    for step, file in enumerate(files):
        arrays = {f"layers.{layer}.mlp": np.full((1 if step else 3, 8), 10 * step + layer, np.float32) for layer in range(2)}
        np.savez(tmp_path / f"{file}.npz", **arrays, input_ids=np.array([[20 + step]] if step else [[3, 1, 4]]))
    document, _ = inspect(str(tmp_path))
    rules = [option.removeprefix("--map '").removesuffix("'") for option in document["rules that their names suggest"]]
    trace = Trace.open(tmp_path, names=rules)
    assert {entry.key for entry in trace} == {(step, layer, "ffn_out") for step in range(3) for layer in range(2)}
    assert all((trace.load(entry) == 10 * entry.step + entry.layer).all() for entry in trace)
    assert trace.info is not None
    assert (trace.info.tokens, trace.info.extra, trace.unread) == ((3, 1, 4), {"generated": [21, 22]}, ())


def test_no_rule_gives_one_place_to_two_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "dump.npz", **{f"{rank}.layers.{layer}.mlp": np.ones((5, 8)) for rank in (4, 7) for layer in range(2)})
    document, _ = inspect(str(tmp_path / "dump.npz"))
    assert document["arrays"] == {"{}.layers.{}.mlp": "4 of 5x8 (of one place by their names; say with rules which of them are whose)"}
    assert document["rules that their names suggest"] == {}


def test_rules_where_some_arrays_have_places_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module called `lm_head` is no reason to list the others one by one; what stands beside a name says what it is."""
    monkeypatch.chdir(tmp_path)
    array = np.ones((5, 8), np.float32)
    dense = ("", ".input_layernorm", ".self_attn.o_proj", ".post_attention_layernorm", ".mlp.down_proj")
    sandwich = (*dense, ".pre_feedforward_layernorm", ".post_feedforward_layernorm")
    experts = (*dense[:4], ".mlp.gate", ".mlp.experts", ".mlp")
    wanted = {
        dense: {".mlp.down_proj": "ffn_out", ".post_attention_layernorm": "ffn_norm"},
        sandwich: {".post_attention_layernorm": "attn_post_norm", ".pre_feedforward_layernorm": "ffn_norm"},
        experts: {".mlp.gate": "moe_router_logits", ".mlp": "moe_ffn_out"},
    }
    for names, places in wanted.items():
        own = {f"model.layers.{layer}{name}": array for name in names for layer in range(2)}
        np.savez("dump.npz", lm_head=array, input_ids=np.arange(5), **own)
        document, _ = inspect("dump.npz")
        assert list(document["tensors"]) == ["lm_head"]
        assert "unread" not in document
        assert document["arrays without a place"]["model.layers.{}.input_layernorm"] == "2 of 5x8"
        rules = [option.removeprefix("--map '").removesuffix("'") for option in document["rules that their names suggest"]]
        assert not any("lm_head" in rule or "mlp\\.experts" in rule for rule in rules)
        found = Trace.open("dump.npz", names=rules)
        assert {entry.stage for entry in found.entries} >= {"lm_head", "attn_norm", "attn_out", "post_ffn_residual", *places.values()}
        for name, stage in places.items():
            assert next(entry for entry in found.entries if entry.stage == stage and entry.layer == 1).file == f"model.layers.1{name}"
