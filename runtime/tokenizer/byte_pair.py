"""Byte-level byte-pair encoding, as GPT-2 introduced it (`tokenizer.ggml.model` gpt2), through the `tokenizers` library."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import Any

from aprgraph.graph.arguments import TOKENS
from aprgraph.graph.errors import ModelError, shown
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.pre_tokenizers import read_pre_tokenizer
from aprgraph.runtime.tokenizer.vocabulary import Vocabulary, read_texts

MERGES_KEY = "tokenizer.ggml.merges"


@lru_cache(maxsize=1)
def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte: the byte's own Latin-1 character where it is printable, else one from U+0100 on.

    The alphabet of GPT-2 (Radford et al. 2019), in which a vocabulary needs neither spaces nor control characters.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


class BytePairEncoder:
    """Splits a text into words by the model's pre-tokenizer and merges the bytes of each."""

    adds_eos = adds_space = False
    default_bos: int | None = None
    default_eos: int | None = None
    frame: tuple[int, int] | None = None

    def __init__(self, metadata: Metadata, vocabulary: Vocabulary) -> None:
        """Raises ModelError where merges are missing, UnsupportedModelError for an unknown pre-tokenizer."""
        self._pre_tokenizer = read_pre_tokenizer(metadata)
        self.adds_bos = self._pre_tokenizer.adds_bos
        self._metadata, self._vocabulary = metadata, vocabulary
        if MERGES_KEY not in metadata:
            raise ModelError(
                f"{metadata.path}: metadata key {MERGES_KEY!r} is missing: nothing says how words become tokens; give the prompt as token "
                "ids with ",
                TOKENS,
            )

    @cached_property
    def _tokenizer(self) -> Any:
        """What merges, for which all merges are read: what turns tokens into text alone does without."""
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers  # noqa: PLC0415 -- not needed to run token ids

        metadata, vocabulary = self._metadata, self._vocabulary
        merges = _read_merges(metadata)
        # A byte without a token must still keep its neighbours from merging; ids past the vocabulary are dropped again.
        missing = [letter for letter in byte_letters() if letter not in vocabulary.ids]
        ids = vocabulary.ids | {letter: len(vocabulary) + index for index, letter in enumerate(missing)}
        try:
            model = models.BPE(vocab=ids, merges=merges, ignore_merges=self._pre_tokenizer.ignores_merges)
        except Exception as error:  # noqa: BLE001 -- the library raises nothing narrower
            reason = shown(str(error))
            raise ModelError(f"{metadata.path}: {MERGES_KEY} does not fit the vocabulary: {reason}; convert the model again") from None
        tokenizer = Tokenizer(model)
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self._pre_tokenizer.patterns]
        letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*splits, letters])
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens. Raises ModelError for merges that do not fit the vocabulary."""
        count = len(self._vocabulary)
        return [token for token in self._tokenizer.encode(text, add_special_tokens=False).ids if token < count]

    def piece(self, token: int) -> bytes:
        """The bytes that a token's letters stand for; letters outside the alphabet stand for themselves."""
        letters = byte_letters()
        text = self._vocabulary.texts[token]
        return b"".join(bytes([letters[letter]]) if letter in letters else letter.encode() for letter in text)


def _read_merges(metadata: Metadata) -> list[tuple[str, str]]:
    texts = read_texts(metadata, MERGES_KEY)
    pairs = [tuple(text.split(" ")) for text in texts]
    for rank, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ModelError(
                f"{metadata.path}: element {rank} of {MERGES_KEY} is {shown(texts[rank])}, expected two tokens with one space between them"
            )
    # Of a merge that is there twice the first counts; the library would take the last.
    return list(dict.fromkeys(pairs))  # type: ignore[arg-type]  # pairs, as was checked
