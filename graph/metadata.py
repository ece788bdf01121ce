"""A model's metadata: typed access with errors that name the key, and overrides in llama.cpp's syntax."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

from aprgraph.graph.arguments import OVERRIDES
from aprgraph.graph.errors import AprgraphError, ModelError, shown

Scalar = int | float | bool
_T = TypeVar("_T")
#: The largest size or count that a model may have.
_MOST = (1 << 31) - 1
#: Numbers as llama.cpp takes them; Python's own parsers also take 1_000, blanks around, and digits of other scripts.
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_REAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@runtime_checkable
class ArrayValue(Protocol):
    """An array value that is decoded when asked for."""

    def __len__(self) -> int: ...

    def values(self) -> list[Scalar] | list[bytes]:
        """The elements: numbers, or the raw bytes of strings."""


class ListValue:
    """An array of the metadata that is there already: see ``ArrayValue``."""

    def __init__(self, values: list[Scalar] | list[bytes]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def values(self) -> list[Scalar] | list[bytes]:
        """The elements: numbers, or the UTF-8 of strings."""
        return self._values


class Metadata(Mapping[str, object]):
    """What a model file says of the model, by GGUF's keys: in a GGUF file, its key-value part.

    Getters raise ModelError for a missing key or a value of the wrong type.

    Equal only to itself, so that what is made of a file's metadata can be kept by it.
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    #: Whose names and orders of rows the file has: GGUF's, or those of Hugging Face transformers.
    dialect: Literal["gguf", "hf"] = "gguf"
    #: What helps where a key is missing.
    remedy = "the conversion was incomplete: convert the model again"

    @property
    def has_head(self) -> bool:
        """Whether the file is of a model that gives logits, as far as it says."""
        return True

    @property
    def no_tokenizer(self) -> str | None:
        """Where such a file may well have no tokenizer: what to say of one that has none, with what else helps than token ids."""
        return None

    def __init__(self, path: Path, values: Mapping[str, object]) -> None:
        self.path = path
        self._values = dict(values)
        self._read: set[str] = set()
        self._defaults: dict[str, object] = {}

    def __getitem__(self, key: str) -> object:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def with_overrides(self, overrides: Mapping[str, Scalar | str]) -> Metadata:
        """The same metadata with some keys replaced or added. Raises ModelError if a replaced key is an array."""
        for key in overrides:
            if isinstance(self._values.get(key), ArrayValue):
                raise ModelError(OVERRIDES.given(key, f"{{{key!r}: …}}"), ": the model holds an array there, which cannot be overridden")
        return Metadata(self.path, {**self._values, **overrides})

    def own_name(self, key: str) -> str:
        """What the file itself calls ``key``."""
        return key

    def own_tensor(self, name: str) -> str:
        """What the file itself would call the tensor ``name``, as far as that is known."""
        return name

    def described(self, key: str) -> str:
        """What messages call ``key``."""
        return f"metadata key {key!r}"

    def is_read(self, key: str) -> bool:
        """Whether a getter has been asked for a key, under GGUF's name or the file's own."""
        return key in self._read

    @property
    def keys_read(self) -> frozenset[str]:
        """The keys that a getter has been asked for, there or not."""
        return frozenset(self._read)

    @property
    def defaults(self) -> Mapping[str, object]:
        """The keys that were asked for and are not there, with what was taken instead."""
        return self._defaults

    def first_of(self, *keys: str) -> str:
        """The first of ``keys``, different names of one thing, that is there; the first of all where none is."""
        return next((key for key in keys if key in self._values), keys[0])

    def _get(self, key: str, kinds: tuple[type, ...], expected: str, default: _T | None) -> object | _T:
        self._read.add(key)
        if key not in self._values:
            if default is None:
                raise ModelError(
                    f"{self.path}: {self.described(key)} is missing; expected {expected}; {self.remedy}, or give the value with ",
                    OVERRIDES,
                )
            if not _is_of(kinds, default):
                raise ModelError(
                    f"{self.path}: {self.described(key)} is missing, and its default is {shown(default)}, expected {expected}; correct the "
                    "family's declaration"
                )
            self._defaults[key] = default
            return default
        value = self._values[key]
        if not _is_of(kinds, value):
            found = f"an array of {len(value)}" if isinstance(value, ArrayValue) else shown(value)
            raise ModelError(f"{self.path}: {self.described(key)} is {found}, expected {expected}")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value = self._get(key, (int,), "a whole number", default)
        assert isinstance(value, int)
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """A whole number above zero."""
        value = self.integer(key, default)
        if not 0 < value <= _MOST:
            raise ModelError(f"{self.path}: {self.described(key)} is {value}, expected a number from 1 to {_MOST}")
        return value

    def real(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._get(key, (int, float), "a number", default)
        assert isinstance(value, (int, float))
        if not math.isfinite(value):
            raise ModelError(f"{self.path}: {self.described(key)} is {value}, expected a finite number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """Text."""
        value = self._get(key, (str,), "text", default)
        assert isinstance(value, str)
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        return bool(self._get(key, (bool,), "true or false", default))

    def per_layer(self, key: str, layers: int, default: int | None = None, *, least: int = 1) -> tuple[int, ...]:
        """A number for each layer: one above zero for all of them, or an array of one of at least ``least`` for each."""
        value = self._values.get(key)
        if not isinstance(value, ArrayValue):
            return (self.positive(key, default),) * layers
        self._read.add(key)
        expected = f"a number from {least} to {_MOST} for each of {layers} layers"
        if len(value) != layers:
            raise ModelError(f"{self.path}: {self.described(key)} is an array of {len(value)}, expected {expected}")
        numbers = value.values()
        for layer, number in enumerate(numbers):
            if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= _MOST:
                raise ModelError(f"{self.path}: {self.described(key)} is {shown(number)} for layer {layer}, expected {expected}")
        return tuple(int(number) for number in numbers)

    def flags(self, key: str, layers: int, default: Sequence[bool]) -> tuple[bool, ...]:
        """True or false for each layer, from an array of them, or of 1 and 0."""
        self._read.add(key)
        if key not in self._values:
            return tuple(default)
        values = self.array(key).values()
        if len(values) < layers or not all(isinstance(value, (bool, int)) and value in (0, 1) for value in values):
            raise ModelError(
                f"{self.path}: {self.described(key)} has {len(values)} elements, expected true or false for each of {layers} layers"
            )
        return tuple(bool(value) for value in values[:layers])

    def whole_numbers(self, key: str, default: Iterable[int]) -> tuple[int, ...]:
        """The whole numbers that an array holds, each once, in ascending order."""
        self._read.add(key)
        if key not in self._values:
            return tuple(default)
        values = self.array(key).values()
        numbers = {value for value in values if type(value) is int}
        if any(type(value) is not int for value in values):  # of lists and objects no set can be made
            raise ModelError(f"{self.path}: {self.described(key)} holds {shown(tuple(values))}, expected whole numbers")
        return tuple(sorted(numbers))

    def reals(self, key: str, layers: int) -> tuple[float, ...]:
        """A finite number for each layer: one for all of them, or an array of one for each."""
        value = self._values.get(key)
        if not isinstance(value, ArrayValue):
            return (self.real(key),) * layers
        numbers = self.array(key).values()
        if len(numbers) != layers or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
            raise ModelError(
                f"{self.path}: {self.described(key)} is an array of {len(numbers)}, expected a finite number for each of {layers} layers"
            )
        return tuple(map(float, numbers))

    def array(self, key: str) -> ArrayValue:
        """An array."""
        value = self._get(key, (ArrayValue,), "an array", None)
        assert isinstance(value, ArrayValue)
        return value


def _is_of(kinds: tuple[type, ...], value: object) -> bool:
    """Whether a value is one of ``kinds``, true and false being no numbers."""
    return isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def parse_overrides(items: Sequence[str]) -> dict[str, Scalar | str]:
    """Parse ``KEY=TYPE:VALUE`` as llama.cpp does; TYPE is int, float, bool or str. Raises AprgraphError."""
    overrides: dict[str, Scalar | str] = {}
    for item in items:
        key, equals, typed = item.partition("=")
        kind, colon, value = typed.partition(":")
        if not key or not equals or not colon:
            raise AprgraphError(
                OVERRIDES.given(shown(item)),
                ": expected KEY=TYPE:VALUE with TYPE int, float, bool or str, such as llama.rope.freq_base=float:10000",
            )
        try:
            overrides[key] = _parse_value(kind, value)
        except ValueError as error:
            raise AprgraphError(OVERRIDES.given(shown(item)), f": {error}") from None
    return overrides


def _parse_value(kind: str, value: str) -> Scalar | str:
    if kind == "int":
        if _INTEGER.fullmatch(value) is None:
            raise ValueError(f"{shown(value)} is not a whole number of 64 bits")
        number = int(value)
        if not -(1 << 63) <= number < 1 << 63:
            raise ValueError(f"{value} does not fit into 64 bits")
        return number
    if kind == "float":
        if _REAL.fullmatch(value) is None or not math.isfinite(float(value)):
            raise ValueError(f"{shown(value)} is not a finite number")
        return float(value)
    if kind == "bool":
        if value not in ("true", "false"):
            raise ValueError(f"{shown(value)} is neither true nor false")
        return value == "true"
    if kind == "str":
        return value
    raise ValueError(f"unknown type {shown(kind)}, expected int, float, bool or str")
