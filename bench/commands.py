"""What the commands cost that people wait for, each in a process of its own, beside a Python process that does nothing.

    python bench/commands.py --model MODEL

A prompt of 7 tokens, every tensor of every layer: the first run of a model, with an empty cache and with its kernels in the cache; a run
whose artifact and plan were seen before; then, of two such traces, `diff`, `audit`, and `diff --model`. The peer, in turns with each, only
imports what a run cannot do without, so that the ratio depends little on the machine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import repository  # noqa: F401 -- before what it makes importable

from bench.measuring import APRGRAPH, PROCESSORS, Cost, Failure, Row, measure, show, tried

_TOKENS = "1780,314,216,34,27,34,47"  # "What is 2+2?" in SmolLM2's vocabulary
_BARE = (sys.executable, "-c", "import numpy, tokenizers, typer, tvm_ffi")


def commands(model: Path, rounds: int, scratch: Path) -> Iterator[Row | Failure]:
    """A row for each command, with a cache of its own in ``scratch``."""
    cache, traces = scratch / "cache", [scratch / name for name in "ab"]

    def forget_artifacts() -> None:
        for artifact in cache.glob("*.aprg"):
            shutil.rmtree(artifact)

    def run(trace: Path) -> tuple[str, ...]:
        return "run", str(model), "--taps", "all", "--layers", "all", "--tokens", _TOKENS, "-o", str(trace)

    measured: list[tuple[str, tuple[str, ...], Callable[[], object]]] = [
        ("first run", run(traces[1]), lambda: shutil.rmtree(cache, ignore_errors=True)),
        ("first run, kernels cached", run(traces[1]), forget_artifacts),
        ("run", run(traces[0]), lambda: None),
        ("diff", ("diff", *map(str, traces)), lambda: None),
        ("audit", ("audit", str(traces[0]), "--model", str(model)), lambda: None),
        ("diff --model", ("diff", *map(str, traces), "--model", str(model)), lambda: None),
    ]
    for name, arguments, prepare in measured:
        what = f"{model.stem}, {name}"
        yield from tried("commands", what, partial(_one_command, what, arguments, prepare, rounds, cache))


def _one_command(what: str, arguments: Sequence[str], prepare: Callable[[], object], rounds: int, cache: Path) -> Iterator[Row]:
    costs: list[Cost] = []
    bare: list[Cost] = []
    for _ in range(rounds):
        prepare()
        if arguments[0] == "run":
            shutil.rmtree(arguments[-1], ignore_errors=True)
        costs.append(measure([(*APRGRAPH, *arguments)], environment={"APRGRAPH_CACHE": str(cache)}))
        bare.append(measure([_BARE]))
    note = f"{statistics.median(cost.processors for cost in costs):.2f} s of processors"
    ours, theirs = ([cost.seconds for cost in those] for those in (costs, bare))
    memory = max(cost.memory for cost in costs)
    yield Row.of("commands", what, "bare Python", ours, theirs, PROCESSORS, memory, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        return show(commands(options.model, options.rounds, Path(scratch)))


if __name__ == "__main__":
    sys.exit(main())
