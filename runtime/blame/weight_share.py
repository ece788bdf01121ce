"""What the weights of two models make two traces differ by, stage by stage."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aprgraph.graph.words import counted, joined, listed
from aprgraph.runtime.place import Place

#: The largest number of stages, and of tensors of one, that a sentence names.
_NAMED = 3


@dataclass(frozen=True)
class HeldWeight:
    """A tensor of A's model that B's holds otherwise: with its format in A and in B, None where B has none of that name.

    ``error`` is the NMSE that this tensor alone makes of a stage, None where it cannot be told from the others of the stage.
    ``by_file`` is what one of the files does to it beside rounding, in words; empty where that has no name, or was not looked at.
    """

    name: str
    format_a: str
    format_b: str | None
    error: float | None = None
    by_file: str = ""

    def __str__(self) -> str:
        """``blk.0.attn_q.weight (F32 in A, Q4_0 in B)``."""
        if self.format_b is None:
            return f"{self.name} (not in B by that name)"
        return self.name if self.format_a == self.format_b else f"{self.name} ({self.format_a} in A, {self.format_b} in B)"


@dataclass(frozen=True)
class WeightShare:
    """One stage at which both sides are right, each by its own model, and the two models give different values for equal inputs.

    ``by_weights`` is the NMSE of what B recorded against A's model on B's inputs, ``from_inputs`` that of A's model on B's inputs
    against what A recorded, ``total`` that of what B recorded against what A did. ``weights`` are the tensors that the stage reads and
    that the two models hold otherwise, that which makes most first.
    """

    key: Place
    label: str
    total: float
    by_weights: float
    from_inputs: float
    weights: tuple[HeldWeight, ...]

    @property
    def tensors(self) -> str:
        """What the stage reads that differs, in words."""
        if len(self.weights) == 1:
            return str(self.weights[0])
        parts = [str(weight) if weight.error is None else f"{weight}: {weight.error:.1e}" for weight in self.weights]
        return listed(parts, _NAMED)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            **self.key._asdict(),
            "label": self.label,
            "total": self.total,
            "by_weights": self.by_weights,
            "from_inputs": self.from_inputs,
            "weights": [asdict(weight) for weight in self.weights],
        }


@dataclass(frozen=True)
class OtherWeights:
    """``shares`` are the stages at which the weights differ, in execution order; ``differing`` are all at which the models do."""

    shares: tuple[WeightShare, ...] = ()
    differing: frozenset[Place] = frozenset()

    @property
    def largest(self) -> list[WeightShare]:
        """The shares, that which the weights of one stage make most first."""
        return sorted(self.shares, key=lambda share: -share.by_weights)

    @property
    def sentence(self) -> str:
        """Where the weights make the two differ first and where most; empty where they do nowhere."""
        if not self.shares:
            return ""
        first, *_ = self.shares
        text = f"The weights of the two models differ first at {_in_words(first)}"
        others = [share for share in self.largest[:_NAMED] if share is not first]
        if others:
            text += f"; by most at {joined([_in_words(share) for share in others])}"
        more = len(self.shares) - 1 - len(others)
        return text + (f"; and at {counted(more, 'more stage')}." if more else ".") + self._of_files

    @property
    def by_file(self) -> dict[str, str]:
        """By tensor what one of the files does to it beside rounding, in execution order."""
        return {weight.name: weight.by_file for share in self.shares for weight in share.weights if weight.by_file}

    @property
    def _of_files(self) -> str:
        """A sentence of what the files do, behind a space; empty if rounding is all that is known."""
        found = self.by_file
        if not found:
            return ""
        shown = "; ".join(f"{name}: {text}" for name, text in list(found.items())[:_NAMED])
        more = f"; and {counted(len(found) - _NAMED, 'more tensor')}" if len(found) > _NAMED else ""
        return f" By the files, and not by rounding: {shown}{more}."


def _in_words(share: WeightShare) -> str:
    inherited = f", {share.from_inputs:.1e} from its inputs" if share.from_inputs else ""
    return f"{share.label} (NMSE {share.by_weights:.1e} by {share.tensors}{inherited})"
