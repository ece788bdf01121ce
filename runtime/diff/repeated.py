"""Keys that a side without a graph recorded with each KV head several times, where the other side's graph tells how many there are."""

from __future__ import annotations

from aprgraph.runtime.diff.reservations import Reservation
from aprgraph.runtime.diff.side_names import SideNames
from aprgraph.runtime.readings.repeats import repeats_in_words, without_repeats
from aprgraph.runtime.trace.reader import Trace


def heads_once(a: Trace, b: Trace, names: SideNames) -> tuple[Trace, Trace, tuple[Reservation, ...]]:
    """Both traces with every KV head once, and what has to be said of that. Raises TraceError that names a damaged file."""
    read, said = [a, b], []
    for side, name in enumerate("AB"):
        graph = read[1 - side].graph()
        if read[side].graph() is not None or graph is None:
            continue
        read[side], repeated = without_repeats(read[side], graph)
        if repeated:
            said.append(
                Reservation(f"this looks like the recording, not the computation: {repeats_in_words(repeated)}, in {names.of(name)}")
            )
    return read[0], read[1], tuple(said)
