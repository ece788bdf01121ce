"""A digest of the sources that code is emitted by: a kernel that was changed never meets the object of before.

Which files those are is read from their import statements, wherever these stand in a file, beginning with the module that
emits. So it does not depend on what a process happens to have imported, and files that only draw graphs or compare traces
do not count. The digest is of the files' content, not of where they are installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from functools import cache
from pathlib import Path

_PACKAGE = "aprgraph"
_IMPORT = re.compile(rf"^\s*(?:from\s+({_PACKAGE}[\w.]*)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+({_PACKAGE}[\w.]*))", re.MULTILINE)


@cache
def sources_digest(*roots: str) -> str:
    """The digest of the modules ``roots``, by their dotted names, and of all modules of the package that they import."""
    found = hashlib.sha256()
    for name, path in sorted(modules_under(*roots).items()):
        found.update(f"{name}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def modules_under(*roots: str) -> dict[str, Path]:
    """The modules ``roots`` and what they import of the package, directly or not: the files by dotted name."""
    found: dict[str, Path] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        # The package's own __init__ names everything, and imports it when it is asked for.
        if name in found or name == _PACKAGE or (path := _file_of(name)) is None:
            continue
        found[name] = path
        waiting.append(name.rpartition(".")[0])  # importing a module runs its packages first
        for module, names, plain in _IMPORT.findall(path.read_text(encoding="utf-8")):
            waiting.append(module or plain)
            waiting += [f"{module}.{part}" for part in re.findall(r"\w+", names)] if module else []
    return found


@cache
def _file_of(name: str) -> Path | None:
    """The file of a module; None for what is no module, such as a function that is imported by name.

    Only the package itself and its folders are looked up by the import system: to ask it for more would import them.
    """
    parts = name.split(".")
    if len(parts) > 2:
        folder = _file_of(".".join(parts[:2]))
        if folder is None:
            return None
        place = folder.parent.joinpath(*parts[2:])
        return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)
    spec = importlib.util.find_spec(name) if name else None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None
