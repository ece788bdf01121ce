"""Typed access to metadata, and overrides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from aprgraph.graph.errors import AprgraphError, ModelError
from aprgraph.graph.metadata import Metadata, parse_overrides
from aprgraph.graph.model import load_model
from tests.support.gguf_bytes import F32, STRING, U32, small_llama

Tiny = Callable[..., Path]
METADATA = Metadata(
    Path("m.gguf"), {"whole": 3, "real": 0.5, "text": "abc", "flag": True, "negative": -1, "nan": float("nan"), "big": 2**64 - 1}
)


def test_typed_getters() -> None:
    assert METADATA.integer("whole") == METADATA.positive("whole") == 3
    assert (METADATA.real("real"), METADATA.real("whole"), METADATA.text("text"), METADATA.flag("flag", False)) == (0.5, 3.0, "abc", True)
    assert type(METADATA.real("whole")) is float
    assert METADATA.integer("negative") == -1


def test_defaults_stand_in_for_missing_keys_only() -> None:
    assert (METADATA.integer("none", 0), METADATA.real("none", 0.0), METADATA.text("none", ""), METADATA.flag("none", False)) == (
        0,
        0.0,
        "",
        False,
    )
    with pytest.raises(ModelError, match="'text' is 'abc', expected a whole number"):
        METADATA.integer("text", 7)


@pytest.mark.parametrize(
    ("get", "message"),
    [
        (lambda m: m.integer("real"), "m.gguf: metadata key 'real' is 0.5, expected a whole number"),
        (lambda m: m.integer("flag"), "metadata key 'flag' is True, expected a whole number"),
        (lambda m: m.integer("absent"), "metadata key 'absent' is missing; expected a whole number"),
        (lambda m: m.positive("negative"), "metadata key 'negative' is -1, expected a number from 1 to 2147483647"),
        (lambda m: m.positive("big"), "expected a number from 1 to 2147483647"),
        (lambda m: m.real("nan"), "metadata key 'nan' is nan, expected a finite number"),
        (lambda m: m.real("flag"), "metadata key 'flag' is True, expected a number"),
        (lambda m: m.text("whole"), "metadata key 'whole' is 3, expected text"),
        (lambda m: m.flag("whole", True), "metadata key 'whole' is 3, expected true or false"),
        (lambda m: m.array("text"), "metadata key 'text' is 'abc', expected an array"),
    ],
)
def test_wrong_types(get: Callable[[Metadata], object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        get(METADATA)


def test_long_text_is_shortened_in_messages() -> None:
    with pytest.raises(ModelError) as caught:
        Metadata(Path("m.gguf"), {"k": "x" * 100_000}).integer("k")
    assert len(str(caught.value)) < 300


def test_overrides_in_llama_cpps_syntax() -> None:
    items = [
        "a.b=int:-3",
        "c=float:1e5",
        "d=bool:true",
        "e=bool:false",
        "f=str:x=y:z",
        "g=str:",
        "h=float:7",
        "i=int:9223372036854775807",
        "j=float:.5",
    ]
    overrides = parse_overrides(items)
    assert overrides == {"a.b": -3, "c": 1e5, "d": True, "e": False, "f": "x=y:z", "g": "", "h": 7.0, "i": 2**63 - 1, "j": 0.5}
    assert [type(value) for value in overrides.values()] == [int, float, bool, bool, str, str, float, int, float]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "expected KEY=TYPE:VALUE"),
        ("a", "expected KEY=TYPE:VALUE"),
        ("a=int", "expected KEY=TYPE:VALUE"),
        ("=int:1", "expected KEY=TYPE:VALUE"),
        ("a=int:", "not a whole number"),
        ("a=int:1.5", "not a whole number"),
        ("a=int:1_000", "not a whole number"),
        ("a=int:٣", "not a whole number"),
        ("a=int: 1", "not a whole number"),
        ("a=int:9223372036854775808", "does not fit into 64 bits"),
        ("a=int:" + "9" * 9999, "not a whole number"),
        ("a=float:x", "not a finite number"),
        ("a=float:nan", "not a finite number"),
        ("a=float:inf", "not a finite number"),
        ("a=float:1e999", "not a finite number"),
        ("a=bool:1", "neither true nor false"),
        ("a=bool:True", "neither true nor false"),
        ("a=u32:1", "unknown type 'u32', expected int, float, bool or str"),
    ],
)
def test_overrides_that_do_not_parse(item: str, message: str) -> None:
    with pytest.raises(AprgraphError, match=message) as caught:
        parse_overrides([item])
    assert str(caught.value).startswith("overrides=")


def test_an_override_changes_that_key_and_nothing_else(tiny_model: Tiny) -> None:
    path = tiny_model(rope_base=10000.0)
    before, after = load_model(path), load_model(path, {"llama.rope.freq_base": 500.0})
    assert (before.family.rope.base, after.family.rope.base) == (10000.0, 500.0)
    assert before.file.metadata["llama.rope.freq_base"] == after.file.metadata["llama.rope.freq_base"] == 10000.0
    assert {key for key in before.metadata if before.metadata[key] is not None and not hasattr(before.metadata[key], "values")} == {
        key for key in after.metadata if not hasattr(after.metadata[key], "values")
    }
    assert after.overrides == {"llama.rope.freq_base": 500.0}


def test_an_override_may_add_a_key_that_the_file_lacks(tiny_model: Tiny) -> None:
    path = tiny_model(rope_base=None)
    assert load_model(path).family.rope.base == 10000.0
    assert load_model(path, {"llama.rope.freq_base": 1e6}).family.rope.base == 1e6


def test_an_override_of_another_type_is_an_error(tiny_model: Tiny) -> None:
    with pytest.raises(ModelError, match=r"'llama\.rope\.freq_base' is 'x', expected a number"):
        load_model(tiny_model(), {"llama.rope.freq_base": "x"})


def test_an_array_cannot_be_overridden(tiny_model: Tiny) -> None:
    with pytest.raises(ModelError, match=r"overrides=\{'tokenizer\.ggml\.tokens': …\}: the model holds an array"):
        load_model(tiny_model(), {"tokenizer.ggml.tokens": "x"})


@pytest.mark.parametrize(
    ("keys", "scale"),
    [
        ({}, 1.0),
        ({"rope.scaling.type": (STRING, "none")}, 1.0),
        ({"rope.scaling.type": (STRING, "none"), "rope.scaling.factor": (F32, 4.0)}, 1.0),
        ({"rope.scaling.type": (STRING, "linear"), "rope.scaling.factor": (F32, 4.0)}, 0.25),
        ({"rope.scaling.factor": (F32, 4.0)}, 0.25),
        ({"rope.scaling.factor": (F32, 0.0)}, 1.0),
        ({"rope.scale_linear": (F32, 8.0)}, 0.125),
        ({"rope.scaling.factor": (F32, 4.0), "rope.scale_linear": (F32, 8.0)}, 0.25),
        ({"rope.scaling.type": (STRING, "linear"), "rope.scale_linear": (U32, 2)}, 0.5),
    ],
)
def test_linear_rope_scaling_as_llama_cpp_reads_it(tmp_path: Path, keys: dict[str, tuple[int, object]], scale: float) -> None:
    file = small_llama()
    for key, (kind, value) in keys.items():
        file.set(f"llama.{key}", kind, value)
    (tmp_path / "m.gguf").write_bytes(file.pack())
    assert load_model(tmp_path / "m.gguf").family.rope.scale == scale


@pytest.mark.parametrize(("value", "scale"), [(None, 0.5), (0.0, 0.5), (0.75, 0.75)])
def test_attention_scale_is_one_over_the_root_of_the_head_size_unless_given(tmp_path: Path, value: float | None, scale: float) -> None:
    file = small_llama()
    if value is not None:
        file.set("llama.attention.scale", F32, value)
    (tmp_path / "m.gguf").write_bytes(file.pack())
    assert load_model(tmp_path / "m.gguf").family.scale == scale


def test_hyperparameters_of_a_tiny_model(tiny_model: Tiny) -> None:
    path = tiny_model(heads=6, kv_heads=3, head_size=8, hidden=40, ffn=56, layers=3, rope_dims=6, context=99, eps=0.25)
    hp = load_model(path).family
    assert (hp.heads, hp.kv_heads, hp.ffn) == ((6, 6, 6), (3, 3, 3), (56, 56, 56))
    assert (hp.head_size, hp.hidden, hp.layers, hp.rope.dims, hp.context, hp.eps) == (8, 40, 3, 6, 99, 0.25)


def test_kv_heads_default_to_the_query_heads(tmp_path: Path) -> None:
    file = small_llama()
    file.keys.pop("llama.attention.head_count_kv")
    (tmp_path / "m.gguf").write_bytes(file.pack())
    assert load_model(tmp_path / "m.gguf").family.kv_heads == (2,)


def test_an_override_that_nothing_reads_is_refused_with_the_keys_that_are(tiny_model: Callable[..., Path]) -> None:
    """A misspelt key would leave the numbers as they are, and the comparison with them would say that all is well."""
    with pytest.raises(ModelError, match=r"overrides=\{'llama\.rope\.freq_bas': …\}: nothing reads this key .*llama\.rope\.freq_base"):
        load_model(tiny_model(), {"llama.rope.freq_bas": 1.0})
    load_model(tiny_model(), {"llama.rope.freq_base": 1.0, "tokenizer.ggml.add_bos_token": True})
    assert load_model(tiny_model(rope_base=None), {"llama.rope.freq_base": 5.0}).family.rope.base == 5.0
