"""A model: the file, its metadata with overrides, its family with its numbers, and what has to be said of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from aprgraph.graph.arguments import IGNORE, INSPECT, OVERRIDES
from aprgraph.graph.errors import AprgraphError, ModelError, UnsupportedModelError, shown
from aprgraph.graph.families import Family, open_family
from aprgraph.graph.families.registry import is_known
from aprgraph.graph.families.stand_in import StandIn
from aprgraph.graph.held_graph import FindHeld, HeldGraph, check_same_overrides
from aprgraph.graph.message import Message
from aprgraph.graph.metadata import ArrayValue, Metadata, Scalar
from aprgraph.graph.model_keys import find_model_key
from aprgraph.graph.near_names import did_you_mean_one_of
from aprgraph.graph.side_tensors import LeftOut, find_left_out, parse_ignored
from aprgraph.graph.sources.file_kind import kind_of_gguf
from aprgraph.graph.sources.open import open_source
from aprgraph.graph.sources.single_experts import why_apart
from aprgraph.graph.sources.source import Source, TensorInfo
from aprgraph.graph.unread_keys import account_for_keys
from aprgraph.graph.words import counted

#: Keys that the tokenizer reads, when there is a prompt.
_READ_LATER = "tokenizer."
_EMBEDDING = "token_embd.weight"
_LLAMA_CPP_BASE = 10000.0


@dataclass(frozen=True)
class Model:
    """A model file understood as a model.

    ``overrides`` are the metadata keys that the user replaced, ``ignore`` the patterns of tensors and keys that the
    user wants left out, and ``left_out`` the tensors that no node may use: those, and what cannot touch a text's
    numbers. ``unapplied`` says what keys were not applied. ``held`` is there where the family is not known: the graph
    of an earlier run. ``family`` is then a StandIn.
    """

    file: Source
    metadata: Metadata
    family: Family
    overrides: Mapping[str, Scalar | str]
    ignore: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    unapplied: tuple[str, ...] = ()
    held: HeldGraph | None = None

    def __repr__(self) -> str:
        return f"<Model {self.path}: {self.family.architecture}, {counted(self.family.layers, 'layer')}>"

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.file.path

    @property
    def stem(self) -> str:
        """What is made of the model is called after this."""
        return self.file.stem

    @property
    def vocabulary(self) -> int:
        """The number of token ids, as the embedding table has rows."""
        return _rows(self.tensor(_EMBEDDING))

    @property
    def defaults(self) -> Mapping[str, object]:
        """The keys that are not in the file and whose default bears on the numbers, with what was taken.

        Keys whose absence means that there is no such thing (a stretched RoPE, a scale), and those that the tensors'
        own sizes tell (head counts, sizes of experts), are not among them.
        """
        prefix = f"{self.family.architecture}."
        found = {}
        for key, value in self.metadata.defaults.items():
            known = find_model_key(key.removeprefix(prefix))
            if known is not None and known.has_default:
                found[key] = value
        return found

    @cached_property
    def notices(self) -> tuple[str, ...]:
        """What whoever reads this model's numbers should know of the file, in sentences."""
        return (
            *self.file.notices,
            *self.doubts_of_keys,
            *self._vocabulary_notices(),
            *(group.sentence for group in self.left_out),
        )

    @property
    def doubts_of_keys(self) -> tuple[str, ...]:
        """What has to be said of keys that are absent, or that were not applied."""
        return self.unapplied if self.held is not None else (*self.doubtful_defaults.values(), *self.unapplied)

    @property
    def doubtful_defaults(self) -> Mapping[str, str]:
        """The keys whose absence is no usual thing, because converters write them, each with a sentence."""
        family, prefix = self.family, self.family.architecture
        found: dict[str, str] = {}
        base = f"{prefix}.rope.freq_base"
        if base in self.defaults and "rope.freq_base" not in family.absent_keys:
            taken = self.defaults[base]
            other = "" if taken == _LLAMA_CPP_BASE else f" (llama.cpp takes {_LLAMA_CPP_BASE:g})"
            found[base] = Message(
                f"{self.metadata.own_name(base)} is not in the file: {taken:.10g} was taken{other}; if the model has another base, give it "
                "with ",
                OVERRIDES.given(f"{base}=float:VALUE", f"{{{base!r}: VALUE}}"),
            )
        window, stretch = f"{prefix}.attention.sliding_window", f"{prefix}.rope.scaling"
        scaling, magnitude, original = (f"{stretch}.{name}" for name in ("type", "attn_factor", "original_context_length"))
        if family.window_period and window in self.defaults and "attention.sliding_window" not in family.absent_keys:
            wide = self.defaults[window]
            found[window] = f"{window} is not in the file: {f'{wide} was taken' if wide else 'every layer attends to all positions'}"
        factors = self.has("rope_factors_long.weight") or self.has("rope_factors_short.weight")
        is_stretched = self.metadata.get(scaling) == "yarn" or factors
        if is_stretched and original not in self.metadata and original.removeprefix(f"{prefix}.") not in family.absent_keys:
            found[original] = f"{original} is not in the file: {family.context}, the context itself, was taken, as llama.cpp does"
        if self.metadata.get(scaling) == "longrope" and not factors:
            found[scaling] = (
                f"{scaling} is longrope, but the file has no rope_factors_long.weight and rope_factors_short.weight: RoPE is not stretched"
            )
        if factors and magnitude not in self.metadata and original in self.metadata and family.context > self.metadata.integer(original):
            found[magnitude] = f"{magnitude} is not in the file: LongRoPE's cosines and sines were multiplied by 1"
        return found

    def _vocabulary_notices(self) -> list[str]:
        tokens, table = self.metadata.get("tokenizer.ggml.tokens"), self.file.tensors.get(_EMBEDDING)
        if table is None or not isinstance(tokens, ArrayValue) or len(tokens) == _rows(table):
            return []
        rows, what = _rows(table), f"{len(tokens)} tokens in the vocabulary, "
        if len(tokens) > rows:
            return [f"{what}{rows} rows in {_EMBEDDING}: ids from {rows} on cannot be run"]
        return [f"{what}{rows} rows in {_EMBEDDING}: ids from {len(tokens)} on have no text"]

    def has(self, name: str) -> bool:
        """Whether the file has the tensor ``name``."""
        return name in self.file.tensors

    def tensor(self, name: str, dims: tuple[int, ...] | None = None) -> TensorInfo:
        """The tensor ``name``. Raises ModelError if it is missing, or has other dims than ``dims`` behind leading ones."""
        info = self.file.tensors.get(name)
        if info is None:
            expected = f" of {' x '.join(map(str, dims))}" if dims else ""
            raise ModelError(f"{self.path}: tensor {self._named(name)}{expected} is missing; {self._why_missing(name)}")
        if dims is not None and not info.has_dims(dims):
            raise ModelError(
                f"{self.path}: tensor {self._named(name)} is {' x '.join(map(str, info.dims))}, expected {' x '.join(map(str, dims))} "
                f"from the metadata (outermost dimension first)"
            )
        return info

    def _why_missing(self, name: str) -> str:
        """Why a tensor is not there, as far as the others tell."""
        return why_apart(name, self.file.tensors, self.metadata) or self.file.incomplete

    def _named(self, name: str) -> str:
        """A tensor, and what the file itself calls it."""
        own = self.metadata.own_tensor(name)
        return repr(name) if own == name else f"{name!r} ({own} in the file)"

    def lacks(self, names: Sequence[str], beside: str) -> None:
        """Raise ModelError: the tensors ``names`` are missing, but ``beside``, which goes with them, is there."""
        raise ModelError(f"{self.path}: tensor {beside!r} is there, but {', '.join(map(repr, names))} is missing")


def _rows(table: TensorInfo) -> int:
    return table.dims[-2] if len(table.dims) > 1 else table.dims[0]


def load_model(
    path: str | Path,
    overrides: Mapping[str, Scalar | str] | None = None,
    ignore: Sequence[str] = (),
    find_held: FindHeld | None = None,
) -> Model:
    """Open a model file and read its hyperparameters. Raises ModelFileError, ModelError or UnsupportedModelError.

    ``overrides`` replace metadata keys, under GGUF's names or the file's own; ``ignore`` are regular expressions of tensors
    that the graph may leave out, and of keys of the family that need not be applied (AprgraphError for one that is none, or
    that nothing matches).
    ``find_held`` is asked for the graph of an earlier run if no family of the model's architecture is known.
    """
    parse_ignored(ignore)  # before anything that takes time
    file = open_source(path)
    kind = kind_of_gguf(file.metadata, file.tensors)
    if kind is not None:
        raise UnsupportedModelError(f"{path}: this is {kind.what}; ", kind.advice)
    metadata = file.metadata.with_overrides(overrides or {})
    architecture = metadata.text("general.architecture")
    held = None if find_held is None or is_known(architecture) else find_held(architecture)
    if held is not None:
        return _with_held_graph(file, metadata, overrides or {}, ignore, held)
    return read_model(file, metadata, overrides or {}, ignore)


def _with_held_graph(
    file: Source, metadata: Metadata, overrides: Mapping[str, Scalar | str], ignore: Sequence[str], held: HeldGraph
) -> Model:
    """The model of a file whose graph an earlier run has left. Raises ModelError if the two do not fit."""
    check_same_overrides(held, overrides, _READ_LATER)
    patterns = parse_ignored(ignore)
    family = StandIn(metadata, held.graph, held.holder)
    _check_ignored(file, metadata, patterns)
    left_out = find_left_out(file.tensors, family.layers, family.extra_layers, patterns)
    return Model(file, metadata, family, dict(overrides), tuple(ignore), tuple(left_out), held.unapplied, held)


def read_model(file: Source, metadata: Metadata, overrides: Mapping[str, Scalar | str], ignore: Sequence[str] = ()) -> Model:
    """The model of a file with ``metadata``, which holds ``overrides`` already.

    Raises ModelError or UnsupportedModelError.
    """
    patterns = parse_ignored(ignore)
    family = open_family(metadata)
    _check_overrides(metadata, family, overrides)
    _check_ignored(file, metadata, patterns)
    unapplied = account_for_keys(family, patterns)
    left_out = find_left_out(file.tensors, family.layers, family.extra_layers, patterns, family.unused_tensors)
    return Model(file, metadata, family, dict(overrides), tuple(ignore), tuple(left_out), tuple(unapplied))


def _check_overrides(metadata: Metadata, family: Family, overrides: Mapping[str, Scalar | str]) -> None:
    """Raise ModelError for a key that nothing reads: a misspelt one would leave the numbers as they are, unnoticed.

    One that the family does not apply may be given: it is then held to what ``account_for_keys`` asks of it.
    """
    for key in overrides:
        known = find_model_key(key.removeprefix(f"{family.architecture}.")) if key.startswith(f"{family.architecture}.") else None
        is_read = metadata.is_read(key) or key.startswith(_READ_LATER)
        if not is_read and (known is None or not known.neutral):
            names = sorted(map(metadata.own_name, metadata.keys_read))
            raise ModelError(
                OVERRIDES.given(key, f"{{{key!r}: …}}"),
                f": nothing reads this key of {metadata.path}{did_you_mean_one_of(key, names)}; those that change the graph are ",
                ", ".join(names),
            )


def _matches(pattern: re.Pattern[str], metadata: Metadata, key: str) -> bool:
    """Whether a pattern is that of a key, under GGUF's name or the file's own."""
    return any(map(pattern.fullmatch, (key, metadata.own_name(key))))


def _check_ignored(file: Source, metadata: Metadata, patterns: Sequence[re.Pattern[str]]) -> None:
    """Raise AprgraphError for a pattern that nothing matches, and so is of no use, or that matches a key that is read."""
    for pattern in patterns:
        read = next((key for key in metadata if key in metadata.keys_read and _matches(pattern, metadata, key)), None)
        if read is not None:
            raise AprgraphError(
                IGNORE.given(shown(pattern.pattern), f"[{shown(pattern.pattern)}]"),
                f": leaves out the key {read}, which the model is read by; expected a pattern of keys and tensors that nothing uses (",
                OVERRIDES,
                " gives a key another value)",
            )
        if not any(map(pattern.fullmatch, file.tensors)) and not any(_matches(pattern, metadata, key) for key in metadata):
            raise AprgraphError(
                IGNORE.given(shown(pattern.pattern), f"[{shown(pattern.pattern)}]"),
                f": no tensor and no metadata key of {file.path} has a name that matches as a whole; `",
                INSPECT,
                "` lists them",
            )
