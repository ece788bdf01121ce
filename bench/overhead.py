"""What `aprgraph run` costs as a whole process beyond the forward pass and the writing.

    python bench/overhead.py --model MODEL.gguf

Three things in turns: the whole process on a compiled artifact (7 tokens, all stages of all layers), the same forward pass
and writing inside a process that is warm, and a bare Python process that only imports the libraries that a run cannot do
without (NumPy, networkx, tokenizers, TVM's runtime): the floor. Prints medians and what lies between.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aprgraph
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.tvm_session import Session

TOKENS = [1780, 314, 216, 34, 27, 34, 47]  # "What is 2+2?" in SmolLM2's vocabulary


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        compiled = aprgraph.load(options.model).compile(directory=Path(scratch) / "model.aprg")
        layers = compiled.model.family.layers
        run = compiled.plan(parse_plan("all", f"0..{layers}"), TOKENS)
        graph = executed_graph(run.graph, one_pass=True)
        program = Session(compiled.artifact.kernel_code, compiled.model).load(compiled.artifact.program(graph), graph)
        cli = [sys.executable, "-c", "from aprgraph.cli import main; main()"]
        text = [
            "run",
            str(compiled.artifact.directory),
            "--taps",
            "all",
            "--layers",
            f"0..{layers}",
            "--prompt",
            "What is 2+2?",
            "-o",
            f"{scratch}/out",
        ]
        bare = [sys.executable, "-c", "import numpy, networkx, tokenizers, typer, tvm"]
        whole, inner, floor = [], [], []
        for _ in range(options.rounds + 1):
            whole.append(seconds([*cli, *text]))
            floor.append(seconds(bare))
            writer = TraceWriter(Path(scratch) / "inner")
            start = time.perf_counter()
            program.run(
                TOKENS,
                lambda node, value, stats, writer=writer: writer.write(
                    node.name, node.stage, node.layer, 0, value.reshape(run.shape(node)), stats
                ),
            )
            inner.append(time.perf_counter() - start)
        w, i, f = (statistics.median(values[1:]) * 1e3 for values in (whole, inner, floor))
        print(f"whole process {w:.0f} ms, of it forward pass and writing {i:.0f} ms; imports alone {f:.0f} ms, whole / imports {w / f:.2f}")


if __name__ == "__main__":
    main()
