"""A tokenizer that a checkpoint brings as tokenizer.json, through the `tokenizers` library: the ids of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import ModelError, TokenError, shown
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.byte_pair import byte_letters
from aprgraph.runtime.tokenizer.tokenizer import Tokenizer
from aprgraph.runtime.tokenizer.vocabulary import TokenKind, Vocabulary

JSON_KEY = "tokenizer.huggingface.json"
_SPACE = "▁"
#: What tokens of WordPiece begin with that do not begin a word.
_GOES_ON = "##"


class HuggingFaceTokenizer(Tokenizer):
    """As ``Tokenizer``, with special tokens, BOS and EOS where tokenizer.json says, also in a chat."""

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary) -> None:
        """Raises ModelError for a tokenizer.json that the library cannot use."""
        from tokenizers import Tokenizer as Library  # noqa: PLC0415 -- not needed to run token ids

        text = metadata.text(JSON_KEY)
        self._path = metadata.path
        with self._explained():
            self._library = Library.from_str(text)
        self._library.no_truncation()
        self._library.no_padding()
        super().__init__(metadata, vocabulary, _Pieces(vocabulary, json.loads(text), lambda part: self._ids(part, affixes=False)))

    def encode(self, text: str, *, affixes: bool = True) -> list[int]:
        """See ``Tokenizer.encode``."""
        return self._ids(text, affixes)

    def encode_chat(self, text: str) -> list[int]:
        """Token ids of what a chat template made, and nothing more, as in transformers. Raises TokenError."""
        return self._ids(text, affixes=False)

    def _ids(self, text: str, affixes: bool) -> list[int]:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenError(f"the prompt is not valid UTF-8 at character {error.start}; give it in UTF-8") from None
        with self._explained():
            ids: list[int] = self._library.encode(text, add_special_tokens=affixes).ids
        return ids

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What the library raises within, as a ModelError: nothing narrower than Exception, or the panic of a Rust program."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise ModelError(
                f"{self._path}: the tokenizer.json beside it cannot be used: {shown(str(error))}; give the prompt as token ids with ",
                TOKENS,
            ) from None


class _Pieces:
    """What tokens stand for, by the decoder of tokenizer.json: letters of byte-level BPE, or marks of SentencePiece or WordPiece."""

    adds_bos = adds_eos = False
    default_bos: int | None = None
    default_eos: int | None = None
    frame: tuple[int, int] | None = None

    def __init__(self, vocabulary: Vocabulary, document: dict[str, object], encode: Callable[[str], list[int]]) -> None:
        self._vocabulary, self.encode = vocabulary, encode
        decoder = document.get("decoder")
        parts = decoder.get("decoders") if isinstance(decoder, dict) and decoder.get("type") == "Sequence" else [decoder]
        known = [part for part in parts or [] if isinstance(part, dict)]
        self._is_byte_level = any(part.get("type") == "ByteLevel" for part in known)
        self._is_word_piece = any(part.get("type") == "WordPiece" for part in known)
        self.adds_space = self._is_word_piece or any(
            (part.get("type") == "Strip" and part.get("start") == 1)
            or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
            for part in known
        )

    def piece(self, token: int) -> bytes:
        """See ``Encoder.piece``."""
        text = self._vocabulary.texts[token]
        if self._is_byte_level:
            letters = byte_letters()
            return b"".join(bytes([letters[letter]]) if letter in letters else letter.encode() for letter in text)
        if self._is_word_piece:
            return (text.removeprefix(_GOES_ON) if text.startswith(_GOES_ON) else f" {text}").encode()
        if self._vocabulary.kinds[token] == TokenKind.BYTE:
            return bytes.fromhex(text[3:-1])
        return text.replace(_SPACE, " ").encode()
