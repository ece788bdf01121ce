"""The other side of bench/prefill.py: aprgraph. Reads requests as JSON lines, answers with seconds."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import aprgraph
from aprgraph.api import RunPlan
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.tvm_session import Program, Session


def main() -> None:
    model_path, threads = sys.argv[1], int(sys.argv[2])
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=sys.argv[3]))
    compiled = aprgraph.load(model_path).compile(directory=scratch / "model.aprg")
    layers = compiled.model.family.layers
    programs: dict[bool, Program] = {}
    print(json.dumps({"name": "aprgraph", "system": compiled.artifact.target_name}), flush=True)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            tokens, dump = request["tokens"], request["dump"]
            run: RunPlan = compiled.plan(parse_plan("all" if dump else None, f"0..{layers}"), tokens)
            if dump not in programs:
                graph = executed_graph(run.graph, one_pass=True)
                session = Session(compiled.artifact.kernel_code, compiled.model, threads)
                programs[dump] = session.load(compiled.artifact.program(graph), graph)
            directory = scratch / "dump"
            shutil.rmtree(directory, ignore_errors=True)
            writer = TraceWriter(directory)
            start = time.perf_counter()
            programs[dump].run(
                tokens,
                lambda node, value, stats, run=run, writer=writer: writer.write(
                    node.name, node.stage, node.layer, 0, value.reshape(run.shape(node)), stats
                ),
            )
            seconds = time.perf_counter() - start
            print(json.dumps({"seconds": seconds, "files": len(run.taps), "bytes": run.nbytes}), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
