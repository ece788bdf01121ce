"""One side of bench/prefill.py and bench/decode.py: aprgraph. Reads requests as JSON lines, answers with seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import repository  # noqa: F401 -- before what it makes importable

import aprgraph
from aprgraph.api import CompiledModel, RunPlan
from aprgraph.graph.passes.pipeline import executed_graph
from aprgraph.graph.tap_plan import parse_plan
from aprgraph.runtime.trace.writer import TraceWriter
from aprgraph.runtime.tvm_session import Program, Session
from bench.dump_folders import DumpFolders
from bench.measuring import APRGRAPH


def compile_apart(model: str, directory: Path, arithmetic: str, cpu: str) -> CompiledModel:
    """Compiled in another process, so that this one's memory is what running takes."""
    options = ["--arithmetic", arithmetic, *(("--cpu", cpu) if cpu else ()), "--output", str(directory)]
    subprocess.run([*APRGRAPH, "compile", "--quiet", *options, model], check=True, stdout=subprocess.DEVNULL)
    return aprgraph.open_artifact(directory)


def decode(compiled: CompiledModel, tokens: list[int], count: int, threads: int) -> dict[str, list[float]]:
    """Seconds from token to token, and those of processors; the first ones are left out. A text may end sooner."""
    seen = [(time.perf_counter(), time.process_time())]
    compiled.generate(count, tokens=tokens, threads=threads, on_token=lambda *_: seen.append((time.perf_counter(), time.process_time())))
    gaps = [(after[0] - before[0], after[1] - before[1]) for before, after in pairwise(seen[3:])]
    return {"seconds": [gap[0] for gap in gaps], "processors": [gap[1] for gap in gaps]}


def main() -> None:
    model_path, threads = sys.argv[1], int(sys.argv[2])
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=sys.argv[3]))
    try:
        compiled = compile_apart(model_path, scratch / "model.aprg", sys.argv[4], sys.argv[5])
        answer(compiled, threads, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def answer(compiled: CompiledModel, threads: int, scratch: Path) -> None:
    """Answer requests until there are no more."""
    layers = compiled.model.family.layers
    programs: dict[bool, Program] = {}
    sessions: dict[bool, Session] = {}
    folders = DumpFolders(scratch)
    print(json.dumps({"name": "aprgraph", "system": compiled.artifact.target_name}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "decode" in request:
            print(json.dumps(decode(compiled, request["tokens"], request["decode"], threads)), flush=True)
            continue
        tokens, dump = request["tokens"], request["dump"]
        run: RunPlan = compiled.plan(parse_plan("all" if dump else None, f"0..{layers}"), tokens)
        if dump not in programs:
            graph = executed_graph(run.graph, one_pass=True)
            sessions[dump] = Session(compiled.artifact.kernel_code, compiled.model, threads)
            programs[dump] = sessions[dump].load(compiled.artifact.program(graph), graph)
        writer = TraceWriter(folders.new(run.nbytes))
        if (write_files := sessions[dump].write_files) is not None:
            writer.write_values_that_stay(write_files)
        start = time.perf_counter()
        programs[dump].run(
            tokens,
            lambda node, value, stats, run=run, writer=writer: writer.write(
                node.name, node.stage, node.layer, 0, value.reshape(run.recorded_shape(node, value.shape)), stats
            ),
        )
        writer.wait()
        seconds = time.perf_counter() - start
        writer.close()
        print(json.dumps({"seconds": seconds, "files": len(run.taps), "bytes": run.nbytes}), flush=True)


if __name__ == "__main__":
    main()
