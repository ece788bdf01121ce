"""The tokenizer against llama.cpp's ids (tests/golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from aprgraph.graph.metadata import Metadata
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.tokenizer import Tokenizer, load_tokenizer
from aprgraph.runtime.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tests.golden.token_prompts import BYTE_PAIR_PROMPTS, PHI3_PROMPTS, PROMPTS
from tests.support.golden import GOLDEN, golden_json
from tests.support.models import require_gemma3, require_smollm2

#: What every name of a pre-tokenizer gives under byte_pair.gguf, or the name that gives the same.
NAMES: dict[str, list[list[int]] | str] = golden_json("byte_pair_ids.json")


def metadata_of(path: Path) -> Metadata:
    return GGUFFile(path).metadata


@pytest.fixture(scope="module")
def smollm2() -> Metadata:
    return metadata_of(require_smollm2())


@pytest.fixture(scope="module")
def gemma3() -> Tokenizer:
    return load_tokenizer(metadata_of(require_gemma3()))


def test_smollm2(smollm2: Metadata) -> None:
    golden = golden_json("smollm2_token_ids.json")
    tokenizer = load_tokenizer(smollm2)
    assert [pair["text"] for pair in golden["prompts"]] == list(PROMPTS)
    for pair in golden["prompts"]:
        assert tokenizer.encode(pair["text"]) == pair["ids"], repr(pair["text"])
    assert sorted(tokenizer.eos_ids) == golden["end_tokens"]
    assert tokenizer.bos_id is None
    assert len(tokenizer) == 49152


def test_smollm2_decodes_what_it_encodes(smollm2: Metadata) -> None:
    tokenizer = load_tokenizer(smollm2)
    without_token = {"\x04", "\x06", "\x13", "\x14", "\x16", "\x1d"}
    for text in PROMPTS:
        assert tokenizer.decode(tokenizer.encode(text)) == "".join(letter for letter in text if letter not in without_token)


@pytest.mark.parametrize("pre", sorted(golden_json("pre_tokenizer_ids.json")))
def test_smollm2_under_other_pre_tokenizers(smollm2: Metadata, pre: str) -> None:
    tokenizer = load_tokenizer(smollm2.with_overrides({"tokenizer.ggml.pre": pre}))
    for text, ids in zip(PROMPTS, golden_json("pre_tokenizer_ids.json")[pre], strict=True):
        assert tokenizer.encode(text) == ids, repr(text)


@pytest.mark.parametrize("pre", [name for name, ids in NAMES.items() if not isinstance(ids, str)])
def test_every_set_of_patterns(pre: str) -> None:
    tokenizer = load_tokenizer(metadata_of(GOLDEN / "byte_pair.gguf").with_overrides({"tokenizer.ggml.pre": pre}))
    for text, ids in zip(BYTE_PAIR_PROMPTS, NAMES[pre], strict=True):
        assert tokenizer.encode(text) == ids, repr(text)


def test_every_name_stands_for_what_it_does_in_llama_cpp() -> None:
    assert set(NAMES) == set(PRE_TOKENIZERS)
    for name, same in NAMES.items():
        if isinstance(same, str):
            assert PRE_TOKENIZERS[name] == PRE_TOKENIZERS[same], f"{name} is not {same}"


def test_sentence_piece() -> None:
    tokenizer = load_tokenizer(metadata_of(GOLDEN / "sentence_piece.gguf"))
    for text, ids in zip(PROMPTS, golden_json("sentence_piece_ids.json"), strict=True):
        assert tokenizer.encode(text) == ids, repr(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.eos_ids == {2}


def test_word_piece() -> None:
    """A text is framed by [CLS] and [SEP], and a word that the vocabulary has not is [UNK]."""
    tokenizer = load_tokenizer(metadata_of(GOLDEN / "word_piece.gguf"))
    pairs = golden_json("word_piece_ids.json")
    for text, ids in pairs:
        assert tokenizer.encode(text) == ids, repr(text)
    assert {text for text, _ in pairs} > set(PROMPTS)
    assert [tokenizer.vocabulary.texts[token] for token in pairs[0][1]] == ["[CLS]", "[SEP]"]
    assert sum(1 in ids for _, ids in pairs) > 5
    assert tokenizer.decode(tokenizer.encode("Hello, WORLD")) == "hello , world"


#: add_space_prefix and remove_extra_whitespaces.
_SPACES = ((True, True), (True, False), (False, False), (False, True))


@pytest.mark.contract("EMBEDDING-TOKENS-1")
@pytest.mark.parametrize("variant", range(len(_SPACES)))
def test_unigram(variant: int) -> None:
    """As XLM-RoBERTa's, with a map of characters, and unknown ones that become one token together."""
    prefix, merge = _SPACES[variant]
    changes = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.remove_extra_whitespaces": merge}
    tokenizer = load_tokenizer(metadata_of(GOLDEN / "unigram.gguf").with_overrides(changes))
    for text, *ids in golden_json("unigram_ids.json"):
        assert tokenizer.encode(text) == ids[variant], repr(text)
    assert tokenizer.decode(tokenizer.encode("Hello, world!")) == "Hello, world!"


def test_special_tokens_of_phi_3_strip_the_white_space_after_them() -> None:
    tokenizer = load_tokenizer(metadata_of(GOLDEN / "phi3.gguf"))
    for text, ids in zip(PHI3_PROMPTS, golden_json("phi3_ids.json"), strict=True):
        assert tokenizer.encode(text) == ids, repr(text)
    assert tokenizer.decode(tokenizer.encode("<|user|> \n hi <|end|>\n<|assistant|>\n")) == "<|user|>hi <|end|><|assistant|>"


def test_gemma_3(gemma3: Tokenizer) -> None:
    golden = golden_json("gemma3_token_ids.json")
    assert [pair["text"] for pair in golden["prompts"]] == list(PROMPTS)
    for pair in golden["prompts"]:
        assert gemma3.encode(pair["text"]) == pair["ids"], repr(pair["text"])
        assert gemma3.decode(pair["ids"]) == pair["text"]
    assert sorted(gemma3.eos_ids) == golden["end_tokens"]
    assert gemma3.bos_id == 2


def test_gemma_3_has_tokens_for_runs_of_newlines_and_blanks(gemma3: Tokenizer) -> None:
    texts = [gemma3.vocabulary.texts[token] for token in gemma3.encode("a\n\n\nb      c")]
    assert texts == ["<bos>", "a", "\n\n\n", "b", "      ", "c"]
