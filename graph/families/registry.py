"""The table of families: those of the package, and those that others bring in a file or a package of their own."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from aprgraph.graph.errors import AprgraphError, UnsupportedModelError, shown
from aprgraph.graph.families.base import Family
from aprgraph.graph.metadata import Metadata
from aprgraph.graph.stages import add_stage

_F = TypeVar("_F", bound=type[Family])

#: The entry points by which an installed package says which families it brings.
ENTRY_POINTS = "aprgraph.families"
#: By ``general.architecture``.
FAMILIES: dict[str, type[Family]] = {}


def register(family: _F) -> _F:
    """Make a family known, so that files of its architecture can be opened; it may stand as a decorator of the class.

    Raises AprgraphError if another family has the architecture, if the class names none, or if a stage of its own is another's.
    """
    architecture = getattr(family, "architecture", None)
    if not isinstance(architecture, str) or not architecture:
        raise AprgraphError(
            f"{where_is(family)}: the family {family.__name__} names no architecture; expected such as architecture = 'llama', the "
            "general.architecture of its files"
        )
    there = FAMILIES.get(architecture, family)
    if there is not family:
        raise AprgraphError(
            f"two families have the architecture {architecture!r}: {there.__name__} ({where_is(there)}) and {family.__name__} "
            f"({where_is(family)}); expected one, so rename or drop one of them"
        )
    for stage, before in family.stages:
        add_stage(stage, before)
    FAMILIES[architecture] = family
    return family


def where_is(family: type[Family]) -> str:
    """The file that a family is declared in."""
    try:
        return inspect.getfile(family)
    except (OSError, TypeError):
        return family.__module__


def is_own_family(family: type[Family]) -> bool:
    """Whether a family comes from outside the package, so that the package's version does not say what it builds."""
    return not family.__module__.startswith(f"{__name__.partition('.')[0]}.")


def load_family_file(path: str | Path) -> list[type[Family]]:
    """Run a Python file and register the families that are declared in it. The same file may be loaded again.

    The file is code, and runs with all that the user may do: it is the user who names it. Raises AprgraphError if the file is not
    there, raises an error itself, or declares no family with an architecture of its own.
    """
    file = Path(path)
    module = _run(file)
    # A family that the file only derives from is another's, or has no architecture itself.
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__ and "architecture" in vars(value)
    ]
    if not found:
        raise AprgraphError(
            f"{path}: declares no family; expected a class that derives from aprgraph.families.Family and names its architecture"
        )
    for family in found:
        register(family)
    return found


def _run(file: Path) -> ModuleType:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise AprgraphError(f"{file}: {error.strerror}; expected a Python file that declares a family") from None
    # By content, so that loading a file twice declares one class, and the file beside it another.
    name = f"aprgraph_family_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except AprgraphError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        line = _line_in(file, error)
        raise AprgraphError(f"{file}{line}: {type(error).__name__}: {error}; the family's file could not be run") from error
    return module


def _line_in(file: Path, error: BaseException) -> str:
    """``:N``, the last line of ``file`` that an error came through."""
    lines = [error.lineno] if isinstance(error, SyntaxError) else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(file):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""


def load_installed_families() -> None:
    """Register the families that installed packages bring, once. Raises AprgraphError that names the package of one that fails."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if entry.value in _INSTALLED:
            continue
        package = entry.dist.name if entry.dist is not None else "?"
        try:
            family = entry.load()
        except Exception as error:
            raise AprgraphError(
                f"the package {package} brings the family {entry.name} ({entry.value}), which cannot be loaded: {type(error).__name__}: "
                f"{error}; mend or uninstall it"
            ) from error
        if not (isinstance(family, type) and issubclass(family, Family)):
            raise AprgraphError(
                f"the package {package} brings the family {entry.name}, but {entry.value} is no class that derives from "
                "aprgraph.families.Family; mend or uninstall it"
            )
        register(family)
        _INSTALLED.add(entry.value)


_INSTALLED: set[str] = set()


def find_family(metadata: Metadata) -> type[Family]:
    """The family of a model. Raises UnsupportedModelError that lists those there are."""
    architecture = metadata.text("general.architecture")
    if architecture not in FAMILIES:
        load_installed_families()
    if architecture not in FAMILIES:
        raise UnsupportedModelError(
            f"{metadata.path}: general.architecture is {shown(architecture)}; supported: {', '.join(sorted(FAMILIES))}; others can be "
            "brought as a family of your own (docs/families.md)"
        )
    return FAMILIES[architecture]
