"""Runs the worker that renders a template, within limits of time, memory and output.

Jinja's sandbox keeps a template from Python's internals, but not from looping for ever or filling the memory.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aprgraph.graph.errors import shown

_WORKER = Path(__file__).with_name("worker.py")
_LONGEST_REASON = 400


@dataclass(frozen=True)
class Limits:
    """What rendering one chat may take: whole seconds of processor time, seconds in all, bytes of memory, characters of text.

    Memory is counted on top of what Python and Jinja have when they are loaded.
    """

    cpu_seconds: int = 5
    seconds: float = 15.0
    memory: int = 1 << 30
    characters: int = 4 << 20


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Reply:
    """Either ``text`` or why there is none, in one line, and the template's ``line`` where that is known."""

    text: str | None = None
    reason: str = ""
    line: int | None = None


def run_worker(task: Mapping[str, object], limits: Limits) -> Reply:
    """Render ``task`` (``template`` and ``variables``, as JSON has them) in a process of its own.

    Raises RuntimeError with what the worker said where it failed itself: whatever a template does is a Reply.
    """
    bounds = {"cpu_seconds": limits.cpu_seconds, "memory": limits.memory, "characters": limits.characters}
    try:
        # The worker is started apart from this process's paths, and then given them: Jinja may lie anywhere in them.
        data = json.dumps({**task, "limits": bounds, "path": sys.path}).encode()
    except (TypeError, ValueError) as error:
        return Reply(reason=f"the messages hold what JSON cannot: {_one_line(str(error))}")
    try:
        done = subprocess.run([sys.executable, "-IS", str(_WORKER)], input=data, capture_output=True, timeout=limits.seconds, check=False)
    except subprocess.TimeoutExpired:
        return Reply(reason=f"it was stopped after {limits.seconds:g} s")
    except OSError as error:
        return Reply(reason=f"Python cannot be started ({shown(sys.executable)}: {error.strerror})")
    if done.returncode == -signal.SIGXCPU:
        return Reply(reason=f"it was stopped after {limits.cpu_seconds} s of processor time (a loop without an end?)")
    if done.returncode > 0:  # Python's own end, with a traceback
        raise RuntimeError(f"the process that renders templates failed: {done.stderr.decode(errors='replace')}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.decode(errors="replace").splitlines()
        return Reply(reason=f"it broke off with status {done.returncode}: {_one_line(lines[-1] if lines else 'no message')}")
    return Reply(text=answer.get("text"), reason=_one_line(answer.get("reason", "")), line=answer.get("line"))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
