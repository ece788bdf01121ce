"""Every key of a model's family is read, changes nothing, or is named in a notice or an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.errors import AprgraphError, ModelError, UnsupportedModelError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.ir import Graph
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.model_keys import MODEL_KEYS, difference_to_llama_cpp, find_model_key, keys_of_ops
from aprgraph.graph.ops import OPS
from aprgraph.graph.side_tensors import parse_ignored
from aprgraph.graph.text import print_graph
from aprgraph.graph.unread_keys import account_for_keys
from tests.support.gguf_bytes import F32, small_llama
from tests.support.tiny_families import keys_of

Tiny = Callable[..., Path]


class Array:
    """An array of metadata."""

    def __init__(self, *values: int) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> list[Any]:
        return list(self._values)


def notices(path: Path, family: str, ignore: tuple[str, ...] = (), **keys: object) -> list[str]:
    """What is said of a model's file if it had ``keys`` as well (with a double underscore for a point)."""
    added = {f"{family}.{key.replace('__', '.')}": value for key, value in keys.items()}
    metadata = Metadata(path, {**load_model(path).file.metadata, **added})
    return account_for_keys(FAMILIES[family](metadata), parse_ignored(ignore))


REFUSED: list[tuple[str, dict[str, object]]] = [
    ("llama", {"logit_scale": 0.0625}),
    ("llama", {"residual_scale": 0.22}),
    ("llama", {"embedding_scale": 12.0}),
    ("llama", {"attention__max_alibi_bias": 8.0}),
    ("llama", {"attention__temperature_scale": 0.1}),
    ("llama", {"attention__value_scale": 0.5}),
    ("llama", {"rope__scaling__alpha": 1000.0}),
    ("llama", {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_ext_factor": 0.5}),
    ("llama", {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "rope__scaling__yarn_attn_factor": 1.2}),
    ("llama", {"hidden_activation": "gelu"}),
    ("llama", {"use_parallel_residual": True}),
    ("llama", {"swiglu_clamp_exp": Array(0, 7)}),
    ("llama", {"attention__some_new_scale": 0.5}),
    ("qwen2", {"attention__clamp_kqv": 8.0}),
    ("qwen2", {"full_attention_interval": 4}),
    ("qwen3", {"attention__q_lora_rank": 16}),
    ("qwen3", {"ssm__state_size": 16}),
    ("gemma3", {"attn_logit_softcapping": 50.0}),
    ("gemma3", {"final_logit_softcapping": 30.0}),
    ("gemma3", {"attention__key_length_swa": 16}),
    ("gemma3", {"rope__dimension_count_swa": 16}),
    ("phi3", {"attention__indexer__top_k": 4}),
    ("qwen3moe", {"expert_group_count": 4}),
    ("qwen3moe", {"expert_shared_count": 1}),
    ("qwen3moe", {"leading_dense_block_count": 1}),
    ("qwen2moe", {"expert_shared_count": 2}),
    ("qwen2moe", {"moe_every_n_layers": 2}),
]


@pytest.mark.contract("LOAD-KEYS-1")
@pytest.mark.parametrize(("family", "keys"), REFUSED, ids=lambda value: value if isinstance(value, str) else next(iter(value)))
def test_a_key_that_would_change_numbers_is_refused_by_name(family: str, keys: dict[str, object], tiny_model: Tiny) -> None:
    path = tiny_model(family=family)
    name = f"{family}.{list(keys)[-1].replace('__', '.')}"
    with pytest.raises(UnsupportedModelError) as caught:
        notices(path, family, **keys)
    message = str(caught.value)
    assert message.startswith(f"{path}: {name} is ")
    assert "\n" not in message
    assert "ignore=[r'" in message
    said = notices(path, family, (r".*\." + name.split(".", 1)[1].replace(".", r"\."),), **keys)
    assert len(said) == 1
    assert said[0].startswith(f"{name} is ")
    assert said[0].endswith("left out, as ignore= asks")


SILENT: list[tuple[str, dict[str, object]]] = [
    ("llama", {"logit_scale": 1.0, "residual_scale": 0.0, "attn_logit_softcapping": 0.0, "attention__causal": True}),
    ("llama", {"rope__scaling__type": "none", "rope__scaling__factor": 8.0, "rope__scaling__finetuned": True}),
    ("llama", {"rope__scaling__yarn_beta_fast": 16.0, "rope__scaling__yarn_ext_factor": 0.5}),  # no YaRN
    ("llama", {"expert_group_count": 4, "expert_weights_scale": 2.5, "leading_dense_block_count": 1}),  # no experts
    ("llama", {"attention__sliding_window": 0, "attention__sliding_window_pattern": 6, "rope__freq_base_swa": 5000.0}),
    ("llama", {"attention__sliding_window": 4096}),  # as wide as the context
    ("llama", {"vocab_size": 7, "vision__block_count": 27, "mm__tokens_per_image": 256, "tensor_data_layout": "Meta AI original pth"}),
    ("olmo2", {"rope__scaling__type": "yarn", "rope__scaling__factor": 8.0, "rope__scaling__yarn_attn_factor": 1.2079441547393799}),
    ("granite", {"ssm__conv_kernel": 4, "ssm__state_size": 128, "ssm__group_count": 1, "ssm__inner_size": 128, "ssm__time_step_rank": 4}),
    ("llama", {"hidden_activation": "silu", "swiglu_clamp_exp": Array(0, 0), "pooling_type": 3}),
    ("qwen2moe", {"expert_shared_count": 1, "expert_group_count": 1, "expert_group_used_count": 7}),
    ("gemma3", {"hidden_activation": "gelu_pytorch_tanh", "attention__key_length_swa": 32, "rope__dimension_count_swa": 32}),
]


@pytest.mark.contract("LOAD-KEYS-1")
@pytest.mark.parametrize(("family", "keys"), SILENT)
def test_a_key_that_changes_nothing_passes_in_silence(family: str, keys: dict[str, object], tiny_model: Tiny) -> None:
    assert notices(tiny_model(family=family), family, **keys) == []


@pytest.mark.contract("LOAD-KEYS-1")
@pytest.mark.parametrize(
    ("family", "key", "value", "said"),
    [
        ("llama", "attention__sliding_window", 16, "is 16 and is not applied: every layer attends to all positions, as in llama.cpp"),
        ("qwen2", "attention__sliding_window", 16, "is 16 and is not applied: every layer attends to all positions, as in llama.cpp"),
        ("llama", "attention__layer_norm_epsilon", 1e-5, "is 1e-05 and is not applied: the norms of this family are RMSNorms"),
        ("llama", "made_by_hand", "yes", "is 'yes': nothing here knows or reads this key"),
        ("llama", "other_scale", 0, "is 0: nothing here knows or reads this key"),
    ],
)
def test_what_real_files_carry_in_vain_is_a_notice(family: str, key: str, value: object, said: str, tiny_model: Tiny) -> None:
    (notice,) = notices(tiny_model(family=family), family, **{key: value})
    assert notice.startswith(f"{family}.{key.replace('__', '.')} {said}")


@pytest.mark.contract("LOAD-KEYS-1")
def test_a_key_of_another_family_is_a_notice(tmp_path: Path) -> None:
    file = small_llama()
    file.set("qwen2.rope.freq_base", F32, 1e6)
    (tmp_path / "m.gguf").write_bytes(file.pack())
    (notice,) = load_model(tmp_path / "m.gguf").notices
    assert notice == "qwen2.rope.freq_base is 1000000.0: a key of another architecture than llama, which nothing reads"


@pytest.mark.contract("LOAD-KEYS-1")
def test_a_key_without_its_architecture_is_a_notice(tmp_path: Path) -> None:
    file = small_llama()
    file.set("rope.freq_base", F32, 1e6)
    file.set("training.dataset", F32, 1.0)
    (tmp_path / "m.gguf").write_bytes(file.pack())
    (notice,) = load_model(tmp_path / "m.gguf").notices
    assert notice == "rope.freq_base stands without its architecture, and nothing reads it so: was llama.rope.freq_base meant?"


def test_a_key_that_is_read_cannot_be_ignored(tiny_model: Tiny) -> None:
    with pytest.raises(
        AprgraphError, match=r"ignore=\['llama\.rope.*'\]: leaves out the key llama\.rope\.dimension_count, which the model is"
    ):
        load_model(tiny_model(), ignore=["llama.rope.*"])


@pytest.mark.contract("LOAD-KEYS-1")
@pytest.mark.each_choice(of=lambda family: keys_of(FAMILIES[family]).keys())
@pytest.mark.parametrize("family", FAMILIES)
def test_no_key_of_the_table_passes_unless_it_says_so(family: str, tiny_model: Tiny) -> None:
    """A value that stands for no neutral one; the families decide which keys they read, so none of them is spelt out here."""
    path = tiny_model(family=family)
    reads = load_model(path).metadata.keys_read
    silent = set()
    for name in (
        name for name, key in MODEL_KEYS.items() if f"{family}.{name}" not in reads and not key.harmless and family not in key.harmless_in
    ):
        try:
            said = notices(path, family, **{name: 7})
        except (ModelError, UnsupportedModelError) as error:
            said = [str(error)]
        assert all(f"{family}.{name} is 7" in sentence for sentence in said), name
        if not said:
            silent.add(name)
    # What depends on what the model does not have: experts, YaRN, windows, queries that grow, pooling, or a key in whose place they stand.
    assert all(
        re.match(
            r"expert|moe_|leading_|pooling_normalize|dense_|interleave_|rope\.(scal|local|global|freq_base_swa)|attention\.(sliding|temperature_length)|.*_swa",
            name,
        )
        for name in silent
    )


@pytest.mark.contract("LOAD-KEYS-1")
def test_the_neutral_value_by_an_override_lets_a_model_build(tiny_model: Tiny) -> None:
    path = tiny_model()
    with pytest.raises(
        UnsupportedModelError, match=r"llama\.logit_scale is 2\.0 .* give overrides=\{'llama\.logit_scale': 1\.0\} or ignore=\[r'llama"
    ):
        load_model(path, {"llama.logit_scale": 2.0})
    with pytest.raises(UnsupportedModelError, match=r"overrides=\{'llama.swin_norm': False\}"):
        load_model(path, {"llama.swin_norm": True})
    neutral = load_model(path, {"llama.logit_scale": 1.0})
    assert neutral.notices == ()
    assert print_graph(build_graph(neutral)) == print_graph(build_graph(load_model(path)))
    ignoring = load_model(path, {"llama.logit_scale": 2.0}, [r"llama\.logit_.*"])
    assert ignoring.notices == ("llama.logit_scale is 2.0: left out, as ignore= asks",)
    with pytest.raises(ModelError, match=r"overrides=\{'llama.vocab_size': …\}: nothing reads this key"):
        load_model(path, {"llama.vocab_size": 3})


def _shape(graph: Graph) -> Mapping[str, object]:
    return {node.name: (node.attrs, graph.operand_names(node.name)) for node in graph}


@pytest.mark.contract("LOAD-KEYS-2")
@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("llama", "rope.freq_base", 500.0),
        ("llama", "rope.global.freq_base", 500.0),
        ("llama", "rope.scaling.factor", 4.0),
        ("llama", "rope.scaling.attn_factor", 4.0),
        ("llama", "rope.dimension_count", 8),
        ("llama", "attention.layer_norm_rms_epsilon", 0.5),
        ("llama", "attention.scale", 0.5),
        ("llama", "attention.causal", False),
        ("gemma3", "attention.sliding_window", 3),
        ("gemma3", "attention.sliding_window_pattern", 2),
        ("gemma3", "rope.freq_base_swa", 500.0),
        ("gemma3", "rope.local.freq_base", 500.0),
        ("olmo2", "attention.sliding_window", 3),
        ("olmo2", "attention.sliding_window_pattern", 1),
        ("gemma2", "attn_logit_softcapping", 7.0),
        ("gemma2", "final_logit_softcapping", 7.0),
        ("granite", "attention.scale", 0.5),
        ("granite", "embedding_scale", 7.0),
        ("granite", "residual_scale", 0.5),
        ("granite", "logit_scale", 7.0),
        ("gpt-oss", "attention.sliding_window", 3),
        ("qwen3moe", "expert_used_count", 1),
        ("qwen3moe", "expert_weights_norm", False),
        ("qwen3moe", "expert_weights_scale", 2.5),
    ],
)
def test_a_key_shapes_the_ops_that_the_table_names(family: str, key: str, value: Any, tiny_model: Tiny) -> None:
    path = tiny_model(family=family, rope_base=None, **({"layers": 7} if family == "gemma3" else {}))
    before, after = (build_graph(load_model(path, keys)) for keys in ({}, {f"{family}.{key}": value}))
    changed = {before[name].op for name, shape in _shape(before).items() if shape != _shape(after)[name]}
    assert changed
    assert changed <= set(MODEL_KEYS[key].ops)
    assert key in keys_of_ops(changed)


def test_the_table_names_ops_and_keys_that_there_are() -> None:
    assert {op for key in MODEL_KEYS.values() for op in key.ops} <= set(OPS)
    assert keys_of_ops(["rms_norm"]) == ("attention.layer_norm_rms_epsilon",)
    assert {"rope.freq_base", "rope.scaling.factor"} <= set(keys_of_ops(["rope_angles"]))
    assert keys_of_ops([]) == ()
    assert find_model_key("vision.image_size") is not None
    assert find_model_key("no.such.key") is None


def test_what_llama_cpp_does_otherwise() -> None:
    assert difference_to_llama_cpp("llama", "attention.scale") is not None
    assert difference_to_llama_cpp("qwen3moe", "expert_weights_scale") is not None
    assert difference_to_llama_cpp("phi3", "attention.sliding_window") is not None
    assert difference_to_llama_cpp("gemma3", "attention.sliding_window") is None
    assert difference_to_llama_cpp("llama", "rope.freq_base") is None
    assert difference_to_llama_cpp("granite", "attention.scale") is None
    assert difference_to_llama_cpp("gpt-oss", "rope.scaling.type") is not None
    assert difference_to_llama_cpp("olmo2", "rope.scaling.type") is None
