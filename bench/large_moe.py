"""Traces one layer of a synthetic model of Qwen3-30B-A3B's shape: how long it takes, and how much memory stays resident.

    python bench/large_moe.py qwen3moe.gguf [--format Q4_K] [--layers 48]

Writes the model unless it is there: 48 layers of 128 experts, 8 of them used, random blocks, 17 GB in Q4_K (a minute). Weights of
one shape share their random bytes, but for where they begin in them. Then, as whole processes on a compiled artifact:

    a trace of all stages of layer 0 but for the whole-model ones, which need that layer alone
    a trace of all stages of layer 0 and of the whole model, and of the last layer, which need all layers
    the resident memory at its highest, of which the pages of the file are part, and without them

and beside each, in turns, the peer: reading all weights of layer 0, whose experts the tokens choose from.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import repository  # noqa: F401 -- before what it makes importable

import aprgraph
from bench.measuring import APRGRAPH, PROCESSORS, Failure, Row, in_turns, show, tried
from bench.random_model import SHAPES, write_model

TOKENS = [9707, 11, 1879, 0, 3555, 374, 220, 17, 10, 17, 30]

#: Memory as the process itself sees it: what the system tells its parent may be the parent's.
_MEASURED = """
import sys
from aprgraph.cli import main
sys.argv = ["aprgraph", *sys.argv[1:]]
try:
    main()
except SystemExit as exit_:
    assert not exit_.code, exit_.code
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(int(status[name].split()[0]) * 1024 for name in ("VmHWM", "RssAnon")), file=sys.stderr)
"""


class Traced:
    """A trace as a whole process; keeps the bytes that each run had resident, at most and, at the end, without pages of files."""

    def __init__(self, artifact: Path, taps: str, layers: str, output: Path) -> None:
        text = ["run", artifact, "--taps", taps, "--layers", layers, "--tokens", ",".join(map(str, TOKENS)), "-o", output]
        self._command = [sys.executable, "-c", _MEASURED, *map(str, text)]
        self.resident: list[int] = []
        self.anonymous: list[int] = []

    def __call__(self) -> None:
        done = subprocess.run(self._command, check=True, capture_output=True, text=True)
        resident, anonymous = map(int, done.stderr.splitlines()[-1].split())
        self.resident.append(resident)
        self.anonymous.append(anonymous)


def one_layer(path: Path, layers: int, rounds: int, *, whole: bool) -> Iterator[Row | Failure]:
    """A row for layer 0 alone of a model of so many layers; ``whole``: and for layer 0 and the last layer, each with the whole model's."""
    model = aprgraph.load(path)
    own = ",".join(dict.fromkeys(str(node.stage) for node in model.graph.staged() if node.layer == 0))
    traced = {"layer 0 alone": (own, "0..1")}
    if whole:
        last = f"{layers - 1}..{layers}"
        traced |= {"layer 0 and the whole model's stages": ("all", "0..1"), "the last layer and the whole model's stages": ("all", last)}
    file = model.model.file
    tensors = [info for name, info in file.tensors.items() if name.startswith("blk.0.")]

    def read() -> None:
        for info in tensors:
            np.memmap(path, np.uint8, "r", info.offset, info.nbytes).max()

    size = sum(info.nbytes for info in tensors)
    peer = f"reading layer 0's {size / 1e6:.0f} MB"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        artifact, output = Path(folder) / "model.aprg", Path(folder) / "out"
        subprocess.run([*APRGRAPH, "compile", "--quiet", "-o", str(artifact), str(path)], check=True, stdout=subprocess.DEVNULL)
        for name, (taps, which) in traced.items():
            what = f"{layers} layers of Qwen3-30B-A3B, {len(TOKENS)} tokens, {name}"
            yield from tried("moe", what, partial(_traced, what, Traced(artifact, taps, which, output), peer, read, rounds))


def _traced(what: str, traced: Traced, peer: str, read: Callable[[], None], rounds: int) -> Iterator[Row]:
    taken = in_turns({"ours": traced, "peer": read}, rounds, time.perf_counter)  # the first round compiles the plan's program
    note = f"{statistics.median(traced.anonymous[1:]) / 1e6:.0f} MB without the file's pages"
    yield Row.of("moe", what, peer, taken["ours"], taken["peer"], PROCESSORS, max(traced.resident[1:]), note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--format", default="Q4_K")
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.model.exists():
        start = time.perf_counter()
        write_model(options.model, SHAPES["qwen3-30b-a3b"], options.format, options.layers)
        print(f"wrote {options.model}, {options.model.stat().st_size / 1e9:.1f} GB, in {time.perf_counter() - start:.0f} s")
    return show(one_layer(options.model, options.layers, options.rounds, whole=True))


if __name__ == "__main__":
    sys.exit(main())
