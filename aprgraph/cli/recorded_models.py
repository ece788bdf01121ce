"""The model to replay a trace by: the one that is named on the command line, else the one that the trace's manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aprgraph.cli.notices import print_notice

if TYPE_CHECKING:
    from aprgraph.runtime.trace.reader import Trace

#: Values of metadata keys in place of the file's.
Overrides = dict[str, int | float | bool | str]


def model_of_manifest(trace: Trace, called: str, given: Path | None) -> tuple[Path, Overrides]:
    """``given``, else the model that the manifest names, and what it was loaded with; a notice says both.

    ``called`` is what the notice calls the trace. Raises ComparisonError where no model is given, named or found.
    """
    from aprgraph.runtime.trace.recorded_model import find_recorded_model, recorded_overrides  # noqa: PLC0415

    model = find_recorded_model(trace) if given is None else given
    overrides = recorded_overrides(trace)
    with_keys = ", ".join(f"{key}={value}" for key, value in overrides.items())
    if given is None or with_keys:
        print_notice(f"{called} is replayed by {model}, which its manifest names{f', with {with_keys}' if with_keys else ''}")
    return model, overrides
