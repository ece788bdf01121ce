"""Prompt to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aprgraph.graph.errors import ModelError, TokenError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.special_tokens import read_special_tokens
from aprgraph.runtime.tokenizer.vocabulary import Vocabulary, read_token_id

#: What C's isspace holds for white space.
_SPACES = " \t\n\v\f\r"


class Encoder(Protocol):
    """What differs between kinds of tokenizers. ``adds_bos``, ``adds_eos`` and the two default ids hold where the metadata is silent.

    ``adds_space``: ``encode`` puts a space before a text. ``frame`` are the tokens that every text
    gets at its start and end, whatever the metadata say; None where they decide.
    """

    adds_bos: bool
    adds_eos: bool
    adds_space: bool
    default_bos: int | None
    default_eos: int | None
    frame: tuple[int, int] | None

    def encode(self, text: str) -> list[int]:
        """Token ids of a text between special tokens. Raises ModelError for what is read no sooner, and is wrong."""

    def piece(self, token: int) -> bytes:
        """What a token that is not special stands for: UTF-8, possibly not whole characters."""


class Tokenizer:
    """``eos_ids`` are the tokens that end a generation; ``bos_id`` is None unless the model wants one at the start."""

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary, encoder: Encoder) -> None:
        """Raises ModelError if the metadata asks for a BOS or EOS token and does not say which."""
        self.vocabulary = vocabulary
        self._encoder = encoder
        self._special = read_special_tokens(metadata, vocabulary, encoder.default_eos)
        self._special_ids = frozenset(self._special.whole.values())
        self.eos_ids = self._special.ends
        self.bos_id: int | None
        self._last: int | None
        if encoder.frame is not None:
            self.bos_id, self._last = encoder.frame
        else:
            self.bos_id = _affix(metadata, "bos", encoder.adds_bos, encoder.default_bos, len(vocabulary))
            self._last = _affix(metadata, "eos", encoder.adds_eos, encoder.default_eos, len(vocabulary))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str, *, affixes: bool = True) -> list[int]:
        """Token ids of ``text``. Special tokens written in the text become their ids; BOS and EOS are added if the model asks
        and ``affixes`` is set.

        Bytes that the vocabulary has no token for are left out, as llama.cpp does. Raises TokenError for text that is
        not valid Unicode, and ModelError for merges that do not fit the vocabulary.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenError(f"the prompt is not valid UTF-8 at character {error.start}; give it in UTF-8") from None
        tokens = [] if self.bos_id is None or not affixes else [self.bos_id]
        for part in self._partition(text):
            tokens += [part] if isinstance(part, int) else self._encoder.encode(part)
        return tokens if self._last is None or not affixes else [*tokens, self._last]

    def encode_chat(self, text: str) -> list[int]:
        """Token ids of what a chat template made: as ``encode``, but a BOS or EOS that the template wrote is not added again.

        So there is one BOS if the model asks for one or the template writes one, as in llama.cpp's chat. Raises TokenError.
        """
        if self.bos_id is not None:
            text = text.removeprefix(self.vocabulary.texts[self.bos_id])
        if self._last is not None:
            text = text.removesuffix(self.vocabulary.texts[self._last])
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ``ids``: the inverse of ``encode``. Bytes that are not UTF-8 become U+FFFD.

        Special tokens appear as they are written, but for the BOS that ``encode`` put at the start and the EOS that it
        put at the end. Raises TokenError for an id outside the vocabulary.
        """
        tokens = list(ids)
        if self.bos_id is not None and tokens[:1] == [self.bos_id]:
            del tokens[0]
        if self._last is not None and tokens[-1:] == [self._last]:
            del tokens[-1]
        result = bytearray()
        after_special = True
        for token in tokens:
            result += self.piece(token, after_special=after_special)
            after_special = self.is_special(token)
        return result.decode("utf-8", errors="replace")

    def piece(self, token: int, *, after_special: bool) -> bytes:
        """What a token stands for: UTF-8, possibly not whole characters.

        ``after_special``: it is the first one, or follows a special token; a space that ``encode`` adds there is taken off.
        Raises TokenError for an id outside the vocabulary.
        """
        if self.is_special(token):
            return self.vocabulary.texts[token].encode()
        piece = self._encoder.piece(token)
        return piece.removeprefix(b" ") if self._encoder.adds_space and after_special else piece

    def is_special(self, token: int) -> bool:
        """Whether a token is matched whole in a prompt. Raises TokenError for an id outside the vocabulary."""
        if not 0 <= token < len(self):
            raise TokenError(f"token {token} is not in the vocabulary, which has the tokens 0 to {len(self) - 1}")
        return token in self._special_ids

    def is_hidden(self, token: int) -> bool:
        """Whether a token is a mark and no text for a reader, such as the end of a turn."""
        return token in self._special.hidden

    def _partition(self, text: str) -> list[str | int]:
        """``text`` cut at special tokens. A longer token is cut out everywhere before a shorter one is looked for."""
        parts: list[str | int] = [text] if text else []
        for special, token in self._special.whole.items():
            if special not in text:
                continue
            strips = token in self._special.strips
            cut: list[str | int] = []
            for part in parts:
                if isinstance(part, int):
                    cut.append(part)
                    continue
                first, *rest = part.split(special)
                cut.append(first)
                for piece in rest:
                    cut += [token, piece.lstrip(_SPACES) if strips else piece]
            parts = [part for part in cut if part != ""]
        return parts


def _affix(metadata: Metadata, name: str, default: bool, default_id: int | None, count: int) -> int | None:
    """The id of BOS or EOS if texts get one, else None."""
    flag = f"tokenizer.ggml.add_{name}_token"
    token = read_token_id(metadata, name, count)
    if not metadata.flag(flag, default):
        return None
    if token is None:
        token = default_id
    if token is None or token >= count:
        raise ModelError(
            f"{metadata.path}: the model wants a {name.upper()} token ({flag}, or its kind of tokenizer does), but "
            f"tokenizer.ggml.{name}_token_id is missing"
        )
    return token
