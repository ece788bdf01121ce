"""Cells: what one is computed from, and the name in the store that follows from that alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from aprgraph.graph.arithmetics import PLAIN
from aprgraph.graph.families.registry import FamilyFile

#: Of the form of what a cell holds: another form is another cell.
FORM = 1
RUN, PAIR = "run", "pair"


def digest_of(document: Mapping[str, Any]) -> str:
    """64 hex digits that name what ``document`` says."""
    return hashlib.sha256(json.dumps(document, sort_keys=True, ensure_ascii=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True)
class ModelOf:
    """A model as a worker finds it: a file ``path`` whose content has the ``fingerprint``, with ``overrides`` (KEY=TYPE:VALUE).

    ``families`` are the files that bring its family, where this package has none, and ``sources`` the SHA-256 of what that consists of.
    """

    path: str
    name: str
    fingerprint: str
    overrides: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    families: tuple[FamilyFile, ...] = ()
    sources: tuple[str, ...] = ()

    def named(self) -> dict[str, Any]:
        """What of it bears on a cell. The file's name stands in manifests; where it lies does not."""
        own = {"family": list(self.sources)} if self.sources else {}
        return {"name": self.name, "fingerprint": self.fingerprint, "overrides": list(self.overrides), "ignore": list(self.ignore), **own}


@dataclass(frozen=True)
class Recording:
    """What every run of a matrix records and keeps: as the options of ``aprgraph run`` are, ``audit`` whether each is replayed.

    ``keep`` are patterns of stages whose tensors are kept beside those that diverge, ``room`` how many bytes of tensors of one cell.
    """

    taps: str = "all"
    layers: str = "all"
    steps: str = "0..1"
    positions: str = "last"
    max_tokens: int = 0
    prefill_chunk: int | None = None
    audit: bool = True
    keep: tuple[str, ...] = ()
    room: int = 64 << 20


@dataclass(frozen=True)
class RunCell:
    """A model run on a prompt, and audited. ``identity`` are the versions and sources of the program that computes it."""

    model: ModelOf
    target: str
    cpu: str
    arithmetic: str
    tokens: tuple[int, ...]
    recording: Recording
    identity: tuple[str, ...]

    @cached_property
    def document(self) -> dict[str, Any]:
        """What its name follows from."""
        return {**self._slot, "identity": list(self.identity)}

    @property
    def _slot(self) -> dict[str, Any]:
        return {
            "form": FORM,
            "kind": RUN,
            "model": self.model.named(),
            "target": self.target,
            "cpu": self.cpu,
            "arithmetic": self.arithmetic,
            "tokens": list(self.tokens),
            "recording": {**asdict(self.recording), "keep": list(self.recording.keep)},
        }

    @cached_property
    def key(self) -> str:
        """Its name in the store."""
        return digest_of(self.document)

    @cached_property
    def slot(self) -> str:
        """What it shares with the same cell of other versions of the program."""
        return digest_of(self._slot)

    @property
    def label(self) -> str:
        """What sentences call it, of what it is computed from."""
        parts = [self.model.name, *self.model.overrides, self.target, *([] if self.arithmetic == PLAIN else [self.arithmetic])]
        return ", ".join(parts)


@dataclass(frozen=True)
class PairCell:
    """Two runs compared."""

    a: RunCell
    b: RunCell

    @cached_property
    def document(self) -> dict[str, Any]:
        """What its name follows from."""
        return {"form": FORM, "kind": PAIR, "a": self.a.key, "b": self.b.key}

    @cached_property
    def key(self) -> str:
        """Its name in the store."""
        return digest_of(self.document)

    @property
    def label(self) -> str:
        """What sentences call it."""
        return f"{self.a.label} | {self.b.label}"

    @cached_property
    def slot(self) -> str:
        """What it shares with the same cell of other versions of the program."""
        return digest_of({"form": FORM, "kind": PAIR, "a": self.a.slot, "b": self.b.slot})


Cell = RunCell | PairCell


@dataclass(frozen=True)
class Group:
    """Cells that one worker computes one after the other, since the comparisons among them need the tensors of both sides."""

    cells: tuple[Cell, ...]

    @property
    def runs(self) -> list[RunCell]:
        """Those that are no comparisons."""
        return [cell for cell in self.cells if isinstance(cell, RunCell)]

    @cached_property
    def servers(self) -> frozenset[str]:
        """The TVM RPC servers that compute some of it, each of which serves one client at a time."""
        return frozenset(run.target for run in self.runs if run.target.startswith("rpc:"))


def group_cells(runs: Iterable[RunCell], pairs: Iterable[PairCell]) -> list[Group]:
    """The smallest groups in which each pair is with both its sides, in the order of ``runs``; each pair behind its second side."""
    order = {run.key: run for run in runs}
    leader = {key: key for key in order}

    def find(key: str) -> str:
        while leader[key] != key:
            key = leader[key]
        return key

    beside: dict[str, list[PairCell]] = {}
    place = {key: index for index, key in enumerate(order)}
    for pair in {pair.key: pair for pair in pairs}.values():
        first, second = find(pair.a.key), find(pair.b.key)
        if first != second:
            leader[second] = first
        beside.setdefault(max(pair.a.key, pair.b.key, key=place.__getitem__), []).append(pair)
    groups: dict[str, list[Cell]] = {}
    for key, run in order.items():
        groups.setdefault(find(key), []).extend([run, *beside.get(key, [])])
    return [Group(tuple(cells)) for cells in groups.values()]
