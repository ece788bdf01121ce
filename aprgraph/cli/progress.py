"""What a person sees while something takes long; silent where stderr is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aprgraph.cli.leaving import line_begun
from aprgraph.cli.terminal import harmless_console, printable
from aprgraph.cli.verbosity import is_quiet

#: Ends what is drawn: to the begin of its line, clear that, show the cursor again (ECMA-48; DECTCEM).
_END = b"\r\x1b[2K\x1b[?25h"


def _is_watched() -> bool:
    """Whether somebody is there to see it, and wants to."""
    return sys.stderr.isatty() and not is_quiet()


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show ``text`` with a spinner while the block runs."""
    if not _is_watched():
        yield
        return
    from rich.text import Text  # noqa: PLC0415

    with line_begun(_END), harmless_console(sys.stderr).status(Text(printable(text))):
        yield


@contextmanager
def progress_bar(text: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar of ``total`` steps; the block gets the function that advances it by one."""
    if not _is_watched() or not total:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with line_begun(_END), Progress(*columns, console=harmless_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(printable(text), total=total)
        yield lambda: bar.advance(task)


@contextmanager
def byte_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar of ``total`` bytes with their rate; the block gets the function that advances it by some."""
    if not _is_watched() or not total:
        yield lambda _count: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with line_begun(_END), Progress(*columns, console=harmless_console(sys.stderr), transient=True) as bar:
        task = bar.add_task(printable(text), total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def comparing() -> Iterator[Callable[[int, int, str], None] | None]:
    """A bar that names the tensor that is compared; the block gets the function of (done, of how many, the next one's label)."""
    if not _is_watched():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with line_begun(_END), Progress(*columns, console=harmless_console(sys.stderr), transient=True) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda done, total, label: bar.update(task, completed=done, total=total, description=printable(label))


@contextmanager
def replaying(total: int | None) -> Iterator[Callable[[str], None]]:
    """A bar that names the tensor that has been replayed last, of ``total`` if that is known; the block gets what is told of each.

    What is wrong may be replayed again in other ways: the bar stands full meanwhile, and the names go on.
    """
    if not _is_watched():
        yield lambda _label: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with line_begun(_END), Progress(*columns, console=harmless_console(sys.stderr), transient=True) as bar:
        task = bar.add_task("replaying in float64", total=total)
        yield lambda label: bar.update(task, advance=1, description=printable(f"replayed {label}"))
