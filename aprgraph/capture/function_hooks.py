"""Watching functions of a Python module while they are called, and putting them back."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

#: Called in place of the function, with the function and its arguments; it calls it and returns what it returned.
Around = Callable[..., Any]

_LOCK = threading.Lock()
#: Who watches each function that is watched at the moment, the first one innermost.
_WATCHERS: dict[tuple[str, str], list[Around]] = {}


@contextlib.contextmanager
def watching(module: ModuleType, name: str, around: Around) -> Iterator[None]:
    """While inside, calls of ``module.name`` from anywhere go through ``around``.

    Several watchers may come and go in any order: the first puts one function in place of the module's, the last restores it.
    """
    key = (module.__name__, name)
    with _LOCK:
        watchers = _WATCHERS.setdefault(key, [])
        if not watchers:
            setattr(module, name, _through(getattr(module, name), watchers))
        watchers.append(around)
    try:
        yield
    finally:
        with _LOCK:
            watchers.remove(around)
            if not watchers:
                setattr(module, name, getattr(module, name).__wrapped__)
                del _WATCHERS[key]


def _through(original: Callable[..., Any], watchers: list[Around]) -> Callable[..., Any]:
    """``original``, called through all of ``watchers``."""

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        function = original
        for around in tuple(watchers):
            function = functools.partial(around, function)
        return function(*args, **kwargs)

    return watched
