"""The arithmetic that a trace is held to: one that was asked for, the one that its manifest names, or the one that explains it."""

from __future__ import annotations

from collections.abc import Iterator

from aprgraph.graph.arithmetics import EngineArithmetic, parse_arithmetic
from aprgraph.graph.errors import ComparisonError, GraphError, shown
from aprgraph.graph.ir import Graph
from aprgraph.runtime.blame.arithmetic_fit import ArithmeticFit, fit_arithmetic
from aprgraph.runtime.blame.flash_division import FlashDivision, find_division
from aprgraph.runtime.blame.recorded import Recorded
from aprgraph.runtime.blame.replay import ReadWeight
from aprgraph.runtime.trace.manifest import ENGINE_ARITHMETIC, TraceInfo

#: Asks for whichever arithmetic explains the trace.
FIND = "find"


class ChosenArithmetic:
    """``asked`` is the name of an arithmetic with its options, ``find``, or None for what the manifest says; of a trace for which nothing
    says how it was computed, the one that explains it.

    The choice is made once, for the first trace that is asked about.
    """

    def __init__(self, asked: str | None = None) -> None:
        self._asked = asked
        self._named_by_manifest = False
        self._fit: ArithmeticFit | None = None
        #: None for plain float32, and before the choice.
        self.chosen: EngineArithmetic | None = None
        self._is_made = False
        #: How flash attention took positions and keys apart; None before the choice, and for plain float32.
        self.division: FlashDivision | None = None
        self._undivided: EngineArithmetic | None = None

    def of(
        self, info: TraceInfo | None, graph: Graph, recorded: Recorded, read: ReadWeight, *, is_open: bool = False
    ) -> EngineArithmetic | None:
        """The arithmetic; None for plain float32. Raises ComparisonError for a name that stands for none, and TraceError.

        ``is_open``: nothing but what is asked for says how the trace was computed.
        """
        if not self._is_made:
            self._is_made = True
            named = info.extra.get(ENGINE_ARITHMETIC) if info is not None else None
            if self._asked == FIND or (self._asked is None and named is None and is_open):
                self._fit = fit_arithmetic(graph, recorded, read)
                self.chosen = None if self._fit is None else self._fit.arithmetics[0]
            else:
                self.chosen = self._parsed(info, recorded)
        if self.chosen is not None and self.division is None:
            self._undivided = self.chosen
            self.division = find_division(graph, self.chosen, recorded, read)
            self.chosen = self.division.arithmetic
        return self.chosen

    def others(self) -> Iterator[ChosenArithmetic]:
        """The other arithmetics that explain what was tried as well, the nearer first."""
        for arithmetic in () if self._fit is None else self._fit.arithmetics[1:]:
            other = ChosenArithmetic(self._asked)
            other.chosen, other._fit, other._is_made = arithmetic, self._fit, True
            yield other

    def _parsed(self, info: TraceInfo | None, recorded: Recorded) -> EngineArithmetic | None:
        named = info.extra.get(ENGINE_ARITHMETIC) if info is not None else None
        text = self._asked if self._asked is not None else named
        if text is None:
            return None
        self._named_by_manifest = self._asked is None
        try:
            found = parse_arithmetic(str(text))
        except GraphError as error:
            if self._asked is not None:
                raise ComparisonError(str(error)) from None
            raise ComparisonError(
                f"{recorded.trace.directory}: its manifest names the {ENGINE_ARITHMETIC} {shown(text)}: {error}"
            ) from None
        return None if found.is_exact else found

    def notes(self, name: str) -> Iterator[str]:
        """What is to be said of the choice for the trace that is called ``name``."""
        if self.chosen is not None:
            why = "as its manifest says" if self._named_by_manifest else "as asked for"
            if self._fit is not None:
                why = f"which explains {self._fit.explained} stages of its first layers that float32 does not"
                others = [other.text for other in self._fit.arithmetics if other != self._undivided]
                why += f", as {' and '.join(others)} would" if others else ""
            yield f"{name} is held to the arithmetic {self.chosen.text} ({self.chosen.summary}), {why}"
            if self.division is not None and self.division.found:
                named = " and ".join(f"{key}={getattr(self.chosen, key)}" for key in self.division.found)
                yield f"{named} of {name}'s arithmetic is what explains its flash attention: nothing in it says how many there were"
        elif self._asked == FIND:
            yield f"no arithmetic that is known here explains more of {name} than float32 does"
