"""Arrays that other programs leave as text: numbers in lists of JSON, and matrices as numpy.savetxt writes them.

Text is read where it has every digit of float32. What a program prints is refused: where it has ``...`` elements are left out, and
numbers of a few digits differ from the computed ones by more than any run does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aprgraph.graph.errors import TraceError, shown
from aprgraph.graph.input_file import read_input_text
from aprgraph.graph.json_documents import parse_json

JSON, TEXT = (".json",), (".txt", ".csv", ".tsv")
#: A larger text is no way to keep tensors.
_MOST_BYTES = 1 << 28
_HEAD_BYTES = 4096
#: How lists of numbers begin, and lines of them, behind comments.
_JSON_NUMBERS = re.compile(rb"\s*\[[\s\[]*(?:-?\d|NaN|-?Infinity)")
_NUMBER = rb"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+|nan|inf)"
_NAMED_NUMBERS = re.compile(rb":\s*\[(?:\s*\[[\s\[]*(?:-?\d|NaN|-?Infinity)|\s*-?\d[^,\]]*(?:,\s*-?\d[^,\]]*){7})")
_TEXT_NUMBERS = re.compile(rb"(?:\s*#[^\n]*\n)*\s*" + _NUMBER + rb"(?:[\s,;]+" + _NUMBER + rb")*[\s,;]*(?:\n|$)")
#: What NumPy, torch and ggml print of an array.
_PRINTED = re.compile(rb"\s*(?:tensor\(|array\(|\[\s*\[*\s*[-+]?[\d.])")
#: Digits behind the point by which a float32 is known: of fewer in so many numbers, the others were rounded away.
_LEAST_DIGITS, _LEAST_NUMBERS = 7, 16
_WHOLE = re.compile(r"[-+]?\d{1,18}")
_DIGITS = re.compile(r"^[-+]?(\d*)\.?(\d*)")
_ADVICE = "save whole arrays, with numpy.save or torch.save"


def is_number_file(path: Path, *, objects: bool = False) -> bool:
    """Whether a file holds numbers as text, by its ending and its beginning; ``objects``: JSON of named arrays too."""
    suffix = path.suffix.lower()
    if suffix not in (*JSON, *TEXT):
        return False
    head = _head(path)
    if suffix in JSON:
        return _JSON_NUMBERS.match(head) is not None or (objects and _holds_numbers(head))
    return _TEXT_NUMBERS.match(head) is not None


def is_printed(path: Path) -> bool:
    """Whether a text is what a program prints of an array."""
    return path.suffix.lower() in TEXT and _PRINTED.match(_head(path)) is not None


def refuse_printed(path: Path) -> TraceError:
    """The error of what a program prints of an array."""
    left_out = b"..." in _head(path)
    what = "with elements left out where it has `...`" if left_out else "in a few digits, and in no form that can be read back"
    return TraceError(f"{path}: is what a program prints of an array, {what}; {_ADVICE}")


def read_numbers(path: Path) -> dict[str, Any]:
    """The arrays in a text by name, the one that has no name under the empty one. Raises TraceError."""
    try:
        text = read_input_text(path, _MOST_BYTES)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read as text: {error.strerror}; {_ADVICE}") from None
    found = _of_json(path, text) if path.suffix.lower() in JSON else {"": _matrix(path, text)}
    if not found:
        raise TraceError(
            f'{path}: JSON text in which no list holds numbers alone; expected arrays by name, as {{"layer0.attn_norm": [[…], …]}}'
        )
    return found


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_HEAD_BYTES)
    except OSError:
        return b""


def _holds_numbers(head: bytes) -> bool:
    """Whether an object of JSON has in its beginning lists of numbers in a list, or eight numbers."""
    return re.match(rb"\s*\{", head) is not None and _NAMED_NUMBERS.search(head) is not None


# -- JSON -------------------------------------------------------------------------------------------------------------------


def _of_json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: no JSON ({error}); save it again") from None
    found = dict(_arrays(path, value, ""))
    _require_digits(path, text, re.compile(r"(?<![\w\"])-?\d+\.\d+(?:[eE][-+]?\d+)?"))
    return found


def _arrays(path: Path, value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Each array with its name, of nested objects and lists; other values are passed over."""
    if isinstance(value, Mapping):
        if isinstance(value.get("shape"), list) and isinstance(value.get("data"), list):
            array, dims = _array(path, value["data"], name), value["shape"]
            try:
                yield name, array.reshape(dims)
            except (ValueError, TypeError):
                raise TraceError(f"{path}: {_what(name)} has {array.size} numbers, and the shape {shown(dims)}; save it again") from None
            return
        for key, inner in value.items():
            yield from _arrays(path, inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        if _is_of_numbers(value):
            yield name, _array(path, value, name)
        else:
            for index, inner in enumerate(value):
                yield from _arrays(path, inner, f"{name}.{index}" if name else str(index))


def _is_of_numbers(value: list[Any]) -> bool:
    """Whether the first that is no list is a number."""
    first: Any = value
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, int | float) and not isinstance(first, bool)


def _array(path: Path, value: list[Any], name: str) -> Any:
    try:
        array = np.array(value)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "if":
        raise TraceError(f"{path}: {_what(name)} is no array of numbers: its lists differ in length, or hold something else; save it again")
    return array


def _what(name: str) -> str:
    return f"array {shown(name)}" if name else "its array"


# -- text -------------------------------------------------------------------------------------------------------------------


def _matrix(path: Path, text: str) -> Any:
    """The rows of a text, [lines, numbers of a line]; of one number a line, a vector."""
    lines = [line.partition("#")[0].replace(",", " ").replace(";", " ").split() for line in text.splitlines()]
    numbered = [(number, words) for number, words in enumerate(lines, 1) if words]
    width = len(numbered[0][1]) if numbered else 0
    rows = np.empty((len(numbered), width))
    for row, (number, words) in zip(rows, numbered, strict=True):
        if "..." in words:
            raise TraceError(f"{path}: line {number} has `...`, where elements are left out; {_ADVICE}")
        if len(words) != width:
            raise TraceError(f"{path}: line {number} has {len(words)} numbers, and the first {width}; save it again")
        try:
            row[:] = [float(word) for word in words]
        except ValueError:
            bad = next(word for word in words if not _is_number(word))
            raise TraceError(f"{path}: line {number} holds {shown(bad)}, which is no number; save it again, with numpy.savetxt") from None
    _require_digits(path, text, re.compile(r"[-+]?\d+\.\d+(?:[eE][-+]?\d+)?"))
    found = rows[:, 0] if width == 1 else rows
    is_whole = all(_WHOLE.fullmatch(word) for _, words in numbered for word in words)
    return found.astype(np.int64) if is_whole else found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _require_digits(path: Path, text: str, pattern: re.Pattern[str]) -> None:
    """Raise TraceError where all numbers with a point have few digits, as those that were rounded for people have."""
    most = count = 0
    for match in pattern.finditer(text):
        count += 1
        most = max(most, len("".join(_DIGITS.match(match[0]).groups("")).lstrip("0")))  # type: ignore[union-attr]  # it matches anything
        if most > _LEAST_DIGITS:
            return
    if count >= _LEAST_NUMBERS and most < _LEAST_DIGITS:
        raise TraceError(
            f"{path}: its numbers have at most {most} digits, and float32 has nine; what was rounded away cannot be compared: {_ADVICE}"
        )
