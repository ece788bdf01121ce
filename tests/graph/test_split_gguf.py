"""Models in several GGUF files: written by the gguf package, and broken in every way."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import AprgraphError, ModelFileError
from aprgraph.graph.model import load_model
from aprgraph.graph.model_graph import build_graph
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.check import check
from tests.support.cli import fails, files_under, run_cli
from tests.support.damage import EXPECTED
from tests.support.gguf_bytes import I32, U16, RawGGUF, small_llama
from tests.support.gguf_copy import copy_in_parts
from tests.support.golden import GOLDEN

WHOLE = GOLDEN / "llama-q4_k.gguf"
#: As many tensors in each part of the small model, which has 11.
TENSORS = 4


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """The golden model in three or more parts."""
    return copy_in_parts(WHOLE, tmp_path / "m.gguf", 9)


def small_parts(folder: Path) -> list[Path]:
    """A tiny model in three parts; the metadata are in the first."""
    whole, paths = small_llama(), []
    names = list(whole.tensors)
    for number in range(3):
        part = RawGGUF(keys=dict(whole.keys) if number == 0 else {})
        part.set("split.no", U16, number)
        part.set("split.count", U16, 3)
        part.set("split.tensors.count", I32, len(names))
        part.tensors = {name: whole.tensors[name] for name in names[TENSORS * number : TENSORS * (number + 1)]}
        paths.append(folder / f"s-{number + 1:05}-of-00003.gguf")
        paths[-1].write_bytes(part.pack())
    return paths


@pytest.mark.contract("FILE-SPLIT-1")
@pytest.mark.parametrize("empty_first", [False, True])
def test_any_part_is_the_whole_model(tmp_path: Path, empty_first: bool) -> None:
    paths = copy_in_parts(WHOLE, tmp_path / "m.gguf", 9, empty_first=empty_first)
    assert len(paths) > 2
    whole = open_source(WHOLE)
    fingerprints = set()
    for path in paths:
        file = open_source(path)
        assert set(file.tensors) == set(whole.tensors)
        for name, info in whole.tensors.items():
            found = file.tensors[name]
            assert (found.dims, found.format) == (info.dims, info.format)
            data = whole.tensor_bytes(info)
            assert np.array_equal(file.tensor_bytes(found), data)
            into = np.empty(data.nbytes - 1, np.uint8)
            file.read(found, 1, into)
            assert np.array_equal(into, data.reshape(-1)[1:])
        assert file.metadata["general.architecture"] == "llama"
        assert file.size == sum(path.stat().st_size for path in paths)
        fingerprints.add(file.fingerprint())
    assert len(fingerprints) == 1


@pytest.mark.contract("FILE-SPLIT-1")
def test_the_trace_is_that_of_the_joined_file(tmp_path: Path, parts: list[Path]) -> None:
    joined, split = tmp_path / "joined", tmp_path / "split"
    for model, output in ((WHOLE, joined), (parts[-1], split)):
        arguments = ("--tokens", "1,2,3", "--taps", "all", "--layers", "0..1", "--target", "reference", "-o", output)
        assert run_cli("run", model, *arguments).code == 0
    files = files_under(joined)
    assert len(files) > 15
    assert {**files, "trace.json": b""} == {**files_under(split), "trace.json": b""}


def test_the_fingerprint_is_of_every_part(tmp_path: Path) -> None:
    paths = small_parts(tmp_path)
    before = open_source(paths[0]).fingerprint()
    changed = bytearray(paths[2].read_bytes())
    changed[-1] ^= 1
    paths[2].write_bytes(changed)
    assert open_source(paths[0]).fingerprint() != before


def test_a_part_of_one_is_a_whole_file(tmp_path: Path) -> None:
    file = small_llama()
    file.set("split.count", U16, 1)
    path = tmp_path / "m.gguf"
    path.write_bytes(file.pack())
    assert open_source(path).kind == "GGUF file"
    assert open_source(path).notices == ()


def test_a_part_by_its_name_alone_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m-00001-of-00002.gguf"
    path.write_bytes(small_llama().pack())
    assert [notice.partition(":")[0] for notice in load_model(path).notices if notice.startswith(path.name)] == [
        "m-00001-of-00002.gguf is one of 2 files by its name, and has no split.count"
    ]
    assert "file-notice" in {finding.rule.code for finding in check(path).findings}
    whole = path.rename(tmp_path / "m-00001-of-00001.gguf")
    assert open_source(whole).notices == ()


def change(path: Path, key: str, kind: int, value: int, tensors: RawGGUF | None = None) -> None:
    """Write a part of the small model again, with another value of a key, or with other tensors."""
    number = int(path.name[2:7]) - 1
    whole = small_llama()
    part = RawGGUF(keys=dict(whole.keys) if number == 0 else {})
    values = {"split.no": (U16, number), "split.count": (U16, 3), "split.tensors.count": (I32, len(whole.tensors)), key: (kind, value)}
    for name, (code, one) in values.items():
        part.set(name, code, one)
    names = list(whole.tensors)[TENSORS * number : TENSORS * (number + 1)]
    part.tensors = tensors.tensors if tensors is not None else {name: whole.tensors[name] for name in names}
    path.write_bytes(part.pack())


def broken(folder: Path, kind: str) -> tuple[Path, str]:
    """A set with something wrong, the part that is given, and what the error says."""
    first, second, third = small_parts(folder)
    if kind == "missing":
        second.unlink()
        return (
            third,
            r"part 3 of 3 of a model in several files \(split.count\); s-00002-of-00003.gguf is not beside it: get the missing part",
        )
    if kind == "others missing":
        second.unlink()
        third.unlink()
        return first, "part 1 of 3 .*; s-00002-of-00003.gguf, s-00003-of-00003.gguf are not beside it: get the missing parts"
    if kind == "renamed":
        return second.rename(folder / "m.gguf"), "name the parts NAME-00001-of-00003.gguf and so on, .*llama-gguf-split --merge"
    if kind == "doubled":
        shutil.copy(first, second)
        return third, "'s-00002-of-00003.gguf' is not part 2 of that model: its split.no is 0, expected 1; get that part again"
    if kind == "another count":
        change(second, "split.count", U16, 4)
        return first, "'s-00002-of-00003.gguf' is not part 2 of that model: its split.count is 4, expected 3"
    if kind == "another model":
        change(second, "split.tensors.count", I32, 99)
        return first, "'s-00002-of-00003.gguf' is not part 2 of that model: its split.tensors.count is 99, expected 11"
    if kind == "tensors doubled":
        change(second, "split.count", U16, 3, small_llama())
        return first, "tensor 'token_embd.weight' is in part 1 and in part 2: they are parts of different models"
    assert kind == "tensors left out"
    change(second, "split.count", U16, 3, RawGGUF())
    return first, r"its parts have 7 tensors, expected 11 \(split.tensors.count\)"


KINDS = ("missing", "others missing", "renamed", "doubled", "another count", "another model", "tensors doubled", "tensors left out")


@pytest.mark.contract("FILE-SPLIT-2")
@pytest.mark.parametrize("kind", KINDS)
def test_parts_that_make_no_model_are_named(tmp_path: Path, kind: str) -> None:
    given, message = broken(tmp_path, kind)
    with pytest.raises(ModelFileError, match=message) as caught:
        load_model(given)
    assert str(caught.value).startswith(f"{given}: this is part ")
    assert "\n" not in str(caught.value)
    assert fails("stages", given) == str(caught.value)
    report = check(given)
    assert (report.kind, report.exit_code) == ("split", 1)
    assert report.tensors_read == report.tensors > 0


def test_check_and_inspect_look_at_all_parts(parts: list[Path]) -> None:
    whole, report = check(WHOLE), check(parts[1])
    assert report.kind == "model"
    assert (report.tensors, report.tensors_read, report.bytes_read) == (whole.tensors, whole.tensors_read, whole.bytes_read)
    assert [finding.rule.code for finding in report.findings] == [finding.rule.code for finding in whole.findings]
    shown = run_cli("inspect", parts[1]).out
    assert f"kind: GGUF file in {len(parts)} parts" in shown
    assert parts[0].name in shown


def test_check_names_the_part_that_is_cut_off(parts: list[Path]) -> None:
    os.truncate(parts[1], parts[1].stat().st_size - 1000)
    report = check(parts[0])
    cut = [finding for finding in report.findings if finding.rule.code == "file-truncated"]
    assert [finding.name for finding in cut] == [parts[1].name]
    assert cut[0].text.startswith("1,000 of ")
    assert any(finding.rule.code == "tensor-damaged" for finding in report.findings)
    assert not any(finding.rule.code == "tensor-missing" for finding in report.findings)


@pytest.mark.contract("ERR-GGUF-1")
def test_random_bytes_in_the_headers(tmp_path: Path) -> None:
    """600 sets, one part of each with 1 to 4 other bytes in its header: an expected error or success."""
    paths = small_parts(tmp_path)
    generator = np.random.default_rng(20261129)
    failed = 0
    for round_number in range(600):
        path = paths[round_number % 3]
        sound = path.read_bytes()
        damaged = bytearray(sound)
        for position in generator.integers(0, 300, generator.integers(1, 5)).tolist():
            damaged[position] = int(generator.integers(0, 256))
        path.write_bytes(damaged)
        try:
            build_graph(load_model(paths[0])).ancestors(())
        except EXPECTED as error:
            failed += 1
            assert isinstance(error, AprgraphError)
            assert str(error).startswith(str(tmp_path))
            assert "\n" not in str(error)
        path.write_bytes(sound)
    assert 200 < failed < 600
