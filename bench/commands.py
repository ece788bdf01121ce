"""What the commands cost that people wait for, each in a process of its own: medians of time, of processors' seconds, and peak memory.

    python bench/commands.py --model MODEL

A prompt of 7 tokens, every tensor of every layer: the first run of a model, with an empty cache and with its kernels in the cache; a run
whose artifact and plan were seen before; then, of two such traces, `diff`, `audit`, and `diff --model`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from measuring import Cost, measure

_APRGRAPH = (sys.executable, "-c", "from aprgraph.cli import main; main()")
_TOKENS = "1780,314,216,34,27,34,47"  # "What is 2+2?" in SmolLM2's vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache, traces = Path(scratch) / "cache", [Path(scratch) / name for name in "ab"]
        os.environ["APRGRAPH_CACHE"] = str(cache)

        def forget_artifacts() -> None:
            for artifact in cache.glob("*.aprg"):
                shutil.rmtree(artifact)

        def run(trace: Path) -> tuple[str, ...]:
            return "run", options.model, "--taps", "all", "--layers", "all", "--tokens", _TOKENS, "-o", str(trace)

        rows: list[tuple[str, tuple[str, ...], Callable[[], object]]] = [
            ("first run", run(traces[1]), lambda: shutil.rmtree(cache, ignore_errors=True)),
            ("first run, kernels cached", run(traces[1]), forget_artifacts),
            ("run", run(traces[0]), lambda: None),
            ("diff", ("diff", *map(str, traces)), lambda: None),
            ("audit", ("audit", str(traces[0]), "--model", options.model), lambda: None),
            ("diff --model", ("diff", *map(str, traces), "--model", options.model), lambda: None),
        ]
        for name, arguments, prepare in rows:
            costs: list[Cost] = []
            for _ in range(options.rounds):
                prepare()
                if arguments[0] == "run":
                    shutil.rmtree(arguments[-1], ignore_errors=True)
                costs.append(measure([(*_APRGRAPH, *arguments)]))
            seconds, processors = (statistics.median(values) for values in zip(*((c.seconds, c.processors) for c in costs), strict=True))
            spread = f"{min(c.processors for c in costs):.2f} to {max(c.processors for c in costs):.2f}"
            memory = max(cost.memory for cost in costs) / 1e6
            print(f"{name:28} {seconds:6.2f} s, {processors:6.2f} s of processors ({spread}), {memory:5.0f} MB", flush=True)


if __name__ == "__main__":
    main()
