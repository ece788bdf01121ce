"""What may be at fault in place of a trace: the model file, or that it is another model's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aprgraph.graph.words import counted, listed
from aprgraph.runtime.place_names import NAMED


@dataclass(frozen=True)
class FileSuspect:
    """What of the model file can be at fault: ``weights`` by name, and ``keys`` as the file has them, in words.

    ``seen`` is what a look at those weights found, ``guessed`` are the keys among ``keys`` that hold a real number and are not there.
    """

    file: str
    weights: tuple[str, ...]
    keys: tuple[str, ...]
    seen: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()

    def describe(self) -> str:
        """``blk.0.attn_norm.weight and 3 more, or llama.rope.freq_base (absent: 10000 was taken)``."""
        return ", or ".join(listed(names, NAMED) for names in (self.weights, self.keys) if names)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"file": self.file, "weights": list(self.weights), "keys": list(self.keys), "seen": list(self.seen)}


@dataclass(frozen=True)
class OtherModel:
    """What says so. ``recorded`` is the model that the manifest names, empty where it names none, and ``file`` that one's name alone;
    ``given`` is that of the replay. ``unrelated`` tensors have nothing to do with what it computes; where there are none, the two are
    of different families.
    """

    recorded: str
    file: str
    given: str
    unrelated: int

    @property
    def kind(self) -> str:
        """``a trace of another model``."""
        return "a trace of another model" if self.recorded else f"looks like a trace of another model than {self.given}"

    @property
    def names(self) -> str:
        """Both models; empty where the trace's is not known."""
        return f"its manifest names {self.recorded}, not {self.given}" if self.recorded else ""

    @property
    def why(self) -> str:
        """What bears it out."""
        if not self.unrelated:
            return "the two are of different families"
        return f"the {counted(self.unrelated, 'tensor')} that a weight matrix of {self.given} makes have nothing to do with what it gives"

    @property
    def sentence(self) -> str:
        """All of it, to follow the trace's name."""
        return f"{self.kind}: {'; '.join(filter(None, (self.names, self.why)))}"
