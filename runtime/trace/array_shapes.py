"""The shapes that arrays of a stage come in, brought to those of the stage table.

The table's own shape is taken as it is. Beyond that, axes of size 1 may stand anywhere (a batch of one text: 1 × n × E, n × 1 × E), and
heads may have an axis of their own behind the positions: n × H × D. That only regroups what lies in memory; nothing is ever
transposed, so heads first (H × n × D) is refused wherever the number of positions tells it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aprgraph.graph.errors import TraceError
from aprgraph.graph.stage_parts import stage_or_part
from aprgraph.graph.stages import Stage
from aprgraph.graph.words import counted, shape_text
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.manifest import TraceEntry

Shape = tuple[int, ...]
#: Letters of the stage table that stand for one number in a whole model, n and t, that do in a step, and widths of heads, that do in a
#: layer; F does not, where experts are of another width.
_SHARED = ("E", "V", "X", "k", "H", "H*D", "K*D", "(H+2K)*D", "n", "t")
#: Where the number of positions is known from, if it is not from another array.
_TOKENS = "the list of tokens"
#: What the letters stand for, for whoever does not know the stage table.
_WORDS = {
    "n": "positions", "t": "positions attended to", "E": "hidden size", "F": "FFN size", "V": "vocabulary", "X": "experts",
    "k": "experts used", "H": "heads", "H*D": "heads side by side", "K*D": "key heads side by side", "(H+2K)*D": "q, k and v side by side",
}  # fmt: skip
#: The heads of a row, by the letter of the row's width.
_HEADS = {"H*D": "H", "K*D": "K", "(H+2K)*D": "H+2K"}
#: What has the width of heads of v, which some families give fewer elements than those of q and k.
_OF_V = frozenset(("qkv_matmul[v]", "qkv_bias[v]", "v_norm", "attention", "attn_gate", "attn_gated", "attn_sub_norm"))


#: A letter, and the step or the layer in which it stands for one number.
_Scope = tuple[str, int | None, int | None]


@dataclass(frozen=True)
class _Known:
    """A size, and which tensor it is known from."""

    size: int
    source: str


class _Sizes:
    """What is known of the sizes so far: n and t of each step, the rest of the model."""

    def __init__(self, tokens: int) -> None:
        self._known: dict[_Scope, _Known] = {}
        if tokens:
            self._known["n", 0, None] = _Known(tokens, _TOKENS)

    def get(self, letter: str, key: Place) -> _Known | None:
        """The size of ``letter`` in the step, or the layer, of ``key``."""
        return self._known.get(_scope(letter, key))

    def contradiction(self, letters: Sequence[str], shape: Shape, entry: TraceEntry) -> tuple[str, int, _Known] | None:
        """The first letter that is known to be of another size, that of ``shape``, and what is known."""
        own: dict[_Scope, _Known] = {}
        for letter, size in zip(letters, shape, strict=True):
            if letter not in _SHARED or _is_one_of_several(letter, size):
                continue
            scope = _scope(letter, entry.key)
            known = self._known.get(scope) or own.setdefault(scope, _Known(size, entry.label))
            if known.size != size and not self._is_repeated(letter, {size, known.size}, entry.key):
                return letter, size, known
        return None

    def _is_repeated(self, letter: str, sizes: set[int], key: Place) -> bool:
        """Whether KV heads of one of two ``sizes`` stand there once, and those of the other once for each query head."""
        every = self.get("H*D", key) or self._known.get(("H*D", None, key.layer))
        return letter == "K*D" and every is not None and max(sizes) == every.size and every.size % min(sizes) == 0

    def learn(self, letters: Sequence[str], shape: Shape, entry: TraceEntry) -> None:
        """Take the sizes of one tensor for known, unless they are."""
        for letter, size in zip(letters, shape, strict=True):
            if letter in _SHARED and not _is_one_of_several(letter, size):
                self._known.setdefault(_scope(letter, entry.key), _Known(size, entry.label))


def _scope(letter: str, key: Place) -> _Scope:
    """What a prefill attends to is itself."""
    if letter in ("n", "t"):
        return "n" if letter == "t" and key.step == 0 else letter, key.step, None
    if letter not in _HEADS:
        return letter, None, None
    return f"{letter} of v" if key.stage in _OF_V else letter, None, key.layer


def _is_one_of_several(letter: str, size: int) -> bool:
    """One position of several: other programs keep the last one alone of some stages."""
    return letter in ("n", "t") and size == 1


@dataclass(frozen=True)
class _Reading:
    """``letters`` with their sizes in ``shape``; ``given`` names the axes of the array in words."""

    letters: tuple[str, ...]
    shape: Shape
    given: str


def fit_shapes(where: str, entries: Sequence[TraceEntry], given: Mapping[Place, Shape], tokens: int) -> dict[Place, Shape]:
    """The shape in which each array, of the shape ``given``, is recorded. Entries may be of parts of stages.

    Raises TraceError for those that fit neither the stage table nor each other.
    """
    try:
        return _fit(where, entries, given, tokens)
    except TraceError as error:
        turned = {key: shape[::-1] for key, shape in given.items()}
        if sum(len(_without_ones(shape)) > 1 for shape in given.values()) > 1 and _fits(entries, turned, tokens):
            told = str(error).partition("; it looks ")[0]
            raise TraceError(
                f"{told}; all {len(given)} arrays fit with their axes in the other order, as GGML counts them: give array.T, or, where "
                "the numbers alone are in that order and each position's elements lie side by side, array.reshape(array.shape[::-1])"
            ) from None
        raise


def _fits(entries: Sequence[TraceEntry], given: Mapping[Place, Shape], tokens: int) -> bool:
    try:
        _fit("", entries, given, tokens)
    except TraceError:
        return False
    return True


def _fit(where: str, entries: Sequence[TraceEntry], given: Mapping[Place, Shape], tokens: int) -> dict[Place, Shape]:
    sizes, found = _Sizes(tokens), {}
    pending: list[tuple[TraceEntry, list[_Reading]]] = []
    for entry in entries:
        shape = given[entry.key]
        stage = _stage_of(entry)
        readings = list(_readings(stage, shape))
        if not readings:
            n = sizes.get("n", entry.key)
            looks = _flat_or_batch(stage, shape, n.size if n is not None else None)
            raise TraceError(f"{where}: {entry.label} has the shape {_dims(shape)}, expected {_expected(stage, n)}{looks}")
        if len(readings) > 1:
            pending.append((entry, readings))
            continue
        found[entry.key] = _take(where, entry, shape, readings, sizes)
    # Those that can be read in two ways come last, when the others have told the sizes.
    for entry, readings in pending:
        found[entry.key] = _take(where, entry, given[entry.key], readings, sizes)
    return found


def _take(where: str, entry: TraceEntry, given: Shape, readings: Sequence[_Reading], sizes: _Sizes) -> Shape:
    """The shape of the one reading that fits what is known."""
    stage = _stage_of(entry)
    contradictions = [sizes.contradiction(reading.letters, reading.shape, entry) for reading in readings]
    fitting = [reading for reading, against in zip(readings, contradictions, strict=True) if against is None]
    n = sizes.get("n", entry.key)
    if len(fitting) > 1:
        # A whole tensor rather than the last position alone; a generated token is one position.
        wanted = n.size if n is not None else 1 if entry.step else None
        fitting = [reading for reading in fitting if reading.shape[reading.letters.index("n")] == wanted] or fitting
    if len({reading.shape for reading in fitting}) > 1:
        ways = " or ".join(reading.given for reading in fitting)
        raise TraceError(
            f"{where}: {entry.label} has the shape {_dims(given)}, which can be {ways}; give the tokens, or the shape {_expected(stage, n)}"
        )
    if not fitting:
        letter, size, known = next(against for against in contradictions if against is not None)
        raise TraceError(
            f"{where}: {entry.label} has the shape {_dims(given)}, with {letter} = {size}, but {known.source} says {known.size}; "
            f"expected {_expected(stage, n)}{_looks_like(stage, given, n)}"
        )
    sizes.learn(fitting[0].letters, fitting[0].shape, entry)
    return fitting[0].shape


def _stage_of(entry: TraceEntry) -> Stage:
    stage = stage_or_part(entry.stage)
    assert stage is not None, entry.stage
    return stage


def _readings(stage: Stage, shape: Shape) -> Iterator[_Reading]:
    """The ways to read ``shape``, each in the letters of the table."""
    if stage.is_logits:
        squeezed = _squeeze(shape, 1)
        if squeezed is not None:
            yield _Reading(("V",), squeezed, "V")
        elif (squeezed := _squeeze(shape, 2)) is not None:
            yield _Reading(("n", "V"), squeezed, "n x V")
        return
    squeezed = _squeeze(shape, len(stage.dims))
    if squeezed is not None:
        ones = "1 x " * (len(shape) - len(stage.dims))
        yield _Reading(stage.dims, squeezed, ones + " x ".join(stage.dims))
    heads = _HEADS.get(stage.dims[-1])
    split = None if heads is None or len(shape) < 3 else _squeeze(shape, 3)
    if split is not None:
        rows = (split[0], split[1] * split[2])
        if rows != squeezed:
            yield _Reading(stage.dims, rows, "1 x " * (len(shape) - 3) + f"n x {heads} x D")


def _squeeze(shape: Shape, rank: int) -> Shape | None:
    """``shape`` without axes of size 1, the first ones first, down to ``rank`` axes; None if there are not enough of them."""
    rest = list(shape)
    while len(rest) > rank and 1 in rest:
        rest.remove(1)
    return tuple(rest) if len(rest) == rank else None


def _without_ones(shape: Shape) -> Shape:
    return tuple(size for size in shape if size != 1)


def _looks_like(stage: Stage, shape: Shape, n: _Known | None) -> str:
    """What an array seems to be whose positions are not where they belong."""
    squeezed = _without_ones(shape)
    if n is None or n.size in squeezed[:1]:
        return ""
    if n.source != _TOKENS and len(stage.dims) == len(squeezed) == 2 and squeezed[0] > squeezed[1] < n.size:
        return "; are all of them transposed? positions come first: give array.T"
    if stage.dims[-1] in _HEADS and len(squeezed) == 3 and squeezed[1] == n.size:
        batch = f"; or is it a batch of {squeezed[0]} texts? then give one of them, such as array[0]"
        return f"; it looks like heads first: give array.swapaxes(-3, -2), positions x heads x head size{batch}"
    if len(stage.dims) == 2 and len(squeezed) == 2 and squeezed[1] == n.size:
        return "; it looks transposed: give array.T"
    return ""


def _flat_or_batch(stage: Stage, shape: Shape, n: int | None) -> str:
    """What an array seems to be that has too few axes, or too many; ``n`` positions where that is known."""
    axes, most = _without_ones(shape), 3 if stage.dims[-1] in _HEADS else 2 if stage.is_logits else len(stage.dims)
    if len(axes) <= 1 < len(stage.dims):
        sizes = [(str(n) if n else letter) if letter in ("n", "t") else "-1" for letter in stage.dims]
        whole = f"array.reshape({', '.join(sizes)})" if sizes.count("-1") == 1 else "them as axes"
        if len(stage.dims) == 2 and n and axes and axes[0] % n:
            return f"; it looks flat, and is not of {n} positions: give array[None] of one"
        one = ", or of one position array[None]" if len(stage.dims) == 2 else ""
        return f"; it looks flat: give {whole}{one}"
    if len(axes) == most + 1:
        one = "[:, 0]" if n is not None and axes[0] == n != axes[1] else "[0]"
        return f"; a batch? give one text of it, such as array{one}"
    return ""


def _expected(stage: Stage, n: _Known | None = None) -> str:
    dims, words = " x ".join(stage.dims), [_WORDS.get(letter, letter) for letter in stage.dims]
    if n is not None and n.source == _TOKENS:
        words = [f"{n.size} {word}" if letter == "n" else word for letter, word in zip(stage.dims, words, strict=True)]
    explained = f": {' x '.join(words)}" if set(stage.dims) <= _WORDS.keys() else ""
    if stage.is_logits:
        return f"{dims} (or n x {dims}){explained}"
    return f"{dims} (or n x {_HEADS[stage.dims[-1]]} x D){explained}" if stage.dims[-1] in _HEADS else f"{dims}{explained}"


def regrouped(given: Mapping[Place, Shape], shapes: Mapping[Place, Shape]) -> str | None:
    """Which arrays are read in other axes than their own, in words; None where none is."""
    other = [key for key, shape in shapes.items() if given[key] != shape]
    if not other:
        return None
    have, are = ("has", "is") if len(other) == 1 else ("have", "are")
    example = f"{shape_text(given[other[0]])} as {shape_text(shapes[other[0]])}"
    return (
        f"{counted(len(other), 'array')} {have} axes of size 1, or of heads, beyond those of the stage, and {are} read without: {example}"
    )


def _dims(shape: Shape) -> str:
    return shape_text(shape) if shape else "of a single number"
