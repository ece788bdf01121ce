"""Imports run one way: graph <- codegen, runtime <- front, and between the rooms of runtime and of the front there is no cycle.

Imports inside functions count too: they are there so that a command starts fast, not so that two rooms may know each other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
#: The folders, and what each may import beside itself.
MAY_IMPORT = {"graph": set(), "codegen": {"graph"}, "runtime": {"graph"}, "aprgraph": {"graph", "codegen", "runtime"}}
#: Folders whose packages and modules are rooms of their own; the others are one room each.
DIVIDED = ("runtime", "aprgraph")


def _modules() -> dict[str, Path]:
    """Every module of the package, by its name."""
    found = {}
    for folder in MAY_IMPORT:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "aprgraph" else ("aprgraph", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """The modules of this package that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _folder(module: str) -> str:
    return MODULES[module].relative_to(ROOT).parts[0]


def _room(module: str) -> str:
    """``graph``, ``runtime/diff``, ``runtime/tokens``, ``aprgraph/cli``."""
    parts = MODULES[module].relative_to(ROOT).with_suffix("").parts
    return "/".join(parts[:2]).removesuffix("/__init__") if parts[0] in DIVIDED else parts[0]


@cache
def imports() -> list[tuple[str, str]]:
    """Who imports whom. Not when this file is imported: that would cost every collection a second or two."""
    return [(module, other) for module, path in MODULES.items() for other in _imports(path) if other in MODULES]


def test_folders_import_one_way() -> None:
    assert len(imports()) > 1000
    assert {_folder(module) for module in MODULES} == set(MAY_IMPORT)
    wrong = [
        f"{module} imports {other}"
        for module, other in imports()
        if _folder(module) != _folder(other) and _folder(other) not in MAY_IMPORT[_folder(module)]
    ]
    assert not wrong


def test_no_cycle_between_rooms() -> None:
    rooms: nx.DiGraph[str] = nx.DiGraph()
    for module, other in imports():
        # The package's own __init__ says where its public names live, and imports them when they are asked for.
        if _room(module) != _room(other) and "aprgraph" not in (module, other):
            rooms.add_edge(_room(module), _room(other))
    assert rooms.has_edge("runtime/blame", "runtime/diff")
    assert rooms.has_edge("aprgraph/cli", "runtime/comparison")
    cycles = [sorted(component) for component in nx.strongly_connected_components(rooms) if len(component) > 1]
    assert not cycles
