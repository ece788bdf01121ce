"""tokenizer.json in the forms of published checkpoints, against the ids of llama.cpp for the same vocabularies."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from aprgraph.graph.errors import ModelError, TokenError, UnsupportedModelError
from aprgraph.graph.model import load_model
from aprgraph.graph.sources.gguf_file import GGUFFile
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.check import check
from aprgraph.runtime.tokenizer import Tokenizer, TokenStream, load_tokenizer
from aprgraph.runtime.tokenizer.vocabulary import read_texts
from tests.golden.token_prompts import BYTE_PAIR_PROMPTS, PROMPTS
from tests.support.checkpoints import write_checkpoint
from tests.support.golden import GOLDEN, golden_json

_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LETTERS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _split(pattern: str) -> list[Any]:
    return [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, _LETTERS]


#: By llama.cpp's name of the pre-tokenizer.
PRE_TOKENIZERS: dict[str, list[Any]] = {
    "gpt-2": [_LETTERS | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, _LETTERS | {"use_regex": True}],
    "qwen2": _split(_GPT4 % ""),
    "llama-bpe": _split(_GPT4 % "{1,3}"),
}


def _template(text: str, token: int) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]}},
    }  # fmt: skip


def _added(token: int, text: str) -> dict[str, Any]:
    return {"id": token, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def byte_level(pre: str) -> dict[str, Any]:
    """tokenizer.json of byte_pair.gguf's vocabulary."""
    metadata = GGUFFile(GOLDEN / "byte_pair.gguf").metadata
    texts = read_texts(metadata, "tokenizer.ggml.tokens")
    begins = pre == "llama-bpe"
    letters = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    return {
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}, "padding": None,
        "added_tokens": [_added(1333, "<s>")], "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]},
        "post_processor": {"type": "Sequence", "processors": [letters, _template("<s>", 1333)]} if begins else letters, "decoder": letters,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
            "byte_fallback": False, "ignore_merges": begins, "vocab": {text: token for token, text in enumerate(texts[:1333])},
            "merges": [text.split(" ") for text in dict.fromkeys(read_texts(metadata, "tokenizer.ggml.merges"))],
        },
    }  # fmt: skip


def sentence_piece() -> dict[str, Any]:
    """tokenizer.json of sentence_piece.gguf's vocabulary, as transformers converts Llama 2's: pairs by their scores."""
    metadata = GGUFFile(GOLDEN / "sentence_piece.gguf").metadata
    texts = read_texts(metadata, "tokenizer.ggml.tokens")
    scores = metadata.array("tokenizer.ggml.scores").values()
    ids = {text: token for token, text in enumerate(texts)}
    pairs = [
        (-float(scores[token]), text[:cut], text[cut:])
        for text, token in ids.items()
        for cut in range(1, len(text))
        if text[:cut] in ids and text[cut:] in ids
    ]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [_added(token, texts[token]) for token in range(3)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": None, "post_processor": _template(texts[1], 1),
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": texts[0], "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": True, "byte_fallback": True, "ignore_merges": False, "vocab": ids,
            "merges": [f"{left} {right}" for _, left, right in sorted(pairs)],
        },
    }  # fmt: skip


def word_piece() -> dict[str, Any]:
    """tokenizer.json of word_piece.gguf's vocabulary, as transformers converts BERT's."""
    texts = read_texts(GGUFFile(GOLDEN / "word_piece.gguf").metadata, "tokenizer.ggml.tokens")
    named = [text if token < 5 else text[1:] if text.startswith("▁") else f"##{text}" for token, text in enumerate(texts)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [_added(token, texts[token]) for token in range(5)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {texts[token]: {"id": texts[token], "ids": [token], "tokens": [texts[token]]} for token in (2, 3)},
        },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {text: token for token, text in enumerate(named)},
        },
    }  # fmt: skip


def unigram() -> dict[str, Any]:
    """tokenizer.json of unigram.gguf's vocabulary, as transformers converts XLM-RoBERTa's."""
    metadata = GGUFFile(GOLDEN / "unigram.gguf").metadata
    texts = read_texts(metadata, "tokenizer.ggml.tokens")
    scores, kinds, characters = (
        metadata.array(f"tokenizer.ggml.{name}").values() for name in ("scores", "token_type", "precompiled_charsmap")
    )
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(token, texts[token]) for token, kind in enumerate(kinds) if kind in (2, 3, 4)],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(bytes(characters)).decode()},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]}, "decoder": spaces,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "</s>", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {texts[token]: {"id": texts[token], "ids": [token], "tokens": [texts[token]]} for token in (0, 2)},
        },
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(entry) for entry in zip(texts, scores, strict=True)], "byte_fallback": False},
    }  # fmt: skip


def folder_with(tmp_path: Path, document: Any, **settings: Any) -> Path:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    (folder / "tokenizer.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def tokenizer_of(folder: Path) -> Tokenizer:
    return load_tokenizer(load_model(folder).metadata)


@pytest.mark.contract("FILE-HF-4")
@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_level(pre: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder_with(tmp_path, byte_level(pre), eos_token={"content": "<s>"}))
    golden: Any = golden_json("byte_pair_ids.json")[pre]
    golden = golden_json("byte_pair_ids.json")[golden] if isinstance(golden, str) else golden
    for text, ids in zip(BYTE_PAIR_PROMPTS, golden, strict=True):
        assert tokenizer.encode(text) == ids, repr(text)
        stream = TokenStream(tokenizer)
        plain = tokenizer.encode(text, affixes=False)
        assert "".join(map(stream.feed, plain)) + stream.finish() == tokenizer.decode(ids).replace("<s>", "")  # marks are hidden
    assert tokenizer.bos_id == (1333 if pre == "llama-bpe" else None)
    assert 1333 in tokenizer.eos_ids
    assert tokenizer.encode("a<s>b")[-2] == 1333


@pytest.mark.contract("FILE-HF-4")
def test_sentence_piece(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(folder_with(tmp_path, sentence_piece()))
    for text, ids in zip(PROMPTS, golden_json("sentence_piece_ids.json"), strict=True):
        # llama.cpp puts a space behind special tokens too, transformers does not.
        if text and "<s>" not in text:
            assert tokenizer.encode(text) == ids, repr(text)
            assert tokenizer.decode(ids) == text
    assert tokenizer.bos_id == 1


@pytest.mark.contract("FILE-HF-4")
def test_word_piece(tmp_path: Path) -> None:
    """As BERT's, with the frame. llama.cpp drops more kinds of characters, and takes letters apart otherwise."""
    tokenizer, equal = tokenizer_of(folder_with(tmp_path, word_piece())), 0
    pairs = golden_json("word_piece_ids.json")
    for text, ids in pairs:
        equal += tokenizer.encode(text) == ids
    assert equal == len(pairs) - 2  # U+0085, and letters of Hangul
    assert tokenizer.decode(tokenizer.encode("Hello, WORLD")) == "hello , world"


@pytest.mark.contract("EMBEDDING-TOKENS-1")
def test_unigram(tmp_path: Path) -> None:
    """As XLM-RoBERTa's, with the frame. U+0085 is white space here, and an unused token makes what is unknown less likely."""
    tokenizer, rows = tokenizer_of(folder_with(tmp_path, unigram())), golden_json("unigram_ids.json")
    others = [text for text, ids, *_ in rows if tokenizer.encode(text) != ids]
    assert [text for text in others if "\x85" not in text] == ["qz q zqz"]
    assert len(others) == 3
    assert tokenizer.decode(tokenizer.encode("Hello, world!")) == "Hello, world!"


@pytest.mark.contract("FILE-HF-4")
def test_chat_templates(tmp_path: Path) -> None:
    template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    folder = folder_with(tmp_path, byte_level("llama-bpe"), chat_template=template)

    def rendered() -> str:
        return render_chat(load_model(folder).metadata, chat_messages("hi"))

    assert rendered() == "<s>hi"
    assert tokenizer_of(folder).encode_chat(rendered()).count(1333) == 1
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "default", "template": "A"}, {"name": "b", "template": "B"}]})
    )
    assert rendered() == "A"
    (folder / "chat_template.jinja").write_text("file {{ messages[0].content }}")
    assert rendered() == "file hi"


@pytest.mark.contract("FILE-HF-4")
def test_tokens_that_end_a_text(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, byte_level("gpt-2"), eos_token="<s>")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 1333, 7]}))
    assert tokenizer_of(folder).eos_ids == {5, 7, 1333}


@pytest.mark.contract("FILE-HF-4")
def test_a_tokenizer_that_is_missing_or_makes_no_sense(tmp_path: Path) -> None:
    folder = write_checkpoint("llama-f32-linear", tmp_path)
    with pytest.raises(
        UnsupportedModelError, match=r"has no tokenizer\.json that can be read; download it, or give the prompt as token ids"
    ):
        tokenizer_of(folder)
    good = byte_level("gpt-2")
    faults = {
        "model is None, expected an object": {},
        "model.vocab is None": {"model": {"type": "BPE"}},
        "the token 'a' has the id -1": {"model": {"vocab": {"a": -1}}},
        "the token None has the id None": good | {"added_tokens": [{}]},
        "without large holes": {"model": {"vocab": {"a": 1 << 40}}},
    }
    for words, document in faults.items():
        (folder / "tokenizer.json").write_text(json.dumps(document))
        notices = load_model(folder).notices
        assert words in notices[0]
        assert notices[0].endswith("the tokenizer is left out: give prompts as token ids")
    (folder / "tokenizer.json").write_text(json.dumps(good | {"pre_tokenizer": {"type": "Unheard"}}))
    with pytest.raises(ModelError, match=r"the tokenizer\.json beside it cannot be used: .*; give the prompt as token ids"):
        tokenizer_of(folder)
    (folder / "tokenizer.json").write_text(json.dumps(good))
    with pytest.raises(TokenError, match="not valid UTF-8"):
        tokenizer_of(folder).encode("\ud800")
    assert "tokenizer" not in {
        finding.rule.code.partition("-")[0] for finding in check(folder).findings if finding.rule.code != "tokenizer-rows"
    }


@pytest.mark.contract("FILE-HF-4")
def test_every_value_of_tokenizer_json(tmp_path: Path) -> None:
    """Every field in turn as every kind of value: a notice, one of two errors, or ids."""
    good = byte_level("llama-bpe")
    good["model"] |= {"vocab": dict(list(good["model"]["vocab"].items())[:300]), "merges": []}
    good["added_tokens"] = [_added(300, "<s>")]
    good["post_processor"] = _template("<s>", 300)
    folder = folder_with(tmp_path, good)
    places: list[tuple[Any, ...]] = [
        *((name,) for name in good), *(("model", name) for name in good["model"]), *(("post_processor", name) for name in good["post_processor"]),
        ("added_tokens", 0), ("added_tokens", 0, "id"), ("added_tokens", 0, "content"), ("post_processor", "single", 0),
        ("post_processor", "single", 0, "SpecialToken"), ("post_processor", "special_tokens", "<s>"), ("post_processor", "special_tokens", "<s>", "ids"),
    ]  # fmt: skip
    outcomes = set()
    for where in places:
        for value in (None, True, -1, 2**70, 0.5, "", "x", [], [1], [[]], {}, {"a": 1}, {"a": {}}):
            document = json.loads(json.dumps(good))
            place = document
            for part in where[:-1]:
                place = place[part]
            place[where[-1]] = value
            (folder / "tokenizer.json").write_text(json.dumps(document))
            try:
                tokenizer_of(folder).encode("hello")
                outcomes.add(None)
            except (ModelError, UnsupportedModelError) as error:
                assert "token ids" in str(error) or str(error).startswith(f"{folder}/"), (where, value)
                outcomes.add(type(error))
    assert outcomes == {None, ModelError, UnsupportedModelError}


@pytest.mark.contract("FILE-HF-4")
@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_every_value_of_what_lies_beside_it(name: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path, byte_level("gpt-2"))
    for field in ("bos_token", "eos_token", "eos_token_id", "chat_template"):
        for value in (None, True, -1, 2**70, 0.5, "", "<s>", [], [1], [[]], ["<s>"], [{"name": 3}], {}, {"content": 1}, {"content": "<s>"}):
            (folder / name).write_text(json.dumps({field: value}))
            assert tokenizer_of(folder).encode("hello")
    for content in (b"", b"[]", b"\xff\xff", b"{", b"[" * 100_000):
        (folder / name).write_bytes(content)
        assert load_model(folder).notices[0].endswith("the tokenizer is left out: give prompts as token ids")
