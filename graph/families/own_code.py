"""The code of families that are not in the package: where it lies, and its errors in one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from aprgraph.graph.errors import AprgraphError, GraphError, ModelError
from aprgraph.graph.families.base import Family


def where_is(family: type[Family]) -> str:
    """The file that a family is declared in."""
    try:
        return inspect.getfile(family)
    except (OSError, TypeError):
        return family.__module__


def is_own_family(family: type[Family]) -> bool:
    """Whether a family comes from outside the package, so that the package's version does not say what it builds."""
    return not family.__module__.startswith(f"{__name__.partition('.')[0]}.")


def line_in(file: str, error: BaseException) -> str:
    """``:N``, the last line of ``file`` that an error came through; empty if it came through none."""
    lines = [error.lineno] if isinstance(error, SyntaxError) and error.lineno is not None else []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f":{lines[-1]}" if lines else ""


@contextmanager
def own_code(family: type[Family]) -> Iterator[None]:
    """Run code of a family: an error of one that is not in the package becomes a ModelError that names file and line.

    So does a GraphError, which says what is wrong with an op but not who wrote it. An error of the package's own
    families is a defect of the package, and keeps its traceback.
    """
    try:
        yield
    except Exception as error:
        if not is_own_family(family) or (isinstance(error, AprgraphError) and not isinstance(error, GraphError)):
            raise
        file = where_is(family)
        what = str(error) if isinstance(error, GraphError) else f"{type(error).__name__}: {error}"
        raise ModelError(f"{file}{line_in(file, error)}: {what}; the family {family.__name__} could not build its graph") from error
