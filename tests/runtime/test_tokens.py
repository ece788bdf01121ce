"""Prompts and token ids: as text, in files, and as lists."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from aprgraph.graph.errors import TokenError
from aprgraph.graph.model import Model, load_model
from aprgraph.runtime.prompts import encode_chat, encode_prompt
from aprgraph.runtime.tokenizer import Tokenizer
from aprgraph.runtime.tokens import MAX_FILE_BYTES, check_tokens, parse_tokens, read_prompt_file, read_tokens_file


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Model:
    """288 tokens, a context of 64."""
    return load_model(tiny_model())


def test_text() -> None:
    assert parse_tokens("1,2,3") == [1, 2, 3]
    assert parse_tokens(" 7 ,\t0") == [7, 0]


@pytest.mark.parametrize("text", ["", ",", "1,", "1,,2", "-1", "+1", "1.0", "0x1", "a", "1 2", "1_000", "１", "9" * 13])
def test_text_that_is_no_list_of_ids(text: str) -> None:
    with pytest.raises(TokenError, match="expected token ids separated by commas, such as 1,2,3"):
        parse_tokens(text)


# -- files ---------------------------------------------------------------------------------------------------------------


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("data", "text"), [
    (b"hello", "hello"),
    (b"hello\n", "hello"),
    (b"hello\n\n", "hello\n"),
    (b"a\r\nb\r\n", "a\r\nb\r"),
    ("\ufeff  h\u00e9 \U0001f600\t".encode(), "\ufeff  h\u00e9 \U0001f600\t"),
    (b"", ""),
    (b"\n", ""),
])  # fmt: skip
def test_a_prompt_file_loses_one_newline_at_its_end(tmp_path: Path, data: bytes, text: str) -> None:
    assert read_prompt_file(written(tmp_path / "prompt", data)) == text


@pytest.mark.parametrize("data", [
    b"1,2,30", b"1 2 30\n", b"1\n2\n30\n", b" 1 ,\t2\r\n,30 ", b"[1, 2, 30]", b"[\n  1,\n  2,\n  30\n]\n", b"1,2,30,\n", b"[1 2 30]",
])  # fmt: skip
def test_a_tokens_file_has_ids_between_commas_or_blanks(tmp_path: Path, data: bytes) -> None:
    assert read_tokens_file(written(tmp_path / "ids", data)) == [1, 2, 30]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 2\n")))
    assert read_prompt_file("-") == "1 2"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 2\n")))
    assert read_tokens_file("-") == [1, 2]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1 x\n")))
    with pytest.raises(TokenError, match="standard input: 'x' in line 1, column 3"):
        read_tokens_file("-")


@pytest.mark.parametrize(("data", "message"), [
    (b"", "no token ids in it; expected some"),
    (b"[]\n", "no token ids in it"),
    (b" \n", "no token ids in it"),
    (b"1,2\n3,x4\n", "'x4' in line 2, column 3 does not belong there; expected token ids separated by commas or blanks"),
    (b"1\n\n  -2", "'-2' in line 3, column 3"),
    (b"1.5", "'1.5' in line 1, column 1"),
    (b"1,,2", "',' in line 1, column 3"),
    (b",1", "',' in line 1, column 1"),
    (b"[1, [2]]", r"'\[' in line 1, column 5"),
    (b"1]", r"'\]' in line 1, column 2"),
    (b"[1,]", r"'\]' in line 1, column 4"),
    (b"[1] 2", "'2' in line 1, column 5"),
    (b"[1]]", r"'\]' in line 1, column 4"),
    (b"[1], ", "',' in line 1, column 4"),
    (b'{"tokens": [1]}', "'{\"tokens\":' in line 1, column 1"),
    (b"1234567890123", "'1234567890123' in line 1, column 1"),
    ("1, ２".encode(), "'２' in line 1, column 4"),
    (b"[1, 2", r"the list that begins with '\[' has no '\]'; the file is cut off"),
    (b"x" * 10000, "'xxx.*xxx' in line 1, column 1 does"),
])  # fmt: skip
def test_a_tokens_file_with_something_else_in_it(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(TokenError, match=message) as error:
        read_tokens_file(written(tmp_path / "ids", data))
    assert str(error.value).startswith(f"{tmp_path / 'ids'}: ")
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("read", [read_prompt_file, read_tokens_file])
def test_a_file_that_cannot_be_read(tmp_path: Path, read: Callable[[Path | str], object]) -> None:
    with pytest.raises(TokenError, match="nonesuch: cannot be read: No such file or directory; expected a file with"):
        read(tmp_path / "nonesuch")
    with pytest.raises(TokenError, match="cannot be read: Is a directory; expected a file with"):
        read(tmp_path)
    with pytest.raises(TokenError, match=r"'a\\x00b': cannot be read: .*; expected a file with"):
        read("a\0b")
    with pytest.raises(TokenError, match="ids: not valid UTF-8: byte 0xFF at offset 3; expected"):
        read(written(tmp_path / "ids", b"1 2\xff"))


@pytest.mark.parametrize("read", [read_prompt_file, read_tokens_file])
def test_a_file_without_an_end(read: Callable[[Path | str], object]) -> None:
    with pytest.raises(TokenError, match="/dev/zero: cannot be read: Is a device; expected a file with"):
        read("/dev/zero")


def test_a_file_as_long_as_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "prompt"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES)
    assert len(read_prompt_file(path)) == MAX_FILE_BYTES
    os.truncate(path, MAX_FILE_BYTES + 1)
    with pytest.raises(TokenError, match="more than 16 MiB"):
        read_prompt_file(path)


# -- lists ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [[0, 287], (5,), range(64), np.array([1, 2]), [np.int64(3)]])
def test_ids_become_python_integers(model: Model, tokens: Sequence[int]) -> None:
    found = check_tokens(tokens, model)
    assert found == tuple(int(token) for token in tokens)
    assert {type(token) for token in found} == {int}


@pytest.mark.parametrize(("tokens", "message"), [
    ([], "no tokens to run: the prompt is empty"),
    (np.array([], np.int64), "no tokens to run"),
    ([1, 288], r"token 288 at position 1 is outside the vocabulary of .*\.gguf, expected 0 to 287"),
    ([-1], "token -1 at position 0"),
    ([1 << 40], "token 1099511627776 at position 0"),
    (range(65), r"65 tokens, but .*\.gguf has a context of 64; shorten the prompt"),
    ([1.5], "expected a list of token ids, which are whole numbers"),
    ([1, "2"], "expected a list of token ids"),
    (np.array([[1, 2]]), "expected a list of token ids"),
    (7, "expected a list of token ids"),
])  # fmt: skip
def test_ids_that_cannot_be_run(model: Model, tokens: Sequence[int], message: str) -> None:
    with pytest.raises(TokenError, match=message):
        check_tokens(tokens, model)


@pytest.mark.contract("ERR-TOKENS-1")
def test_a_prompt_that_cannot_fit_is_refused_before_it_is_encoded(tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(tiny_model())
    monkeypatch.setattr(Tokenizer, "encode", lambda *_args, **_options: [7])
    with pytest.raises(
        TokenError, match=r"^the prompt has 16,777,216 bytes that are no blanks, more than the context of .* holds: 64 tokens of at most"
    ):
        encode_prompt(model, "x" * (16 << 20))
    with pytest.raises(TokenError, match="shorten the prompt"):
        encode_chat(model, "x " * (8 << 20), "be brief")
    assert encode_prompt(model, " " * (1 << 20)) == [7]
    assert encode_prompt(model, "short") == [7]
