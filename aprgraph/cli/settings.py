"""Defaults of options, from ``[tool.aprgraph]`` of the nearest pyproject.toml that has it.

    [tool.aprgraph.run]
    layers = "all"
    [tool.aprgraph.diff]
    tol = ["ffn_.*=nmse:1e-6"]

A file in the current folder, or above it, may be somebody else's. So what runs code, writes over files, names places to write to, or
goes to another machine is not taken from it: see ``ALLOWED``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

#: The options that may have their default in a file.
ALLOWED = frozenset({
    "all", "arithmetic", "explain-arithmetic", "fingerprint", "format", "layers", "max-tokens", "positions", "prefill-chunk", "profile",
    "quick", "quiet", "replay", "room", "stats-only", "steps", "taps", "target", "threads", "tol", "top", "unfold", "verbose",
})  # fmt: skip
_FILE = "pyproject.toml"
_TABLE = "[tool.aprgraph]"
#: A larger file is no project's.
_MOST_BYTES = 1 << 20


def find_settings(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The nearest file, in ``folder`` or above, that has the table, and the table. Raises AprgraphError for one that cannot be read."""
    for place in (folder, *folder.parents):
        file = place / _FILE
        try:
            text = file.read_bytes() if file.is_file() and file.stat().st_size <= _MOST_BYTES else b""
        except OSError:
            continue
        if b"tool.aprgraph" not in text:
            continue
        table = _parse(file, text)
        if table is not None:
            return file, table
    return None


def _parse(file: Path, text: bytes) -> dict[str, Any] | None:
    from aprgraph.graph.errors import AprgraphError, shown  # noqa: PLC0415

    try:
        import tomllib  # noqa: PLC0415
    except ModuleNotFoundError:
        from aprgraph.cli.notices import print_notice  # noqa: PLC0415

        print_notice(f"{_TABLE} of {file} is not read: that needs Python 3.11 or later")
        return None
    try:
        document = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AprgraphError(f"{file}: {_TABLE} cannot be read: {shown(str(error))}; correct the file") from None
    table = document.get("tool", {}).get("aprgraph") if isinstance(document.get("tool", {}), dict) else None
    if table is not None and not isinstance(table, dict):
        raise AprgraphError(f"{file}: {_TABLE} is {shown(table)}, expected a table with a table for each command")
    return table


def default_map(commands: Mapping[str, Any], command: str, file: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of one command, by the names of its parameters. Raises AprgraphError for what cannot be one, of whatever command."""
    own: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            options = dict(_of_command(commands, name, file, value))
            own |= options if name == command else {}
        elif name in ("quiet", "verbose") and isinstance(value, bool):
            own = {f"_{name}": value, **own}
        else:
            raise _error(f"{file}: {_TABLE} has {name!r}", "expected tables of commands, and quiet and verbose, true or false")
    return own


def _of_command(commands: Mapping[str, Any], name: str, file: Path, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(parameter, value) of the table of one command."""
    where = f"{file}: [tool.aprgraph.{name}]"
    if name not in commands:
        raise _error(f"{where}: there is no command {name!r}{_meant(name, commands)}", f"expected one of {', '.join(commands)}")
    options = {option.removeprefix("--"): one for one in commands[name].params for option in one.opts if option.startswith("--")}
    allowed = [option for option in options if option in ALLOWED]
    for option, value in table.items():
        if option not in options:
            known = f"expected one of {', '.join(allowed) or 'none'}"
            raise _error(f"{where}: there is no option {option!r}{_meant(option, allowed)}", known)
        if option not in ALLOWED:
            raise _error(f"{where}: {option} is given on the command line alone", "the file may be somebody else's; take it out")
        declared = options[option]
        parts = value if isinstance(value, list) and declared.multiple else [value]
        if not all(isinstance(part, bool) if declared.is_flag else type(part) in (str, int, float) for part in parts):
            raise _error(f"{where}: {option} is {value!r}", f"expected {'true or false' if declared.is_flag else f'what --{option} takes'}")
        yield declared.name, list(map(str, parts)) if declared.multiple else value if declared.is_flag else str(value)


def _meant(name: str, known: Iterable[str]) -> str:
    from aprgraph.graph.near_names import did_you_mean_one_of  # noqa: PLC0415

    return did_you_mean_one_of(name, known)


def _error(what: str, expected: str) -> Exception:
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415

    return AprgraphError(f"{what}; {expected}")
