"""WordPiece (`tokenizer.ggml.model` bert): BERT and its relatives (Wu et al. 2016, arXiv:1609.08144).

What becomes of a text before it is divided is as llama.cpp has it: each character is replaced by the first one of its
canonical decomposition, in small letters. In GGUF files tokens that begin a word begin with U+2581, and others have lost
their `##`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.vocabulary import Vocabulary, read_token_id

_BEGIN = "\u2581"
#: The ids of BERT's own vocabulary, which hold where a file names none.
_BOS, _UNKNOWN, _SEPARATOR = 101, 100, 102
#: GGUF's own spelling.
_SEPARATOR_NAME = "seperator"
#: Each of these characters is a word of its own: blocks of CJK ideographs, without one that transformers leaves out too.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_SPACES = frozenset("\t\n\v\f\r \u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B))))
_ASCII = 0x7F


class WordPieceEncoder:
    """Divides each word into the longest tokens from its start; a word that does not come out even is one unknown token."""

    adds_bos = True
    adds_eos = False
    adds_space = True
    default_bos: int | None = _BOS
    default_eos: int | None = None

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary) -> None:
        """Raises ModelError if the metadata names a token that does not exist."""

        def token(name: str, default: int) -> int:
            found = read_token_id(metadata, name, len(vocabulary))
            return default if found is None else found

        self._vocabulary, self._unknown = vocabulary, token("unknown", _UNKNOWN)
        self._longest = max(map(len, vocabulary.texts))
        #: Every text is framed, whatever the file says.
        self.frame: tuple[int, int] | None = token("bos", _BOS), token(_SEPARATOR_NAME, _SEPARATOR)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        return [token for word in _words(text) for token in self._pieces(_BEGIN + word)]

    def piece(self, token: int) -> bytes:
        """UTF-8 of a token, with a space before one that begins a word."""
        return self._vocabulary.texts[token].replace(_BEGIN, " ").encode()

    def _pieces(self, word: str) -> list[int]:
        found, start = [], 0
        while start < len(word):
            stops = range(min(len(word), start + self._longest), start, -1)
            stop = next((stop for stop in stops if word[start:stop] in self._vocabulary.ids), None)
            if stop is None:
                return [self._unknown]
            found.append(self._vocabulary.ids[word[start:stop]])
            start = stop
        return found


def _words(text: str) -> Iterator[str]:
    word = ""
    for given in text:
        character = unicodedata.normalize("NFD", given)[0]
        category = unicodedata.category(character)
        is_space = character in _SPACES
        if not is_space and (character in "\0\ufffd" or category in ("Cc", "Cf", "Co", "Cs", "Mn", "Mc", "Me")):
            continue
        stands_alone = category[0] == "P" or (category[0] == "S" and ord(character) < _ASCII) or _is_ideograph(character)
        if (is_space or stands_alone) and word:
            yield word
            word = ""
        if stands_alone:
            yield character.lower()[0]
        elif not is_space:
            word += character.lower()[0]
    if word:
        yield word


def _is_ideograph(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _IDEOGRAPHS)
