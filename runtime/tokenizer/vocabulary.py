"""The vocabulary of a GGUF file: the text and the kind of every token id, checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.metadata import Metadata, Scalar

MODEL_KEY = "tokenizer.ggml.model"
TOKENS_KEY = "tokenizer.ggml.tokens"
KINDS_KEY = "tokenizer.ggml.token_type"


class TokenKind(IntEnum):
    """What `tokenizer.ggml.token_type` says of a token (ggml's docs/gguf.md)."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS = frozenset(int(kind) for kind in TokenKind)


@dataclass(frozen=True)
class Vocabulary:
    """``texts`` and ``kinds`` by token id, ``ids`` by text."""

    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    ids: dict[str, int]

    def __len__(self) -> int:
        return len(self.texts)


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Read and check the token list. Raises ModelError."""
    texts = tuple(read_texts(metadata, TOKENS_KEY))
    if not texts:
        raise ModelError(f"{metadata.path}: {TOKENS_KEY} is empty, expected one text per token id; convert the model again")
    ids = {text: token for token, text in enumerate(texts)}
    if len(ids) != len(texts):
        first = next(token for token, text in enumerate(texts) if ids[text] != token)
        text = texts[first]
        raise ModelError(
            f"{metadata.path}: {TOKENS_KEY} holds {shown(text)} twice, as {first} and as {ids[text]}; expected every token once"
        )
    if "" in ids:
        hole = ids[""]
        raise ModelError(f"{metadata.path}: {TOKENS_KEY} has no text for token {hole}; the vocabulary has holes, convert the model again")
    return Vocabulary(texts, _read_kinds(metadata, len(texts)), ids)


def read_texts(metadata: Metadata, key: str) -> list[str]:
    """An array of texts. Raises ModelError if it is missing, of another type, or not UTF-8."""
    values = metadata.array(key).values()
    texts = [value for value in values if isinstance(value, bytes)]
    if len(texts) != len(values):
        raise ModelError(f"{metadata.path}: {key} holds numbers, expected an array of texts")
    try:
        return [text.decode("utf-8") for text in texts]
    except UnicodeDecodeError as error:
        where = f"element {texts.index(error.object)} of {key}"
        raise ModelError(f"{metadata.path}: {where} is not valid UTF-8: {shown(error.object)}; the file is damaged") from None


def read_numbers(metadata: Metadata, key: str, count: int) -> list[Scalar]:
    """An array of one number per token. Raises ModelError."""
    values = metadata.array(key).values()
    if len(values) != count:
        raise ModelError(f"{metadata.path}: {key} has {len(values)} elements for {count} tokens ({TOKENS_KEY}); expected one each")
    if values and isinstance(values[0], bytes):
        raise ModelError(f"{metadata.path}: {key} holds texts, expected an array of numbers")
    return values  # type: ignore[return-value]  # an array has one element type


def read_token_id(metadata: Metadata, name: str, count: int) -> int | None:
    """The token id `tokenizer.ggml.<name>_token_id`, None if it is not set. Raises ModelError if there is no such token."""
    key = f"tokenizer.ggml.{name}_token_id"
    if key not in metadata:
        return None
    token = metadata.integer(key)
    if not 0 <= token < count:
        raise ModelError(f"{metadata.path}: {key} is {token}, but the vocabulary has the tokens 0 to {count - 1}")
    return token


def check_embedding_rows(vocabulary: Vocabulary, rows: int, path: Path) -> None:
    """Check that the embedding table, which has ``rows`` rows, has one for every token. Raises ModelError.

    More rows than tokens are padding, which models have to make the table's size a round number.
    """
    if rows < len(vocabulary):
        raise ModelError(
            f"{path}: {TOKENS_KEY} has {len(vocabulary)} tokens, but token_embd.weight has only {rows} rows; expected one for every "
            "token; the vocabulary belongs to another model, convert the model again"
        )


def _read_kinds(metadata: Metadata, count: int) -> tuple[int, ...]:
    if KINDS_KEY not in metadata:
        return (int(TokenKind.NORMAL),) * count
    kinds = read_numbers(metadata, KINDS_KEY, count)
    unknown = set(kinds) - _KINDS
    if unknown:
        raise ModelError(f"{metadata.path}: {KINDS_KEY} holds {min(unknown)}, expected numbers from 0 to {max(_KINDS)}")
    return tuple(map(int, kinds))
