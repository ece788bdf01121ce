"""A digest of the source files that emit code. If one of them changes, kernels in the cache are compiled again.

The files are found by their import statements, wherever in a file these are, starting from the module that emits the
code. So the digest does not depend on the modules that a process happens to have loaded, and a change to a file that
only draws graphs or compares traces does not count. The digest covers the content of the files, not the place of
installation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from functools import cache
from pathlib import Path

_PACKAGE = "aprgraph"
_IMPORT = re.compile(rf"^\s*(?:from\s+({_PACKAGE}[\w.]*)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+({_PACKAGE}[\w.]*))", re.MULTILINE)


@cache
def sources_digest(*roots: str) -> str:
    """The digest of the modules ``roots`` (dotted names) and of all modules of the package that they import."""
    found = hashlib.sha256()
    for name, path in sorted(modules_under(*roots).items()):
        found.update(f"{name}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def modules_under(*roots: str) -> dict[str, Path]:
    """The files of ``roots`` and of the modules that they import from the package, also indirectly, by dotted name."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        # The package's own __init__ names all of the API, but imports it lazily: its imports do not count.
        if name in found or name == _PACKAGE or (path := _file_of(name)) is None:
            continue
        found[name] = Path(path)
        waiting.append(name.rpartition(".")[0])  # importing a module runs its packages first
        for module, names, plain in _IMPORT.findall(found[name].read_text(encoding="utf-8")):
            waiting.append(module or plain)
            waiting += [f"{module}.{part}" for part in re.findall(r"\w+", names)] if module else []
    return found


@cache
def _file_of(name: str) -> str | None:
    """The file of a module; None if ``name`` is not a module, such as a function that is imported by name.

    Only the package and its top folders are looked up with the import system. For deeper names it would import code.
    """
    parts = name.split(".")
    if len(parts) > 2:
        folder = _file_of(".".join(parts[:2]))
        if folder is None:
            return None
        # Plain strings: a thousand names are looked up at each start.
        place = os.path.join(os.path.dirname(folder), *parts[2:])
        return next((path for path in (f"{place}{os.sep}__init__.py", f"{place}.py") if os.path.isfile(path)), None)
    spec = importlib.util.find_spec(name) if name else None
    return spec.origin if spec is not None else None
