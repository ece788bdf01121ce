"""`aprgraph cache`: what the user's cache holds, and its clearing."""

from __future__ import annotations

import json as json_module
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from aprgraph.cli.options import Json
from aprgraph.cli.tables import format_table
from aprgraph.graph.words import bytes_text

if TYPE_CHECKING:
    from aprgraph.codegen.cache.contents import Entry

cache_commands = typer.Typer(invoke_without_command=True, rich_markup_mode=None)

#: What is listed: the kind of entry, its name for programs, and for people.
_KINDS = (
    ("kernel", "cpu_kernels", "kernels for CPUs"),
    ("cuda", "cuda_kernels", "models' kernels for CUDA"),
    ("artifact", "artifacts", "artifacts"),
    ("remainder", "remainders", "left half written"),
)


@cache_commands.callback()
def cache(context: typer.Context, json: Json = False) -> None:
    """List what the cache of compiled kernels holds, or clear it.

    Kernels are compiled once for all models of a user. They are found again by what they were compiled from, so a cache
    that is cleared costs time, and never changes a result. It lies in APRGRAPH_CACHE [~/.cache/aprgraph] and holds at most
    APRGRAPH_CACHE_SIZE [1G]; what was not used for longest goes first. With a size of 0, no kernel is kept or looked up.

    \b
    Example:
      aprgraph cache
      aprgraph cache clear
    """
    from aprgraph.codegen.cache.contents import bytes_of, list_cache  # noqa: PLC0415
    from aprgraph.codegen.cache.folder import SIZE_VARIABLE, size_limit  # noqa: PLC0415

    if context.invoked_subcommand is not None:
        return
    folder, limit = _folder(), size_limit()
    entries = list_cache()
    if json:
        _print_json({"folder": folder, "limit": limit, **_document(entries)})
        return
    typer.echo(f"{folder}: {bytes_text(bytes_of(entries))} of at most {bytes_text(limit)} ({SIZE_VARIABLE})")
    if entries:
        rows = [(name, str(len(found)), bytes_text(bytes_of(found))) for _, name, found in _by_kind(entries) if found]
        typer.echo("\n" + format_table(("what", "count", "size"), rows, right=(1, 2)))


@cache_commands.command()
def clear(json: Json = False) -> None:
    """Remove all that the cache holds.

    Example: aprgraph cache clear
    """
    from aprgraph.codegen.cache.contents import bytes_of, clear_cache  # noqa: PLC0415

    folder = _folder()
    removed = clear_cache()
    if json:
        _print_json({"folder": folder, **_document(removed)})
        return
    counts = ", ".join(f"{len(found)} {name}" for _, name, found in _by_kind(removed) if found)
    typer.echo(f"{folder}: " + (f"removed {counts}; {bytes_text(bytes_of(removed))}" if counts else "nothing to remove"))


def _folder() -> str:
    """The user's cache. Raises AprgraphError where nothing tells where that is."""
    from aprgraph.codegen.cache.folder import FOLDER_VARIABLE, cache_folder  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    folder = cache_folder()
    if folder is None:
        raise AprgraphError(f"nothing says where the user's cache is; set {FOLDER_VARIABLE} to a folder")
    return str(folder)


def _by_kind(entries: Sequence[Entry]) -> list[tuple[str, str, list[Entry]]]:
    return [(key, name, [entry for entry in entries if entry.kind == kind]) for kind, key, name in _KINDS]


def _document(entries: Sequence[Entry]) -> dict[str, object]:
    from aprgraph.codegen.cache.contents import bytes_of  # noqa: PLC0415

    kinds = {key: {"count": len(found), "bytes": bytes_of(found)} for key, _, found in _by_kind(entries)}
    return {"bytes": bytes_of(entries), **kinds}


def _print_json(document: dict[str, object]) -> None:
    typer.echo(json_module.dumps(document, indent=1))
