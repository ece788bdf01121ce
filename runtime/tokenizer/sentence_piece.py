"""SentencePiece's BPE (`tokenizer.ggml.model` llama): Llama 2, Mistral, Gemma.

The `tokenizers` library ranks pairs of pieces, where this format ranks results by a score, ties going to the leftmost;
turning one into the other is not exact, so the few lines of the algorithm are here. Method: Kudo and Richardson 2018,
arXiv:1808.06226, bpe_model.cc.
"""

from __future__ import annotations

import heapq

from aprgraph.graph.errors import TokenError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.vocabulary import TokenKind, Vocabulary, read_numbers

SCORES_KEY = "tokenizer.ggml.scores"
SPACE = "\u2581"


class SentencePieceEncoder:
    """Joins neighbouring symbols into the token of the highest score until none is left to join."""

    adds_bos = True
    adds_eos = False
    default_bos: int | None = 1
    default_eos: int | None = 2
    frame: tuple[int, int] | None = None

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary) -> None:
        """Raises ModelError if the scores are missing or do not fit."""
        self._vocabulary = vocabulary
        self._scores = [float(score) for score in read_numbers(metadata, SCORES_KEY, len(vocabulary))]
        self._path = metadata.path
        self.adds_space = metadata.flag("tokenizer.ggml.add_space_prefix", True)

    def encode(self, text: str) -> list[int]:
        """See ``Encoder.encode``; characters without a token become bytes. Raises TokenError."""
        tokens: list[int] = []
        text = f" {text}" if self.adds_space else text
        for symbol in self._join(list(text.replace(" ", SPACE))):
            token = self._vocabulary.ids.get(symbol)
            tokens += [token] if token is not None else [self._byte(byte) for byte in symbol.encode()]
        return tokens

    def piece(self, token: int) -> bytes:
        """UTF-8 of a token; a byte token is its byte."""
        return piece_of(self._vocabulary, token)

    def _join(self, symbols: list[str]) -> list[str]:
        ids, scores = self._vocabulary.ids, self._scores
        following = [*range(1, len(symbols)), -1]
        preceding = list(range(-1, len(symbols) - 1))
        candidates: list[tuple[float, int, int, str]] = []

        def consider(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                joined = symbols[left] + symbols[right]
                token = ids.get(joined)
                if token is not None:
                    heapq.heappush(candidates, (-scores[token], left, right, joined))

        for right in range(1, len(symbols)):
            consider(right - 1, right)
        while candidates:
            _, left, right, joined = heapq.heappop(candidates)
            # A symbol that has been joined meanwhile is empty or longer: the candidate is out of date.
            if not symbols[left] or not symbols[right] or len(symbols[left]) + len(symbols[right]) != len(joined):
                continue
            symbols[left], symbols[right] = joined, ""
            following[left] = following[right]
            if following[left] >= 0:
                preceding[following[left]] = left
            consider(preceding[left], left)
            consider(left, following[left])
        return [symbol for symbol in symbols if symbol]

    def _byte(self, byte: int) -> int:
        token = self._vocabulary.ids.get(f"<0x{byte:02X}>")
        if token is None:
            raise TokenError(f"{self._path}: the vocabulary has no token for the byte 0x{byte:02X} of the prompt; leave that character out")
        return token


def piece_of(vocabulary: Vocabulary, token: int) -> bytes:
    """UTF-8 of a token of SentencePiece; a byte token is its byte."""
    text = vocabulary.texts[token]
    if vocabulary.kinds[token] == TokenKind.BYTE and text.startswith("<0x") and text.endswith(">"):
        try:
            return bytes([int(text[3:-1], 16)])
        except ValueError:
            pass  # not a byte's name after all
    return text.replace(SPACE, " ").encode()
