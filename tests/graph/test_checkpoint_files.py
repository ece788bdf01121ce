"""Which files a checkpoint is, what is wrong with them, and random damage to their headers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.checkpoint.names import own_name
from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.room import require_room
from aprgraph.graph.text import print_graph
from aprgraph.runtime.check import check
from tests.support.checkpoints import write_checkpoint

_EXPECTED = (ModelFileError, ModelError, UnsupportedModelError)


def packed(tensors: dict[str, tuple[str, list[int], bytes]], start: int = 0) -> bytes:
    """A safetensors file of tensors given as dtype, shape and bytes."""
    header: dict[str, Any] = {}
    data = bytes(start)
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def unpacked(content: bytes) -> dict[str, tuple[str, list[int], bytes]]:
    """The reverse of ``packed``."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    return {name: (one["dtype"], one["shape"], data[slice(*one["data_offsets"])]) for name, one in header.items()}


def in_shards(folder: Path, count: int) -> list[str]:
    """Divide model.safetensors among shards with an index, as transformers does; returns their names."""
    whole = folder / "model.safetensors"
    tensors = list(unpacked(whole.read_bytes()).items())
    whole.unlink()
    names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(packed(dict(tensors[number::count])))
    places = {name: names[number % count] for number, (name, _) in enumerate(tensors)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return names


def change(folder: Path, edit: Callable[[dict[str, Any]], None], name: str = "config.json") -> None:
    """Change a JSON file."""
    path = folder / name
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def failure(path: Path) -> str:
    """The message of opening it and building its graph: one line that begins with a path."""
    with pytest.raises(_EXPECTED) as caught:
        build_graph(load_model(path))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("/")
    return message


@pytest.mark.contract("FILE-HF-1")
def test_a_folder_its_config_and_its_shards_are_one_model(tmp_path: Path) -> None:
    whole, parts = write_checkpoint("qwen2-f32-yarn", tmp_path), tmp_path / "parts"
    shutil.copytree(whole, parts)
    names = in_shards(parts, 3)
    sources = [
        open_source(path) for path in (whole, whole / "config.json", whole / "model.safetensors", parts, *(parts / name for name in names))
    ]
    first = sources[0]
    assert {source.stem for source in sources} == {"qwen2-f32-yarn", "parts"}
    assert len({source.fingerprint() for source in sources}) == 2
    for source in sources[1:]:
        assert source.tensors.keys() == first.tensors.keys()
        for name, info in source.tensors.items():
            assert (source.tensor_bytes(info) == first.tensor_bytes(first.tensors[name])).all(), name
            into = np.empty(info.nbytes, np.uint8)
            source.read(info, 0, into)
            assert (into == source.tensor_bytes(info).reshape(-1)).all(), name
    assert [part.path.name for part in sources[3].parts] == sorted(names)


def test_weights_stay_in_the_file(tmp_path: Path) -> None:
    source = open_source(write_checkpoint("llama-bf16", tmp_path))
    info = source.tensors["blk.1.attn_q.weight"]
    assert info.format.name == "BF16"
    assert not source.tensor_bytes(info).flags.owndata
    assert not source.tensor_bytes(info).flags.writeable


def test_what_lies_at_no_multiple_of_eight_bytes_is_copied(tmp_path: Path) -> None:
    folder = write_checkpoint("phi3-f32-window", tmp_path)
    whole = open_source(folder)
    wanted = {name: whole.tensor_bytes(info).tobytes() for name, info in whole.tensors.items()}
    file = folder / "model.safetensors"
    file.write_bytes(packed(unpacked(file.read_bytes()), start=3))
    moved = open_source(folder)
    assert {name: moved.tensor_bytes(info).tobytes() for name, info in moved.tensors.items()} == wanted
    assert all(moved.tensor_bytes(info).ctypes.data % 8 == 0 for info in moved.tensors.values())


@pytest.mark.contract("FILE-HF-2")
def test_files_that_are_missing_or_in_doubt_are_named(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3-f32", tmp_path)
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    assert open_source(folder).path == folder
    (folder / "model.safetensors").rename(folder / "another.safetensors")
    assert "no model.safetensors.index.json that says which belong together" in failure(folder)
    assert open_source(folder / "other.safetensors").stem == "other"
    (folder / "other.safetensors").unlink()
    (folder / "another.safetensors").rename(folder / "model.safetensors")
    names = in_shards(folder, 4)
    (folder / names[2]).unlink()
    assert failure(folder / names[0]).endswith(f"{names[2]} of model.safetensors.index.json is not there; download the missing files")
    index = folder / "model.safetensors.index.json"
    text = index.read_text()
    index.write_text(text.replace('"weight_map": {', '"weight_map": {}, "weight_map": {'))
    assert "model.safetensors.index.json: no JSON ('weight_map' appears twice in one object)" in failure(folder)
    index.write_text(text)
    change(folder, lambda index: index.update(weight_map={"a": "../../etc/x.safetensors"}), "model.safetensors.index.json")
    assert "names the file '../../etc/x.safetensors'" in failure(folder)
    for value in ([names[0]], {"file": names[0]}, None, 3):
        change(folder, lambda index, value=value: index.update(weight_map={"a": value}), "model.safetensors.index.json")  # type: ignore[misc]
        assert f"names the file {value!r}, expected" in failure(folder)


@pytest.mark.contract("FILE-HF-1")
def test_a_whole_file_beside_an_index_counts_as_in_transformers(tmp_path: Path) -> None:
    """As where a model was saved anew over its shards: which of both a program takes differs, and a notice says so."""
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    content = (folder / "model.safetensors").read_bytes()
    names = in_shards(folder, 3)
    tensors = unpacked(content)
    dtype, shape, norm = tensors["model.norm.weight"]
    (folder / "model.safetensors").write_bytes(packed(tensors | {"model.norm.weight": (dtype, shape, bytes(len(norm)))}))
    for are_there, said in ((True, "which are there too"), (False, "which are not there")):
        if not are_there:
            for name in names:
                (folder / name).unlink()
        source = open_source(folder)
        assert not source.tensor_bytes(source.tensors["output_norm.weight"]).any()
        assert any(
            f"model.safetensors counts, as in transformers, and not the files of model.safetensors.index.json, {said}: " in str(one)
            for one in source.notices
        )


@pytest.mark.contract("FILE-HF-1")
def test_tensors_of_the_index_that_no_file_holds_are_said(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    names = in_shards(folder, 2)
    assert not load_model(folder).notices
    change(folder, lambda index: index["weight_map"].update({"model.layers.9.x": names[0]}), "model.safetensors.index.json")
    (notice,) = load_model(folder).notices
    assert str(notice).startswith("model.safetensors.index.json names 1 tensor that no file holds (model.layers.9.x): ")


@pytest.mark.contract("FILE-HF-1")
def test_an_adapter_is_no_model_and_is_not_applied(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    adapter = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ("F32", [4, 32], bytes(512))}
    (folder / "adapter_model.safetensors").write_bytes(packed(adapter))
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (notice,) = load_model(folder).notices
    assert str(notice).startswith(
        "adapter_config.json: an adapter lies beside the model, and is not applied; where it is to be, merge the two"
    )
    assert "adapter_model.safetensors: not a GGUF file but a LoRA adapter; merge the two" in failure(folder / "adapter_model.safetensors")
    (folder / "model.safetensors").unlink()
    assert "a LoRA adapter, not a GGUF file; merge the two" in failure(folder)


@pytest.mark.contract("FILE-HF-2")
def test_shards_without_an_index_are_found_by_their_names(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3-f32", tmp_path)
    wanted = set(open_source(folder).tensors)
    names = in_shards(folder, 3)
    (folder / "model.safetensors.index.json").unlink()
    for path in (folder, folder / "config.json", *(folder / name for name in names)):
        source = open_source(path)
        assert (source.path, set(source.tensors)) == (folder, wanted)
    shutil.copy(folder / names[0], folder / "zzz.safetensors")
    assert "no model.safetensors.index.json that says which belong together" in failure(folder)
    (folder / "zzz.safetensors").unlink()
    (folder / names[1]).unlink()
    for path in (folder, folder / names[0]):
        assert f"part 1 of 3 by its name; {names[1]} is not beside it" in failure(path)
    (folder / names[2]).unlink()
    assert f"{names[1]}, {names[2]} are not beside it" in failure(folder)
    shutil.rmtree(folder)
    whole = write_checkpoint("qwen3-f32", tmp_path)
    only = (whole / "model.safetensors").rename(whole / "model-00001-of-00002.safetensors")
    places = dict.fromkeys(unpacked(only.read_bytes()), only.name)
    (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert set(open_source(only).tensors) == wanted


@pytest.mark.contract("FILE-HF-2")
def test_tensors_that_are_missing_doubled_or_have_no_place(tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3moe-f32", tmp_path)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())

    def said(change: Callable[[dict[str, tuple[str, list[int], bytes]]], Any]) -> str:
        changed = dict(tensors)
        change(changed)
        file.write_bytes(packed(changed))
        return failure(folder)

    expert = "model.layers.1.mlp.experts.3.up_proj.weight"
    assert "moe_expert_up of expert 3 in layer 1 is missing" in said(lambda some: some.pop(expert))
    assert "expected what 'model.layers.1.mlp.experts.0.up_proj.weight' is" in said(
        lambda some: some.update({expert: (some[expert][0], some[expert][1][::-1], some[expert][2])})
    )
    assert (
        "tensor 'blk.0.attn_norm.weight' (model.layers.0.input_layernorm.weight in the file) of 24 is missing; the checkpoint is"
        in said(lambda some: some.pop("model.layers.0.input_layernorm.weight"))
    )
    assert "'lm_head.weight' is missing, and config.json does not tie it" in said(lambda some: some.pop("lm_head.weight"))
    assert "tensor 'model.layers.0.self_attn.extra.weight' has no place" in said(
        lambda some: some.update({"model.layers.0.self_attn.extra.weight": some["model.norm.weight"]})
    )
    assert "is I64; supported are F32, F16, BF16" in said(lambda some: some.update({"model.norm.weight": ("I64", [3], bytes(24))}))
    assert "are both" in said(
        lambda some: some.update({"model.layers.0.block_sparse_moe.gate.weight": some["model.layers.0.mlp.gate.weight"]})
    )


@pytest.mark.contract("FILE-HF-2")
def test_what_does_not_fit_into_memory_is_not_made(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000000 kB\nMemAvailable: 3000000 kB\n")
    require_room(tmp_path, "blk.0.ffn_up_exps.weight", 1 << 30, meminfo)
    with pytest.raises(ModelError, match=r"ffn_up_exps\.weight of 2\.1 GB is put together in memory, of which 3\.1 GB are left; tap fewer"):
        require_room(tmp_path, "blk.0.ffn_up_exps.weight", 1 << 31, meminfo)
    for content in ("", "MemAvailable: x kB", "MemAvailable:"):
        meminfo.write_text(content)
        require_room(tmp_path, "blk.0.ffn_up_exps.weight", 1 << 40, meminfo)
    require_room(tmp_path, "blk.0.ffn_up_exps.weight", 1 << 40, tmp_path / "none")


@pytest.mark.contract("FILE-HF-2")
def test_side_tensors_are_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    file = folder / "model.safetensors"
    more = {"model.layers.0.self_attn.rotary_emb.inv_freq": ("F32", [1], bytes(4)), "vision_tower.x.weight": ("F32", [1], bytes(4)),
            "model.layers.0.mlp.down_proj.input_scale": ("F32", [], bytes(4))}  # fmt: skip
    file.write_bytes(packed(unpacked(file.read_bytes()) | more))
    model = load_model(folder)
    build_graph(model)
    assert {name for group in model.left_out for name in group.names} == set(more)


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.parametrize("name", ["glm4moe-f32", "deepseek3-f32"])
def test_a_layer_that_predicts_later_tokens_is_left_out(name: str, tmp_path: Path) -> None:
    """It stands behind the others: a layer like the last one, its own norms and projection, and copies of embedding and head."""
    folder = write_checkpoint(name, tmp_path)
    wanted = print_graph(build_graph(load_model(folder)))
    change(folder, lambda config: config.update(num_nextn_predict_layers=1))
    tensors = unpacked((folder / "model.safetensors").read_bytes())
    more = {key.replace("layers.1.", "layers.2."): tensor for key, tensor in tensors.items() if "layers.1." in key}
    own = {"enorm": "norm", "hnorm": "norm", "shared_head.norm": "norm", "embed_tokens": "embed_tokens", "eh_proj": "embed_tokens"}
    more |= {f"model.layers.2.{module}.weight": tensors[f"model.{like}.weight"] for module, like in own.items()}
    more["model.layers.2.shared_head.head.weight"] = tensors["lm_head.weight"]
    (folder / "model.safetensors").write_bytes(packed(tensors | more))
    model = load_model(folder)
    assert print_graph(build_graph(model)) == wanted
    (group,) = model.left_out
    assert all(name.startswith(("model.layers.2.", "blk.2.")) for name in group.names)
    assert any(notice.startswith("tensors that predict later tokens are left out (") for notice in model.notices)


@pytest.mark.contract("FILE-HF-3")
@pytest.mark.parametrize("name", ["qwen2-f32-yarn", "glm4-f32", "llama-f32-linear"])
def test_a_bias_that_the_class_has_not(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    rows = tensors["model.layers.0.self_attn.o_proj.weight"][1][0]
    wanted = open_source(folder).tensors.keys()
    for value, words in ((bytes(2 * rows), None), (bytes(2 * rows - 1) + b"\1", "and the checkpoint has blk.0.attn_output.bias")):
        file.write_bytes(packed(tensors | {"model.layers.0.self_attn.o_proj.bias": ("F16", [rows], value)}))
        if words is not None:
            assert words in failure(folder)
            continue
        source = open_source(folder)
        assert source.tensors.keys() == wanted
        assert any("biases of zeros are left out (blk.0.attn_output.bias): " in notice for notice in source.notices)


def test_check_notes_what_belongs_to_no_tensor(tmp_path: Path) -> None:
    folder = write_checkpoint("olmo2-f32", tmp_path)
    file = folder / "model.safetensors"
    tensors = unpacked(file.read_bytes())
    whole = packed(tensors)
    before, last = packed(tensors, 64), list(tensors)[-1]
    between = packed({name: one for name, one in tensors.items() if name != last} | {"hole": ("U8", [24], bytes(24)), last: tensors[last]})
    header = json.loads(between[8 : 8 + int.from_bytes(between[:8], "little")])
    del header["hole"]
    raw = json.dumps(header).encode()
    between = len(raw).to_bytes(8, "little") + raw + between[8 + int.from_bytes(between[:8], "little") :]
    for content, notes in (
        (whole, {}),
        (before, {"file-gap": "64 bytes"}),
        (before + bytes(8), {"file-gap": "64 bytes", "file-tail": "8 bytes"}),
        (between, {"file-gap": "24 bytes"}),
    ):
        file.write_bytes(content)
        assert {one.rule.code: one.text for one in check(folder).findings if one.rule.code.startswith("file-")} == notes


def test_check_speaks_of_a_checkpoint_in_its_own_words(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)

    def said(**changes: Any) -> dict[tuple[str, str], tuple[str, str]]:
        config = folder / "config.json"
        whole = config.read_text()
        change(folder, lambda config: config.update(changes))
        findings = check(folder, weights=False).findings
        config.write_text(whole)
        return {(one.rule.code, one.name): (str(one.text), str(one.advice)) for one in findings}

    assert said()["tokenizer-absent", ""][0] == "none that can be read"
    text, advice = said(num_attention_heads=0)["key-wrong", "num_attention_heads"]
    assert text == "is 0, expected a number from 1 to 2147483647"
    assert advice == "get the checkpoint again, with all of its files"
    assert said(hidden_size="wide")["key-wrong", "hidden_size"][0].startswith("is 'wide', expected a whole number")
    assert ("key-unsupported", "odd_scale") in said(odd_scale=2)
    windows = said(model_type="mistral", sliding_window=4)
    assert not any(name == "sliding_window" for _, name in windows)
    assert said(num_hidden_layers=3)["tensor-missing", "blk.2.attn_norm.weight"][0].endswith("is missing")


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.parametrize("depth", [64, 900])
def test_a_config_of_lists_within_lists(depth: int, tmp_path: Path) -> None:
    folder = write_checkpoint("olmo2-f32", tmp_path)
    config = (folder / "config.json").read_text().rstrip().removesuffix("}")
    (folder / "config.json").write_text(f'{config}, "deep": {"[" * depth}{"]" * depth}}}')
    assert "its lists and objects lie more than 64 deep in each other" in failure(folder)


@pytest.mark.contract("FILE-HF-2")
def test_a_header_that_lies(tmp_path: Path) -> None:
    folder = write_checkpoint("olmo2-f32", tmp_path)
    file = folder / "model.safetensors"
    good = file.read_bytes()

    def said(content: bytes) -> str:
        file.write_bytes(content)
        return failure(folder)

    def header(text: str) -> bytes:
        return len(text).to_bytes(8, "little") + text.encode() + bytes(64)

    assert "is truncated" in said(good[:-100])
    assert "does not fit into a file" in said((1 << 31).to_bytes(8, "little") + good[8:])
    assert "an empty file" in said(b"")
    assert "Git LFS" in said(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "its header is no JSON" in said(header('{"a": '))
    assert "appears twice" in said(header('{"a": {}, "a": {}}'))
    assert "its header is no JSON" in said(header('{"a": ' + "[" * 200_000))
    entry = '{"a": {"dtype": "F32", "shape": %s, "data_offsets": %s}}'
    assert "has 8 bytes, expected 4" in said(header(entry % ("[1]", "[0, 8]")))
    assert "expected where it begins and ends" in said(header(entry % ("[1]", "[4, 0]")))
    assert "past the end of the file" in said(header(entry % ("[268435456]", "[0, 1073741824]")))
    assert "the shape [-1]" in said(header(entry % ("[-1]", "[0, 4]")))
    assert "the shape [True]" in said(header(entry % ("[true]", "[0, 4]")))
    assert "the shape [0], expected dimensions of at least 1; a model that was saved while its weights were spread over processes" in said(
        header(entry % ("[0]", "[0, 0]"))
    )
    assert "the shape [0, 64], expected dimensions of at least 1" in said(header(entry % ("[0, 64]", "[0, 0]")))
    assert "overlap" in said(header('{"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}, "b": {"dtype": "U8", "shape": [8], '
                                    '"data_offsets": [4, 12]}}'))  # fmt: skip


@pytest.mark.contract("FILE-HF-2")
def test_random_bytes_in_the_header(tmp_path: Path) -> None:
    """Errors that the reader raises on purpose, or success, and both happen."""
    folder = write_checkpoint("phi3-f32-window", tmp_path)
    file = folder / "model.safetensors"
    good = file.read_bytes()
    length = 8 + int.from_bytes(good[:8], "little")
    generator, failed = np.random.default_rng(20261129), 0
    favourites = np.frombuffer(b'0123456789[]{},:"-\x00\xff', np.uint8)
    for _ in range(600):
        changed = bytearray(good)
        for where in generator.integers(0, length, generator.integers(1, 5)):
            changed[where] = generator.choice(favourites) if generator.random() < 0.7 else generator.integers(0, 256)
        file.write_bytes(changed)
        try:
            build_graph(load_model(folder))
        except _EXPECTED as error:
            assert "\n" not in str(error)
            failed += 1
    assert 300 < failed < 600


@pytest.mark.contract("FILE-HF-2")
@pytest.mark.parametrize(
    "name", ["phi3-f32-long-factors", *(pytest.param(name, marks=pytest.mark.sweep) for name in ("gemma3-f32", "gpt-oss-mxfp4"))]
)
def test_every_value_of_config(name: str, tmp_path: Path) -> None:
    """Every field, and those inside of it, in turn as every kind of value."""
    folder = write_checkpoint(name, tmp_path)
    good: dict[str, Any] = json.loads((folder / "config.json").read_text())
    inner = [(outer, field) for outer, value in good.items() if isinstance(value, dict) for field in value]
    deep = [("rope_parameters", "full_attention", field) for field in ("rope_type", "rope_theta", "factor")] if name == "gemma3-f32" else []
    outcomes = set()
    for where in [*((field,) for field in good), *inner, *deep]:
        for value in (None, True, -1, 0, 3, 2**63, 1e-310, float("nan"), float("inf"), "", "llama", [], [1], {}, {"a": 1}):
            content = json.loads(json.dumps(good))
            place = content
            for field in where[:-1]:
                place = place[field]
            place[where[-1]] = value
            (folder / "config.json").write_text(json.dumps(content))
            try:
                build_graph(load_model(folder))
                outcomes.add(None)
            except AprgraphError as error:
                assert isinstance(error, _EXPECTED), (where, value)
                assert "\n" not in str(error)
                outcomes.add(type(error))
    assert outcomes == {None, ModelError, UnsupportedModelError}


@pytest.mark.parametrize(
    ("architecture", "name", "own"),
    [
        ("lfm2", "blk.3.shortconv.in_proj.weight", "model.layers.3.conv.in_proj.weight"),
        ("lfm2", "token_embd_norm.weight", "model.embedding_norm.weight"),
        ("lfm2moe", "blk.1.exp_probs_b.bias", "model.layers.1.feed_forward.expert_bias"),
        ("qwen3next", "blk.0.ssm_a", "model.layers.0.linear_attn.A_log"),
        ("qwen3next", "blk.0.ssm_dt.bias", "model.layers.0.linear_attn.dt_bias"),
        ("qwen3next", "blk.0.ssm_conv1d.weight", "model.layers.0.linear_attn.conv1d.weight"),
        ("llama", "output.weight", "lm_head.weight"),
        ("llama", "blk.0.something.weight", None),
    ],
)
def test_the_usual_name_of_a_tensor_in_a_checkpoint(architecture: str, name: str, own: str | None) -> None:
    assert own_name(FAMILIES[architecture], name) == own
