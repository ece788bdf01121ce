"""Where a trace goes if nobody says where."""

from __future__ import annotations

import os
from pathlib import Path

#: Folders of Python's packages: what lies there goes when the package does.
_PACKAGES = {"site-packages", "dist-packages"}
#: Variables that name caches (XDG Base Directory Specification; huggingface_hub's environment variables).
_CACHES = ("XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE")


def default_trace_directory(model: Path, stem: str) -> Path:
    """``<stem>-trace`` beside the model; in the current folder, where ``somebody_elses_place`` has a word for the model's."""
    name = f"{stem}-trace"
    return Path(name) if somebody_elses_place(model) is not None else model.with_name(name)


def somebody_elses_place(model: Path) -> str | None:
    """What the folder of a file is, if it is no place to leave results in: ``an installed package``, ``a cache``; else None.

    A link counts where it stands, not where it leads.
    """
    place = Path(os.path.abspath(model))  # noqa: PTH100 -- resolve() follows links
    if not _PACKAGES.isdisjoint(place.parts):
        return "an installed package"
    named = [Path(folder) for variable in _CACHES if (folder := os.environ.get(variable))]
    if ".cache" in place.parts or any(place.is_relative_to(os.path.abspath(folder)) for folder in named):  # noqa: PTH100
        return "a cache"
    return None
