"""Declarations of a family's numbers, each with its key in GGUF and in the config.json of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from aprgraph.graph.errors import ModelError, UnsupportedModelError

if TYPE_CHECKING:
    from aprgraph.graph.families.base import Family

T = TypeVar("T")
#: Between fields of a configuration whose sum is a number, or whose product.
SUM, PRODUCT = " + ", " * "
#: Stands for "no default": the file must have the key.
REQUIRED: Any = object()


class Reading(Generic[T]):
    """An attribute of a family whose value is ``read(family)``, called once, when the model is opened.

    ``read`` may use other attributes, in any order. ``given`` names a number: if the file lacks it or has 0 there, the
    attribute is None, and ``read`` is not called.
    """

    #: The key in config.json that says the same, where one key does.
    hf: str | None = None

    def __init__(self, read: Callable[[Any], T], given: str | None = None) -> None:
        self.read, self.given = read, given
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, family: None, owner: type) -> Reading[T]: ...
    @overload
    def __get__(self, family: Family, owner: type) -> T: ...
    def __get__(self, family: Family | None, owner: type) -> T | Reading[T]:
        if family is None:
            return self
        if self.name not in family.__dict__:
            there = self.given is None or bool(getattr(family, self.given))
            family.__dict__[self.name] = self.read(family) if there else None
        value: T = family.__dict__[self.name]
        return value


def value_of_fields(fields: str, get: Callable[[str], Any]) -> Any:
    """What ``fields`` of a configuration say: one, or the sum of several with `` + `` between, or the product of several with `` * ``.

    None where one of several says nothing.
    """
    values = [get(name) for name in names_of_fields(fields)]
    if len(values) == 1 or not all(isinstance(value, int) for value in values):
        return values[0] if len(values) == 1 else None
    return math.prod(values) if PRODUCT in fields else sum(values)


def names_of_fields(fields: str) -> list[str]:
    """The fields of a configuration that ``fields`` names."""
    return fields.split(PRODUCT if PRODUCT in fields else SUM)


class Number(Reading[T]):
    """A number with a key in GGUF, named without the architecture in front, and one in config.json.

    ``hf`` may name several fields with `` + `` between, which stands for their sum, or with `` * ``.
    """

    def __init__(self, get: Callable[[Any, str, Any], T], gguf: str, hf: str | None, default: Any, given: str | None) -> None:
        def read(family: Family) -> T:
            taken = default(family) if callable(default) else default
            return get(family, family.key(gguf), None if taken is REQUIRED else taken)

        super().__init__(read, given)
        self.gguf, self.hf = gguf, hf
        #: Whether every file has to have it.
        self.is_required = default is REQUIRED
        #: Whether models may do without what the number counts.
        self.is_optional = default == 0


def number(
    gguf: str, hf: str | None = None, default: Any = REQUIRED, *, least: int = 1, most: int | None = None, given: str | None = None
) -> Number[int]:
    """A whole number from ``least`` to ``most``. ``default`` is a number, or a function of the family."""

    def get(family: Family, key: str, taken: int | None) -> int:
        value = family.metadata.positive(key, taken) if least == 1 else family.metadata.integer(key, taken)
        if value < least or (most is not None and value > most):
            expected = f"a number of at least {least}" if most is None else f"a number from {least} to {most}"
            raise ModelError(f"{family.metadata.path}: {family.metadata.own_name(key)} is {value}, expected {expected}")
        return value

    return Number(get, gguf, hf, default, given)


def real(
    gguf: str,
    hf: str | None = None,
    default: Any = REQUIRED,
    *,
    least: float | None = None,
    given: str | None = None,
    keep_zero: bool = False,
) -> Number[float]:
    """A finite number. 0 stands for the default where there is one, as in llama.cpp, unless ``keep_zero``."""

    def get(family: Family, key: str, taken: float | None) -> float:
        value = family.metadata.real(key, taken)
        if least is not None and value < least:
            raise ModelError(f"{family.metadata.path}: {family.metadata.own_name(key)} is {value}, expected a number of at least {least:g}")
        return value if keep_zero else value or taken or 0.0

    return Number(get, gguf, hf, default, given)


def flag(gguf: str, hf: str | None, default: Any, *, given: str | None = None) -> Number[bool]:
    """A boolean. ``default`` is as in ``number``."""
    return Number(lambda family, key, taken: family.metadata.flag(key, taken), gguf, hf, default, given)


def per_layer(gguf: str, hf: str | None = None, default: Any = REQUIRED, *, least: int = 1) -> Number[tuple[int, ...]]:
    """A number of at least ``least`` for each layer: one for all, or an array of one for each.

    A ``default`` may be the tuple itself.
    """

    def get(family: Family, key: str, taken: Any) -> tuple[int, ...]:
        if isinstance(taken, tuple) and key not in family.metadata:
            return taken
        values = family.metadata.per_layer(key, family.blocks, taken[0] if isinstance(taken, tuple) else taken, least=least)
        return values[: family.layers]

    return Number(get, gguf, hf, default, None)


def flags(gguf: str, hf: str | None, default: Callable[[Any], Sequence[bool]]) -> Number[tuple[bool, ...]]:
    """True or false for each layer: an array of booleans, or of 0 and 1."""

    def get(family: Family, key: str, taken: Sequence[bool]) -> tuple[bool, ...]:
        return family.metadata.flags(key, family.blocks, taken)[: family.layers]

    return Number(get, gguf, hf, default, None)


def layer_list(gguf: str, hf: str | None, default: Callable[[Any], Iterable[int]]) -> Number[tuple[int, ...]]:
    """The numbers of some layers, from 0 on, in ascending order: an array of them."""

    def get(family: Family, key: str, taken: Iterable[int]) -> tuple[int, ...]:
        return family.metadata.whole_numbers(key, taken)

    return Number(get, gguf, hf, default, None)


def reals_per_layer(gguf: str) -> Number[tuple[float, ...]]:
    """A finite number for each layer: one for all, or an array of one for each."""
    return Number(lambda family, key, _: family.metadata.reals(key, family.blocks)[: family.layers], gguf, None, REQUIRED, None)


def same_in_all(gguf: str, hf: str | None = None, default: Any = REQUIRED, *, given: str | None = None) -> Number[int]:
    """A number that files give once or for each layer, and that is the same in all.

    Reading it raises UnsupportedModelError if it is not.
    """

    def get(family: Family, key: str, taken: int | None) -> int:
        numbers = family.metadata.per_layer(key, family.blocks, taken)
        for layer, value in enumerate(numbers):
            if value != numbers[0]:
                raise UnsupportedModelError(
                    f"{family.metadata.path}: {family.metadata.own_name(key)} is {numbers[0]} in layer 0 and {value} in layer "
                    f"{layer}; supported is one number for all layers"
                )
        return numbers[0]

    return Number(get, gguf, hf, default, given)
