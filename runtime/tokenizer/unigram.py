"""SentencePiece's unigram model (`tokenizer.ggml.model` t5): T5, and XLM-RoBERTa with what is made of it, such as bge-m3 and E5.

Method: Kudo 2018, arXiv:1804.10959, with the ids of llama.cpp, which differ from those of the `tokenizers` library: that one
replaces whole graphemes before it looks for runs of bytes, and takes an unknown character's score from unused tokens too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.character_map import read_character_map
from aprgraph.runtime.tokenizer.sentence_piece import SCORES_KEY, SPACE, piece_of
from aprgraph.runtime.tokenizer.vocabulary import TokenKind, Vocabulary, read_numbers, read_token_id

#: The ids of T5's own vocabulary, which hold where a file names none.
_EOS, _UNKNOWN = 1, 2
#: How much less likely than the least likely token a character without one is.
_PENALTY = np.float32(10)
_MATCHED = (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNUSED)


class UnigramEncoder:
    """Divides a text into the tokens whose scores have the largest sum; characters without one are unknown tokens."""

    adds_bos = False
    adds_eos = True
    default_bos: int | None = None
    default_eos: int | None = _EOS
    frame: tuple[int, int] | None = None

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary) -> None:
        """Raises ModelError for scores or a map of characters that are damaged, and where no token stands for what is unknown."""
        scores = [float(score) for score in read_numbers(metadata, SCORES_KEY, len(vocabulary))]
        self._vocabulary, self._map = vocabulary, read_character_map(metadata)
        self._prefixes = metadata.flag("tokenizer.ggml.add_space_prefix", False)
        self._merges = metadata.flag("tokenizer.ggml.remove_extra_whitespaces", False)
        self.adds_space = self._prefixes or self._merges
        named = read_token_id(metadata, "unknown", len(vocabulary))
        self._unknown = _UNKNOWN if named is None else named
        if self._unknown >= len(vocabulary):
            raise ModelError(
                f"{metadata.path}: tokenizer.ggml.unknown_token_id is missing, and the vocabulary has no token {_UNKNOWN}, which T5 has "
                "for what is unknown; convert the model again"
            )
        kinds = vocabulary.kinds
        #: Token and score by text. What a user has defined is more likely than any token, whose scores are logarithms.
        self._tokens = {
            text: (token, 0.0 if kinds[token] == TokenKind.USER_DEFINED else scores[token])
            for token, text in enumerate(vocabulary.texts)
            if kinds[token] in _MATCHED
        }
        self._longest = max(map(len, self._tokens), default=1)
        least = min((score for score, kind in zip(scores, kinds, strict=True) if kind == TokenKind.NORMAL), default=0.0)
        self._unknown_score = float(np.float32(least) - _PENALTY)

    def encode(self, text: str) -> list[int]:
        """See ``Encoder.encode``. Raises ModelError for a map of characters that is damaged."""
        text = "".join(self._spaced(text))
        # By position: the best sum of scores up to there, the token that ends there, and where that token begins.
        best = [(0.0, self._unknown, 0), *[(-math.inf, self._unknown, 0)] * len(text)]
        for start in range(len(text)):
            total, has_own = best[start][0], False
            for stop in range(start + 1, min(len(text), start + self._longest) + 1):
                token, score = self._tokens.get(text[start:stop], (None, 0.0))
                if token is None:
                    continue
                has_own = has_own or stop == start + 1
                if total + score > best[stop][0]:
                    best[stop] = total + score, token, start
            if not has_own and total + self._unknown_score > best[start + 1][0]:
                best[start + 1] = total + self._unknown_score, self._unknown, start
        tokens: list[int] = []
        stop = len(text)
        while stop:
            _, token, stop = best[stop]
            if not (token == self._unknown and tokens[-1:] == [token]):  # neighbours that are unknown are one token
                tokens.append(token)
        return tokens[::-1]

    def piece(self, token: int) -> bytes:
        """UTF-8 of a token; a byte token is its byte."""
        return piece_of(self._vocabulary, token)

    def _spaced(self, text: str) -> Iterator[str]:
        """The text as the map has it, with a space before it or one before each word, as the file says."""
        in_word = has_space = False
        for character in self._mapped(text):
            if character == " ":
                in_word = False
                if not self._merges:
                    yield SPACE
                continue
            if not in_word and ((self._prefixes and not has_space) or self._merges):
                yield SPACE
                has_space = True
            in_word = True
            yield character

    def _mapped(self, text: str) -> Iterator[str]:
        if self._map is None:
            yield from text
            return
        content, start = text.encode(), 0
        while start < len(content):
            found = self._map.replace(content, start)
            if found is None:
                found = _character_at(content, start)
            yield from found[0]
            start = found[1]


def _character_at(content: bytes, start: int) -> tuple[str, int]:
    """The character that begins at ``start`` of UTF-8, and where it stops."""
    stop = start + 1
    while stop < len(content) and content[stop] & 0xC0 == 0x80:
        stop += 1
    return content[start:stop].decode(), stop
