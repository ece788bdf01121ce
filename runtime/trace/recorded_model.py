"""The model that a trace was recorded from, found again by the name and the fingerprint in its manifest.

A manifest holds no path, so that the same run gives the same bytes wherever the model lies; but a trace mostly lies beside its
model, or the command runs where both are.
"""

from __future__ import annotations

from pathlib import Path

from aprgraph.graph.arguments import MODEL
from aprgraph.graph.errors import AprgraphError, ComparisonError
from aprgraph.graph.sources.open import open_source
from aprgraph.runtime.trace.reader import Trace


def find_recorded_model(trace: Trace) -> Path:
    """The file or folder of that name and fingerprint beside the trace, one folder up, or in the current folder.

    Raises ComparisonError where the manifest names none, or none of these is it.
    """
    named = {} if trace.info is None else trace.info.model
    name, fingerprint = named.get("name"), named.get("fingerprint")
    if not isinstance(name, str) or not isinstance(fingerprint, str) or Path(name).name != name:
        raise ComparisonError(f"{trace.directory}: no manifest says which model it was recorded from; name it with ", MODEL)
    folder = trace.directory.resolve().parent
    places = list(dict.fromkeys((folder / name, folder.parent / name, Path.cwd() / name)))
    others = [path for path in places if path.exists()]
    for path in others:
        if _fingerprint(path) == fingerprint:
            return path
    found = (
        f"{others[0]} is another one (the fingerprints differ)" if others else f"none is in {folder}, above it, or in the current folder"
    )
    raise ComparisonError(f"{trace.directory}: it was recorded from a model {name}, and {found}; name the model with ", MODEL)


def recorded_overrides(trace: Trace) -> dict[str, int | float | bool | str]:
    """The metadata keys that the model was loaded with in place of its own, as the manifest has them."""
    found = trace.info.model.get("overrides") if trace.info is not None else None
    values = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in values if isinstance(key, str) and isinstance(value, (int, float, str))}


def _fingerprint(path: Path) -> str | None:
    """That of a model; None of what is no model."""
    try:
        return open_source(path).fingerprint()
    except AprgraphError:
        return None
