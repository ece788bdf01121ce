"""Special tokens, BOS and EOS, and vocabularies that are broken; test_tokenizer_ids.py has real vocabularies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from aprgraph.graph.errors import ModelError, TokenError, UnsupportedModelError
from aprgraph.graph.metadata import Metadata, Scalar
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.tokenizer import check_embedding_rows, load_tokenizer
from aprgraph.runtime.tokenizer.byte_pair import byte_letters


@dataclass(frozen=True)
class Values:
    """An array value of metadata."""

    items: Sequence[Scalar] | Sequence[bytes]

    def __len__(self) -> int:
        return len(self.items)

    def values(self) -> list[Scalar] | list[bytes]:
        return list(self.items)  # type: ignore[return-value]  # either kind, by construction


def byte_pair(**changes: object) -> Metadata:
    """A small byte-level vocabulary: every byte, "he", "ll", "hell", <s>, </s>.

    ``changes`` are keys without their prefix; None removes one.
    """
    texts = [*byte_letters(), "he", "ll", "hell", "<s>", "</s>"]
    values: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": Values([text.encode() for text in texts]),
        "tokenizer.ggml.token_type": Values([1] * (len(texts) - 2) + [3, 3]),
        "tokenizer.ggml.merges": Values([b"h e", b"l l", b"he ll"]),
        "tokenizer.ggml.bos_token_id": 259,
        "tokenizer.ggml.eos_token_id": 260,
    }
    values |= {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return Metadata(Path("small.gguf"), {key: value for key, value in values.items() if value is not None})


def encoded(text: str) -> list[int]:
    """What ``byte_pair`` gives without merges."""
    ids = {byte: token for token, byte in enumerate(byte_letters().values())}
    return [ids[byte] for byte in text.encode()]


# -- special tokens, BOS and EOS -----------------------------------------------------------------------------------------


def test_bos_and_eos_are_added_only_where_the_model_asks() -> None:
    assert load_tokenizer(byte_pair()).encode("hell") == [258]
    tokenizer = load_tokenizer(byte_pair(add_bos_token=True, add_eos_token=True))
    assert tokenizer.encode("hell") == [259, 258, 260]
    assert tokenizer.encode("") == [259, 260]
    assert tokenizer.decode([259, 258, 260]) == "hell"
    assert tokenizer.decode([258, 259]) == "hell<s>"


def test_llama_3_adds_bos_unless_told_otherwise() -> None:
    assert load_tokenizer(byte_pair(pre="llama-bpe")).bos_id == 259
    assert load_tokenizer(byte_pair(pre="llama-bpe", add_bos_token=False)).bos_id is None


def test_a_longer_special_token_is_found_before_a_shorter_one() -> None:
    texts = [*byte_letters(), "<a", "<ab>", "b>"]
    metadata = byte_pair(
        tokens=Values([text.encode() for text in texts]), token_type=Values([1] * 256 + [4, 3, 2]), merges=Values([]),
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    assert load_tokenizer(metadata).encode("<ab><ab b>") == [257, 256, *encoded("b "), 258]


def test_a_byte_without_a_token_is_left_out_and_keeps_its_neighbours_apart() -> None:
    texts = [text for text in [*byte_letters(), "he"] if text != "x"]
    metadata = byte_pair(
        tokens=Values([text.encode() for text in texts]), token_type=None, merges=Values([b"h e"]), bos_token_id=None, eos_token_id=None
    )  # fmt: skip
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("hxe") == [tokenizer.vocabulary.ids["h"], tokenizer.vocabulary.ids["e"]]
    assert tokenizer.encode("xhex") == [tokenizer.vocabulary.ids["he"]]


def test_a_file_without_token_types_has_normal_tokens() -> None:
    assert load_tokenizer(byte_pair(token_type=None)).encode("<s>") == encoded("<s>")


def test_a_missing_pre_tokenizer_is_the_default_one() -> None:
    digits = "12345"
    assert load_tokenizer(byte_pair(pre=None)).encode(digits) == encoded(digits)


def test_eos_ids_come_from_the_metadata_and_from_known_texts() -> None:
    assert load_tokenizer(byte_pair()).eos_ids == {260}
    assert load_tokenizer(byte_pair(eos_token_id=0, eot_token_id=1)).eos_ids == {0, 1, 260}


def test_llama_cpp_s_default_end_holds_where_the_file_is_silent() -> None:
    metadata = byte_pair(model="llama", scores=Values([0.0] * 261), eos_token_id=None, add_space_prefix=False)
    assert load_tokenizer(metadata).eos_ids == {2, 260}


def named(*texts: str, kind: int = 3, **changes: object) -> Metadata:
    """Bytes, and ``texts`` with ids from 256 on."""
    tokens = [text.encode() for text in (*byte_letters(), *texts)]
    values = {"tokens": Values(tokens), "token_type": Values([1] * 256 + [kind] * len(texts)), "merges": Values([])}
    return byte_pair(**(values | {"bos_token_id": None, "eos_token_id": None} | changes))


def test_the_end_of_a_message_is_no_end_where_calls_and_returns_are() -> None:
    assert load_tokenizer(named("<|end|>", "<|call|>")).eos_ids == {256, 257}
    assert load_tokenizer(named("<|end|>", "<|call|>", "<|return|>")).eos_ids == {257, 258}
    assert load_tokenizer(named("<|end|>", "<|calls|>", "<|flush|>", eos_token_id=256)).eos_ids == {257, 258}


def test_tokens_are_matched_whole_by_their_kind_or_text_and_not_for_being_named() -> None:
    assert load_tokenizer(named("<|im_end|>", kind=1)).encode("<|im_end|>") == [256]
    assert load_tokenizer(named("<fim_prefix>", kind=1)).encode("<fim_prefix>") == [256]
    assert load_tokenizer(named("<stop>", kind=1, eos_token_id=256)).encode("<stop>") == encoded("<stop>")
    assert load_tokenizer(named("<fim_prefix>", kind=1, fim_pre_token_id=0)).encode("<fim_prefix>") == encoded("<fim_prefix>")


def test_a_chat_has_one_bos_whether_or_not_its_template_writes_it() -> None:
    tokenizer = load_tokenizer(byte_pair(add_bos_token=True, add_eos_token=True))
    assert tokenizer.encode_chat("<s>hell</s>") == tokenizer.encode_chat("hell") == [259, 258, 260]
    assert tokenizer.encode_chat("<s><s>hell") == [259, 259, 258, 260]
    assert tokenizer.encode("<s>hell") == [259, 259, 258, 260]
    assert load_tokenizer(byte_pair()).encode_chat("<s>hell</s>") == [259, 258, 260]
    assert load_tokenizer(byte_pair()).encode_chat("hell") == [258]


def test_part_of_a_character_decodes_to_the_replacement_character() -> None:
    tokenizer = load_tokenizer(byte_pair())
    assert tokenizer.decode(encoded("é")[:1]) == "\ufffd"
    assert tokenizer.decode(encoded("é")) == "é"


# -- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [-1, 261])
def test_a_token_outside_the_vocabulary_does_not_decode(token: int) -> None:
    with pytest.raises(TokenError, match=f"token {token} is not in the vocabulary, which has the tokens 0 to 260"):
        load_tokenizer(byte_pair()).decode([0, token])


def test_a_prompt_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(TokenError, match="not valid UTF-8 at character 2"):
        load_tokenizer(byte_pair()).encode("ab\udc80")


@pytest.mark.parametrize(("change", "message"), [
    ({"model": "rwkv"}, "tokenizer.ggml.model is 'rwkv'; supported: bert, gpt2, llama, t5"),
    ({"pre": "nonesuch"}, "tokenizer.ggml.pre is 'nonesuch'; supported: default"),
])  # fmt: skip
def test_unknown_tokenizers_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        load_tokenizer(byte_pair(**change))


_TEXTS = [text.encode() for text in [*byte_letters(), "he", "ll", "hell", "<s>", "</s>"]]


@pytest.mark.parametrize(("change", "message"), [
    ({"model": None}, "'tokenizer.ggml.model' is missing"),
    ({"tokens": None}, "'tokenizer.ggml.tokens' is missing"),
    ({"merges": None}, "'tokenizer.ggml.merges' is missing"),
    ({"tokens": "abc"}, "'tokenizer.ggml.tokens' is 'abc', expected an array"),
    ({"tokens": Values([])}, "tokens is empty"),
    ({"tokens": Values([1, 2, 3])}, "tokens holds numbers, expected an array of texts"),
    ({"tokens": Values([*_TEXTS[:-1], _TEXTS[0]])}, "tokens holds '!' twice, as 0 and as 260"),
    ({"tokens": Values([*_TEXTS[:7], b"", *_TEXTS[8:]])}, "tokens has no text for token 7; the vocabulary has holes"),
    ({"tokens": Values([*_TEXTS[:7], b"\xff\xfe", *_TEXTS[8:]])}, r"element 7 of tokenizer.ggml.tokens is not valid UTF-8"),
    ({"token_type": Values([1] * 260)}, "token_type has 260 elements for 261 tokens"),
    ({"token_type": Values([1] * 260 + [9])}, "token_type holds 9, expected numbers from 0 to 6"),
    ({"token_type": Values(_TEXTS)}, "token_type holds texts, expected an array of numbers"),
    ({"merges": Values([b"h e", b"q zz"])}, "merges does not fit the vocabulary: .*zz"),
    ({"merges": Values([b"h e", b"l h"])}, "merges does not fit the vocabulary: .*lh"),
    ({"merges": Values([b"h e", b"hell"])}, "element 1 of tokenizer.ggml.merges is 'hell', expected two tokens"),
    ({"merges": Values([b"h e l"])}, "element 0 of tokenizer.ggml.merges is 'h e l', expected two tokens"),
    ({"eos_token_id": 261}, "eos_token_id is 261, but the vocabulary has the tokens 0 to 260"),
    ({"bos_token_id": None, "add_bos_token": True}, "the model wants a BOS token .* is missing"),
    ({"model": "llama"}, "'tokenizer.ggml.scores' is missing"),
    ({"model": "llama", "scores": Values([0.0] * 260)}, "scores has 260 elements for 261 tokens"),
])  # fmt: skip
def test_a_broken_vocabulary_is_a_model_error(change: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_tokenizer(byte_pair(**change)).encode("hell")
    assert "\n" not in str(error.value)


def test_what_turns_tokens_into_text_reads_no_merges() -> None:
    """Reading them takes as long as all the rest: a verdict shows a prompt that it does not encode."""
    ids = load_tokenizer(byte_pair()).encode("hell")
    assert load_tokenizer(byte_pair(merges=Values([b"h e l"]))).decode(ids) == "hell"


def test_a_vocabulary_without_rows_for_all_its_tokens_is_an_error() -> None:
    vocabulary = load_tokenizer(byte_pair()).vocabulary
    check_embedding_rows(vocabulary, 261, Path("small.gguf"))
    check_embedding_rows(vocabulary, 320, Path("small.gguf"))  # padding
    with pytest.raises(ModelError, match=r"small\.gguf: tokenizer\.ggml\.tokens has 261 tokens, but token_embd.weight has only 260 rows"):
        check_embedding_rows(vocabulary, 260, Path("small.gguf"))


def test_sentence_piece_without_byte_tokens_refuses_what_it_cannot_encode() -> None:
    texts = [b"<unk>", b"<s>", b"</s>", "▁".encode(), b"a"]
    metadata = byte_pair(
        model="llama", tokens=Values(texts), scores=Values([0.0] * 5), token_type=Values([2, 3, 3, 1, 1]), bos_token_id=1, eos_token_id=2
    )  # fmt: skip
    tokenizer = load_tokenizer(metadata)
    assert tokenizer.encode("a") == [1, 3, 4]
    with pytest.raises(TokenError, match="no token for the byte 0x62"):
        tokenizer.encode("b")


def unigram(*texts: str, scores: Sequence[float], kinds: Sequence[int], **changes: object) -> Metadata:
    """A unigram vocabulary in which the third token is what is unknown."""
    return byte_pair(
        model="t5", tokens=Values([text.encode() for text in texts]), scores=Values(list(scores)), token_type=Values(list(kinds)),
        bos_token_id=None, eos_token_id=None, **changes,
    )  # fmt: skip


def test_unigram_takes_t5_s_defaults_and_no_score_of_what_is_no_text() -> None:
    """What is unused is no measure of what is unlikely: -20 for a character without a token, and not -1010."""
    texts, kinds = ("<pad>", "</s>", "<unk>", "a", "bc", "ca", "x", "<0x62>"), (3, 3, 2, 1, 1, 5, 5, 6)
    tokenizer = load_tokenizer(unigram(*texts, scores=(0, 0, 0, -1, -10, -1000, -30, 0), kinds=kinds))
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (None, {1})
    assert tokenizer.encode("aa") == [3, 3, 1]
    assert tokenizer.encode("bca") == [4, 3, 1]
    assert tokenizer.encode("cca") == [2, 3, 1]  # by -1010, "ca" would be likelier
    assert tokenizer.encode("ax") == [3, 6, 1]
    assert tokenizer.encode("\u00e9b") == [2, 1]
    assert tokenizer.decode([3, 7, 2, 1]) == "ab<unk>"
    with pytest.raises(ModelError, match="unknown_token_id is missing, and the vocabulary has no token 2"):
        load_tokenizer(unigram("a", "b", scores=(0, 0), kinds=(1, 1)))


def _map(*, value: int = 0, child: int = 64) -> list[int]:
    """A trie of one run, "a", which becomes "bb"; ``child`` leads to where the place of that is, ``value``."""
    units = [64 << 10, *[0] * 97]
    units[64 ^ 0x61] = 0x61 | 1 << 8 | child << 10
    units[64 ^ 0x61 ^ 64] = 1 << 31 | value
    return [*(4 * len(units)).to_bytes(4, "little"), *b"".join(unit.to_bytes(4, "little") for unit in units), *b"bb\x00\xff\x00"]


@pytest.mark.contract("EMBEDDING-TOKENS-1")
@pytest.mark.parametrize(("content", "message"), [
    ([1, 2], "holds 2 bytes, expected a trie of 513 bytes and replacements that end with a zero byte"),
    ([4, 0, 0, 0, 1, 1, 1, 1], "holds 8 bytes, expected a trie of 4 bytes"),
    ([4, 0, 0, 0, 1, 1, 1, 1, 65], "replacements that end with a zero byte"),
    (_map(value=9), "refers to byte 9 of 5 of replacements"),
    (_map(value=3), "holds a replacement at byte 3 that is not valid UTF-8"),
    (_map(child=500), r"refers to unit \d+ of 98"),
    ([300], "holds what is no byte, expected an array of bytes"),
    ("abc", "precompiled_charsmap' is 'abc', expected an array"),
])  # fmt: skip
def test_a_map_of_characters_that_is_damaged_is_a_model_error(content: object, message: str) -> None:
    def tokens(content: object) -> list[int]:
        given = Values(content) if isinstance(content, list) else content
        return load_tokenizer(
            unigram("<pad>", "</s>", "<unk>", "b", scores=(0, 0, 0, -1), kinds=(3, 3, 2, 1), precompiled_charsmap=given)
        ).encode("a")

    assert tokens(_map()) == [3, 3, 1]
    assert tokens([byte - 256 if byte > 127 else byte for byte in _map()]) == [3, 3, 1]  # an array of int8
    with pytest.raises(ModelError, match=message) as error:
        tokens(content)
    assert "\n" not in str(error.value)


def test_the_tokenizers_of_tiny_models_round_trip(tiny_model: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(GGUFFile(tiny_model()).metadata)
    assert tokenizer.decode(tokenizer.encode("hello world is 2+2?\n")) == "hello world is 2+2?\n"
    assert len(tokenizer.encode("hello")) == 1
