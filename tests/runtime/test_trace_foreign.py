"""What other programs leave in place of a trace: files of arrays, trees of positions, saved logits; read where they lie."""

from __future__ import annotations

import io
import json
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.diff import Class, diff
from aprgraph.runtime.diff.metrics import TensorMetrics
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.name_map import NameMap
from aprgraph.runtime.trace.reader import Trace
from tests.graph.test_checkpoint_files import packed
from tests.support.cli import run_cli
from tests.support.gguf_copy import write_gguf_arrays
from tests.support.traces import trace_model, values, write_bare

try:
    import torch
except ModuleNotFoundError:
    torch = None  # type: ignore[assignment]

with_torch = pytest.mark.skipif(torch is None, reason="torch is not here")

#: n = 3, E = 6, F = 5.
NORM, OUT, LOGITS = values(3, 6), values(3, 6, seed=1), values(9)
MLP = r"layers\.(\d+)\.mlp=layer\1.ffn_out"


def save(path: Path, arrays: dict[str, Any]) -> Path:
    """``arrays`` in the form that the ending of ``path`` says; a folder of .npy files where there is none."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        kinds = {"float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16", "int64": "I64"}
        entries = {name: (kinds[str(array.dtype)], list(array.shape), array.tobytes()) for name, array in arrays.items()}
        path.write_bytes(packed(entries))
    elif path.suffix == ".gguf":
        write_gguf_arrays(path, arrays)
    elif path.suffix == ".pt":
        torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, path)
    else:
        for name, array in arrays.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            np.save(path / f"{name}.npy", array)
    return path


def fails(*arguments: object) -> str:
    """The one line of an error of the command line, without what is in front of every one."""
    result = run_cli(*arguments)
    assert result.code == 2, result
    assert result.err.count("\n") == 1
    return result.err.removeprefix("error: ").strip()


# -- arrays -------------------------------------------------------------------------------------------------------------


@pytest.mark.contract("CAPTURE-FILES-1")
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.gguf", "folder", pytest.param("a.pt", marks=with_torch)])
def test_arrays_are_read_where_they_lie(tmp_path: Path, name: str) -> None:
    """By stages' names and by a map, in any of the shapes and types that Trace.write takes."""
    path = save(
        tmp_path / name,
        {"layer0.attn_norm": NORM[None], "model.layers.1.mlp": OUT.astype(np.float16), "lm_head": LOGITS.astype(np.float64), "x.y": NORM},
    )
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    trace = Trace.open(path, names=[MLP])
    assert [(entry.label, entry.shape) for entry in trace] == [
        ("layer 0 attn_norm", (3, 6)),
        ("layer 1 ffn_out", (3, 6)),
        ("lm_head", (9,)),
    ]
    assert trace.tensor("attn_norm", 0).tobytes() == NORM.tobytes()
    assert np.array_equal(trace.tensor("ffn_out", 1), OUT.astype(np.float16).astype(np.float32))
    assert trace.tensor("lm_head").tobytes() == LOGITS.tobytes()
    assert [one.sentence for one in trace.unread] == ["x.y: no stage has this name"]
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


def test_bfloat16_as_numpy_writes_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", lm_head=LOGITS.astype(ml_dtypes.bfloat16))
    assert np.array_equal(Trace.open(tmp_path / "a.npz").tensor("lm_head"), LOGITS.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.contract("CAPTURE-FILES-1")
def test_a_folder_of_safetensors_is_a_dump_unless_it_holds_weights(tmp_path: Path) -> None:
    """As other programs save one file a pass; a checkpoint's shards without their config.json are told what they lack."""
    (tmp_path / "f").mkdir()
    save(tmp_path / "f/pass0.safetensors", {"model.layers.0.mlp": OUT.astype(ml_dtypes.bfloat16), "input_ids": np.array([3, 1, 4])})
    trace = Trace.open(tmp_path / "f", names=[MLP])
    assert np.array_equal(trace.tensor("ffn_out", 0), OUT.astype(ml_dtypes.bfloat16).astype(np.float32))
    document = json.loads(run_cli("inspect", tmp_path / "f", "--json").out)
    assert document["arrays"]["pass0.model.layers.{}.mlp"] == "1 of 3x6"
    save(tmp_path / "f/pass0.safetensors", {"model.layers.0.mlp.up_proj.weight": OUT})
    assert fails("inspect", tmp_path / "f").startswith(f"{tmp_path}/f: a Hugging Face folder; ")
    assert "put the config.json of its checkpoint beside it" in fails("inspect", tmp_path / "f/pass0.safetensors")
    assert "(they seem to be a model's weights)" in fails("diff", tmp_path / "f", tmp_path / "f")


@pytest.mark.contract("CAPTURE-FILES-1")
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("whole", ["<u2", "<i2", ">u2"])
def test_floats_that_were_saved_as_their_bits(tmp_path: Path, kind: str, whole: str) -> None:
    """``tensor.view(torch.uint16).numpy()``: the numbers tell of which format they are, and a note says so."""
    rounded = {
        name: array.astype(kind) for name, array in {"layer0.attn_norm": NORM, "layer0.ffn_out": 50 * OUT, "lm_head": LOGITS}.items()
    }
    path = save(tmp_path / "a.npz", {name: array.view(f"<{whole[1:]}").astype(whole) for name, array in rounded.items()})
    trace = Trace.open(path)
    for entry in trace:
        assert np.array_equal(trace.load(entry), rounded[entry.file or ""].astype(np.float32))
    sentence = f"3 arrays of {np.dtype(whole)} are read as the bits of {kind}"
    assert trace.read_as == (sentence,)
    assert f"A: {sentence}" in run_cli("diff", path, path).out
    assert json.loads(run_cli("inspect", path, "--json").out)["read as"] == [sentence]


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("array", "message"), [
    (np.arange(18, dtype=np.uint16), "is uint16, whole numbers where real ones belong, and bits neither of bfloat16 nor of float16 for certain"),
    (np.array([-900, 17, 300] * 6, np.int16), "is int16, whole numbers where real ones belong"),
    (np.zeros(18, np.int16), "is int16, whole numbers where real ones belong"),
    (np.full(18, 0x3F80, np.uint16), "is uint16, whole numbers where real ones belong"),
    (np.linspace(0.5, 1, 18, dtype=np.float16).view(np.uint16), "is uint16, whole numbers where real ones belong"),
    (np.arange(18, dtype=np.uint8), "is uint8, whole numbers of 8 bits, expected real ones: are they the bits of floats? give array.view(ml_dtypes.float8"),
    (NORM.astype(ml_dtypes.float8_e5m2), "array 'layer0.attn_norm' holds elements of a type that NumPy does not know, such as float8; save it as"),
    (NORM.astype(ml_dtypes.float8_e4m3fn), "holds elements of one byte and no type, as NumPy writes float8; save it as float32"),
])  # fmt: skip
def test_whole_numbers_that_are_no_floats(tmp_path: Path, array: Any, message: str) -> None:
    path = save(tmp_path / "a.npz", {"layer0.attn_norm": array.reshape(3, 6)})
    assert message in fails("diff", path, path)


def test_bits_of_weights_of_attention_alone_tell_nothing(tmp_path: Path) -> None:
    """They span too many octaves; beside others, they are of the same format."""
    scores = np.where(np.tri(8) > 0, 12 * values(2, 8, 8), -3e4).astype(ml_dtypes.bfloat16).view(np.uint16)
    message = fails("inspect", save(tmp_path / "a.npz", {"layer0.attn_scores": scores}))
    assert "'layer0.attn_scores' is uint16, whole numbers where real ones belong, and bits neither" in message
    path = save(
        tmp_path / "a.npz", {"layer0.attn_scores": scores, "layer0.attn_norm": values(8, 6).astype(ml_dtypes.bfloat16).view(np.uint16)}
    )
    trace = Trace.open(path)
    assert trace.read_as == ("2 arrays of uint16 are read as the bits of bfloat16",)
    assert trace.tensor("attn_scores", 0).min() == np.float32(ml_dtypes.bfloat16(-3e4))


def test_choices_of_experts_are_whole_numbers(tmp_path: Path) -> None:
    """Of any width; they are no bits."""
    path = save(tmp_path / "a.npz", {"layer0.moe_router_indices": np.array([[3, 1], [0, 2], [7, 5]], np.uint8)})
    assert Trace.open(path).tensor("moe_router_indices", 0).tolist() == [[3, 1], [0, 2], [7, 5]]
    path = save(tmp_path / "a.npz", {"layer0.moe_router_indices": np.array([[3, 1], [0, 2], [7, 5]], np.int16)})
    assert Trace.open(path).tensor("moe_router_indices", 0).tolist() == [[3, 1], [0, 2], [7, 5]]


@pytest.mark.contract("CAPTURE-FILES-2")
def test_axes_in_ggml_s_order_are_told(tmp_path: Path) -> None:
    """Where all arrays are so; one alone is not."""
    arrays = {"layer0.attn_norm": NORM, "layer0.ffn_gate": values(3, 8), "lm_head": LOGITS}
    for turned in (
        {name: array.T for name, array in arrays.items()},
        {name: array.reshape((*array.shape[::-1], 1, 1)) for name, array in arrays.items()},
    ):
        path = save(tmp_path / "a.npz", turned | {"tokens": np.array([3, 1, 4])})
        message = fails("inspect", path)
        assert "; all 3 arrays fit with their axes in the other order, as GGML counts them: give array.T, or, " in message
    message = fails("inspect", save(path, arrays | {"layer0.attn_norm": NORM.T, "tokens": np.array([3, 1, 4])}))
    assert message.endswith("expected n x E: 3 positions x hidden size; it looks transposed: give array.T")
    message = fails("inspect", save(path, {"layer0.attn_norm": values(2, 3, 6)}))
    assert message.endswith("expected n x E: positions x hidden size; a batch? give one text of it, such as array[0]")


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("shape", "stage", "tokens", "advice"), [
    ((18,), "attn_norm", 3, "expected n x E: 3 positions x hidden size; it looks flat: give array.reshape(3, -1), or of one position array[None]"),
    ((18,), "attn_norm", 0, "expected n x E: positions x hidden size; it looks flat: give array.reshape(n, -1), or of one position array[None]"),
    ((7,), "attn_norm", 3, "expected n x E: 3 positions x hidden size; it looks flat, and is not of 3 positions: give array[None] of one"),
    ((18,), "attn_scores", 3, "heads x 3 positions x positions attended to; it looks flat: give array.reshape(-1, 3, 3)"),
    ((2, 3, 6), "attn_norm", 3, "; a batch? give one text of it, such as array[0]"),
    ((3, 2, 6), "attn_norm", 3, "; a batch? give one text of it, such as array[:, 0]"),
    ((2, 3, 2, 3), "q_post_rope", 3, "; a batch? give one text of it, such as array[0]"),
    ((2, 3, 6), "qkv_matmul", 3, "positions x heads x head size; or is it a batch of 2 texts? then give one of them, such as array[0]"),
    ((6, 3), "attn_norm", 3, "; it looks transposed: give array.T"),
])  # fmt: skip
def test_a_shape_that_is_refused_says_which_one_is_expected(
    tmp_path: Path, shape: tuple[int, ...], stage: str, tokens: int, advice: str
) -> None:
    ids = {"tokens": np.arange(tokens)} if tokens else {}
    assert fails("inspect", save(tmp_path / "a.npz", {f"layer0.{stage}": values(*shape), **ids})).endswith(advice)


def test_logits_of_a_batch_and_arrays_that_are_all_transposed(tmp_path: Path) -> None:
    assert fails("inspect", save(tmp_path / "a.npz", {"lm_head": values(2, 3, 9)})).endswith("give one text of it, such as array[0]")
    arrays = {"layer0.attn_norm": NORM.T, "layer0.qkv_matmul": values(9, 3), "layer0.attn_scores": values(2, 4, 3)}
    assert fails("inspect", save(tmp_path / "a.npz", arrays)).endswith("; are all of them transposed? positions come first: give array.T")


def test_axes_beyond_those_of_the_stage_are_read_and_said(tmp_path: Path) -> None:
    """Of a batch of one text, and of heads: nothing else can be meant."""
    ours = save(tmp_path / "a.npz", {"layer0.attn_norm": NORM, "layer0.q_post_rope": values(3, 8), "tokens": np.array([3, 1, 4])})
    turned = {"layer0.attn_norm": NORM[None], "layer0.q_post_rope": values(3, 8).reshape(1, 3, 2, 4), "tokens": np.array([[3, 1, 4]])}
    theirs = save(tmp_path / "b.npz", turned)
    said = "2 arrays have axes of size 1, or of heads, beyond those of the stage, and are read without: 1 x 3 x 6 as 3 x 6"
    result = run_cli("diff", ours, theirs)
    assert (result.code, f"B: {said}\n" in result.out) == (0, True)
    assert said in run_cli("inspect", theirs).out
    assert "beyond those of the stage" not in run_cli("inspect", ours).out


def test_what_eval_callback_prints_is_named(tmp_path: Path) -> None:
    """llama.cpp's llama-eval-callback, also behind what it says before."""
    line = "ggml_debug:              attn_norm-0 = (f32)        MUL(norm-0{64, 5, 1, 1}, blk.0.attn_norm.weight{64, 1, 1, 1}}) = {64, 5, 1, 1}\n"
    for before in ("", "build: 4000 (abc)\nmain: loading\n"):
        (tmp_path / "a.log").write_text(before + line)
        write_bare(tmp_path / "t", {(0, "attn_norm"): NORM})
        message = fails("diff", tmp_path / "t", tmp_path / "a.log")
        assert (
            "but what llama.cpp's eval-callback prints, which is a few elements of each tensor; record whole tensors, as examples/"
            in message
        )


@with_torch
def test_torch_files_of_any_nesting(tmp_path: Path) -> None:
    states = tuple(torch.from_numpy(values(1, 3, 6, seed=i)).bfloat16() for i in range(2))
    torch.save({"hidden_states": states, "lm_head": torch.from_numpy(LOGITS).requires_grad_(), "step": 3}, tmp_path / "a.pth")
    trace = Trace.open(tmp_path / "a.pth", names=[r"hidden_states\.(\d+)=layer\1.post_ffn_residual"])
    assert np.array_equal(trace.tensor("post_ffn_residual", 1), states[1][0].float().numpy())
    assert trace.unread == ()  # a number is no array
    torch.save(torch.from_numpy(LOGITS), tmp_path / "lm_head.pt", _use_new_zipfile_serialization=False)
    assert trace.tensor("lm_head").tobytes() == Trace.open(tmp_path / "lm_head.pt").tensor("lm_head").tobytes()


@with_torch
@pytest.mark.contract("CAPTURE-FILES-1")
def test_files_of_sglang_s_dumper(tmp_path: Path) -> None:
    """One tensor each, with what it says of itself; that is no array, and counts as none."""
    for layer in range(2):
        held = {"value": torch.from_numpy(values(3, 6, seed=layer)), "meta": {"step": 0, "layer_id": layer, "name": "mlp", "args": [1, 2]}}
        torch.save(held, tmp_path / f"step=0___rank=0___dump_index={layer}___name=mlp___layer_id={layer}.pt")
    trace = Trace.open(tmp_path, names=[r"step=0___.*___name=mlp___layer_id=(\d+)=layer\1.ffn_out"])
    assert [entry.label for entry in trace] == ["layer 0 ffn_out", "layer 1 ffn_out"]
    assert np.array_equal(trace.tensor("ffn_out", 1), values(3, 6, seed=1))
    assert trace.unread == ()
    torch.save({"logits": torch.from_numpy(LOGITS), "past_key_values": None, "loss": 0.5, "name": "x"}, tmp_path / "b.pt")
    assert run_cli("diff", tmp_path / "b.pt", tmp_path / "b.pt", "--map", "logits=lm_head").code == 0


def test_without_torch_a_torch_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = fails("inspect", tmp_path / "a.pt")
    assert message == (
        f"{tmp_path}/a.pt: is read by torch, which is not installed: install it (pip install torch), or save the arrays with numpy.savez"
    )


def test_tokens_beside_the_arrays_are_the_prompts(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", {"lm_head": LOGITS, "input_ids": np.array([[5, 6, 7]])})
    trace = Trace.open(path)
    assert trace.info is not None
    assert (trace.info.tokens, trace.unread) == ((5, 6, 7), ())
    save(path, {"lm_head": LOGITS, "input_ids": np.array([[5, 6], [7, 8]])})
    with pytest.raises(TraceError, match=r"'input_ids' is int64 of the shape \[2, 2\], expected the token ids of one text, \[n\]$"):
        Trace.open(path)


@pytest.mark.contract("CAPTURE-FILES-1")
def test_a_side_of_a_comparison(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """With names of another program's, against our own trace, and audited; a fault is found where it is."""
    model = tiny_model()
    ours = trace_model(tmp_path / "ours", model)
    arrays = {entry.label.replace(" ", ".").replace("layer.", "layer"): np.array(ours.load(entry)) for entry in ours}
    moved = {name.replace("layer", "model.layers.").replace(".ffn_out", ".mlp"): array for name, array in arrays.items()}
    save(tmp_path / "theirs.npz", moved)
    rules = ("--map", MLP, "--map", r"layers\.(\d+)\.(\w+)=layer\1.\2")
    result = run_cli("diff", tmp_path / "ours", tmp_path / "theirs.npz", *rules, "--json")
    # The first rule and the second both match an mlp.
    assert result.code == 2
    assert "'model.layers.0.mlp'" in result.err
    rules = ("--map", MLP, "--map", r"layers\.(\d+)\.((?!mlp)\w+)=layer\1.\2")
    for arguments in (("diff", tmp_path / "ours", tmp_path / "theirs.npz"), ("audit", tmp_path / "theirs.npz", "--model", model)):
        result = run_cli(*arguments, *rules, "--json")
        assert result.code == 0, result
    drawn = run_cli("graph", "--diff", tmp_path / "ours", tmp_path / "theirs.npz", *rules)
    assert (drawn.code, drawn.err) == (0, "")
    assert fails("graph", model, *rules).startswith("--map: it names arrays of a side of --diff")
    moved["model.layers.1.mlp"] = moved["model.layers.1.mlp"] + values(*moved["model.layers.1.mlp"].shape)
    save(tmp_path / "theirs.npz", moved)
    result = run_cli("diff", tmp_path / "ours", tmp_path / "theirs.npz", *rules)
    assert result.code == 1
    assert "WHERE  layer 1 ffn_out: " in result.out
    assert "B is theirs.npz: numpy, at " in result.out
    result = run_cli("audit", tmp_path / "theirs.npz", "--model", model, *rules, "--tokens", "3,1,4,1,5")
    assert result.code == 1
    assert "layer 1 ffn_out" in result.out


def test_what_has_no_place_is_said_and_counts(tmp_path: Path) -> None:
    ours = save(tmp_path / "a.npz", {"layer0.attn_norm": NORM})
    theirs = save(tmp_path / "b.npz", {"layer0.attn_norm": NORM, "model.layers.0.mlp": OUT, "other": OUT})
    result = run_cli("diff", ours, theirs)
    assert result.code == 3
    assert (
        "2 arrays of b.npz (B) were not read, the first model.layers.0.mlp: no stage has this name; did you mean layer0.ffn_out?"
        in result.out
    )
    assert "2 arrays of B without a place; give places with --map\n" in result.out
    assert run_cli("diff", ours, theirs, "--map", MLP, "--map", "other=layer1.ffn_out").code == 0
    document = json.loads(run_cli("inspect", theirs, "--map", MLP, "--json").out)
    assert (document["manifest"], list(document["tensors"]), list(document["unread"])) == (
        False, ["layer 0 attn_norm", "layer 0 ffn_out"], ["other"],
    )  # fmt: skip


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("rules", "message"), [
    (["x"], "'x': expected REGEX=PLACE, such as "),
    (["("], "'(': expected REGEX=PLACE"),
    (["(=lm_head"], "'(=lm_head': no regular expression and place (missing ), unterminated subpattern at position 0)"),
    ([r"a=layer\1.ffn_out"], "no regular expression and place (invalid group reference 1"),
    (["zzz=lm_head"], "'zzz=lm_head' matches no array: "),
    (["a.b=ffn_outt"], "unknown stage 'ffn_outt' (did you mean 'ffn_out'?)"),
    (["a.b=ffn_out"], "ffn_out belongs to a layer, expected its number, from 0; --map 'a.b=ffn_out' makes that of 'a.b'"),
    (["a.b=layer1.ffn_out", "b=layer2.ffn_out"], "'a.b' is layer 1 ffn_out by 'a.b=layer1.ffn_out' and layer 2 ffn_out by 'b=layer2.ffn_out'"),
    (["a.b=layer0.attn_norm"], "'layer0.attn_norm' and 'a.b' are both layer 0 attn_norm; take one of them, by a narrower --map"),
])  # fmt: skip
def test_bad_maps(tmp_path: Path, rules: list[str], message: str) -> None:
    path = save(tmp_path / "a.npz", {"layer0.attn_norm": NORM, "a.b": OUT})
    found = fails("inspect", path, *(word for rule in rules for word in ("--map", rule)))
    assert message in found


def test_two_passes_in_one_place(tmp_path: Path) -> None:
    """A file for each pass, and a rule that does not say which is which: the names tell, and so does the error."""
    for step, array in enumerate((OUT, OUT[:1])):
        save(tmp_path / f"step_{step}.npz", {"layers.0.mlp": array})
    said = fails("inspect", tmp_path, "--map", MLP)
    assert said == (
        f"{tmp_path}: 'step_0.layers.0.mlp' and 'step_1.layers.0.mlp' are both layer 0 ffn_out; take one of them, by a narrower --map, or say "
        rf"of which pass each is (step\1.layer\2.…): `aprgraph inspect {tmp_path}` suggests rules"
    )
    [rule] = json.loads(run_cli("inspect", tmp_path, "--json").out)["rules that their names suggest"]
    trace = Trace.open(tmp_path, names=[rule.removeprefix("--map '").removesuffix("'")])
    assert [entry.label for entry in trace] == ["layer 0 ffn_out", "step 1 layer 0 ffn_out"]


def test_a_map_without_arrays(tmp_path: Path) -> None:
    write_bare(tmp_path / "t", {(0, "attn_norm"): NORM})
    message = fails("diff", tmp_path / "t", tmp_path / "t", "--map", MLP)
    assert (
        message == f"--map names arrays of .npz, .npy, .pt and .safetensors files; {tmp_path}/t and {tmp_path}/t are no such: leave it out"
    )


@pytest.mark.contract("CAPTURE-FILES-2")
def test_rules_are_quoted_as_they_were_typed(tmp_path: Path) -> None:
    """In a regular expression a doubled backslash is another one."""
    np.savez(tmp_path / "a.npz", mlp=NORM)
    for rule, quote in ((r"m\wp=layer0.ffn_outt", "'"), (r"(?:it's|m\wp)=lm_heed", '"')):
        with pytest.raises(TraceError) as caught:
            Trace.open(tmp_path / "a.npz", names=[rule])
        assert f"{quote}{rule}{quote}" in str(caught.value)


def test_a_file_of_rules(tmp_path: Path) -> None:
    """It does what the rules do one by one; what it holds beyond them is said."""
    ours = save(tmp_path / "a.npz", {"layer0.ffn_out": OUT, "layer0.attn_norm": NORM})
    theirs = save(tmp_path / "b.npz", {"model.layers.0.mlp": OUT, "norm": NORM, "x.debug": OUT})
    rules = tmp_path / "rules.txt"
    rules.write_text(
        f"\ufeff# an engine's\r\n  {MLP}  \r\n\r\nnorm=layer0.attn_norm\r\n.*debug=ignore\r\nother=lm_head\r\n", encoding="utf-8"
    )
    result = run_cli("diff", ours, theirs, "--map", f"@{rules}")
    assert result.code == 0
    assert f"1 of the 4 rules of {rules} match no array: line 6 'other=lm_head'\n" in result.out
    for names in (rules, str(rules), [MLP, "norm=layer0.attn_norm", ".*debug=ignore"]):
        trace = Trace.open(theirs, names=names)
        assert ([entry.label for entry in trace], trace.left_out) == (["layer 0 attn_norm", "layer 0 ffn_out"], ("x.debug",))


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("content", "message"), [
    (b"norm=layer0.attn_norm\n\nx", "--map 'x' in {file}, line 3: expected REGEX=PLACE"),
    (b"'norm=layer0.attn_norm'", "line 1: in a file a rule stands without quotes"),
    (b"norm=layer0.attn_normm", "--map 'norm=layer0.attn_normm' in {file}, line 1 makes that of 'norm'"),
    (b"# nothing\n", "--map @{file}: {file} holds no rule; expected REGEX=PLACE, one a line"),
    (b"a=lm_head\nb=lm_head\n", "--map @{file}: none of its 2 rules matches an array"),
    (b"\xff\xfe\x80", "{file} is no text in UTF-8"),
    (None, "is not there (did you mean 'rules.txt'?)"),
])  # fmt: skip
def test_bad_files_of_rules(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = save(tmp_path / "a.npz", {"layer0.ffn_out": OUT, "norm": NORM})
    file = tmp_path / "rules.txt"
    file.write_bytes(content or b"")
    given = file if content is not None else tmp_path / "rule.txt"
    assert message.format(file=file) in fails("inspect", path, "--map", f"@{given}")
    assert f"a file of rules is @{file}" in fails("inspect", path, "--map", file)
    with pytest.raises(TraceError, match="a rule goes into a list"):
        Trace.open(path, names="norm=layer0.attn_norm")


def test_what_a_rule_matches() -> None:
    names = NameMap([r"mlp=layer0.ffn_out"])
    assert [name for name in ("mlp", "a.mlp", "a/mlp", "a_mlp", "mlp.0", "amlp", "a.mlp.b") if names.place_of("", name)] == [
        "mlp",
        "a.mlp",
        "a/mlp",
    ]


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize(("arrays", "message"), [
    ({"a": NORM}, "its one array is not called as a stage is; a: no stage has this name; name places with --map"),
    ({"tokens": np.arange(3), "a": NORM}, r"is; a: no stage has this name; name places with --map 'layers\.(\d+)\.mlp=layer\1.ffn_out'; `aprgraph inspect "),
    ({"blk.0.attn_q.weight": NORM}, "its one array is not called as a stage is (they seem to be a model's weights); "),
    ({"layer0.attn_norm": NORM, "layer1.attn_norm": values(3, 7)}, "layer 1 attn_norm has the shape 3 x 7, with E = 7, but layer 0 attn_norm says 6"),
    ({"layer0.attn_norm": np.array(["a"])}, "layer 0 attn_norm is <U1, expected float16"),
    ({"layer0.attn_norm": np.zeros((0, 6), np.float32)}, "layer 0 attn_norm has the shape 0 x 6, and no elements"),
    ({"layer0.attn_norm": np.array([None])}, "holds Python objects, which are not read; save plain arrays of numbers"),
    ({}, "holds no arrays"),
])  # fmt: skip
def test_bad_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a.npz", arrays)
    assert message in fails("diff", path, path)


@pytest.mark.contract("CAPTURE-FILES-2")
@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "lm_head.npy", pytest.param("a.pt", marks=with_torch)])
def test_damaged_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    """Cut off anywhere, and with bytes changed: an error, or arrays of the file, and never anything else."""
    path = tmp_path / name
    if name == "lm_head.npy":
        np.save(path, LOGITS)
    else:
        save(path, {"lm_head": LOGITS, "layer0.attn_norm": NORM})
    whole, random = path.read_bytes(), np.random.default_rng(1)
    for trial in range(120):
        data = bytearray(whole[: random.integers(len(whole))] if trial % 2 else whole)
        for place in random.integers(0, max(1, len(data)), trial % 4):
            if data:
                data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            trace = Trace.open(path)
            for entry in trace:
                trace.load(entry)
        except TraceError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)


def test_a_folder_with_a_damaged_file(tmp_path: Path) -> None:
    """What can be read is, and the other file is listed."""
    folder = save(tmp_path / "f", {"lm_head": LOGITS})
    (folder / "layer0.attn_norm.npy").write_bytes(b"\x93NUMPY")
    (unread,) = Trace.open(folder).unread
    assert unread.file == "layer0.attn_norm.npy"
    assert unread.why.startswith("is damaged, or no .npy file (")
    (folder / "lm_head.npy").unlink()
    message = fails("inspect", folder)
    assert message.startswith(f"{folder}: none of its files of arrays can be read: layer0.attn_norm.npy is damaged, or no .npy file (")
    (folder / "layer0.attn_norm.npy").write_bytes(b"no array at all")
    assert fails("inspect", folder).endswith("layer0.attn_norm.npy is no .npy file: begins with b'no arr'; save it again")


@pytest.mark.contract("CAPTURE-FILES-2")
def test_archives_that_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text under the name of an archive, an array twice, and members of other sizes than they say, or than memory."""
    path = tmp_path / "a.npz"
    path.write_text("layer0.attn_norm: 1, 2, 3\n")
    assert fails("inspect", path) == f"{path}: is no .npz file: begins with b'layer0'; save it again"
    content = io.BytesIO()
    np.save(content, NORM)
    array = content.getvalue()

    def said(*members: bytes) -> str:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for member in members:
                archive.writestr("layer0.attn_norm.npy", member)
        return fails("inspect", path)

    assert "holds two arrays of the name 'layer0.attn_norm'; save it again" in said(array, array)
    assert "array 'layer0.attn_norm' of 3 x 6 float32 has 1000200 bytes in the file, expected 200; it is damaged" in said(
        array + bytes(1_000_000)
    )
    monkeypatch.setattr("aprgraph.runtime.trace.array_files.available_memory", lambda: 100)
    assert "takes 0.0 GB, and 0.0 GB of memory are left; save it as .npy" in said(array)


@pytest.mark.contract("CAPTURE-FILES-2")
def test_a_map_that_tries_too_many_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stopped; one that only looks like it is matched elsewhere, with the same result."""
    path = save(tmp_path / "a.npz", {"a" * 60: NORM, "model.layers.1.mlp": OUT})
    with monkeypatch.context() as patched:
        patched.setattr("aprgraph.runtime.trace.bounded_match.SECONDS", 0.2)
        assert ": was stopped after 0.2 s, as it tries too many ways; let no repetition stand in another" in fails(
            "inspect", path, "--map", "(a+)+b=layer1.ffn_out"
        )
    trace = Trace.open(path, names=[r"(?:\w+\.)*layers\.(\d+)\.mlp=layer\1.ffn_out"])
    assert [entry.label for entry in trace] == ["layer 1 ffn_out"]


# -- trees of positions -------------------------------------------------------------------------------------------------


def by_position(folder: Path, trace: Trace) -> Path:
    """``trace`` as `apr parity --per-op` leaves one: scores of a position over the places so far."""
    for entry in trace:
        tensor = np.array(trace.load(entry))
        n = 5
        for position in range(n):
            if entry.stage.startswith("attn_s"):
                row = tensor[:, position, : position + 1]
            elif len(tensor) == 1 and position < n - 1:  # logits of the last position alone
                continue
            else:
                row = tensor[0] if len(tensor) == 1 else tensor[position]
            path = folder / f"pos-{position:04}" / (f"layer-{entry.layer}" if entry.layer is not None else "") / f"{entry.stage}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_aprt(path, entry.layer, np.ascontiguousarray(row))
    return folder


@pytest.mark.contract("CAPTURE-APR-2")
@pytest.mark.parametrize("all_logits", [False, True])
def test_folders_of_positions_are_one_trace(tmp_path: Path, tiny_model: Callable[..., Path], all_logits: bool) -> None:
    """Against our own trace bit for bit, and against each other; a fault at one position is found there."""
    model = tiny_model()
    ours = trace_model(tmp_path / "ours", model, all_positions=all_logits)
    for device in ("cpu", "gpu"):
        by_position(tmp_path / "p" / device, ours)
    theirs = Trace.open(tmp_path / "p/gpu")
    assert theirs.unread == ()
    assert {entry.key: entry.shape for entry in theirs if entry.layer is not None} == {
        entry.key: entry.shape for entry in ours if entry.layer is not None
    }
    assert all(theirs.load(entry).tobytes() == np.array(ours.load(ours.get(entry.stage, entry.layer))).tobytes() for entry in theirs)
    for a, b in (("ours", "p/cpu"), ("p/cpu", "p/gpu")):
        report = diff(tmp_path / a, tmp_path / b)
        assert {row.classification for row in report.rows} == {Class.IDENTICAL}
    assert run_cli("audit", tmp_path / "p/gpu", "--model", model, "--tokens", "3,1,4,1,5").code == 0
    write_aprt(tmp_path / "p/gpu/pos-0002/layer-1/ffn_out.bin", 1, values(64))
    report = diff(tmp_path / "p/cpu", tmp_path / "p/gpu")
    assert report.exit_code == 1
    assert [first.key for first in report.first] == [(0, 1, "ffn_out")]
    worst = next(row.metrics for row in report.rows if row.key == (0, 1, "ffn_out"))
    assert isinstance(worst, TensorMetrics)
    assert worst.positions is not None
    assert worst.positions.worst[0] == 2
    assert fails("diff", tmp_path / "p", tmp_path / "ours").endswith(
        f"/p: holds cpu and gpu, a trace each; give {tmp_path}/p/cpu or {tmp_path}/p/gpu"
    )


@pytest.mark.contract("CAPTURE-APR-2")
def test_positions_that_do_not_fit(tmp_path: Path) -> None:
    def write(file: str, count: int) -> None:
        path = tmp_path / "t" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_aprt(path, 0, values(count))

    for position in range(3):
        write(f"pos-000{position}/layer-0/attn_norm.bin", 6)
        write(f"pos-000{position}/layer-0/ffn_norm.bin", 6 + position)
        write(f"pos-000{position}/layer-0/attn_scores.bin", 4)
        write(f"pos-000{position}/layer-0/mystery.bin", 4)
    write("pos-0001/layer-0/ffn_out.bin", 6)
    trace = Trace.open(tmp_path / "t")
    assert [entry.label for entry in trace] == ["layer 0 attn_norm"]
    assert {one.file: one.why for one in trace.unread} == {
        **{f"pos-000{position}/layer-0/mystery.bin": "no place of a stage" for position in range(3)},
        "pos-*/layer-0/ffn_norm.bin": "pos-0000 holds 6 elements of it, pos-0001 7",
        "pos-*/layer-0/attn_scores.bin": "pos-0000 holds 4 elements of it, which do not grow by a place a position",
        "pos-*/layer-0/ffn_out.bin": "1 of 3 positions hold it, and pos-0000 does not",
    }
    (tmp_path / "t/pos-0001").rename(tmp_path / "t/pos-0005")
    with pytest.raises(TraceError, match="pos-0001, pos-0003, pos-0004 missing, of 6 positions counted from 0; "):
        Trace.open(tmp_path / "t")
    (tmp_path / "t/pos-0005").rename(tmp_path / "t/pos-999999999")
    named = "pos-0001, pos-0003, pos-0004, pos-0005 and 999,999,993 more missing, of 1000000000 positions"
    with pytest.raises(TraceError, match=named):
        Trace.open(tmp_path / "t")


# -- logits of llama-debug ----------------------------------------------------------------------------------------------


def save_logits(folder: Path, logits: Any, tokens: Any = (3, 1, 4, 1, 5)) -> Path:
    """The files of `llama-debug --save-logits`."""
    folder.mkdir(exist_ok=True)
    (folder / "llamacpp-tiny.bin").write_bytes(np.asarray(logits, "<f4").tobytes())
    (folder / "llamacpp-tiny-tokens.bin").write_bytes(struct.pack(f"<{len(tokens)}i", *tokens))
    (folder / "llamacpp-tiny-prompt.txt").write_text("prompt: x\n")
    return folder / "llamacpp-tiny.bin"


@pytest.mark.contract("CAPTURE-LLAMACPP-2")
def test_logits_that_llama_debug_saved(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    ours = trace_model(tmp_path / "ours", tiny_model())
    path = save_logits(tmp_path / "data", ours.tensor("lm_head"))
    trace = Trace.open(path)
    assert trace.info is not None
    assert (trace.info.target, trace.info.tokens, [entry.label for entry in trace]) == ("llama.cpp", (3, 1, 4, 1, 5), ["lm_head"])
    report = diff(tmp_path / "ours", path)
    assert {row.label: row.classification for row in report.rows_compared} == {"lm_head": Class.IDENTICAL}
    save_logits(tmp_path / "data", ours.tensor("lm_head"), (3, 1, 4, 1, 6))
    assert "are traces of different tokens: at position 4" in fails("diff", tmp_path / "ours", path)
    save_logits(tmp_path / "data", values(288))
    (tmp_path / "data/llamacpp-tiny-tokens.bin").unlink()
    assert run_cli("diff", tmp_path / "ours", path).code == 1
    # What the script for transformers beside llama.cpp's leaves.
    path = path.rename(path.with_name("pytorch-tiny.bin"))
    assert "B is pytorch-tiny.bin: tiny, transformers, at " in run_cli("diff", tmp_path / "ours", path).out


@pytest.mark.contract("CAPTURE-LLAMACPP-2")
def test_bad_saved_logits(tmp_path: Path) -> None:
    path = save_logits(tmp_path / "data", LOGITS, (-1,))
    assert fails("inspect", path).endswith("tiny-tokens.bin: 4 bytes that are no token ids, int32 of at least 0; damaged, save it again")
    assert fails("inspect", path.with_name("llamacpp-tiny-tokens.bin")).endswith("give the logits beside it, llamacpp-tiny.bin")
    path.write_bytes(b"12345")
    assert "5 bytes, expected float32 numbers, four bytes each" in fails("diff", path, path)
    assert "holds embeddings" in fails("inspect", path.rename(path.with_name("llamacpp-tiny-embeddings.bin")))
