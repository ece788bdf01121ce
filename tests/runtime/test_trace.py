"""Trace directories: what is written when, what is in the manifest, and manifests that are not sound."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from aprgraph.graph.errors import TraceError
from aprgraph.runtime.diff import diff
from aprgraph.runtime.diff.classify import Class
from aprgraph.runtime.output_file import write_text_atomically
from aprgraph.runtime.trace import aprt
from aprgraph.runtime.trace.aprt import write_aprt
from aprgraph.runtime.trace.described import why_not_described
from aprgraph.runtime.trace.manifest import MANIFEST, MARKER, TraceInfo
from aprgraph.runtime.trace.reader import Trace
from aprgraph.runtime.trace.statistics import compute_statistics
from aprgraph.runtime.trace.writer import TraceWriter
from tests.support.cli import files_under, run_cli
from tests.support.traces import EMPTY_GRAPH, trace_model, values, write_bare, write_trace

TENSORS = {
    (0, "embedding"): values(3, 4),
    (0, "ffn_out"): values(3, 4, seed=1),
    (1, "attn_scores"): values(2, 3, 3),
    (None, "lm_head"): values(9),
    (0, "ffn_out", 2): values(1, 4),
}
INFO = TraceInfo({"name": "m.gguf"}, "reference", (1, 2, 3), "all 0..1", "last", EMPTY_GRAPH)


# -- layout and order ---------------------------------------------------------------------------------------------------


def test_layout(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    assert sorted(files_under(tmp_path / "t")) == [
        "layer-0/embedding.bin", "layer-0/ffn_out.bin", "layer-1/attn_scores.bin", "lm_head.bin", "step-2/layer-0/ffn_out.bin", "trace.json",
    ]  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    trace = Trace.open(tmp_path / "t")
    assert [entry.label for entry in trace.entries] == [
        "layer 0 embedding", "layer 0 ffn_out", "layer 1 attn_scores", "lm_head", "step 2 layer 0 ffn_out",
    ]  # fmt: skip
    for (layer, stage, *step), tensor in TENSORS.items():
        found = trace.tensor(stage, layer, step[0] if step else 0)
        assert found.shape == tensor.shape
        assert found.tobytes() == tensor.tobytes()
    assert (0, 1, "attn_scores") in trace
    assert (0, 1, "ffn_out") not in trace


def test_the_manifest_comes_last(tmp_path: Path) -> None:
    """A directory with a manifest is complete: whoever kills the run before the end leaves none."""
    writer = TraceWriter(tmp_path / "t")
    assert not (tmp_path / "t").exists()
    writer.write("x", "embedding", 0, 0, values(3, 4))
    writer.wait()
    assert sorted(files_under(tmp_path / "t")) == ["layer-0/embedding.bin", MARKER]
    writer.finish(INFO)
    assert sorted(files_under(tmp_path / "t")) == ["layer-0/embedding.bin", "trace.json"]


def test_a_directory_is_for_one_run_at_a_time(tmp_path: Path) -> None:
    first, second = TraceWriter(tmp_path / "t"), TraceWriter(tmp_path / "t")
    first.write("x", "embedding", 0, 0, values(3, 4))
    with pytest.raises(TraceError, match="another run is writing there"):
        second.write("x", "embedding", 0, 0, values(2, 4))
    first.finish(INFO)
    assert Trace.open(tmp_path / "t").tensor("embedding", 0).shape == (3, 4)
    second.write("x", "embedding", 0, 0, values(2, 4))
    second.finish(INFO)
    assert Trace.open(tmp_path / "t").tensor("embedding", 0).shape == (2, 4)


def test_what_an_interrupted_run_leaves_is_not_a_trace_until_a_run_ends_there(tmp_path: Path) -> None:
    """Over an older trace its tensors are of two runs, and nothing else would tell."""
    write_trace(tmp_path / "t", TENSORS)
    writer = TraceWriter(tmp_path / "t")
    writer.write("x", "embedding", 0, 0, values(3, 4))
    del writer
    with pytest.raises(TraceError, match="was interrupted"):
        Trace.open(tmp_path / "t")
    write_trace(tmp_path / "t", TENSORS)
    assert len(Trace.open(tmp_path / "t")) == len(TENSORS)


def test_an_artifact_is_no_place_for_a_trace(tmp_path: Path) -> None:
    """Compiling again would remove it."""
    (tmp_path / "artifact.json").write_text("{}")
    with pytest.raises(TraceError, match="holds an artifact; give another place$"):
        TraceWriter(tmp_path).write("x", "embedding", 0, 0, values(3, 4))
    assert files_under(tmp_path) == {"artifact.json": b"{}"}


def test_an_old_manifest_goes_with_the_first_tensor_and_not_before(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    old = files_under(tmp_path / "t")
    writer = TraceWriter(tmp_path / "t")
    assert files_under(tmp_path / "t") == old
    writer.write("x", "embedding", 0, 0, values(3, 4, seed=5))
    assert MANIFEST not in files_under(tmp_path / "t")


def test_a_failure_at_the_first_tensor_of_a_new_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    for place, message in (
        ("file", "is no folder, which a trace is; give another place"),
        ("file/below", "cannot be created: Not a directory"),
    ):
        with pytest.raises(TraceError, match=message):
            TraceWriter(tmp_path / place).write("x", "embedding", 0, 0, values(3, 4))
    assert files_under(tmp_path) == {"file": b"kept"}


def test_a_full_disk_in_the_middle_leaves_whole_files_and_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_trace(tmp_path / "t", TENSORS)
    writer = TraceWriter(tmp_path / "t")
    writer.write("x", "embedding", 0, 0, values(3, 4, seed=7))
    writer.wait()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(aprt.os, "writev", full)
    writer.write("y", "ffn_out", 0, 0, values(3, 4, seed=8))
    with pytest.raises(TraceError, match="No space left on device"):
        writer.wait()
    writer.close()
    assert sorted(files_under(tmp_path / "t")) == ["layer-0/embedding.bin", MARKER]
    _, kept = aprt.read_aprt(tmp_path / "t" / "layer-0" / "embedding.bin")
    assert kept.tobytes() == values(3, 4, seed=7).tobytes()


# -- the manifest -------------------------------------------------------------------------------------------------------


def test_nothing_of_this_machine_is_in_the_manifest(tmp_path: Path) -> None:
    """Two directories, two times, the same bytes."""
    write_trace(tmp_path / "one", TENSORS)
    write_trace(tmp_path / "another" / "place", TENSORS)
    assert files_under(tmp_path / "one") == files_under(tmp_path / "another" / "place")
    assert str(tmp_path) not in (tmp_path / "one" / MANIFEST).read_text()


def test_the_manifest_says_what_files_do_not(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", {(None, "lm_head"): np.array([1.0, -3.0, np.nan], np.float32)})
    document = json.loads((tmp_path / "t" / MANIFEST).read_text())
    assert document["format"] == "aprgraph-trace"
    assert document["tokens"] == [1, 2, 3]
    assert document["graph"] == EMPTY_GRAPH.splitlines()
    (entry,) = document["tensors"]
    rms = entry["statistics"].pop("rms")
    assert rms == pytest.approx(5**0.5)
    assert entry == {
        "stage": "lm_head", "layer": None, "step": 0, "shape": [3], "file": "lm_head.bin", "node": "lm_head",
        "statistics": {"count": 3, "min": -3.0, "max": 1.0, "mean": -1.0, "nan": 1, "inf": 0},
    }  # fmt: skip


def test_statistics_only(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", TENSORS, stats_only=True)
    assert sorted(files_under(tmp_path / "t")) == [MANIFEST]
    opened = Trace.open(tmp_path / "t")
    assert [entry.statistics for entry in opened.entries] == [entry.statistics for entry in trace.entries]
    with pytest.raises(TraceError, match="layer 0 embedding has statistics only; run again without stats_only=True"):
        opened.tensor("embedding", 0)


def test_an_empty_trace(tmp_path: Path) -> None:
    TraceWriter(tmp_path / "t").finish(INFO)
    assert len(Trace.open(tmp_path / "t")) == 0


def _mutations() -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """(what, how) for each way to spoil a manifest, at every place of it."""
    for key in ("format", "version", "model", "target", "tokens", "positions", "plan", "tensors", "graph"):
        yield f"no {key}", lambda document, key=key: {name: value for name, value in document.items() if name != key}
        for wrong in (None, 7, "x", -1, 1.5, {"a": 1}, [None], [[]], [{}], True, "\x00"):
            yield f"{key} {wrong!r}", lambda document, key=key, wrong=wrong: {**document, key: wrong}

    def entry(document: Any, key: str, wrong: object) -> Any:
        document["tensors"][0][key] = wrong
        return document

    def without(document: Any, key: str) -> Any:
        del document["tensors"][0][key]
        return document

    for key in ("stage", "layer", "step", "shape", "file", "node", "statistics"):
        yield f"an entry without {key}", lambda document, key=key: without(document, key)
        for wrong in (-1, 1.5, "x", [], {}, [1.5], [-2, -6], True, 1e999, [1e999], float("nan"), "a\0b", 10**30):
            yield f"an entry whose {key} is {wrong!r}", lambda document, key=key, wrong=wrong: entry(document, key, wrong)

    for key in ("count", "nan", "inf", "min", "max", "mean", "rms"):
        for wrong in (1e999, "x", [], {}):
            yield (
                f"statistics whose {key} is {wrong!r}",
                lambda document, key=key, wrong=wrong: entry(document, "statistics", {**document["tensors"][0]["statistics"], key: wrong}),
            )
    yield "a tensor twice", lambda document: {**document, "tensors": document["tensors"] * 2}
    yield "a list", lambda document: [document]
    yield "null", lambda document: None
    yield "a number", lambda document: 7


def test_a_spoiled_manifest_gives_a_trace_error_or_a_sound_trace(tmp_path: Path) -> None:
    """No other exception, wherever the damage is; and what opens can be read, or says why not."""
    write_trace(tmp_path / "t", TENSORS)
    path, refused = tmp_path / "t" / MANIFEST, 0
    original = json.loads(path.read_text())
    for what, spoil in _mutations():
        path.write_text(json.dumps(spoil(copy.deepcopy(original))))
        try:
            trace = Trace.open(tmp_path / "t")
            for entry in trace.entries:
                trace.load(entry)
        except TraceError as error:
            refused += 1
            assert "\n" not in str(error), what
            assert str(tmp_path / "t") in str(error), what
    assert refused > 150


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\ufeff{}", '{"format": 1}', "nonsense"])
def test_a_manifest_that_is_no_json(tmp_path: Path, text: str) -> None:
    write_trace(tmp_path / "t", TENSORS)
    (tmp_path / "t" / MANIFEST).write_text(text)
    with pytest.raises(TraceError, match=r"trace\.json: (not a whole trace manifest|format)"):
        Trace.open(tmp_path / "t")


def test_every_truncation_of_a_manifest(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", {(0, "embedding"): values(2, 2)})
    path = tmp_path / "t" / MANIFEST
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:size])
        with pytest.raises(TraceError, match="not a whole trace manifest"):
            Trace.open(tmp_path / "t")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    (tmp_path / "t" / MANIFEST).write_bytes(b"\xff\xfe{}")
    with pytest.raises(TraceError, match="not a whole trace manifest"):
        Trace.open(tmp_path / "t")


def test_another_version(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    path = tmp_path / "t" / MANIFEST
    path.write_text(path.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(TraceError, match=r"format 'aprgraph-trace' version 9, expected 'aprgraph-trace' version 1"):
        Trace.open(tmp_path / "t")


@pytest.mark.parametrize("file", ["../outside.bin", "/etc/hostname", "layer-0/../../outside.bin"])
def test_a_file_outside_is_not_followed(tmp_path: Path, file: str) -> None:
    write_trace(tmp_path / "t", TENSORS)
    write_aprt(tmp_path / "outside.bin", 0, values(3, 4))
    path = tmp_path / "t" / MANIFEST
    path.write_text(path.read_text().replace("layer-0/embedding.bin", file))
    with pytest.raises(TraceError, match=rf"the file {re.escape(repr(file))} lies outside the trace directory"):
        Trace.open(tmp_path / "t")


# -- files that do not fit the manifest ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "tensor", "message"), [
    (1, values(3, 4), r"embedding\.bin: its header names layer 1, expected layer 0"),
    (None, values(3, 4), r"embedding\.bin: its header names the whole model, expected layer 0; written by another run\?"),
    (0, values(3, 5), r"embedding\.bin: 15 elements, but the manifest says 3 x 4; written by another run\?"),
])  # fmt: skip
def test_a_file_of_another_run(tmp_path: Path, layer: int | None, tensor: aprt.F32, message: str) -> None:
    write_trace(tmp_path / "t", TENSORS)
    write_aprt(tmp_path / "t" / "layer-0" / "embedding.bin", layer, tensor)
    with pytest.raises(TraceError, match=message):
        Trace.open(tmp_path / "t").tensor("embedding", 0)


@pytest.mark.contract("APRT-DESCRIBED-1")
def test_a_damaged_or_exchanged_file_is_not_what_the_manifest_describes(tmp_path: Path) -> None:
    """Half a page of zeros in a megabyte, the file of another layer, and one NaN: each is named before anything is compared."""
    large = {(layer, "ffn_out"): values(512, 512, seed=layer) for layer in (0, 1, 2)}
    trace = write_trace(tmp_path / "t", large)
    zero, other, nan = (tmp_path / "t" / f"layer-{layer}" / "ffn_out.bin" for layer in (0, 1, 2))
    data = bytearray(zero.read_bytes())
    data[300_000:302_048] = bytes(2048)
    zero.write_bytes(data)
    write_aprt(other, 1, large[0, "ffn_out"])
    spoilt = large[2, "ffn_out"].copy()
    spoilt[3, 4] = np.nan
    write_aprt(nan, 2, spoilt)
    for path, why in ((zero, "its mean is "), (other, "its "), (nan, "it holds 1 NaN, there are 0 in the manifest")):
        with pytest.raises(
            TraceError, match=rf"{re.escape(str(path))} is not the tensor that the manifest describes: {why}.* copy it again"
        ):
            Trace.open(tmp_path / "t").tensor("ffn_out", int(path.parent.name[-1]))
    damaged = json.loads(run_cli("inspect", tmp_path / "t", "--json").out)["damaged"]
    assert list(damaged) == [entry.file for entry in trace]


@pytest.mark.contract("APRT-DESCRIBED-1")
@pytest.mark.parametrize("special", [(), (np.nan, np.inf, -np.inf)])
def test_of_two_runs_alike_the_damaged_one_is_told(tmp_path: Path, special: tuple[float, ...]) -> None:
    """Also where both files are damaged alike: what a manifest says is looked at while they are compared."""
    tensor = values(512, 512)
    tensor[3, : len(special)] = special
    damaged = tensor.copy()
    damaged[-1] = 0.5
    a, b = (write_trace(tmp_path / name, {(0, "ffn_out"): tensor}) for name in "ab")
    assert diff(a, b).rows[0].classification is Class.IDENTICAL
    for both in (False, True):
        for trace in (a, b) if both else (b,):
            write_aprt(trace.directory / trace.entries[0].file, 0, damaged)
        for one, other in ((a, b), (b, a)):
            with pytest.raises(TraceError, match="is not the tensor that the manifest describes: its mean is "):
                diff(one.directory, other.directory)


@pytest.mark.contract("APRT-DESCRIBED-1")
@pytest.mark.parametrize("rounded", [lambda x: float(np.float32(x)), lambda x: float(f"{x:.4g}"), lambda x: round(x, 3), lambda _: None])
def test_statistics_of_other_writers_may_be_rounded(rounded: Callable[[float], float | None]) -> None:
    tensor = values(64, 64) * np.float32(1e-3)
    exact = compute_statistics(tensor)
    given = {name: rounded(value) for name, value in exact.to_json().items() if name in ("min", "max", "mean", "rms") and value is not None}
    assert why_not_described(tensor, exact) is None
    assert why_not_described(tensor, replace(exact, **given)) is None
    another = why_not_described(tensor * np.float32(20), replace(exact, **given))
    assert (another is None) == (rounded(1.0) is None)  # what says nothing of the values describes any


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    write_trace(tmp_path / "t", TENSORS)
    (tmp_path / "t" / "lm_head.bin").unlink()
    with pytest.raises(TraceError, match=r"lm_head\.bin: cannot be read: No such file or directory"):
        Trace.open(tmp_path / "t").tensor("lm_head")


def test_a_tensor_that_was_not_recorded(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t", TENSORS)
    with pytest.raises(TraceError, match="layer 3 ffn_up was not recorded; tap it with taps= and layers="):
        trace.tensor("ffn_up", 3)


# -- directories without a manifest -------------------------------------------------------------------------------------


def test_files_alone(tmp_path: Path) -> None:
    """As another program leaves them: flat, for shapes are unknown; what is no stage is left alone."""
    write_bare(tmp_path / "t", TENSORS)
    write_aprt(tmp_path / "t" / "layer-0" / "mystery.bin", 0, values(2))
    write_aprt(tmp_path / "t" / "elsewhere.bin", 0, values(2))
    trace = Trace.open(tmp_path / "t")
    assert trace.info is None
    assert trace.graph() is None
    assert {entry.key: entry.shape for entry in trace.entries} == {
        (0, 0, "embedding"): (12,), (0, 0, "ffn_out"): (12,), (0, 1, "attn_scores"): (18,), (0, None, "lm_head"): (9,), (2, 0, "ffn_out"): (4,),
    }  # fmt: skip
    assert trace.tensor("ffn_out", 0, 2).tobytes() == TENSORS[0, "ffn_out", 2].tobytes()


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"not a directory; expected a trace directory"):
        Trace.open(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match=r"holds neither a manifest \(trace\.json\) nor APRT files"):
        Trace.open(tmp_path / "empty")


# -- text files ---------------------------------------------------------------------------------------------------------


def test_text_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text_atomically(path, "old")

    def full(self: Path, *_: object, **__: object) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(TraceError, match=r"a\.txt: cannot be written: No space left on device"):
        write_text_atomically(path, "new")
    assert files_under(tmp_path) == {"a.txt": b"old"}


def test_a_device_stays_one() -> None:
    """As root a rename would put a file in its place."""
    write_text_atomically(Path(os.devnull), "gone")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("place", ["file/a.txt", "taken", "x" * 300])
def test_places_where_no_text_can_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TraceError, match="cannot be written"):
        write_text_atomically(tmp_path / place, "new")
    assert files_under(tmp_path) == {"file": b"kept"}


# -- traces of arrays ---------------------------------------------------------------------------------------------------

ARRAYS = {
    (0, "embedding"): values(3, 4),
    (1, "attn_softmax"): values(2, 3, 3),
    "layer1.ffn_gate": values(3, 5).astype(np.float64),
    "layer-1/moe_router_indices": np.array([[1, 0], [2, 1], [0, 7]]),
    "layer1.moe_router": values(1, 2).astype(ml_dtypes.bfloat16),
    (None, "lm_head"): values(9).astype(np.float16),
    "step2.layer0.embedding": values(1, 4),
    (1, "attn_softmax", 2): values(2, 1, 5),
}


@pytest.mark.contract("CAPTURE-ARRAYS-1")
def test_arrays_become_a_trace(tmp_path: Path) -> None:
    """Whatever type they have, each element is rounded to float32 once, and nothing else happens to it."""
    written = Trace.write(
        tmp_path / "t", ARRAYS, tokens=[5, 6, 7], generated=[1, 2], model="m", target="engine", arithmetic="bfloat16", weights="float",
        writer="engine 1.0", notes=["a note"],
    )  # fmt: skip
    trace = Trace.open(tmp_path / "t")
    assert [entry.label for entry in trace.entries] == [
        "layer 0 embedding", "layer 1 attn_softmax", "layer 1 ffn_gate", "layer 1 moe_router", "layer 1 moe_router_indices", "lm_head",
        "step 2 layer 0 embedding", "step 2 layer 1 attn_softmax",
    ]  # fmt: skip
    assert written.entries == trace.entries
    arrays = list(ARRAYS.values())
    order = [0, 1, 2, 4, 3, 5, 6, 7]
    for entry, index in zip(trace.entries, order, strict=True):
        assert entry.shape == arrays[index].shape
        assert np.array_equal(trace.load(entry), arrays[index].astype(np.float32)), entry.label
    assert trace.info is not None
    assert trace.info == TraceInfo(
        {"name": "m"}, "engine", (5, 6, 7), "embedding,attn_softmax,ffn_gate,moe_router,moe_router_indices,lm_head 0..2", "last", "",
        {"arithmetic": "bfloat16", "weights": "float", "writer": "engine 1.0", "generated": [1, 2], "notes": ["a note"]},
    )  # fmt: skip
    assert trace.graph() is None
    assert json.loads((tmp_path / "t" / MANIFEST).read_text())["graph"] is None


@pytest.mark.contract("CAPTURE-ARRAYS-1")
def test_arrays_keep_their_bits_and_their_own_order(tmp_path: Path) -> None:
    planted = np.array([0x7FC00123, 0xFF800000, 0x80000000, 1], "<u4").view("<f4").reshape(2, 2)
    trace = Trace.write(tmp_path / "t", {"layer0.ffn_norm": planted, "layer0.attn_norm": planted.T, "final_norm": planted.astype(">f4")})
    assert trace.tensor("ffn_norm", 0).tobytes() == planted.tobytes()
    assert trace.tensor("attn_norm", 0).tobytes() == planted.T.tobytes()
    assert trace.tensor("final_norm").tobytes() == planted.tobytes()


def test_little_need_be_known(tmp_path: Path) -> None:
    """Logits of all positions, and nothing about them: they compare with a trace of known tokens, of whatever model."""
    logits = values(3, 9)
    Trace.write(tmp_path / "b", {"lm_head": logits})
    write_trace(tmp_path / "a", {(None, "lm_head"): logits[-1]}, tokens=(1, 2, 3))
    info = Trace.open(tmp_path / "b").info
    assert info == TraceInfo({"name": ""}, "numpy", (), "lm_head 0..1", "all", "", {})
    report = diff(tmp_path / "a", tmp_path / "b")
    assert report.exit_code == 0, report.verdict
    assert [row.classification.value for row in report.rows] == ["IDENTICAL"]
    assert not any("fingerprint" in note for note in report.notes)


@pytest.mark.contract("CAPTURE-ARRAYS-2")
@pytest.mark.parametrize(("tensors", "options", "message"), [
    ({}, {}, "no tensors to write"),
    ({"layer0.ffn_gaet": values(3, 4)}, {}, "unknown stage 'ffn_gaet' \\(did you mean 'ffn_gate'\\?\\)$"),
    ({(0, "mystery"): values(3, 4)}, {}, "unknown stage 'mystery'"),
    ({"0.ffn_gate": values(3, 4)}, {}, "names no tensor, expected such as 'layer3.ffn_gate'"),
    ({("ffn_gate", 0): values(3, 4)}, {}, r"names no tensor, expected \(layer, stage\)"),
    ({0: values(3, 4)}, {}, "names no tensor"),
    ({"ffn_gate": values(3, 4)}, {}, "ffn_gate belongs to a layer, expected its number, from 0"),
    ({(-1, "ffn_gate"): values(3, 4)}, {}, "ffn_gate belongs to a layer"),
    ({(True, "ffn_gate"): values(3, 4)}, {}, "ffn_gate belongs to a layer"),
    ({(1 << 32, "ffn_gate"): values(3, 4)}, {}, "ffn_gate belongs to a layer"),
    ({"layer0.lm_head": values(9)}, {}, "lm_head is a whole-model stage, expected no layer"),
    ({"layer1.embedding": values(3, 4)}, {}, "embedding is in layer 0 alone"),
    ({(0, "ffn_gate", -1): values(3, 4)}, {}, "step -1, expected a whole number of at least 0"),
    ({(0, "ffn_out"): values(3, 4), "layer0.ffn_out": values(3, 4)}, {}, r"layer 0 ffn_out is given twice, as \(0, 'ffn_out'\) and as"),
    ({"layer0.ffn_gate": np.array(["x"])}, {}, "layer 0 ffn_gate is <U1, expected float16, float32"),
    ({"layer0.ffn_gate": np.zeros((3, 4), complex)}, {}, "is complex128, expected"),
    ({"layer0.ffn_gate": np.array([[1e300]])}, {}, r"holds 1e\+300, beyond what float32 can hold"),
    ({"layer0.moe_router_indices": np.array([[(1 << 24) + 1]])}, {}, r"whole numbers beyond 2\^24"),
    ({"layer0.ffn_gate": values(12)}, {}, "layer 0 ffn_gate has the shape 12, expected n x F"),
    ({"layer0.attn_scores": values(3, 9)}, {}, "has the shape 3 x 9, expected H x n x t"),
    ({"lm_head": values(2, 3, 9)}, {}, r"lm_head has the shape 2 x 3 x 9, expected V \(or n x V\)"),
    ({"layer0.ffn_gate": values(2, 3, 4)}, {}, "layer 0 ffn_gate has the shape 2 x 3 x 4, expected n x F"),
    ({"layer0.attention": values(2, 3, 4)}, {"tokens": [1, 2, 3]}, "with n = 2, but the list of tokens says 3; expected n x H\\*D \\(or n x H x D\\): 3 positions x heads side by side; it looks like heads first: give array.swapaxes"),
    ({"layer0.k_post_rope": values(1, 2, 3, 4)}, {"tokens": [1, 2, 3]}, "it looks like heads first"),
    ({"layer0.ffn_gate": values(4, 3)}, {"tokens": [1, 2, 3]}, "with n = 4, but the list of tokens says 3; expected n x F: 3 positions x FFN size; it looks transposed: give array.T"),
    ({"layer0.attn_scores": values(3, 2, 3)}, {"tokens": [1, 2, 3]}, "with n = 2, but the list of tokens says 3"),
    ({"layer0.ffn_gate": [[1.0], [2.0, 3.0]]}, {}, "is a list whose rows differ in length; expected one array of numbers"),
    ({"layer0.ffn_gate": [values(3, 4), values(2, 4)]}, {}, "is a list of 2 tensors of different shapes or types; give one of them"),
    ({"layer0.ffn_gate": None}, {}, "layer 0 ffn_gate is a NoneType, expected float16"),
    ({"layer0.ffn_gate": values(3, 4) > 0}, {}, "layer 0 ffn_gate is bool, expected float16"),
    ({"layer0.ffn_gate": np.ma.masked_less(values(3, 4), 0)}, {}, "is a masked array, some of whose elements are not there; fill them"),
    ({"layer0.ffn_gate": values(3, 4), "layer1.ffn_up": values(2, 4)}, {}, r"layer 1 ffn_up has the shape 2 x 4, with n = 2, but layer 0 ffn_gate says 3"),
    ({"layer0.attn_scores": values(2, 3, 4)}, {}, "with t = 4, but layer 0 attn_scores says 3; expected H x n x t"),
    ({"layer0.attn_norm": values(3, 4), "final_norm": values(3, 5)}, {}, "final_norm has the shape 3 x 5, with E = 5, but layer 0 attn_norm says 4"),
    ({"layer0.ffn_gate": values(3, 4)}, {"tokens": [1, 2]}, "with n = 3, but the list of tokens says 2"),
    ({"layer0.ffn_gate": values(3, 4)}, {"tokens": [1, -2, 3]}, "-2 among the tokens, expected whole numbers of at least 0"),
    ({"layer0.ffn_gate": values(3, 4)}, {"generated": [1.5]}, "1.5 among the generated tokens, expected whole numbers"),
    ({"layer0.ffn_gate": values(3, 4)}, {"weights": "int4"}, "weights 'int4', expected float or quantised"),
    ({"layer0.ffn_gate": values(3, 4)}, {"arithmetic": "fp8"}, "arithmetic 'fp8', expected one of float64, float32"),
])  # fmt: skip
def test_arrays_that_are_no_trace(tmp_path: Path, tensors: Any, options: Any, message: str) -> None:
    """One sentence that names the directory and the tensor, and nothing is touched: neither the place nor what was there."""
    place = tmp_path / "t"
    for _ in range(2):
        before = files_under(tmp_path)
        with pytest.raises(TraceError, match=message) as raised:
            Trace.write(place, {"layer0.ffn_silu": values(3, 4), **tensors} if tensors else {}, **options)
        assert str(raised.value).startswith(f"{place}: ")
        assert "\n" not in str(raised.value)
        assert files_under(tmp_path) == before
        write_trace(place, TENSORS)


def test_a_graph_of_ops_with_other_attributes_is_not_used_and_the_numbers_are(tmp_path: Path, tiny_model: Callable[..., Path]) -> None:
    """As a version writes it whose ops have other attributes than here."""
    trace = trace_model(tmp_path / "a", tiny_model())
    manifest = trace.directory / MANIFEST
    text = manifest.read_text()
    assert " {scale = 1.0}" in text
    manifest.write_text(text.replace(" {scale = 1.0}", ""))
    found = Trace.open(trace.directory)
    assert found.graph() is None
    assert [entry.key for entry in found] == [entry.key for entry in trace]
    report = diff(found, trace)
    assert report.exit_code == 0
    assert any("the graph in the manifest of A does not hold together here, and is not used: " in note for note in report.notes)


@pytest.mark.contract("NONFINITE-TRACES-1")
def test_nan_that_signals_warns_of_nothing(tmp_path: Path) -> None:
    """To widen one raises a flag of the processor, of which NumPy would make a line on the terminal."""
    signalling = np.array([0x3F800000, 0x7F800001, 0x40000000, 0x3F000000], np.uint32).view(np.float32)
    found = compute_statistics(signalling)
    assert (found.nan, found.max) == (1, 2.0)
    tensors = {(None, "lm_head"): signalling, (0, "q_post_rope"): np.stack([signalling] * 3), (0, "ffn_out"): np.stack([signalling] * 3)}
    other = {key: np.nan_to_num(tensor, nan=1.0) for key, tensor in tensors.items()}
    sides = [
        write_trace(tmp_path / name, held, extra={"qk_rows": order}).directory
        for name, held, order in (("a", tensors, "halves"), ("b", other, "interleaved"))
    ]
    assert diff(*sides).exit_code == 1
