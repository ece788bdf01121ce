"""Folders of sentence-transformers: what their modules make of the graph, and what is refused or said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aprgraph
from aprgraph.graph.errors import AprgraphError, ModelError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.checkpoint.safetensors import SafetensorsFile
from aprgraph.runtime.trace.aprt import F32
from tests.support.checkpoints import float_tensors, gguf_of, write_checkpoint

#: Poolings of the configurations of earlier versions, and the op that each is.
_MODES = {
    "pooling_mode_mean_tokens": "mean_rows", "pooling_mode_cls_token": "first_row", "pooling_mode_lasttoken": "last_row",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint("gemma-embedding-f32", tmp_path)


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def stages(path: Path) -> list[tuple[str | None, str]]:
    return [(node.stage, node.op) for node in build_graph(load_model(path)).staged() if node.layer is None]


@pytest.mark.contract("EMBEDDING-FOLDER-1")
@pytest.mark.parametrize("name", ["gemma-embedding-f32", "qwen3-embedding-f32"])
def test_the_graph_is_that_of_the_gguf_file(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(name, tmp_path)
    assert stages(folder) == stages(gguf_of(name))
    assert load_model(folder).notices == ()


@pytest.mark.contract("EMBEDDING-FOLDER-1")
@pytest.mark.parametrize("mode", _MODES)
def test_poolings_by_the_switches_of_earlier_versions(mode: str, folder: Path) -> None:
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 24, **dict.fromkeys(_MODES, False), mode: True})
    )
    assert ("pooled", _MODES[mode]) in stages(folder)


@pytest.mark.contract("EMBEDDING-FOLDER-1")
def test_a_head_is_left_out_and_modules_that_are_not_there_leave_no_stage(folder: Path, tmp_path: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules[:2], {"idx": 2, "path": "2_Dropout", "type": "models.Dropout"}]))
    assert [stage for stage, _ in stages(folder)] == ["final_norm", "pooled"]
    (folder / "modules.json").unlink()
    assert [stage for stage, _ in stages(folder)] == ["final_norm"]
    (tmp_path / "head").mkdir()
    published = write_checkpoint("qwen3-embedding-f32", tmp_path / "head")
    edit(published / "config.json", architectures=["Qwen3ForCausalLM"])  # as Qwen3-Embedding has it, which ties the head
    assert [stage for stage, _ in stages(published)] == ["final_norm", "pooled", "pooled_normed"]
    (published / "modules.json").unlink()
    assert [stage for stage, _ in stages(published)] == ["final_norm", "lm_head"]


@pytest.mark.contract("EMBEDDING-FOLDER-1")
def test_without_the_field_of_both_directions_the_model_is_causal(folder: Path) -> None:
    edit(folder / "config.json", use_bidirectional_attention=False)
    scores = build_graph(load_model(folder))["layer0.attn_scores"]
    assert (scores.attrs["window"], {"causal", "symmetric"} & set(scores.attrs)) == (4, set())


_REFUSED: list[tuple[str, dict[str, Any], type[AprgraphError], str]] = [
    (
        "1_Pooling",
        {"pooling_mode": "max"},
        UnsupportedModelError,
        r"1_Pooling/config.json: pools by 'max'; supported is one of pooling_mode",
    ),
    ("1_Pooling", {"pooling_mode": None}, UnsupportedModelError, "pools by nothing"),
    (
        "2_Dense",
        {"activation_function": "torch.nn.modules.activation.GELU"},
        UnsupportedModelError,
        "activation_function is 'GELU'; supported are Identity, Tanh",
    ),
    ("2_Dense", {"out_features": "36"}, ModelFileError, "out_features is '36', expected a number of features"),
    ("2_Dense", {"module_input_name": "token_embeddings"}, UnsupportedModelError, "module_input_name is 'token_embeddings'"),
]


@pytest.mark.contract("EMBEDDING-FOLDER-1")
@pytest.mark.parametrize(("module", "fields", "error", "said"), _REFUSED, ids=[said for *_, said in _REFUSED])
def test_what_is_not_applied_is_refused(module: str, fields: dict[str, Any], error: type[AprgraphError], said: str, folder: Path) -> None:
    edit(folder / module / "config.json", **fields)
    with pytest.raises(error, match=said):
        load_model(folder)


def random_dense(folder: Path, features: int) -> tuple[F32, F32]:
    """A Dense module as LaBSE has it, with a bias and tanh; its weight and bias."""
    random = np.random.default_rng(7)
    weight, bias = (random.standard_normal(shape, np.float32) for shape in ((features, features), (features,)))
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(float_tensors({"linear.weight": weight, "linear.bias": bias}))
    (folder / "config.json").write_text(
        json.dumps({"in_features": features, "out_features": features, "activation_function": "torch.nn.modules.activation.Tanh"})
    )
    return weight, bias


@pytest.mark.contract("EMBEDDING-FOLDER-1")
@pytest.mark.parametrize("target", ["reference", "llvm"])
def test_a_dense_module_with_a_bias_and_tanh(target: str, tmp_path: Path) -> None:
    """As LaBSE has it. Tried once against sentence-transformers 6.2: the same to 1e-7."""
    folder = write_checkpoint("bert-f32", tmp_path)
    weight, bias = random_dense(folder / "2_Dense", 24)
    transformer, pooling, normalize = json.loads((folder / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps([transformer, pooling, dense, normalize]))
    model = aprgraph.load(folder)
    assert [stage for stage, _ in stages(folder)] == ["pooled", "pooled_down", "pooled_down_act", "pooled_normed"]
    assert model.model.notices == ()
    trace = model.compile(target, tmp_path / "m.aprg").run("all", tokens=(17, 3, 88, 41), directory=tmp_path / "t")
    rows = trace.tensor("pooled")
    np.testing.assert_allclose(trace.tensor("pooled_down"), weight @ rows + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(trace.tensor("pooled_down_act"), np.tanh(trace.tensor("pooled_down")), rtol=1e-6)


def test_bert_s_own_pooler_is_an_embedding_where_it_is_asked_for(tmp_path: Path) -> None:
    """transformers' pooler_output. Programs for embeddings leave it out, and so does a run."""
    folder = write_checkpoint("bert-f32", tmp_path)
    random = np.random.default_rng(7)
    weight, bias = (random.standard_normal(shape, np.float32) for shape in ((24, 24), (24,)))
    (folder / "pooler.safetensors").write_bytes(float_tensors({"pooler.dense.weight": weight, "pooler.dense.bias": bias}))
    places = dict.fromkeys(SafetensorsFile(folder / "model.safetensors").tensors, "model.safetensors")
    places |= dict.fromkeys(("pooler.dense.weight", "pooler.dense.bias"), "pooler.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(ModelError, match="bert.pooling_type is 1, but BERT's own pooler, which was asked for, reads the first position"):
        load_model(folder, {"bert.pooler": True, "bert.pooling_type": 1})
    (folder / "modules.json").unlink()
    plain = aprgraph.load(folder)
    assert stages(folder) == []
    assert any("of a classifier are left out (2): pooler.dense.weight" in notice for notice in map(str, plain.model.notices))
    model = aprgraph.load(folder, {"bert.pooler": True})
    assert not any("left out" in notice for notice in map(str, model.model.notices))
    compiled = model.compile("reference", tmp_path / "m.aprg")
    trace = compiled.run("all", "0..2", tokens=(17, 3, 88, 41), directory=tmp_path / "t")
    assert [entry.stage for entry in trace.entries if entry.layer is None] == ["pooled", "pooled_down", "pooled_down_act"]
    first = trace.tensor("layer_out_norm", 1)[0]
    np.testing.assert_allclose(compiled.embedding(tokens=(17, 3, 88, 41)), np.tanh(weight @ first + bias), rtol=1e-5, atol=1e-6)


@pytest.mark.contract("EMBEDDING-FOLDER-1")
def test_modules_in_another_order_are_refused(folder: Path) -> None:
    path = folder / "modules.json"
    transformer, pooling, dense, other, normalize = json.loads(path.read_text())
    for modules, said in (
        ([transformer, dense, pooling], "the module 'Dense' behind the transformer"),
        ([transformer, pooling, normalize, dense], "the module 'Dense' behind Pooling, Normalize"),
        ([transformer, pooling, pooling], "the module 'Pooling' behind Pooling"),
        ([transformer, pooling, {**dense, "type": "models.LSTM"}], "the module 'LSTM' behind Pooling"),
        ([transformer, pooling, dense, other, dense], "has more than 2 Dense modules"),
    ):
        path.write_text(json.dumps(modules))
        with pytest.raises(UnsupportedModelError, match=said):
            load_model(folder)
    path.write_text("{}")
    with pytest.raises(ModelFileError, match="expected a list of modules"):
        load_model(folder)


def test_weights_of_a_dense_module_that_are_missing(folder: Path) -> None:
    (folder / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match="2_Dense/model.safetensors: is not there, and modules.json names it"):
        load_model(folder)


@pytest.mark.contract("EMBEDDING-FOLDER-1")
def test_what_becomes_of_a_text_beforehand_is_said(folder: Path) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 64, "do_lower_case": True}))
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    said = "\n".join(load_model(folder).notices)
    assert "include_prompt is false" in said
    assert "puts 'query: ' before each text" in said.replace('"', "'")
    assert "makes texts lower case" in said
