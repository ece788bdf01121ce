"""Copies of files of which pieces are there: what holds of ranges, and what a copy says of itself."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest

from aprgraph.graph.errors import ModelFileError
from aprgraph.graph.sources.mapped_file import MappedFile
from aprgraph.graph.sources.pieces import Pieces, add_piece, make_copy, noted_reads, pieces_of, refused

SIZE = 64


def test_ranges_are_sets_of_bytes() -> None:
    number = random.Random(3)
    for _ in range(300):
        pieces, others, there, elsewhere = Pieces(), Pieces(), set[int](), set[int]()
        for _ in range(number.randrange(6)):
            for ranges, members in ((pieces, there), (others, elsewhere)):
                start, end = sorted((number.randrange(SIZE), number.randrange(SIZE)))
                ranges.add(start, end)
                members |= {*range(start, end)}
        found = [*pieces]
        assert {byte for start, end in found for byte in range(start, end)} == there
        assert all(first[1] < second[0] for first, second in pairwise(found))
        assert pieces.nbytes == len(there)
        assert {byte for start, end in pieces.without(others) for byte in range(start, end)} == there - elsewhere
        for _ in range(10):
            start, end = sorted((number.randrange(SIZE), number.randrange(SIZE)))
            assert pieces.holds(start, end) == ({*range(start, end)} <= there)


def test_a_copy_gives_what_is_there_and_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "m.gguf"
    assert [*make_copy(path, 100)] == []
    add_piece(path, 10, b"abc")
    mapped = MappedFile(path, "a file", "a file")
    assert mapped.view(10, 3).tobytes() == b"abc"
    refused()
    with pytest.raises(ModelFileError, match=r"m\.gguf: bytes 12 to 14 are not in this copy"):
        mapped.view(12, 2)
    assert refused() == [(path, 12, 14)]
    add_piece(path, 13, b"d")  # also for whoever has it open
    with noted_reads() as reads:
        assert mapped.view(12, 2).tobytes() == b"cd"
    assert [*reads.pieces[path]] == [(12, 14)]
    assert [*make_copy(path, 100)] == [(10, 14)]
    assert [*make_copy(path, 99)] == []  # of another file
    (path.with_name("m.gguf.aprgraph-pieces")).write_text("{")
    with pytest.raises(ModelFileError, match="does not say what of m.gguf is there; remove both"):
        MappedFile(path, "a file", "a file")
    (whole := tmp_path / "whole").write_bytes(b"x" * 10)
    assert pieces_of(whole) is None
    assert MappedFile(whole, "a file", "a file").view(0, 10).tobytes() == b"x" * 10
