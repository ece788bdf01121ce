"""Traces one layer of a synthetic model of Qwen3-30B-A3B's shape: how long it takes, and how much memory stays resident.

    python bench/large_moe.py qwen3moe.gguf [--format Q4_K] [--layers 48]

Writes the model unless it is there: 48 layers of 128 experts, 8 of them used, random blocks, 17 GB in Q4_K (a minute). Weights of
one shape share their random bytes, but for where they begin in them. Then, as whole processes on a compiled artifact:

    a trace of all stages of layer 0 but for the whole-model ones, which need that layer alone
    a trace of all stages of layer 0 and of the whole model, and of the last layer, which need all layers
    the resident memory at its highest, of which the pages of the file are part, and without them

and beside it, as the peer, the time that reading the weights which the trace of layer 0 needs takes by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from random_model import SHAPES, write_model

import aprgraph

TOKENS = [9707, 11, 1879, 0, 3555, 374, 220, 17, 10, 17, 30]

_MEASURED = """
import json, resource, sys, time
from aprgraph.cli import main
sys.argv = ["aprgraph", *sys.argv[1:]]
start = time.perf_counter()
try:
    main()
except SystemExit as exit_:
    assert not exit_.code, exit_.code
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
anonymous = int(status["RssAnon"].split()[0]) / 1024
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, anonymous]), file=sys.stderr)
"""


def measure(artifact: Path, taps: str, layers: str, output: Path) -> tuple[float, float, float]:
    """Seconds, MiB resident at the highest, MiB that are not pages of files, at the end."""
    text = ["run", artifact, "--taps", taps, "--layers", layers, "--tokens", ",".join(map(str, TOKENS)), "-o", output]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *map(str, text)], check=True, capture_output=True, text=True)
    seconds, resident, anonymous = json.loads(done.stderr.splitlines()[-1])
    return seconds, resident, anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--format", default="Q4_K")
    parser.add_argument("--layers", type=int, default=48)
    options = parser.parse_args()
    if not options.model.exists():
        start = time.perf_counter()
        write_model(options.model, SHAPES["qwen3-30b-a3b"], options.format, options.layers)
        print(f"wrote {options.model}, {options.model.stat().st_size / 1e9:.1f} GB, in {time.perf_counter() - start:.0f} s")
    last = options.layers - 1
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        model = aprgraph.load(options.model)
        artifact = model.compile(directory=Path(scratch) / "model.aprg").artifact.directory
        print(f"compiled in {time.perf_counter() - start:.1f} s")
        own = ",".join(dict.fromkeys(str(node.stage) for node in model.graph.staged() if node.layer == 0))
        for taps, layers in ((own, "0..1"), ("all", "0..1"), ("all", f"{last}..{last + 1}")):
            what = "own stages" if taps == own else "stages and the whole model's"
            for _ in range(2):  # the first compiles the plan's program
                seconds, resident, anonymous = measure(artifact, taps, layers, Path(scratch) / "out")
            print(
                f"layers {layers}, {what}: {seconds:.2f} s, at most {resident:.0f} MiB resident; "
                f"{anonymous:.0f} MiB without the file's pages"
            )
        file = model.model.file
        names = [name for name in file.tensors if name.startswith("blk.0.")]
        start = time.perf_counter()
        for name in names:
            file.tensor_bytes(file.tensors[name]).max()
        total = sum(file.tensors[name].nbytes for name in names)
        print(f"reading all {total / 1e6:.0f} MB of layer 0 by itself: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
