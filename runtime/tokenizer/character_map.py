"""SentencePiece's map of characters (`precompiled_charsmap`): what runs of bytes become before a text is divided into tokens.

The format is that of sentencepiece's normalizer.cc: the size of a trie in four bytes, the trie as a double array of
32-bit units (darts-clone), and the replacements, each ended by a zero byte. All numbers are little-endian.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aprgraph.graph.errors import ModelError
from aprgraph.graph.metadata import Metadata

CHARACTER_MAP_KEY = "tokenizer.ggml.precompiled_charsmap"
_SIZE = 4
# A unit: the label of the step into it in the low byte, whether a run ends here, and how far its children are.
_LABEL, _ENDS, _FAR, _VALUE = 0x8000_00FF, 1 << 8, 1 << 9, 0x7FFF_FFFF


class CharacterMap:
    """Replaces the longest run of bytes that it knows; a run begins and ends with a whole character."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Raises ModelError for a content that ends too soon."""
        self._path = path
        size = int.from_bytes(content[:_SIZE], "little")
        if len(content) <= _SIZE + size or size < _SIZE or size % _SIZE or content[-1]:
            raise self._damaged(f"holds {len(content)} bytes, expected a trie of {size} bytes and replacements that end with a zero byte")
        self._units: list[int] = np.frombuffer(content[_SIZE : _SIZE + size], "<u4").tolist()
        self._replacements = content[_SIZE + size :]

    def replace(self, text: bytes, start: int) -> tuple[str, int] | None:
        """What stands for the longest run at ``start`` of UTF-8, and where that run stops; None where none is known.

        Raises ModelError for a map that leads out of itself.
        """
        place, found = self._children(0), None
        for stop in range(start + 1, len(text) + 1):
            byte = text[stop - 1]
            unit = self._unit(place ^ byte)
            if byte == 0 or unit & _LABEL != byte:
                break
            place ^= byte ^ self._children(place ^ byte)
            if unit & _ENDS:
                found = self._unit(place) & _VALUE, stop
        return None if found is None else (self._replacement(found[0]), found[1])

    def _unit(self, place: int) -> int:
        if place >= len(self._units):
            raise self._damaged(f"refers to unit {place} of {len(self._units)}")
        return self._units[place]

    def _children(self, place: int) -> int:
        unit = self._unit(place)
        return (unit >> 10) << (8 if unit & _FAR else 0)

    def _replacement(self, place: int) -> str:
        if place >= len(self._replacements):
            raise self._damaged(f"refers to byte {place} of {len(self._replacements)} of replacements")
        try:
            return self._replacements[place : self._replacements.index(0, place)].decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged(f"holds a replacement at byte {place} that is not valid UTF-8") from None

    def _damaged(self, what: str) -> ModelError:
        return ModelError(f"{self._path}: {CHARACTER_MAP_KEY} {what}; the file is damaged, download or convert it again")


def read_character_map(metadata: Metadata) -> CharacterMap | None:
    """The map of a file; None if it has none. Raises ModelError for one that is damaged or holds no bytes."""
    if CHARACTER_MAP_KEY not in metadata:
        return None
    values = metadata.array(CHARACTER_MAP_KEY).values()
    if not all(isinstance(value, int) and -(1 << 7) <= value < 1 << 8 for value in values):
        raise ModelError(f"{metadata.path}: {CHARACTER_MAP_KEY} holds what is no byte, expected an array of bytes; convert the model again")
    return CharacterMap(metadata.path, bytes(int(value) % 256 for value in values))
