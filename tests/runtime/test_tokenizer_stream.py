"""Streaming gives the text that decoding all tokens gives."""

from __future__ import annotations

import pytest

from aprgraph.graph.errors import TokenError
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.tokenizer import Tokenizer, TokenStream, load_tokenizer
from tests.golden.token_prompts import PROMPTS
from tests.support.golden import GOLDEN


@pytest.fixture(scope="module")
def bytes_only() -> Tokenizer:
    """Byte-level; its only special token is <s>."""
    return load_tokenizer(GGUFFile(GOLDEN / "byte_pair.gguf").metadata)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    """SentencePiece: a text begins with a blank that is not shown; <s> and </s> are control tokens, [INST] is user-defined."""
    return load_tokenizer(GGUFFile(GOLDEN / "sentence_piece.gguf").metadata)


def streamed(tokenizer: Tokenizer, ids: list[int], after: int | None = None) -> list[str]:
    stream = TokenStream(tokenizer, after)
    return [*(stream.feed(token) for token in ids), stream.finish()]


def byte_ids(tokenizer: Tokenizer, data: bytes) -> list[int]:
    ids = {tokenizer.piece(token, after_special=False): token for token in reversed(range(len(tokenizer)))}
    return [ids[bytes([byte])] for byte in data]


@pytest.mark.parametrize("kind", ["bytes_only", "pieces"])
def test_the_parts_make_the_text_without_control_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    for text in PROMPTS:
        ids = tokenizer.encode(text)
        shown = [token for token in ids if not tokenizer.is_hidden(token)]
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(shown), repr(text)


@pytest.mark.parametrize("kind", ["bytes_only", "pieces"])
@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_stream_continues_a_prompt(kind: str, cut: int, request: pytest.FixtureRequest) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    for text in ("What is 2+2? It is four.", "[INST] hi [/INST] [INST] there", "a  b    c \n d e f"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids[:cut]) + "".join(streamed(tokenizer, ids[cut:], ids[cut - 1])) == text


def test_a_character_appears_with_its_last_byte(bytes_only: Tokenizer) -> None:
    assert streamed(bytes_only, byte_ids(bytes_only, "aé€😀b".encode())) == ["a", "", "é", "", "", "€", "", "", "", "😀", "b", ""]


def test_what_is_no_character_becomes_the_replacement_character(bytes_only: Tokenizer) -> None:
    assert streamed(bytes_only, byte_ids(bytes_only, b"\xe2\x82")) == ["", "", "\ufffd"]
    assert streamed(bytes_only, byte_ids(bytes_only, b"\xe2\x82a")) == ["", "", "\ufffda", ""]
    assert streamed(bytes_only, byte_ids(bytes_only, b"\xffa\x80")) == ["\ufffd", "a", "\ufffd", ""]


def test_control_tokens_are_not_shown_and_do_not_break_a_character(bytes_only: Tokenizer) -> None:
    first, second = byte_ids(bytes_only, "é".encode())
    mark = bytes_only.vocabulary.ids["<s>"]
    assert streamed(bytes_only, [mark, first, mark, second, mark]) == ["", "", "", "é", "", ""]


def test_the_blank_that_begins_a_text_is_shown_inside_a_text_only(pieces: Tokenizer) -> None:
    word = pieces.encode(" a")[1:]
    assert "".join(streamed(pieces, word)) == " a"
    begun = pieces.encode("a")[1:]
    assert "".join(streamed(pieces, begun)) == "a"
    assert "".join(streamed(pieces, begun, pieces.bos_id)) == "a"
    assert "".join(streamed(pieces, begun, begun[0])) == " a"


def test_a_finished_stream_begins_again(pieces: Tokenizer) -> None:
    stream = TokenStream(pieces)
    for token in pieces.encode("a"):
        stream.feed(token)
    stream.finish()
    assert "".join(stream.feed(token) for token in pieces.encode("a")) == "a"


@pytest.mark.parametrize("token", [-1, 1 << 40])
def test_a_token_outside_the_vocabulary(pieces: Tokenizer, token: int) -> None:
    with pytest.raises(TokenError, match=f"token {token} is not in the vocabulary"):
        TokenStream(pieces).feed(token)
    with pytest.raises(TokenError, match=f"token {token} is not in the vocabulary"):
        TokenStream(pieces, after=token)
