"""Whether a sweep leaves the same store whoever computes it: `make sweep-acceptance`.

20 prompts × 3 block formats × 2 targets, each on the llvm target beside the reference, on one local worker, on two, in two jobs of
submitit's local executor and on a Ray cluster of two nodes; then again while workers are killed at random moments and the head of the
cluster, and of the sweep, is lost once each. The stores are compared byte for byte. Executors that are not installed are named.

    python bench/sweep_acceptance.py [--prompts 20] [--kills 30]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from aprgraph.runtime.executors import WorkersExecutor, open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.log import Log
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
from tests.support.cli import files_under
from tests.support.ray_nodes import TwoNodes, two_nodes
from tests.support.tiny import write_tiny_model

FORMATS = ("F32", "Q8_0", "Q4_0")
ATTEMPTS = 40


def write_matrix(folder: Path, prompts: int) -> Path:
    for name in FORMATS:
        write_tiny_model(folder / f"{name}.gguf", format=name, layers=2, context=128)
    texts = "".join(f"  {('count ' * (number + 1) + str(number))!r},\n" for number in range(prompts))
    matrix = folder / "matrix.toml"
    models = ", ".join(f"'{name}.gguf'" for name in FORMATS)
    matrix.write_text(
        f"models = [{models}]\ntargets = ['llvm', 'reference']\n[[prompts]]\ntexts = [\n{texts}]\n[[compare]]\nalong = 'targets'\n"
    )
    return matrix


class Killer:
    """Kills workers of an executor at random moments, so many in all, and calls ``once`` half-way."""

    def __init__(self, executor: WorkersExecutor, kills: int, once: Callable[[], None] | None) -> None:
        self._executor, self._left, self._once, self._half = executor, kills, once, kills // 2
        self.killed = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._random = random.Random(0)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while self.killed < self._left and not self._over.wait(self._random.uniform(0.2, 3.0)):
            if self.killed >= self._half and self._once is not None:
                once, self._once = self._once, None
                once()
            places = [place for place in self._executor.places() if place.startswith("process ")]
            if not places:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(self._random.choice(places).split()[1]), signal.SIGKILL)
                self.killed += 1


def sweep(matrix: Path, store: Path, words: str, workers: int, kills: int = 0, once: Callable[[], None] | None = None) -> dict[str, bytes]:
    """Run the matrix; the files of its store. With ``kills``, again into new stores until so many workers were killed."""
    plan = plan_sweep(read_matrix(matrix))
    killed, rounds = 0, 0
    began, used = time.monotonic(), processor_seconds()
    files: dict[str, bytes] = {}
    while True:
        rounds += 1
        opened = Store(store.with_name(f"{store.name}-{rounds}"))
        with open_executor(words, workers, threads=1, attempts=ATTEMPTS) as executor:
            if kills:
                with Killer(executor, kills - killed, once if rounds == 1 else None) as killer:
                    done = run_sweep(plan, opened, executor)
                killed += killer.killed
            else:
                done = run_sweep(plan, opened, executor)
        assert not done.failures, done.failures
        assert find(plan, opened).exit_code == 0
        now = files_under(opened.path)
        assert not files or now == files, "another round left another store"
        files = now
        if killed >= kills:
            break
    overheads = sorted(line["overhead"] for line in Log(opened.log).lines() if line.get("event") == "done")
    print(
        f"{words}, {workers} workers: {done.computed} cells, {time.monotonic() - began:.1f} s, "
        f"{processor_seconds() - used:.1f} s of processors here"
        + (f", {killed} workers killed in {rounds} rounds" if kills else "")
        + f"; beside its run a cell took {overheads[len(overheads) // 2] * 1000:.0f} ms (median), {overheads[-1] * 1000:.0f} ms (most)",
        flush=True,
    )
    return files


def processor_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def sweep_whose_head_is_killed(matrix: Path, store: Path) -> dict[str, bytes]:
    """`aprgraph sweep`, killed when it is half-way, and started again."""
    command = [sys.executable, "-m", "aprgraph", "sweep", str(matrix), "--store", str(store), "--workers", "2", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and sum(1 for _ in store.glob("cells/??/[0-9a-f]*/cell.json")) < 40:
        time.sleep(0.02)
    process.kill()
    process.wait()
    there = sum(1 for _ in store.glob("cells/??/[0-9a-f]*/cell.json"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(f"a head that was killed with {there} cells in the store, and started again", flush=True)
    return files_under(store)


@contextlib.contextmanager
def cluster() -> Iterator[TwoNodes | None]:
    if importlib.util.find_spec("ray") is None:
        print("Ray is not installed: not tried")
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary, two_nodes(temporary) as nodes:
        yield nodes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", default="", help="local, submitit or ray")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.chdir(folder)
        matrix = write_matrix(folder, asked.prompts)
        first = sweep(matrix, folder / "one", "local", 1)
        unlike: list[str] = []

        def compare(name: str, files: dict[str, bytes]) -> None:
            """At once, so that what fails later takes nothing with it."""
            print(f"  {name}: {'the same' if files == first else 'NOT the same'} {len(first)} files as one worker's", flush=True)
            if files != first:
                unlike.append(name)

        if asked.only in ("", "local"):
            compare("two workers", sweep(matrix, folder / "two", "local", 2))
            compare("two workers, killed", sweep(matrix, folder / "killed", "local", 2, asked.kills))
            compare("head killed", sweep_whose_head_is_killed(matrix, folder / "head"))
        if asked.only in ("", "submitit"):
            if importlib.util.find_spec("submitit") is None:
                print("submitit is not installed: not tried")
            else:
                compare("submitit", sweep(matrix, folder / "jobs", "submitit-local", 2))
        if asked.only in ("", "ray"):
            with cluster() as nodes:
                if nodes is not None:
                    compare("ray", sweep(matrix, folder / "ray", nodes.address, 2))
                    compare("ray, killed", sweep(matrix, folder / "ray-killed", nodes.address, 2, asked.kills, nodes.restart))
        print(f"{len(first)} files, {sum(map(len, first.values())):,} bytes: {'all alike' if not unlike else f'UNLIKE: {unlike}'}")
        sys.exit(bool(unlike))


if __name__ == "__main__":
    main()
