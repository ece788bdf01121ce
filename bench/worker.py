"""Processes that benchmarks put questions to, in turns."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measuring import peak, reset_peak

HERE = Path(__file__).parent
LLAMA = "llama.cpp"
#: The same where attention is not fused, so that its scores and softmax are tensors, as a float32 dump of ours has them.
LLAMA_UNFUSED = "llama.cpp without flash attention"
#: Between two measurements, so that the idle side's threads have gone to sleep.
_PAUSE_SECONDS = 0.02


class Worker:
    """A process that answers requests, one JSON line each. Exits where it ends instead."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen([python, str(HERE / script), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.info = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: {' '.join(map(str, self.process.args))} ended with exit code {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def request(self, what: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading says what became of it
            self.process.stdin.write(json.dumps(what) + "\n")
            self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self.process.communicate()


class Sides:
    """Workers by name, such as aprgraph in some arithmetics and llama.cpp on one model; each starts when it is first asked, and again
    once it has died.
    """

    def __init__(self, commands: Mapping[str, Sequence[str]], threads: int) -> None:
        """``commands``: what `Worker` takes."""
        self.threads = threads
        self._commands = commands
        self._workers: dict[str, Worker] = {}

    @classmethod
    def on(
        cls, model: Path, llama_python: str | None, scratch: Path, threads: int, arithmetics: Iterable[str] = ("plain",), cpu: str = ""
    ) -> Sides:
        """aprgraph in these arithmetics, each called as it is, and llama.cpp where there is a Python for it."""
        common = (str(model), str(threads), str(scratch))
        commands = {name: (sys.executable, "worker_aprgraph.py", *common, name, cpu) for name in arithmetics}
        if llama_python is not None:
            commands[LLAMA] = (llama_python, "worker_llama.py", *common)
            commands[LLAMA_UNFUSED] = (*commands[LLAMA], "unfused")
        return cls(commands, threads)

    @property
    def arithmetics(self) -> tuple[str, ...]:
        return tuple(name for name in self._commands if name not in {LLAMA, LLAMA_UNFUSED})

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def ask_in_turns(
        self, names: Iterable[str], what: Mapping[str, Any], rounds: int, warm_up: int = 2
    ) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int | None]]:
        """The answers of each round but the first ``warm_up``, and what each side then had resident at most."""
        names = tuple(names)
        if missing := set(names) - self._commands.keys():
            sys.exit(f"error: {min(missing)} is not here: give --llama-python, a Python that has llama-cpp-python")
        workers = {name: self._alive(name) for name in names}
        answers: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for number in range(warm_up + rounds):
            for name, worker in workers.items():
                time.sleep(_PAUSE_SECONDS)
                if number == warm_up:
                    reset_peak(worker.process.pid)
                answers[name].append(worker.request(what))
        peaks = {name: peak(worker.process.pid) for name, worker in workers.items()}
        return {name: those[warm_up:] for name, those in answers.items()}, peaks

    def _alive(self, name: str) -> Worker:
        if name in self._workers and self._workers[name].process.poll() is not None:
            self._workers.pop(name).close()
        if name not in self._workers:
            self._workers[name] = Worker(*self._commands[name])
        return self._workers[name]
