"""What a comparison finds: how far two traces are apart, and with the model at hand, which side is wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from aprgraph.graph.message import join_messages
from aprgraph.graph.shown import Shown, front
from aprgraph.graph.words import as_sentence, shortened
from aprgraph.runtime.comparison.frame import frame_of_rows
from aprgraph.runtime.diff.caveats import by_importance
from aprgraph.runtime.diff.report import DiffReport, DiffRow
from aprgraph.runtime.summary import Summary

if TYPE_CHECKING:  # two traces are compared without what replays a model
    from aprgraph.runtime.blame.local_errors import Blame


@dataclass(frozen=True)
class Comparison(DiffReport, Shown):
    """Two traces compared, and ``blame``: what a replay of each says, None where there was no model to replay.

    With blame, words and errors of rows, counts, suspects and the headline are those of blame; without, those of the DiffReport.
    """

    blame: Blame | None = None

    @staticmethod
    def of(report: DiffReport, blame: Blame | None = None) -> Comparison:
        """``report`` with ``blame``, or with that which it has."""
        if isinstance(report, Comparison) and blame is None:
            return report
        given = {one.name: getattr(report, one.name) for one in fields(DiffReport)}
        return Comparison(**given, blame=blame)

    @property
    def tally(self) -> dict[str, int]:
        """How many tensors have each verdict; without blame, are in each class. What tables, page and graph go by."""
        return super().tally if self.blame is None else {name.value: count for name, count in self.blame.counts.items()}

    def word(self, row: DiffRow) -> str:
        """The verdict on a row; without blame, its class."""
        return super().word(row) if self.blame is None else self.blame.verdicts[row.key].value

    @property
    def exit_code(self) -> int:
        """0 alike, 1 diverged or a side wrong, 3 nothing was measured, or less than a side has that was not read.

        (2, could not be compared, is an AprgraphError instead.)
        """
        is_wrong = self.blame is not None and 1 in (self.blame.a.exit_code, self.blame.b.exit_code)
        return 1 if is_wrong else super().exit_code

    @property
    def headline(self) -> str:
        """What to read first: who is wrong and where, as far as it is known, else where the two part."""
        if self.blame is None:
            return super().headline
        known = [as_sentence(one.sentence) for one in self.reservations if not one.only_if_alike]
        return join_messages(" ", [self.blame.sentence, *(sentence for sentence in known if sentence not in self.blame.sentence)])

    @property
    def summary(self) -> Summary:
        """The verdict in parts: by blame, where there is some."""
        if self.blame is None:
            return super().summary
        from aprgraph.runtime.comparison.summary import summary_with_blame  # noqa: PLC0415 -- which is made of this

        return summary_with_blame(self, self.blame)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes of the comparison and of both replays, those first that make the verdict less certain."""
        if self.blame is None:
            return super().all_notes
        # How a side was opened each replay says too, by the side's name.
        told = {note.partition(": ")[2] for note in self.blame.notes}
        rest = (note for note in self.notes if not (note.startswith(("A: ", "B: ")) and note[3:] in told))
        return by_importance((*self.blame.notes, *rest))

    def error_of(self, row: DiffRow) -> float | None:
        """The local error where a side is wrong, else how far the two are apart."""
        if self.blame is None or not self.blame.verdicts[row.key].is_wrong:
            return super().error_of(row)
        local = self.blame.local_of(row.key)
        return None if local is None else local.error

    @property
    def suspects(self) -> tuple[str, ...]:
        """The nodes and weights that can explain at once all that is wrong; without blame, all first divergences."""
        return super().suspects if self.blame is None or not self.blame.wrong else self.blame.common

    def frame(self) -> dict[str, list[Any]]:
        """A row for each tensor, as columns of one length, which pandas and polars take: see ``frame_of_rows``."""
        return frame_of_rows(self)

    def to_html(self) -> str:
        """The report as one HTML page that opens offline, as a string. Raises TraceError where a tensor to show cannot be read."""
        page: str = front().page_of(self)
        return page

    def __repr__(self) -> str:
        return f"<Comparison of {' and '.join(self.names.both)}: {shortened(self.headline)}>"

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object, free of NaN and Infinity; its form is what ``format`` and ``version`` name."""
        return super().to_json() | {"blame": None if self.blame is None else self.blame.to_json()}
