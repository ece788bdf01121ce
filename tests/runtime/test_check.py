"""`aprgraph check` as a function: what is wrong with a file, all of it, and nothing of what is sound."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.families import FAMILIES
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.check import CheckReport, Level, check, weights
from tests.support.checkpoints import write_checkpoint
from tests.support.damage import with_odd_keys
from tests.support.gguf_bytes import ARRAY, F32, I32, STRING, U16, U32, RawGGUF, RawTensor, array, small_llama, text
from tests.support.golden import GOLDEN, golden_models
from tests.support.models import gemma3_path, smollm2_path
from tests.support.planted import Bytes, nan_scales, planted
from tests.support.tiny_blocks import FOREIGN_FORMATS, FORMATS

Tiny = Callable[..., Path]


def serious(report: CheckReport) -> list[tuple[str, str]]:
    """Codes and names of errors and warnings."""
    return [(one.rule.code, one.name) for one in report.findings if one.rule.level is not Level.NOTE]


def text_of(report: CheckReport, code: str, name: str = "") -> str:
    (found,) = (one.text for one in report.findings if (one.rule.code, one.name) == (code, name))
    return found


def small(tmp_path: Path, file: RawGGUF | bytes) -> CheckReport:
    path = tmp_path / "m.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.pack())
    return check(path)


# -- what is sound --------------------------------------------------------------------------------------------------------


@pytest.mark.contract("CHECK-SOUND-1")
@pytest.mark.parametrize("path", [golden.path for golden in golden_models()], ids=lambda path: path.stem)
def test_golden_models_are_sound(path: Path) -> None:
    report = check(path)
    assert (serious(report), report.exit_code) == ([], 0)
    assert report.tensors_read == report.tensors
    assert report.sentence.startswith(f"{path.name}: nothing wrong found: {report.tensors} tensors, ")


@pytest.mark.contract("CHECK-SOUND-1")
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_every_family_are_sound(family: str, tiny_model: Tiny) -> None:
    assert serious(check(tiny_model(family=family, format="Q8_0"))) == []


@pytest.mark.contract("CHECK-SOUND-1")
@pytest.mark.parametrize("fmt", [*FORMATS, *FOREIGN_FORMATS])
def test_models_of_every_format_are_sound(fmt: str, tiny_model: Tiny) -> None:
    assert serious(check(tiny_model(format=fmt))) == []


@pytest.mark.contract("CHECK-SOUND-1")
@pytest.mark.parametrize("find", [smollm2_path, gemma3_path], ids=["smollm2", "gemma3"])
def test_real_models_are_sound(find: Callable[[], Path | None]) -> None:
    path = find()
    if path is None:
        pytest.skip("the model is not here")
    report = check(path)
    assert serious(report) == []
    assert report.bytes_read == pytest.approx(path.stat().st_size, rel=0.1)


# -- weights --------------------------------------------------------------------------------------------------------------

_UP = "blk__1__ffn_up__weight"


def f32(change: Callable[[np.ndarray[tuple[int, int], np.dtype[np.float32]]], None]) -> Callable[[Bytes], None]:
    """A change of rows of float32."""
    return lambda rows: change(rows.view("<f4"))


def _set(index: object, value: float) -> Callable[[Bytes], None]:
    def change(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        rows[index] = value  # type: ignore[call-overload]

    return f32(change)


def _scale(factor: float) -> Callable[[Bytes], None]:
    def change(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        rows *= np.float32(factor)

    return f32(change)


F32_DAMAGE: dict[str, tuple[str, Callable[[Bytes], None], str, str]] = {
    "nan": (_UP, _set((5, 3), np.nan), "weight-nonfinite", "1 NaN element (row 5, column 3)"),
    "inf": (_UP, _set((slice(2, 9), 3), -np.inf), "weight-nonfinite", "7 infinite elements (rows 2, 3, 4, 5 …)"),
    "nan in a norm": ("blk__0__attn_norm__weight", _set((0, 7), np.nan), "weight-nonfinite", "1 NaN element (element 7)"),
    "out of proportion": (_UP, _set((5, 3), 1e30), "weight-absurd", "of 1 of 96 rows is up to 1.3e+30, "),
    "out of proportion in a norm": ("blk__1__ffn_norm__weight", _set((0, 9), 1e20), "weight-absurd", "element 9 of 64, up to 1e+20, the others"),
    "out of proportion in a bias": ("blk__1__attn_k__bias", _set((0, 9), -1e9), "weight-absurd", "element 9 of 32, up to 1e+09, the others"),
    "large": (_UP, _scale(1e6), "weight-large", "the largest element of its rows is up to"),
    "tiny": (_UP, _scale(1e-44), "weight-tiny", "none of its elements is a normal number of F32"),
    "zero": (_UP, _set(slice(None), 0.0), "weight-zero", "all of its 96 x 64 elements are 0"),
    "zero norm": ("output_norm__weight", _set(slice(None), 0.0), "weight-zero", "all of its 64 elements are 0"),
    "zero row": (_UP, _set(slice(4, 6), 0.0), "weight-zero-part", "rows 4 to 5 of 96"),
    "zero columns": (_UP, _set((slice(None), slice(16, 40)), 0.0), "weight-zero-part", "columns 16 to 39 of every row"),
    "constant": (_UP, _set(slice(None), 0.5), "weight-constant", "all of its 96 x 64 elements are 0.5"),
    "negative norm": ("blk__1__ffn_norm__weight", _scale(-1), "norm-odd", "100% of its elements are negative"),
    "small norm": ("blk__1__ffn_norm__weight", _scale(1e-6), "norm-odd", "its elements are about 1e-06 in size"),
    "rope factors": ("rope_freqs__weight", _set((0, slice(2, 4)), 0.0), "rope-factor", "elements 2 to 3 of 8, the first 0"),
    "no rope factors": ("rope_freqs__weight", _set(slice(None), 0.0), "rope-factor", "elements 0 to 7 of 8, the first 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", F32_DAMAGE)
def test_damage_is_named_by_tensor_and_place(name: str, tiny_model: Tiny, tmp_path: Path) -> None:
    tensor, change, code, words = F32_DAMAGE[name]
    report = check(planted(tiny_model(rope_freqs=True, qkv_bias=True), tmp_path / "m.gguf", **{tensor: change}))
    name = tensor.replace("__", ".")
    assert serious(report) == [(code, name)]
    assert words in text_of(report, code, name)
    assert report.exit_code == 1
    assert name in report.sentence


def test_quantised_damage(tiny_model: Tiny, tmp_path: Path) -> None:
    def damage(rows: Bytes) -> None:
        nan_scales((5, 0), (9, 1), (40, 1), block_bytes=34)(rows)
        rows[7, 34:36] = (0x00, 0x7B)  # 57344

    def without_a_column_of_blocks(rows: Bytes) -> None:
        rows[:, 34:68] = 0

    changes = {_UP: damage, "blk__0__ffn_down__weight": without_a_column_of_blocks}
    report = check(planted(tiny_model(format="Q8_0"), tmp_path / "m.gguf", **changes))
    up, down = "blk.1.ffn_up.weight", "blk.0.ffn_down.weight"
    assert serious(report) == [("weight-nonfinite", up), ("weight-absurd", up), ("weight-zero-part", down)]
    assert text_of(report, "weight-nonfinite", up) == "3 blocks with NaN scales (rows 5, 9, 40)"
    assert "1 of 189 blocks is up to 6.6e+04" in text_of(report, "weight-absurd", up)
    assert "(row 7, columns 32 to 63)" in text_of(report, "weight-absurd", up)
    assert text_of(report, "weight-zero-part", down) == "columns 32 to 63 of every row"


def test_experts(tiny_model: Tiny, tmp_path: Path) -> None:
    def without_two(rows: Bytes) -> None:
        rows[2 * 32 : 3 * 32] = 0
        rows[7 * 32 + 3] = 0

    report = check(planted(tiny_model(family="qwen3moe"), tmp_path / "m.gguf", blk__1__ffn_up_exps__weight=without_two))
    assert serious(report) == [("weight-zero-part", "blk.1.ffn_up_exps.weight")]
    assert text_of(report, "weight-zero-part", "blk.1.ffn_up_exps.weight") == "expert 2: all of it; expert 7: row 3 of 32"


def test_a_router_has_few_rows_and_is_looked_at_by_its_elements(tiny_model: Tiny, tmp_path: Path) -> None:
    report = check(planted(tiny_model(family="qwen3moe"), tmp_path / "m.gguf", blk__1__ffn_gate_inp__weight=_set((3, 17), 1e9)))
    assert serious(report) == [("weight-absurd", "blk.1.ffn_gate_inp.weight")]
    assert "of 1 of 512 elements is up to 1.1e+09" in text_of(report, "weight-absurd", "blk.1.ffn_gate_inp.weight")
    assert "(row 3, column 17)" in text_of(report, "weight-absurd", "blk.1.ffn_gate_inp.weight")


def test_neurons_that_are_0_on_all_sides_are_padding(tiny_model: Tiny, tmp_path: Path) -> None:
    def rows(values: Bytes) -> None:
        values[64:] = 0

    def columns(values: Bytes) -> None:
        values[:, 64 * 4 :] = 0

    names = {"blk__1__ffn_gate__weight": rows, "blk__1__ffn_up__weight": rows, "blk__1__ffn_down__weight": columns}
    report = check(planted(tiny_model(), tmp_path / "m.gguf", **names))
    assert serious(report) == []
    assert sum(one.rule.code == "weight-zero-rows" for one in report.findings) == 3


def test_rows_of_unused_tokens_are_a_note_and_a_hole_is_a_warning(tiny_model: Tiny, tmp_path: Path) -> None:
    """A hole begins and ends at pages of the file, in the middle of rows."""
    model, name = tiny_model(), "token_embd.weight"
    start = 2 * 4096 - GGUFFile(model).tensors[name].offset % 4096  # of the second page that lies in the tensor

    def hole(rows: Bytes) -> None:
        rows[200:230] = 0
        rows.reshape(-1)[start : start + 4096] = 0

    def unused(rows: Bytes) -> None:
        rows[200:230] = 0
        rows[230, 8:100] = rows[199, 200:] = 0

    report = check(planted(model, tmp_path / "m.gguf", token_embd__weight=hole))
    assert serious(report) == [("weight-hole", name)]
    assert f"from row {start // 256} to row {(start + 4095) // 256}" in text_of(report, "weight-hole", name)
    assert text_of(report, "weight-zero-rows", name).endswith(", 200 to 229 of 288")
    assert serious(check(planted(model, tmp_path / "m.gguf", token_embd__weight=unused))) == []


def test_a_hole_in_a_quantised_table_ends_in_the_middle_of_blocks(tiny_model: Tiny, tmp_path: Path) -> None:
    model, name = tiny_model(format="Q4_1", hidden=96, vocabulary=400), "token_embd.weight"
    start = 2 * 4096 - GGUFFile(model).tensors[name].offset % 4096

    def hole(rows: Bytes) -> None:
        rows.reshape(-1)[start : start + 2 * 4096] = 0

    assert serious(check(planted(model, tmp_path / "m.gguf", token_embd__weight=hole))) == [("weight-hole", name)]


def test_a_layer_among_the_others(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(layers=5)
    report = check(planted(model, tmp_path / "m.gguf", blk__3__attn_v__weight=_scale(1000)))
    assert serious(report) == [("weight-scale", "blk.3.attn_v.weight")]
    assert text_of(report, "weight-scale", "blk.3.attn_v.weight").startswith("its elements are about 1,024 times larger")


def test_tensors_that_are_the_same(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model()
    file = GGUFFile(model)
    other = np.array(file.tensor_bytes(file.tensors["blk.0.ffn_up.weight"]))

    def change(rows: Bytes) -> None:
        rows[:] = other

    report = check(planted(model, tmp_path / "m.gguf", blk__1__ffn_up__weight=change))
    assert serious(report) == []
    assert text_of(report, "weight-twice", "blk.1.ffn_up.weight") == "the same as blk.0.ffn_up.weight"


def test_norms_to_which_1_was_added_twice(tiny_model: Tiny, tmp_path: Path) -> None:
    model = tiny_model(family="gemma3")

    def add(rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> None:
        rows += 1

    norms = [name for name in GGUFFile(model).tensors if name.endswith("norm.weight")]
    report = check(planted(model, tmp_path / "m.gguf", **{name.replace(".", "__"): f32(add) for name in norms}))
    assert serious(report) == [("norm-odd", "")]


# -- the file, metadata and tensors ---------------------------------------------------------------------------------------


@pytest.mark.contract("CHECK-ALL-1")
def test_a_finding_does_not_hide_the_others(tmp_path: Path) -> None:
    file = small_llama(layers=2)
    del file.keys["llama.attention.layer_norm_rms_epsilon"], file.keys["llama.embedding_length"]
    del file.tensors["blk.0.attn_k.weight"], file.tensors["output_norm.weight"]
    file.tensors["blk.1.ffn_up.weight"] = RawTensor((12, 4))
    file.tensors["blk.2.attn_q.weight"] = file.tensors["blk.0.strange"] = RawTensor((8, 8))
    file.set("tokenizer.ggml.model", STRING, "gpt2")
    file.set("tokenizer.ggml.pre", STRING, "never-heard-of")
    file.set("tokenizer.ggml.eos_token_id", U32, 9)
    file.keys["tokenizer.ggml.tokens"] = (ARRAY, array(STRING, list("abcdef")))
    file.keys["tokenizer.ggml.token_type"] = (ARRAY, array(I32, [1, 1, 1]))
    report = small(tmp_path, file)
    found = serious(report)
    for expected in (
        ("key-wrong", "llama.attention.layer_norm_rms_epsilon"), ("key-wrong", "llama.embedding_length"),
        ("tensor-missing", "blk.0.attn_k.weight"), ("tensor-missing", "output_norm.weight"),
        ("tensor-shape", "blk.1.ffn_up.weight"), ("tensor-unused", "blk.2.attn_q.weight"), ("tensor-unused", "blk.0.strange"),
        ("tokenizer-unknown", "tokenizer.ggml.pre"), ("tokenizer-wrong", "tokenizer.ggml.merges"),
        ("tokenizer-wrong", "tokenizer.ggml.token_type"), ("tokenizer-wrong", "tokenizer.ggml.eos_token_id"),
        ("tokenizer-rows", "tokenizer.ggml.tokens"),
    ):  # fmt: skip
        assert expected in found, (expected, found)
    assert text_of(report, "tensor-shape", "blk.1.ffn_up.weight").startswith("is 12 x 4, expected 12 x 8")


@pytest.mark.contract("CHECK-ALL-1")
def test_what_is_whole_of_a_truncated_file_is_checked(tiny_model: Tiny, tmp_path: Path) -> None:
    path = planted(tiny_model(format="Q8_0"), tmp_path / "m.gguf", token_embd__weight=nan_scales((3, 0), block_bytes=34))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size * 3 // 4)
    report = check(path)
    found = serious(report)
    assert found[0] == ("file-truncated", "")
    assert text_of(report, "file-truncated").endswith("25%")
    assert ("weight-nonfinite", "token_embd.weight") in found
    assert ("tensor-damaged", "output.weight") in found
    assert not any(code == "tensor-missing" for code, _ in found)
    assert 0 < report.tensors_read < report.tensors
    assert report.not_looked_at == ("the values of the tensors that do not lie in the file as they should",)


def test_a_header_that_is_cut(tmp_path: Path) -> None:
    report = small(tmp_path, small_llama().pack()[:300])
    assert serious(report) == [("file-damaged", "")]
    assert report.not_looked_at == ("tensors, metadata and tokenizer: the header cannot be read",)


def test_block_types_that_nobody_knows_overlaps_and_more_after_the_end(tmp_path: Path) -> None:
    file = small_llama()
    file.tensors["blk.0.attn_q.weight"].kind = 99
    file.tensors["blk.0.attn_v.weight"].offset = 0
    report = small(tmp_path, file.pack() + bytes(64))
    damaged = [name for code, name in serious(report) if code == "tensor-damaged"]
    assert "blk.0.attn_q.weight" in damaged
    assert {"blk.0.attn_v.weight", "token_embd.weight"} & set(damaged)
    report = small(tmp_path, small_llama().pack() + b"x" * 100)
    assert "bytes" in text_of(report, "file-tail")


@pytest.mark.parametrize(("key", "value", "code"), [
    ("general.architecture", (STRING, text("gpt9")), "key-unsupported"),
    ("llama.attention.head_count_kv", (U32, b"\3\0\0\0"), "key-wrong"),
    ("llama.vocab_size", (U32, b"\5\0\0\0"), "key-rows"),
    ("llama.attention.layer_norm_rms_epsilon", (F32, np.float32(-1).tobytes()), "key-wrong"),
])  # fmt: skip
def test_metadata_that_contradict(key: str, value: tuple[int, bytes], code: str, tmp_path: Path) -> None:
    file = small_llama()
    file.keys[key] = value
    assert code in [found for found, _ in serious(small(tmp_path, file))]


@pytest.mark.parametrize(("key", "value", "code", "words"), [
    ("attn_logit_softcapping", (F32, 50.0), "key-unsupported", "is 50.0 (the cap of attention scores), which the family 'llama' does not apply"),
    ("attention.sliding_window", (U32, 8), "key-unread", "is 8 and is not applied: every layer attends to all positions"),
    ("attention.scale", (F32, 0.5), "key-differs", "is 0.5: llama.cpp does not read it in this family"),
    ("attention.scale", (F32, 0.0), None, ""),
    ("attention.layer_norm_rms_epsilon", (F32, 0.5), "key-odd", "is 0.5, where models have values from 1e-08 to 0.001"),
    ("rope.scaling.factor", (F32, 0.0), None, ""),
    ("rope.freq_base", (F32, 1.5), "key-odd", "is 1.5, where models have values from 1000 to 1e+12"),
    ("rope.freq_base", None, "key-absent", "is not in the file: 10000 was taken"),
])  # fmt: skip
def test_keys(key: str, value: tuple[int, object] | None, code: str | None, words: str, tmp_path: Path) -> None:
    file = small_llama()
    if value is None:
        del file.keys[f"llama.{key}"]
    else:
        file.set(f"llama.{key}", *value)
    report = small(tmp_path, file)
    found = [one for one in report.findings if one.name == f"llama.{key}"]
    assert [one.rule.code for one in found] == ([] if code is None else [code])
    assert all(one.text.startswith(words) for one in found)


def test_a_default_that_the_family_knows_is_a_note(tiny_model: Tiny) -> None:
    report = check(tiny_model(family="qwen3moe", rope_base=None))
    assert serious(report) == []
    assert text_of(report, "key-default", "qwen3moe.rope.freq_base").startswith(
        "is not in the file: 1000000 was taken (llama.cpp takes 10000)"
    )


def test_what_llama_cpp_takes_without_reading_it_is_no_difference() -> None:
    """YaRN's bounds of real files are those that it takes in any case."""
    paths = {golden.name: golden.path for golden in golden_models()}
    differences = {
        name: [found.name for found in check(paths[name]).findings if found.rule.code == "key-differs"]
        for name in ("olmo3-f32", "gpt-oss-f32")
    }
    assert differences == {"olmo3-f32": [], "gpt-oss-f32": ["gpt-oss.rope.scaling.type"]}


@pytest.mark.contract("CHECK-KIND-1")
def test_what_is_no_whole_model(tmp_path: Path) -> None:
    file = small_llama()
    file.set("split.count", U16, 3)
    file.set("split.no", U16, 1)
    report = small(tmp_path, file)
    assert (report.kind, serious(report)[0]) == ("split", ("file-kind", ""))
    assert report.tensors_read == report.tensors
    report = small(tmp_path, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert (report.kind, report.exit_code, report.not_looked_at) == ("git-lfs", 1, ("what is in it",))
    (tmp_path / "config.json").touch()
    assert check(tmp_path).kind == "folder"


@pytest.mark.contract("CHECK-SOUND-1")
@pytest.mark.parametrize("name", ["byte_pair", "sentence_piece", "phi3"])
def test_of_a_vocabulary_the_tokenizer_is_judged(name: str) -> None:
    report = check(GOLDEN / f"{name}.gguf")
    assert (report.kind, serious(report)) == ("vocabulary", [("file-kind", "")])


@pytest.mark.parametrize("field", [{"architectures": ["FooForCausalLM"]}, {"quantization_config": {"quant_method": "eetq"}}])
def test_a_checkpoint_that_cannot_be_read_is_a_whole_model(field: dict[str, Any], tmp_path: Path) -> None:
    folder = write_checkpoint("qwen3-f32", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **field}))
    report = check(folder)
    assert (report.kind, serious(report)) == ("model", [("key-unsupported", "")])


@pytest.mark.contract("CHECK-KIND-1")
def test_of_an_adapter_the_numbers_alone_are_judged(tmp_path: Path) -> None:
    """B of a LoRA that was not trained is all 0, and that is no damage."""
    file = small_llama()
    file.set("general.type", STRING, "adapter")
    file.set("adapter.type", STRING, "lora")
    file.tensors = {"blk.0.attn_q.weight.lora_a": RawTensor((4, 8)), "blk.0.attn_q.weight.lora_b": RawTensor((8, 4))}
    raw = bytearray(file.pack())
    raw[-128:] = bytes(128)
    assert serious(small(tmp_path, bytes(raw))) == [("file-kind", "")]
    raw[-128:-124] = np.float32(np.nan).tobytes()
    assert serious(small(tmp_path, bytes(raw))) == [("file-kind", ""), ("weight-nonfinite", "blk.0.attn_q.weight.lora_b")]


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "not there"),
    (lambda path: path.mkdir(), "an empty folder; give the path"),
    (lambda path: path.write_bytes(b"\1\2\3\4\5"), r"nor anything else that is known here: begins with b'\\x01\\x02\\x03\\x04'"),
])  # fmt: skip
def test_what_cannot_be_checked(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "m.gguf")
    with pytest.raises(ModelFileError, match=message):
        check(tmp_path / "m.gguf")


def test_quick_leaves_the_weights_unread(tiny_model: Tiny, tmp_path: Path) -> None:
    path = planted(tiny_model(), tmp_path / "m.gguf", token_embd__weight=_set((0, 0), np.nan))
    report = check(path, weights=False)
    assert (serious(report), report.tensors_read, report.bytes_read) == ([], 0, 0)
    assert report.not_looked_at == ("the values of the weights (weights=False)",)
    assert "whose values were not read" in report.sentence


def test_progress_counts_every_byte_once(tiny_model: Tiny, tmp_path: Path) -> None:
    seen: list[int] = []
    path = planted(tiny_model(), tmp_path / "m.gguf", blk__1__ffn_up__weight=_set((5, 3), 1e30))  # which is looked for once more
    report = check(path, progress=seen.append)
    assert sum(seen) == report.bytes_read == sum(info.nbytes for info in GGUFFile(path).tensors.values())


def test_rows_that_are_too_long_are_said_to_be(monkeypatch: pytest.MonkeyPatch, tiny_model: Tiny, tmp_path: Path) -> None:
    path = planted(tiny_model(), tmp_path / "m.gguf", blk__0__ffn_down__weight=_set((0, 0), np.nan))
    monkeypatch.setattr(weights, "LONGEST_ROW", 64 * 4)
    report = check(path)
    assert report.not_looked_at == tuple(f"blk.{layer}.ffn_down.weight: its rows are too long" for layer in (0, 1))
    assert (serious(report), report.tensors_read) == ([], report.tensors - 2)


@pytest.mark.contract("ERR-GGUF-1")
def test_random_damage_is_a_report_or_an_error(tmp_path: Path) -> None:
    """Never anything else, whatever bytes of the header, or of the weights, are changed, and wherever the file is cut."""
    good, rng, path = with_odd_keys().pack(), random.Random(11), tmp_path / "m.gguf"
    codes = set()
    for _ in range(400):
        data = bytearray(good)
        for _ in range(rng.randint(1, 5)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
        path.write_bytes(data[: rng.randrange(len(data)) if rng.random() < 0.2 else None])
        try:
            report = check(path)
        except ModelFileError:
            continue
        json.dumps(report.to_json(), allow_nan=False)
        codes |= {one.rule.code for one in report.findings}
    assert {"file-damaged", "file-truncated", "tensor-damaged", "tensor-unused", "tensor-missing", "key-wrong"} <= codes
