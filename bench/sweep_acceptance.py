"""Whether a sweep leaves the same store whoever computes it: `make sweep-acceptance`.

20 prompts × 3 block formats × 2 targets, each on the llvm target beside the reference: by one local worker, and then, in parts of which
each is compared with that store byte for byte, by others, while workers are killed at random moments, and while the head is lost.

    python bench/sweep_acceptance.py [--prompts 20] [--kills 30] [--only local2,ray] [--folder DIR]

A part is a process of its own that has `--minutes`; what came of it stands in FOLDER/parts.json, so parts may be run one at a time, and one
that is done with these sources is not run again. Executors that are not installed are named.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import repository  # noqa: F401 -- before what it makes importable

from aprgraph.graph.claimed_names import remove_leftovers
from aprgraph.graph.temporary_files import remove
from aprgraph.runtime.executors import WorkersExecutor, open_executor
from aprgraph.sweep.findings import find
from aprgraph.sweep.head import run_sweep
from aprgraph.sweep.log import Log
from aprgraph.sweep.matrix import read_matrix
from aprgraph.sweep.plan import plan_sweep
from aprgraph.sweep.store import Store
from aprgraph.sweep.work import identity_here
from tests.support.cli import files_under
from tests.support.ray_nodes import two_nodes
from tests.support.tiny import write_tiny_model

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ("F32", "Q8_0", "Q4_0")
ATTEMPTS = 40
#: Sweeps in which as many workers as asked for are to be killed, beside one for each.
ROUNDS = 8
#: Processor time of a worker for each cell beside its run, audit and comparison: the median has to be below.
OVERHEAD = 0.05
#: Seconds for a part that is told to end, such as for its cluster.
PATIENCE = 60


@dataclass
class Part:
    """What a part does with: the folder of the matrix, where its own stores go, and how many workers are to be killed."""

    matrix: Path
    place: Path
    kills: int

    def sweep(self, words: str, workers: int, kills: int = 0, once: Callable[[], None] | None = None) -> dict[str, Any]:
        """Run the matrix. With ``kills``, again into new stores until so many workers were killed."""
        plan, rounds, killer = plan_sweep(read_matrix(self.matrix)), 0, Killer(kills, once)
        digests: set[str] = set()
        overheads: list[float] = []
        while rounds == 0 or (killer.left and rounds < ROUNDS + kills):
            rounds += 1
            store = Store(self.place / f"round-{rounds}")
            with open_executor(words, workers, threads=1, attempts=ATTEMPTS) as executor, killer.among(executor):
                done = run_sweep(plan, store, executor)
            assert not done.failures, done.failures
            assert find(plan, store).exit_code == 0
            digests.add(digest_of(store.path))
            overheads += [line["overhead"] for line in Log(store.log).lines() if line.get("event") == "done"]
        assert not killer.left, f"{killer.left} of {kills} workers were still to be killed after {rounds} sweeps"
        return {"cells": done.computed, "killed": kills, "rounds": rounds, "digests": sorted(digests), **milliseconds(overheads)}

    def lose_the_head(self) -> dict[str, Any]:
        """`aprgraph sweep`, killed when it is half-way, and started again."""
        store = self.place / "store"
        command = [sys.executable, "-m", "aprgraph", "sweep", str(self.matrix), "--store", str(store), "--workers", "2", "--quiet"]
        cells = sum(len(group.cells) for group in plan_sweep(read_matrix(self.matrix)).groups)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # which says what it leaked
        while process.poll() is None and there(store) < cells // 3:
            time.sleep(0.02)
        process.kill()
        process.wait()
        before = there(store)
        assert before < cells, "the sweep was done before its head was killed"
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return {"cells": there(store), "before": before, "digests": [digest_of(store)]}

    def ray(self, kills: int = 0) -> dict[str, Any]:
        """On a cluster of two nodes; with ``kills``, which is lost and started again as well."""
        with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as temporary, two_nodes(temporary) as nodes:
            return self.sweep(nodes.address, 2, kills, nodes.restart if kills else None)


#: By name: what it is, the package that it needs, and what it does.
PARTS: dict[str, tuple[str, str | None, Callable[[Part], dict[str, Any]]]] = {
    "one": ("one worker", None, lambda part: part.sweep("local", 1)),
    "local2": ("two workers", None, lambda part: part.sweep("local", 2)),
    "killed": ("two workers, killed at random", None, lambda part: part.sweep("local", 2, part.kills)),
    "head": ("the head killed, and started again", None, Part.lose_the_head),
    "submitit": ("two jobs of submitit's local executor", "submitit", lambda part: part.sweep("submitit-local", 2)),
    "ray": ("a Ray cluster of two nodes", "ray", Part.ray),
    "ray-killed": ("that cluster, workers killed, and both nodes lost", "ray", lambda part: part.ray(part.kills)),
}


class Killer:
    """Kills so many workers at random moments, ``left`` still, and calls ``once`` when half of them are dead."""

    def __init__(self, kills: int, once: Callable[[], None] | None) -> None:
        self.left, self._half, self._once = kills, kills // 2, once
        self._random = random.Random(0)

    @contextlib.contextmanager
    def among(self, executor: WorkersExecutor) -> Iterator[None]:
        """Kill workers of an executor during the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._kill, args=(executor, over), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _kill(self, executor: WorkersExecutor, over: threading.Event) -> None:
        while self.left and not over.wait(self._random.uniform(0.2, 3.0)):
            if self.left <= self._half and self._once is not None:
                once, self._once = self._once, None
                once()
            places = [place for place in executor.places() if place.startswith("process ")]
            if places:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(self._random.choice(places).split()[1]), signal.SIGKILL)
                    self.left -= 1


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


def there(store: Path) -> int:
    return sum(1 for _ in store.glob("cells/??/[0-9a-f]*/cell.json"))


def digest_of(store: Path) -> str:
    """Of the names and bytes of all its files."""
    digest = hashlib.sha256()
    for name, data in sorted(files_under(store).items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def milliseconds(overheads: list[float]) -> dict[str, int]:
    ordered = sorted(overheads)
    return {"median_ms": round(ordered[len(ordered) // 2] * 1000), "most_ms": round(ordered[-1] * 1000)}


def processor_seconds() -> float:
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(use.ru_utime + use.ru_stime for use in uses)


def do_part(name: str, folder: Path, kills: int) -> None:
    """In a process of its own: prints what came of it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it started ends with it
    place = folder / name
    remove_leftovers(str(place))
    remove(str(place))
    place.mkdir()
    os.chdir(place)
    began, used = time.monotonic(), processor_seconds()
    found = PARTS[name][2](Part(folder / "matrix.toml", place, kills))
    took = {"seconds": round(time.monotonic() - began, 1), "processor_seconds": round(processor_seconds() - used, 1)}
    print(json.dumps({**took, **found}), flush=True)


def have_done(name: str, folder: Path, kills: int, minutes: float) -> dict[str, Any]:
    """What came of a part, or why nothing did."""
    package = PARTS[name][1]
    if package is not None and importlib.util.find_spec(package) is None:
        return {"why": f"{package} is not installed"}
    command = [sys.executable, __file__, "--part", name, "--folder", str(folder), "--kills", str(kills)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=minutes * 60)
    except subprocess.TimeoutExpired:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"why": f"took longer than {minutes:g} minutes"}
    if process.returncode:
        return {"why": f"ended with {process.returncode}; its error is above"}
    found: dict[str, Any] = json.loads(out)
    return found


def said_of(name: str, found: dict[str, Any], first: str | None) -> tuple[str, bool]:
    """What a part came to, and whether it is as it should be."""
    what = f"{name}: {PARTS[name][0]}"
    if "why" in found:
        return f"{what}: not done, {found['why']}", found["why"].endswith("is not installed")
    is_same, is_quick = found["digests"] == [first], found.get("median_ms", 0) < OVERHEAD * 1000
    lines = [f"{what}: {'the same bytes' if is_same else 'OTHER BYTES'}"]
    lines.append(f"{found['cells']} cells in {found['seconds']:.0f} s, {found['processor_seconds']:.0f} s of processors here")
    if found.get("killed"):
        lines.append(f"{found['killed']} workers killed in {found['rounds']} sweeps")
    if "before" in found:
        lines.append(f"killed with {found['before']} cells in the store")
    if "median_ms" in found:
        most = f"{found['median_ms']} ms (median), {found['most_ms']} ms (most)"
        lines.append(f"beside its run a cell took {most}{'' if is_quick else ', which is too much'}")
    return "\n    ".join(lines), is_same and is_quick


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "sweep-acceptance", help="where parts and what came of them are kept"
    )
    parser.add_argument("--minutes", type=float, default=5, help="what each part has")
    parser.add_argument("--again", action="store_true", help="run also what is done")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder.absolute()
    if asked.part:
        do_part(asked.part, folder, asked.kills)
        return
    names = ["one", *(name for name in filter(None, asked.only.split(",")) if name != "one")]
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}; expected some of {', '.join(PARTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    write_matrix(folder, asked.prompts)
    record = folder / "parts.json"
    of = {"prompts": asked.prompts, "kills": asked.kills, "program": list(identity_here())}
    known = json.loads(record.read_text()) if record.is_file() else {}
    done: dict[str, Any] = known["parts"] if known.get("of") == of and not asked.again else {}
    is_well = True
    began = time.monotonic()
    for name in names:
        if "digests" not in done.get(name, {}):
            done[name] = have_done(name, folder, asked.kills, asked.minutes)
            record.write_text(json.dumps({"of": of, "parts": done}, indent=1) + "\n")
        first = done["one"].get("digests", [None])[0]
        said, is_as_it_should_be = said_of(name, done[name], first)
        is_well &= is_as_it_should_be
        print(said, flush=True)
    left = [name for name in PARTS if name not in done]
    print(f"{time.monotonic() - began:.0f} s; {record}" + (f"; not asked for: {', '.join(left)}" if left else ""))
    sys.exit(not is_well)


if __name__ == "__main__":
    main()
