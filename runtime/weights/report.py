"""What `aprgraph weights` reports: a finding a tensor, groups of those that are alike, and the sentence to read first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aprgraph.graph.shown import Shown
from aprgraph.graph.words import counted, joined, layer_ranges, listed, shortened, small_number
from aprgraph.runtime.weights.finding import SAME, Status, TensorFinding
from aprgraph.runtime.weights.metadata_differences import KeyDifference

FORMAT = "aprgraph-weights"
VERSION = 1

_GROUPS_NAMED, _NAMES = 3, 4
_KEYS_NAMED = 3


@dataclass(frozen=True)
class Group:
    """Findings of one kind and in the same words, whatever their layers."""

    findings: tuple[TensorFinding, ...]

    @property
    def first(self) -> TensorFinding:
        """The first of them, in the order of A's file."""
        return self.findings[0]

    @property
    def names(self) -> str:
        """``attn_q.weight and attn_k.weight of layers 0..3``."""
        slots = list(dict.fromkeys(one.slot for one in self.findings))
        layers = sorted({one.layer for one in self.findings if one.layer is not None})
        if len(self.findings) == 1:
            return self.first.name
        names = joined(slots) if len(slots) <= _NAMES else listed(slots, _NAMES)
        return f"{names} of {layer_ranges(layers)}" if layers else names

    @property
    def text(self) -> str:
        """The explanation: in full of a single tensor, and where it is the same of all."""
        is_one = len(self.findings) == 1 or (self.first.status is Status.TRANSFORMED and len({one.text for one in self.findings}) == 1)
        return self.first.text if is_one else self.first.summary

    @property
    def sentence(self) -> str:
        """``attn_q.weight of layers 0..3: …``."""
        also = f" (what holds as well: {'; '.join(self.first.also)})" if self.first.also else ""
        return f"{self.names}: {self.text}{also}"


@dataclass(frozen=True)
class WeightsReport(Shown):
    """``paths`` and ``kinds`` of files are of A and of B."""

    paths: tuple[Path, Path]
    kinds: tuple[str, str]
    findings: tuple[TensorFinding, ...]
    hyperparameters: tuple[KeyDifference, ...]
    tokenizer: tuple[KeyDifference, ...]
    #: What was taken into account beside, in sentences.
    notes: tuple[str, ...] = ()

    def of(self, *statuses: Status) -> list[TensorFinding]:
        """The findings of these statuses."""
        return [one for one in self.findings if one.status in statuses]

    @property
    def compared(self) -> int:
        """How many tensors both files have."""
        return len(self.findings) - len(self.of(Status.ONLY_A, Status.ONLY_B))

    @property
    def unlike(self) -> list[TensorFinding]:
        """The tensors that are not the same, the worst last."""
        return self.of(Status.TRANSFORMED, Status.DAMAGED, Status.DIFFERENT, Status.ONLY_A, Status.ONLY_B)

    @property
    def groups(self) -> list[Group]:
        """The tensors that are not the same, or in another order, together where one sentence holds."""
        found: dict[tuple[Status, str, str], list[TensorFinding]] = {}
        for one in [*self.unlike, *self.of(Status.REORDERED)]:
            found.setdefault((one.status, one.kind, one.summary), []).append(one)
        return [Group(tuple(group)) for group in found.values()]

    @property
    def bearing_keys(self) -> list[KeyDifference]:
        """Differences beside the tensors that a run's numbers or a prompt's tokens depend on."""
        return [one for one in (*self.hyperparameters, *self.tokenizer) if one.bears]

    @property
    def exit_code(self) -> int:
        """0 the same model, 1 different, 3 it cannot be said: nothing to compare, or rounding hides all there is."""
        if not self.compared:
            return 3
        if self.unlike or self.bearing_keys:
            return 1
        return 3 if self.of(Status.UNTOLD) else 0

    @property
    def sentence(self) -> str:
        """The sentence to read first."""
        if not self.compared:
            return "It cannot be said whether these are the same model: no tensor has a name that both files have."
        if self.exit_code == 1:
            return self._difference
        untold = self.of(Status.UNTOLD)
        if untold:
            names = listed((one.name for one in untold), _NAMES)
            return f"It cannot be said whether these are the same model: {names} may be anything within what the block formats round."
        return f"The same model: {self._alike(len(self.findings))}."

    @property
    def _difference(self) -> str:
        unlike = [group for group in self.groups if group.first.status is not Status.REORDERED]
        groups = [group.sentence for group in unlike[:_GROUPS_NAMED]]
        if len(unlike) > _GROUPS_NAMED:
            groups.append(f"and {len(unlike) - _GROUPS_NAMED} more such findings")
        keys = self.bearing_keys
        if keys:
            groups.append(f"other {listed((f'{one.key} ({one.a} in A, {one.b} in B)' for one in keys), _KEYS_NAMED)}")
        same = self.of(*SAME)
        rest = f" The other {self._alike(len(same))}." if same and self.unlike else f" All {self._alike(len(same))}." if same else ""
        return f"Not the same: {'; '.join(groups)}.{rest}"

    def _alike(self, count: int) -> str:
        """``272 tensors are identical``, ``… the same up to the rounding of Q4_0``."""
        rounded = self.of(Status.ROUNDED)
        formats = joined(sorted({name for one in rounded for name in one.formats if name is not None and name != "F32"}))
        parts = [(len(self.of(Status.IDENTICAL)), "identical"), (len(rounded), f"the same up to the rounding of {formats or 'F32'}")]
        parts += [(len(self.of(Status.REORDERED)), "in another order, which computes the same")]
        parts = [(number, what) for number, what in parts if number]
        if len(parts) == 1:
            return f"{counted(count, 'tensor')} {'is' if count == 1 else 'are'} {parts[0][1]}"
        return f"{counted(count, 'tensor')}: {', '.join(f'{number:,} {what}' for number, what in parts)}"

    def __repr__(self) -> str:
        return f"<WeightsReport: {shortened(self.sentence)}>"

    def to_json(self) -> dict[str, Any]:
        """As a JSON object (docs/weights.schema.json)."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "a": {"path": str(self.paths[0]), "kind": self.kinds[0]},
            "b": {"path": str(self.paths[1]), "kind": self.kinds[1]},
            "sentence": self.sentence,
            "exit_code": self.exit_code,
            "counts": {status.value: len(self.of(status)) for status in Status},
            "groups": [{"sentence": group.sentence, "tensors": [one.name for one in group.findings]} for group in self.groups],
            "notes": list(self.notes),
            "hyperparameters": [one.to_json() for one in self.hyperparameters],
            "tokenizer": [one.to_json() for one in self.tokenizer],
            "tensors": [one.to_json() for one in self.findings],
        }


def key_lines(differences: Sequence[KeyDifference]) -> list[str]:
    """A line for each key that differs."""
    return [f"{one.key}: {one.a} in A, {one.b} in B{'' if one.bears else ' (nothing here depends on it)'}" for one in differences]


def measures_in_words(one: TensorFinding) -> str:
    """Behind the name of a tensor: its formats, and how far it is from the other side's beside what rounding costs."""
    named = list(dict.fromkeys(name for name in one.formats if name is not None))
    formats = f" [{' and '.join(named)}]" if len(named) > 1 else ""
    measures = one.measures
    if measures is None or one.status is Status.IDENTICAL or measures.is_without_numbers:
        return formats
    rounding = small_number(measures.expected / measures.a_squares if measures.a_squares else None)
    left = " left" if one.status is Status.TRANSFORMED else ""
    error = f"NMSE {small_number(measures.nmse)}{left}, of which rounding may be {rounding or '0'}"
    return f"{formats} ({error}; cosine {measures.cosine:.6f}, largest difference {small_number(measures.largest)})"
