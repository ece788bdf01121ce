"""Reads and checks what a run is given: prompts and token ids."""

from __future__ import annotations

import errno
import operator
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from aprgraph.graph.arguments import PROMPT, TOKENS
from aprgraph.graph.errors import TokenError, shown
from aprgraph.graph.input_file import read_input
from aprgraph.graph.model import Model

#: Far more than any model's context, and little enough to read at once when the path is a device without an end.
MAX_FILE_BYTES = 16 << 20
_WORD = re.compile(r"[^\s,\[\]]+|[,\[\]]")


def read_prompt_file(path: str | Path) -> str:
    """The text of a file in UTF-8; ``-`` is standard input. One newline at the end is dropped, as llama.cpp's ``-f`` does.

    Raises TokenError if it cannot be read, is not UTF-8, or holds more than 16 MiB.
    """
    return _read_text(path, "a prompt in UTF-8").removesuffix("\n")


def read_tokens_file(path: str | Path) -> list[int]:
    """The token ids in a file; ``-`` is standard input.

    Between ids are commas, blanks or newlines; a JSON list is fine too. Raises TokenError if the file cannot be read or
    something in it is no token id.
    """
    text = _read_text(path, "token ids such as 1,2,3")
    ids: list[int] = []
    before, opened = "", False
    for match in _WORD.finditer(text):
        word = match.group()
        if _is_id(word) and before != "]":
            ids.append(int(word))
        elif word == "[" and not before:
            opened = True
        elif word == "]" and opened and before not in {",", "]"}:
            pass
        elif word != "," or not _is_id(before):
            line, column = text.count("\n", 0, match.start()) + 1, match.start() - text.rfind("\n", 0, match.start())
            raise TokenError(
                f"{_name(path)}: {shown(word)} in line {line}, column {column} does not belong there; "
                "expected token ids separated by commas or blanks, such as 1,2,3, or a JSON list of them"
            )
        before = word
    if opened and before != "]":
        raise TokenError(f"{_name(path)}: the list that begins with '[' has no ']'; the file is cut off")
    if not ids:
        raise TokenError(f"{_name(path)}: no token ids in it; expected some separated by commas or blanks, such as 1,2,3")
    return ids


def parse_tokens(text: str) -> list[int]:
    """Parse ``--tokens 1,2,3``. Raises TokenError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(map(_is_id, parts)):
        if os.path.isfile(text):  # noqa: PTH113 -- a text of any length, which Path.is_file refuses
            from aprgraph.runtime.trace.array_files import is_array_file  # noqa: PLC0415 -- for one message

            named = "; an array `tokens` in a file of arrays is the prompt's without being named" if is_array_file(text) else ""
            raise TokenError(TOKENS.given(shown(text)), f": is a file, expected the token ids themselves, such as 1,2,3{named}")
        raise TokenError(TOKENS.given(shown(text)), ": expected token ids separated by commas, such as 1,2,3")
    return [int(part) for part in parts]


def check_tokens(tokens: Sequence[int], model: Model) -> tuple[int, ...]:
    """The tokens as Python's integers.

    Raises TokenError unless there are some, all inside the vocabulary, and no more than the model's context holds.
    """
    try:
        ids = tuple(operator.index(token) for token in tokens)
    except TypeError:
        raise TokenError(f"tokens {shown(tokens)}: expected a list of token ids, which are whole numbers") from None
    if not ids:
        raise TokenError("no tokens to run: the prompt is empty; give ", PROMPT.given("TEXT"), " or ", TOKENS.given("1,2,3", "[1, 2, 3]"))
    for position, token in enumerate(ids):
        if not 0 <= token < model.vocabulary:
            raise TokenError(
                f"token {token} at position {position} is outside the vocabulary of {model.path}, expected 0 to {model.vocabulary - 1}"
            )
    if len(ids) > model.family.context:
        raise TokenError(f"{len(ids)} tokens, but {model.path} has a context of {model.family.context}; shorten the prompt")
    return ids


def _is_id(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 12


def _name(path: str | Path) -> str:
    return "standard input" if str(path) == "-" else repr(str(path)) if "\0" in str(path) else str(path)


def _read_text(path: str | Path, expected: str) -> str:
    """The whole of a file as UTF-8, line ends as they are. Raises TokenError."""
    try:
        data = _standard_input() if str(path) == "-" else read_input(path, MAX_FILE_BYTES, pipes=True)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise TokenError(f"{_name(path)}: more than {MAX_FILE_BYTES >> 20} MiB, expected {expected}; give a shorter one") from None
        raise TokenError(f"{_name(path)}: cannot be read: {error.strerror}; expected a file with {expected}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise TokenError(f"{_name(path)}: not valid UTF-8: byte 0x{byte:02X} at offset {error.start}; expected {expected}") from None


def _standard_input() -> bytes:
    """All of it. Raises OSError."""
    if sys.stdin is None:  # closed by the shell (<&-)
        raise OSError(errno.EBADF, "Is closed")
    data: bytes = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"Has more than {MAX_FILE_BYTES} bytes")
    return data
