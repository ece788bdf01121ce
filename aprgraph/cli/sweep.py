"""``aprgraph sweep``: many runs, on many machines, and one page over all of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aprgraph.cli.notices import print_notice, print_notices
from aprgraph.cli.options import Families
from aprgraph.cli.progress import spinner
from aprgraph.cli.tables import format_table
from aprgraph.cli.verbosity import Quiet, Verbose, explain, is_quiet
from aprgraph.cli.write_errors import Afterwards
from aprgraph.graph.words import bytes_text, counted, plain

if TYPE_CHECKING:
    from aprgraph.sweep.findings import Finding, Findings
    from aprgraph.sweep.plan import SweepPlan

#: Cells of what is off that are shown without --all.
_SHOWN = 12


def sweep(
    matrix: Annotated[Path, typer.Argument(metavar="MATRIX.toml", help="What is to be run (docs/many-machines.md).", show_default=False)],
    store: Annotated[
        Path | None,
        typer.Option("--store", metavar="DIR", help="Where the cells are kept [what the matrix says, else <matrix-stem>-store beside it]."),
    ] = None,
    executor: Annotated[
        str,
        typer.Option(
            "--executor",
            metavar="WHERE",
            help="Where the workers are: local, ray, ray://HOST:PORT, slurm:partition=NAME[,…] (docs/many-machines.md).",
        ),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-j", min=1, metavar="N", help="How many cells are computed at once [what the machines have]."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, max=1024, help="Threads of each worker; results do not depend on it [its share].")
    ] = None,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, max=100, metavar="N", help="How often a cell is begun before it is given up.")
    ] = 5,
    status: Annotated[bool, typer.Option("--status", help="Compute nothing: say what the store has.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="DIR", help="Write one page over all cells, and one for each, into a folder that opens offline."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all findings as JSON.")] = False,
    _family: Families = None,
    show_all: Annotated[bool, typer.Option("--all", help="Print every cell, not only those that are off.")] = False,
    _quiet: Quiet = False,
    _verbose: Verbose = False,
) -> None:
    """Run a matrix of prompts, models, targets, arithmetics and overrides; audit each run, compare those that stand beside each other.

    What was computed is not computed again: a cell is found by its model's fingerprint, tokens, plan and versions, so a sweep that was
    stopped goes on where it was, and several may share a store. Statistics and verdicts are kept always, tensors of what diverged.

    \b
    Example:
      aprgraph sweep matrix.toml
      aprgraph sweep matrix.toml --workers 8 --html page
      aprgraph sweep matrix.toml --status

    Exit code: 0 nothing is off, 1 a run is wrong or a comparison diverged, 2 a cell could not be computed or compared, 3 nothing was
    measured in one.
    """
    from dataclasses import replace  # noqa: PLC0415

    from aprgraph.sweep.findings import find  # noqa: PLC0415
    from aprgraph.sweep.matrix import read_matrix  # noqa: PLC0415
    from aprgraph.sweep.page import check_page_folder, write_pages  # noqa: PLC0415
    from aprgraph.sweep.plan import plan_sweep  # noqa: PLC0415
    from aprgraph.sweep.store import Store  # noqa: PLC0415

    asked = read_matrix(matrix)
    if html is not None:
        check_page_folder(html)
    with spinner("reading models and prompts"):
        plan = plan_sweep(asked if store is None else replace(asked, store=store))
    print_notices(plan.notices)
    opened = Store(plan.matrix.store)
    failures = {} if status else _compute(plan, opened, executor, workers, threads, attempts)
    found = find(plan, opened, failures)
    late = Afterwards()
    if html is not None:
        with late.written_by("--html"):
            write_pages(html, found, plan, opened)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1, allow_nan=False))
    else:
        _print(found, plan, show_all)
    late.finish()
    raise typer.Exit(found.exit_code)


def _compute(plan: SweepPlan, opened: object, executor: str, workers: int | None, threads: int | None, attempts: int) -> dict[str, str]:
    from aprgraph.runtime.executors import open_executor  # noqa: PLC0415
    from aprgraph.sweep.head import run_sweep  # noqa: PLC0415
    from aprgraph.sweep.log import Log  # noqa: PLC0415
    from aprgraph.sweep.store import Store  # noqa: PLC0415

    assert isinstance(opened, Store)
    if all(opened.has(cell.key) for group in plan.groups for cell in group.cells):
        explain("every cell is in the store")
        return {}
    log = Log(opened.log)

    def tell(notice: str) -> None:
        log.write("again", why=notice)
        print_notice(notice)

    with open_executor(executor, workers, threads=threads, attempts=attempts, on_notice=tell) as opened_executor:
        explain(f"{counted(opened_executor.workers, 'worker')}, {counted(len(plan.groups), 'group')} of cells")
        with _progress() as say:
            done = run_sweep(plan, opened, opened_executor, on_progress=say and _cells(say), on_sent=say and _bytes(say), log=log)
    explain(f"{counted(done.computed, 'cell')} computed, {done.found:,} found in the store")
    for why in dict.fromkeys(done.failures.values()):
        print_notice(f"no cell: {why}")
    return done.failures


@contextmanager
def _progress() -> Iterator[Callable[[str], None] | None]:
    """A line that says how far the sweep is, where somebody watches."""
    from aprgraph.progress import is_watched, progress_line  # noqa: PLC0415

    if is_quiet() or not is_watched():
        yield None
        return
    with progress_line(None, "sweep") as say:
        yield say


def _cells(say: Callable[[str], None]) -> Callable[[int, int, float | None], None]:
    """How many cells are done and how long the rest takes."""
    return lambda done, total, left: say(f"{done:,} of {total:,} cells" + (f", {_duration(left)} left" if left is not None else ""))


def _bytes(say: Callable[[str], None]) -> Callable[[str, int, int], None]:
    """How much of a model is with a worker that lacked it."""
    return lambda name, sent, total: say(f"{name} to a worker: {bytes_text(sent)} of {bytes_text(total)}")


def _duration(seconds: float) -> str:
    return time.strftime("%H:%M:%S" if seconds >= 3600 else "%M:%S", time.gmtime(min(seconds, 86399)))


def _print(found: Findings, plan: SweepPlan, show_all: bool) -> None:
    typer.echo(plain(found.sentence))
    if is_quiet():
        return
    for sentence in found.common:
        typer.echo(plain(sentence))
    typer.echo(f"store: {plan.matrix.store}")
    typer.echo("cells: " + ", ".join(f"{count:,} {state}" for state, count in found.counts.items()))
    rows = [cell for cell in found.cells if show_all or cell.state not in ("RIGHT", "ALIKE")]
    shown = rows if show_all else rows[:_SHOWN]
    if shown:
        typer.echo("")
        typer.echo(
            format_table(
                ("", "prompt", "tokens", "model", "run", "beside", "what"), [_row(cell) for cell in shown], right=(2,), drop_empty=True
            )
        )
    if len(shown) < len(found.cells):
        typer.echo(f"{len(shown)} of {len(found.cells)} cells shown; --all prints every one")
    sys.stdout.flush()


def _row(cell: Finding) -> list[str]:
    run = ", ".join(
        [cell.at.target, *(one for one in (cell.at.arithmetic, cell.at.overrides) if one not in ("plain", "as the file has it"))]
    )
    return [
        cell.state,
        plain(cell.at.prompt),
        str(cell.tokens),
        plain(cell.at.model),
        plain(run),
        plain(cell.beside or ""),
        plain(cell.sentence)[:120],
    ]
