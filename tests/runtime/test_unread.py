"""Files of a trace directory that no tensor is read from: each is listed, with where it would have been read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.manifest import MANIFEST
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.unread_files import Unread, suggest_place
from tests.support.cli import fails, run_cli
from tests.support.traces import values, write_bare, write_trace

GOOD = {(0, "attn_norm"): values(3, 4), (1, "attn_norm"): values(3, 4)}


def put(directory: Path, file: str, layer: int | None = 0) -> None:
    """An APRT file, wherever."""
    (directory / file).parent.mkdir(parents=True, exist_ok=True)
    write_aprt(directory / file, layer, values(3, 4))


def unread(directory: Path) -> dict[str, str | None]:
    """The suggestions of a directory."""
    return {one.file: one.suggestion for one in Trace.open(directory).unread}


@pytest.mark.contract("CAPTURE-UNREAD-1")
@pytest.mark.parametrize(("file", "place"), [
    ("layer_0/ffn_swiglu.bin", "layer-0/ffn_swigl.bin"), ("layer0/attn_norm.bin", "layer-0/attn_norm.bin"),
    ("layers.0/attn_norm.bin", "layer-0/attn_norm.bin"), ("blk.0/attn_norm.bin", "layer-0/attn_norm.bin"),
    ("Layer-0/attn_norm.bin", "layer-0/attn_norm.bin"), ("step_1/layer-0/ffn_out.bin", "step-1/layer-0/ffn_out.bin"),
    ("layer-0/o_proj.bin", "layer-0/attn_out.bin"), ("layer-0/Attn_Norm.bin", "layer-0/attn_norm.bin"),
    ("model.layers.11.mlp.down_proj.bin", "layer-11/ffn_out.bin"), ("layers/0/self_attn.output.bin", "layer-0/attn_out.bin"),
    ("kqv_out-2.bin", "layer-2/attention.bin"), ("attn_norm-0.bin", "layer-0/attn_norm.bin"),
    ("model.layers.1.self_attn.attn.bin", "layer-1/attention.bin"), ("attn_norm.0.bin", "layer-<N>/attn_norm.bin"), ("3.ffn_out.bin", "layer-3/ffn_out.bin"), ("blk.4.ffn_gate", "layer-4/ffn_gate.bin"),
    ("logits.bin", "lm_head.bin"), ("layer-3/lm_head.bin", "lm_head.bin"), ("layer-2/embedding.bin", "layer-0/embedding.bin"),
    ("hidden_states.npy", "layer-<N>/post_ffn_residual.bin"), ("layer-0/ffn_gaet.bin", "layer-0/ffn_gate.bin"),
    ("layer-0/deeper/attn_norm.bin", "layer-0/attn_norm.bin"), ("mystery.bin", None), ("layer-0/norm.bin", None),
])  # fmt: skip
def test_what_is_misnamed_is_listed_with_the_nearest_place(tmp_path: Path, file: str, place: str | None) -> None:
    write_bare(tmp_path, {(1, "attn_norm"): values(3, 4)})
    put(tmp_path, file, None)
    assert unread(tmp_path) == {file: place}


def test_a_file_of_a_layer_at_the_root_lies_in_the_layer_that_its_header_names(tmp_path: Path) -> None:
    write_bare(tmp_path, GOOD)
    put(tmp_path, "ffn_out.bin", 7)
    put(tmp_path, "ffn_up.bin", None)
    assert unread(tmp_path) == {"ffn_out.bin": "layer-7/ffn_out.bin", "ffn_up.bin": "layer-<N>/ffn_up.bin"}


@pytest.mark.contract("CAPTURE-UNREAD-1")
def test_why(tmp_path: Path) -> None:
    """Another form, a header that is damaged or of another layer, a part of a stage, a tensor twice."""
    write_bare(tmp_path, GOOD)
    for name in ("layer-0/ffn_up.npy", "layer-0/ffn_out.bin"):
        (tmp_path / name).write_bytes(bytes(48))
    put(tmp_path, "layer-0/attn_out.bin", 3)
    put(tmp_path, "layer-0/k_proj.bin")
    put(tmp_path, "layer-01/attn_norm.bin", 1)
    with (tmp_path / "layer-1" / "attn_norm.bin").open("ab") as file:
        file.write(b"x")
    trace = Trace.open(tmp_path)
    assert {one.sentence for one in trace.unread} == {
        "layer-0/ffn_up.npy: a .npy file, and only APRT files (.bin) are read here; aprgraph.Trace.write makes them of arrays; did you mean layer-0/ffn_up.bin?",
        r"layer-0/ffn_out.bin: begins with b'\x00\x00\x00\x00', expected b'APRT'; not an APRT file",
        "layer-0/attn_out.bin: its header names layer 3, its folder layer 0",
        "layer-0/k_proj.bin: no place of a stage (one of three parts of qkv_matmul, which holds q, k and v side by side in each row); did you mean layer-0/qkv_matmul.bin?",
        "layer-1/attn_norm.bin: 61 bytes, expected 60 for the 12 elements that its header names; truncated or damaged, dump it again",
    }
    assert [entry.file for entry in trace.entries] == ["layer-0/attn_norm.bin", "layer-01/attn_norm.bin"]


def test_the_same_tensor_twice_is_read_once(tmp_path: Path) -> None:
    write_bare(tmp_path, GOOD)
    put(tmp_path, "layer-01/attn_norm.bin", 1)
    trace = Trace.open(tmp_path)
    assert [entry.file for entry in trace.entries] == ["layer-0/attn_norm.bin", "layer-01/attn_norm.bin"]
    assert trace.unread == (Unread("layer-1/attn_norm.bin", "layer-01/attn_norm.bin is the same tensor"),)


@pytest.mark.contract("CAPTURE-UNREAD-1")
def test_what_is_no_tensor_is_left_alone(tmp_path: Path) -> None:
    write_bare(tmp_path, GOOD)
    for name in ("notes.txt", "config.json", "logits.md", "run.py", ".layer-0.bin", "README", "layer-0/.attn_out.bin.7.tmp"):
        (tmp_path / name).write_text("mine")
    assert unread(tmp_path) == {}


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    write_bare(tmp_path / "t", {(0, "attn_norm"): values(3, 4)})
    write_bare(tmp_path / "elsewhere", {(1, "attn_norm"): values(3, 4)})
    (tmp_path / "t" / "layer-1").symlink_to(tmp_path / "elsewhere" / "layer-1")
    (tmp_path / "t" / "round").symlink_to(tmp_path / "t")
    assert len(Trace.open(tmp_path / "t")) == 2


@pytest.mark.contract("CAPTURE-UNREAD-1")
def test_beside_a_manifest_what_it_does_not_list_is_not_of_this_run(tmp_path: Path) -> None:
    write_trace(tmp_path, GOOD)
    put(tmp_path, "layer-0/ffn_out.bin")
    put(tmp_path, "layer_0/ffn_swiglu.bin")
    (tmp_path / "notes.txt").write_text("mine")
    reason = "the manifest does not list it; it is of another run or program"
    assert Trace.open(tmp_path).unread == (
        Unread("layer-0/ffn_out.bin", reason), Unread("layer_0/ffn_swiglu.bin", reason, "layer-0/ffn_swigl.bin"),
    )  # fmt: skip
    (tmp_path / "layer-0" / "ffn_out.bin").unlink()  # else it is not written over
    assert write_trace(tmp_path, GOOD).unread == Trace.open(tmp_path).unread != ()


def test_a_trace_inside_is_one_by_itself(tmp_path: Path) -> None:
    write_trace(tmp_path / "a", GOOD)
    write_trace(tmp_path / "b", GOOD)
    with pytest.raises(TraceError, match=r"; it holds .*/a \(a trace\), .*/b \(a trace\); give one of them$"):
        Trace.open(tmp_path)
    write_bare(tmp_path, GOOD)
    assert [one.sentence for one in Trace.open(tmp_path).unread] == [f"{name}: a trace, which is read by itself alone" for name in "ab"]


@pytest.mark.parametrize(("files", "message"), [
    ([], r"\(layer-<N>/<stage>\.bin\); it is an empty folder$"),
    (["a.txt", "b.md", "c.md", "d.md"], r"; it is a folder with 'a\.txt', 'b\.md', 'c\.md' and 1 more$"),
    (["layer_0/ffn_swiglu.bin"], r"; found layer_0/ffn_swiglu\.bin: no APRT file, and no place of a stage; did you mean layer-0/ffn_swigl\.bin\?$"),
    ([f"layer_{i}/mlp.dat" for i in range(9)], "and 5 more$"),
    (["artifact.json"], "; it is an artifact; give the directory of a trace, which `CompiledModel.run` writes$"),
    (["repro.py", "expected.npy"], "; it is the guilty stage that write_repro wrote"),
    (["config.json", "notes.txt"], "; it holds a model; run it first"),
])  # fmt: skip
def test_where_nothing_fits_the_error_says_what_is_there(tmp_path: Path, files: list[str], message: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 20)
    with pytest.raises(TraceError, match=rf"holds neither a manifest \({MANIFEST}\) nor APRT files of known stages .*{message}") as raised:
        Trace.open(tmp_path)
    assert "\n" not in str(raised.value)


def test_inspect_lists_them(tmp_path: Path) -> None:
    write_bare(tmp_path, GOOD)
    put(tmp_path, "layer_0/ffn_swiglu.bin")
    result = run_cli("inspect", tmp_path)
    assert "unread:\n  layer_0/ffn_swiglu.bin: no place of a stage; did you mean layer-0/ffn_swigl.bin?\n" in result.out
    document = json.loads(run_cli("inspect", tmp_path, "--json").out)
    assert document["unread"] == {"layer_0/ffn_swiglu.bin": "no place of a stage; did you mean layer-0/ffn_swigl.bin?"}


def test_a_file_of_arrays_in_place_of_an_aprt_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values(3, 4))
    np.savez(tmp_path / "a.npz", values(3, 4))
    for name in ("a.npy", "a.npz"):
        path = (tmp_path / name).rename(tmp_path / f"{name}.bin")
        message = fails("diff", path, path)
        assert message.endswith(f"; it is read where its name ends in {name[1:]}")


def test_names_that_tell_nothing() -> None:
    for name in ("pytorch_model", "model-00001-of-00002", "a/b/c", "-", "1", "layer-3", "step-1"):
        assert suggest_place(name) == (None, None), name
    for name in ("layers.3.mlp.down_proj_inputs_args_0.data", "layers.3.mlp.input", "layers.3.mlp.input.0", "lm_head_inputs_args_0"):
        assert suggest_place(name) == (None, None), name
    for name in (
        "layers.3.mlp.down_proj",
        "layers.3.mlp.down_proj_outputs",
        "layers.3.mlp.down_proj_outputs.data",
        "layers.3.mlp.down_proj.output.0",
    ):
        assert suggest_place(name)[0] == "layer-3/ffn_out.bin", name
    assert suggest_place("layers.3.input_layernorm_outputs.data")[0] == "layer-3/attn_norm.bin"
    assert np.array_equal(suggest_place("layer-3/ffn_out"), ("layer-3/ffn_out.bin", "ffn_out"))
