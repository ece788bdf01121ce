"""What GGUF files of `mamba` and `jamba` say of their state spaces, and what they must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

from aprgraph.graph.errors import ModelError, UnsupportedModelError
from aprgraph.graph.families.mamba import Mamba
from aprgraph.graph.model import Model, load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.checkpoint.names import own_name
from aprgraph.runtime.check.checker import check
from aprgraph.runtime.decoded_weights import decode_weight
from tests.support.checkpoints import gguf_of, write_checkpoint


def _edited(name: str, path: Path, tensors: dict[str, np.ndarray] | None = None, **keys: object) -> Path:
    """A golden model with other ``keys``, a double underscore for a point and None for none, and other ``tensors``."""
    reader = GGUFReader(gguf_of(name))
    architecture = reader.fields["general.architecture"].contents()
    new = {f"{architecture}.{key.replace('__', '.')}": value for key, value in keys.items()}
    writer = GGUFWriter(path, architecture)
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")) and field.name not in new:
            kind, *inner = field.types
            writer.add_key_value(field.name, field.contents(), kind, inner[0] if inner else None)
    for key, value in new.items():
        if value is not None:
            (writer.add_bool if isinstance(value, bool) else writer.add_uint32)(key, value)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, (tensors or {}).get(tensor.name, tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _stages(model: Model) -> set[str | None]:
    return {node.stage for node in build_graph(model).staged()}


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        *(
            ({f"ssm__{key}": None}, ModelError, rf"key 'mamba\.ssm\.{key}' is missing")
            for key in ("conv_kernel", "inner_size", "state_size", "time_step_rank")
        ),
        ({"ssm__time_step_rank": 4}, ModelError, r"'blk\.0\.ssm_x\.weight' .*is 15 x 40, expected 16 x 40"),
        ({"ssm__state_size": 5}, ModelError, r"'blk\.0\.ssm_x\.weight' .*is 15 x 40, expected 13 x 40"),
        ({"ssm__inner_size": 20}, ModelError, r"'blk\.0\.ssm_in\.weight' .*is 80 x 20, expected 40 x 20"),
        ({"ssm__conv_kernel": 1}, ModelError, r"mamba\.ssm\.conv_kernel is 1, expected a number of at least 2"),
        ({"ssm__group_count": 2}, UnsupportedModelError, r"mamba\.ssm\.group_count is 2; supported is 1"),
        ({"ssm__dt_b_c_rms": 3}, ModelError, r"'mamba\.ssm\.dt_b_c_rms' is 3, expected true or false"),
        ({"attention__head_count": 4}, UnsupportedModelError, r"mamba\.attention\.head_count is 4 \(the number of query heads\)"),
        ({"feed_forward_length": 4}, UnsupportedModelError, r"mamba\.feed_forward_length is 4 \(the size of the feed-forward network\)"),
    ],
)
def test_what_is_missing_or_contradicts_is_an_error(keys: dict[str, object], error: type[Exception], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        build_graph(load_model(_edited("mamba-f32", tmp_path / "m.gguf", **keys)))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"expert_count": 1}, r"layer 1 has a router \(blk\.1\.ffn_gate_inp\.weight\), but jamba\.expert_count is 1; expected"),
        ({"expert_count": None}, r"jamba\.expert_used_count is 2|jamba\.expert_count is 0"),
        ({"expert_count": 6}, r"'blk\.1\.ffn_gate_inp\.weight' .*is 5 x 24, expected 6 x 24"),
        ({"expert_used_count": None}, r"key 'jamba\.expert_used_count' is missing"),
        ({"expert_used_count": 6}, r"jamba\.expert_used_count is 6, but there are 5 experts"),
        ({"ssm__time_step_rank": None}, r"key 'jamba\.ssm\.time_step_rank' is missing"),
        ({"ssm__dt_b_c_rms": True}, r"jamba\.ssm\.dt_b_c_rms is True .*which the family 'jamba' does not apply here"),
    ],
)
def test_what_contradicts_in_files_of_jamba_is_an_error(keys: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, UnsupportedModelError), match=words):
        build_graph(load_model(_edited("jamba-f32", tmp_path / "m.gguf", **keys)))


def test_norms_of_time_step_b_and_c_are_where_the_file_says_so(tmp_path: Path) -> None:
    """Their epsilon is that of the original, which no key says; what llama.cpp takes in its place is said."""
    norms = {"ssm_dt_norm", "ssm_b_norm", "ssm_c_norm"}
    assert norms <= _stages(load_model(gguf_of("falcon-mamba-f32-biases")))
    for value in (False, None):
        path = _edited("falcon-mamba-f32-biases", tmp_path / f"{value}.gguf", ssm__dt_b_c_rms=value)
        assert not norms & _stages(load_model(path))
    absent = [finding for finding in check(path).findings if finding.name == "mamba.ssm.dt_b_c_rms"]
    assert [(finding.rule.code, finding.text) for finding in absent] == [("key-default", "False was taken")]
    family = load_model(gguf_of("falcon-mamba-f32-biases")).family
    assert isinstance(family, Mamba)
    assert (family.inputs_eps, family.eps) == (1e-6, pytest.approx(1e-4))
    said = {
        finding.name: finding.text for finding in check(gguf_of("falcon-mamba-f32-biases")).findings if finding.rule.code == "key-differs"
    }
    assert list(said) == ["mamba.attention.layer_norm_rms_epsilon"]
    for name in ("mamba-f32", "falcon-mamba-f32"):  # without these norms, and with the same epsilon for them
        assert [finding for finding in check(gguf_of(name)).findings if finding.rule.code == "key-differs"] == []


def test_one_group_of_b_and_c_may_be_said(tmp_path: Path) -> None:
    model = load_model(_edited("mamba-f32", tmp_path / "m.gguf", ssm__group_count=1))
    nodes = [(node.name, node.op, node.attrs) for node in build_graph(model)]
    assert nodes == [(node.name, node.op, node.attrs) for node in build_graph(load_model(gguf_of("mamba-f32")))]
    assert not model.notices


def test_rates_are_those_of_a_checkpoint_behind_exp(tmp_path: Path) -> None:
    """A GGUF file has A, all of it below 0, and a checkpoint its logarithms."""
    models = [load_model(path) for path in (gguf_of("mamba-f32"), write_checkpoint("mamba-f32", tmp_path))]
    of_gguf, of_checkpoint = (np.asarray(decode_weight(model, build_graph(model)["blk.0.ssm_a"])) for model in models)
    assert own_name(Mamba, "blk.0.ssm_a") == "backbone.layers.0.mixer.A_log"
    assert of_gguf.shape == (40, 6)
    assert (of_gguf < 0).all()
    np.testing.assert_allclose(of_checkpoint, of_gguf, rtol=1e-6)
