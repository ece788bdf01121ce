"""What is wrong with the tokenizer of a file: each part by itself, so that one that is missing does not hide the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aprgraph.graph.errors import AprgraphError, UnsupportedModelError
from aprgraph.graph.metadata import ArrayValue, Metadata
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.chat.render import TEMPLATE_KEY
from aprgraph.runtime.check.describe import text_of
from aprgraph.runtime.check.finding import Finding
from aprgraph.runtime.tokenizer import load_tokenizer
from aprgraph.runtime.tokenizer.byte_pair import MERGES_KEY
from aprgraph.runtime.tokenizer.character_map import CHARACTER_MAP_KEY, read_character_map
from aprgraph.runtime.tokenizer.pre_tokenizers import read_pre_tokenizer
from aprgraph.runtime.tokenizer.sentence_piece import SCORES_KEY
from aprgraph.runtime.tokenizer.vocabulary import KINDS_KEY, MODEL_KEY, TOKENS_KEY, read_numbers, read_texts, read_token_id, read_vocabulary

_PREFIX, _ID = "tokenizer.ggml.", "_token_id"
#: How llama.cpp says that a file has no vocabulary.
_NO_VOCABULARY = ("none", "no_vocab")
#: Rows beyond the vocabulary: up to so many, or a hundredth of it, make a table's size a round number.
_PADDING = 1024


def judge_tokenizer(metadata: Metadata, rows: int | None) -> Iterator[Finding]:
    """All that is wrong with the tokenizer; ``rows`` are those of the embedding table, None if there is none."""
    if not any(key.startswith(_PREFIX) for key in metadata):
        has_keys = metadata.no_tokenizer is None  # of files that call it otherwise, this would say how to get one
        yield Finding.of("tokenizer-absent", "", "no key begins with tokenizer.ggml" if has_keys else "none that can be read")
        return
    kind = metadata.get(MODEL_KEY)
    if kind in _NO_VOCABULARY and TOKENS_KEY not in metadata:
        yield Finding.of("tokenizer-absent", MODEL_KEY, f"is {kind}")
        return
    parts: list[tuple[str, Callable[[], object]]] = []
    count = len(tokens) if isinstance(tokens := metadata.get(TOKENS_KEY), ArrayValue) else None
    if count is not None:
        if KINDS_KEY in metadata:
            parts.append((KINDS_KEY, lambda: read_numbers(metadata, KINDS_KEY, count)))
        parts += [(key, _token_id(metadata, key, count)) for key in metadata if key.startswith(_PREFIX) and key.endswith(_ID)]
        if kind in ("llama", "t5"):
            parts.append((SCORES_KEY, lambda: read_numbers(metadata, SCORES_KEY, count)))
    if kind == "gpt2":
        parts.append(("tokenizer.ggml.pre", lambda: read_pre_tokenizer(metadata)))
        parts.append((MERGES_KEY, lambda: read_texts(metadata, MERGES_KEY)))
    if kind == "t5":
        parts.append((CHARACTER_MAP_KEY, lambda: read_character_map(metadata)))
    # What takes several parts comes last: it may be wrong where they are right.
    seen: set[str] = set()
    for name, read in (*parts, (TOKENS_KEY, lambda: read_vocabulary(metadata)), (MODEL_KEY, lambda: load_tokenizer(metadata).encode("a"))):
        try:
            read()
        except AprgraphError as error:  # noqa: PERF203 -- one part that is wrong must not hide the others
            if str(error) not in seen and not (seen and name == MODEL_KEY):
                unknown = isinstance(error, UnsupportedModelError)
                yield Finding.of("tokenizer-unknown" if unknown else "tokenizer-wrong", name, text_of(error, metadata.path, name))
            seen.add(str(error))
    if count is not None and rows is not None:
        yield from _judge_rows(count, rows)
    yield from _judge_template(metadata, seen)


def _token_id(metadata: Metadata, key: str, count: int) -> Callable[[], object]:
    return lambda: read_token_id(metadata, key.removeprefix(_PREFIX).removesuffix(_ID), count)


def _judge_rows(count: int, rows: int) -> Iterator[Finding]:
    if count > rows:
        text = f"{count:,} tokens, {rows:,} rows of token_embd.weight: ids from {rows:,} on cannot be run"
        yield Finding.of("tokenizer-rows", TOKENS_KEY, text)
    elif rows - count > max(_PADDING, count // 100):
        yield Finding.of("tokenizer-padding", TOKENS_KEY, f"{count:,} tokens, {rows:,} rows of token_embd.weight")


def _judge_template(metadata: Metadata, seen: set[str]) -> Iterator[Finding]:
    if TEMPLATE_KEY not in metadata:
        yield Finding.of("template-absent", "", f"the key {TEMPLATE_KEY} is not there")
        return
    try:
        render_chat(metadata, chat_messages("Hello"))
    except AprgraphError as error:
        if str(error) not in seen:
            yield Finding.of(
                "template-wrong", TEMPLATE_KEY, text_of(error, metadata.path, TEMPLATE_KEY).partition("; change the messages")[0]
            )
