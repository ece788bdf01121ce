"""All that `make bench` measures, kept as JSON and as a table in bench/results, and compared with what is committed there.

    python bench/all.py --model SmolLM2.gguf --llama-python VENV/bin/python [--only tokens,prefill] [--rounds 9]

tokens, prefill: against llama.cpp, on the same file, tokens and threads. kernels: the linear kernel against a loop in C and reading.
commands: whole commands against a Python process that does nothing. diff: against cmp. moe: one layer of a mixture of experts against
reading it. What is measured takes turns with its peer; only ratios mean something on a shared machine. Rows whose ratio left the
committed spread by more than a tenth are named; that is no failure, since machines are noisy. What could not be measured is said, and
makes the exit code 1; its earlier rows stay, as those of groups that were not asked for do, each with its date and commit.
"""

from __future__ import annotations

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import repository

from bench.measuring import PROCESSORS, Failure, Row, tried
from bench.result_tables import NOTES, Stamp, commit, committed_text, markdown, merged, moved

_SMOLLM2 = "SmolLM2"
_SHAPES = ("Q4_0", "Q4_K")
_ARITHMETICS = ("plain", "ggml-avx2")
#: A trace of layer 0 alone takes as long in a file of 16 layers: 0.75 s of processors in either.
_MOE_LAYERS = 2

#: The parts of each group. Each is measured in a process of its own, so that a crash takes no other with it, and so that its peak
#: memory does not count as that of the commands it starts.
PARTS = {
    "tokens": (_SMOLLM2, *_SHAPES),
    "prefill": (_SMOLLM2, *_SHAPES),
    "kernels": ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16", "BF16"),
    "commands": (_SMOLLM2,),
    "diff": ("1 GB", "4 GB"),
    "moe": ("30B",),
}


def measured(group: str, part: str, options: argparse.Namespace) -> Iterator[Row | Failure]:
    """The rows of one part. What it needs is imported here, so that the others stay small."""
    scratch, rounds = options.scratch, options.rounds
    if group in {"tokens", "prefill"}:
        yield from against_llama(group, part, options)
    elif group == "kernels":
        from bench.decode import kernels

        yield from kernels([part], rounds, scratch, PROCESSORS)
    elif group == "commands":
        from bench.commands import commands

        yield from commands(options.model, rounds, scratch)
    elif group == "diff":
        from bench.diff import shares

        yield from shares(int(part.removesuffix(" GB")) * 10**9, rounds, scratch)
    else:
        from bench.large_moe import one_layer

        model = random_model(scratch, "qwen3-30b-a3b", "Q4_K", _MOE_LAYERS)
        yield from one_layer(model, _MOE_LAYERS, rounds, whole=False)


def against_llama(group: str, part: str, options: argparse.Namespace) -> Iterator[Row | Failure]:
    from bench.decode import tokens
    from bench.prefill import prefill
    from bench.worker import Sides

    small = part == _SMOLLM2
    name = options.model.stem if small else f"2 layers of 8B {part}"
    model = options.model if small else random_model(options.scratch, "llama-8b", part, 2, vocabulary=4096)
    with closing(Sides.on(model, options.llama_python, options.scratch, PROCESSORS, _ARITHMETICS)) as sides:
        if group == "tokens":
            yield from tokens(sides, name, options.rounds)
            return
        yield from prefill(sides, name, (7, 32, 256, 1024) if small else (7, 64, 512), options.rounds, dump=False)
        yield from prefill(sides, name, (7, 32, 256, 1024) if small else (7, 64), options.rounds, dump=True)


def random_model(scratch: Path, shape: str, fmt: str, layers: int, vocabulary: int | None = None) -> Path:
    """A file of random blocks, written the first time that it is asked for."""
    from bench.random_model import SHAPES, write_model

    path = scratch / f"{shape}-{fmt}-{layers}.gguf"
    if not path.exists():
        new = path.with_suffix(".new")
        write_model(new, SHAPES[shape], fmt, layers, vocabulary)
        new.rename(path)
    return path


def in_process(group: str, part: str, options: argparse.Namespace) -> Iterator[Row | Failure]:
    """The rows of one part, as another process finds them."""
    command = [sys.executable, __file__, "--part", group, part, "--model", options.model, "--rounds", str(options.rounds)]
    command += ["--scratch", options.scratch, *(("--llama-python", options.llama_python) if options.llama_python else ())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                found: dict[str, Any] = json.loads(line)
                yield Failure(**found) if "why" in found else Row(**found)
        except BaseException:
            process.terminate()  # its workers end with it, for they read from it
            raise
    if process.returncode:
        yield Failure(group, part, f"its process ended with exit code {process.returncode}")


def machine() -> dict[str, Any]:
    """What this runs on: the CPU level that is compiled for, processors, their name.

    Virtual machines may give a whole line of processors one name, so their family and model are part of it, as Linux has them.
    """
    from aprgraph.codegen.cpu.levels import native_cpu

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    kind = f"family {about['cpu family']} model {about['model']}" if "cpu family" in about else platform.machine()
    return {"level": native_cpu().name, "processors": PROCESSORS, "processor": f"{about.get('model name', 'processor')}, {kind}"}


def versions(options: argparse.Namespace) -> dict[str, Any]:
    """Of what is measured, and how llama.cpp was built."""
    from bench.worker import LLAMA, Worker

    found = {name: importlib.metadata.version(name) for name in ("aprgraph", "apache-tvm", "numpy")}
    if options.llama_python is None:
        return {"versions": found, "llama.cpp": "not here"}
    worker = Worker(options.llama_python, "worker_llama.py", str(options.model), "1", str(options.scratch))
    worker.close()
    return {"versions": {**found, LLAMA: worker.info["version"]}, "llama.cpp": worker.info["system"].strip(" |")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2")
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python; tokens and prefill need it")
    parser.add_argument("--only", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--scratch", type=Path, help="where models and traces are written, some 15 GB")
    parser.add_argument("--results", type=Path, default=repository.HERE / "results", help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    return options


def main() -> int:
    options = parse()
    if options.part is not None:
        group, part = options.part
        for each in tried(group, part, lambda: measured(group, part, options)):
            print(json.dumps(asdict(each)), flush=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.scratch) as scratch:
        options.scratch = Path(scratch)
        return everything(options)


def everything(options: argparse.Namespace) -> int:
    """Measure the groups that were asked for, and keep what was found after each. Returns the exit code."""
    about = {**machine(), **versions(options), "load": {"before": os.getloadavg()[0]}}
    stamp = Stamp(dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"), commit(repository.ROOT))
    kind = re.sub(r"\W+", "-", about["processor"].rpartition(", ")[2])
    path = options.results / f"{about['level']}-{about['processors']}-{kind}.json"
    text = committed_text(repository.ROOT, path) if path.is_relative_to(repository.ROOT) else None
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    print(f"{about['processor']}, {about['level']}, {PROCESSORS} processors, load {about['load']['before']:.1f}, {options.rounds} rounds")
    rows: list[Row] = []
    failed: list[Failure] = []
    whole: set[str] = set()
    for group in (group for group in NOTES if group in options.only):
        print(f"\n{group}: {NOTES[group]}", flush=True)
        fine = len(failed)
        for part in PARTS[group]:
            for found in in_process(group, part, options):
                print(f"  {found.line()}", flush=True)
                rows.append(found) if isinstance(found, Row) else failed.append(found)
        if len(failed) == fine:
            whole.add(group)
        about["load"]["after"] = os.getloadavg()[0]
        document = merged(before, about, stamp, rows, whole)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(document), encoding="utf-8")
    committed = json.loads(text) if text is not None else None
    print("", *moved(committed, about["processor"], rows, failed), f"written: {path}, and the table beside it", sep="\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
