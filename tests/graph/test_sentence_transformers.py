"""Folders of sentence-transformers: what their modules make of the graph, and what is refused or said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.errors import AprgraphError, ModelFileError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from tests.support.checkpoints import gguf_of, write_checkpoint

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
    ("2_Dense", {"activation_function": "torch.nn.modules.activation.Tanh"}, UnsupportedModelError, "activation_function is 'Tanh'"),
    ("2_Dense", {"out_features": "36"}, ModelFileError, "out_features is '36', expected a number of features"),
    ("2_Dense", {"module_input_name": "token_embeddings"}, UnsupportedModelError, "module_input_name is 'token_embeddings'"),
]


@pytest.mark.contract("EMBEDDING-FOLDER-1")
@pytest.mark.parametrize(("module", "fields", "error", "said"), _REFUSED, ids=[said for *_, said in _REFUSED])
def test_what_is_not_applied_is_refused(module: str, fields: dict[str, Any], error: type[AprgraphError], said: str, folder: Path) -> None:
    edit(folder / module / "config.json", **fields)
    with pytest.raises(error, match=said):
        load_model(folder)


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
