"""Work on pieces in forks: the order of results, errors, forks that are lost, and signals. Each in a process of its own, to be forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

_BEGIN = """
import os, sys
from unittest import mock
from aprgraph.graph import forks
mock.patch.object(forks, "threads", return_value=3).start()
"""


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _BEGIN + textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False)


def test_results_come_in_order_from_several_processes() -> None:
    done = _run(
        """
        found = list(forks.in_forks(lambda piece: (piece * piece, os.getpid()), range(50)))
        assert [square for square, _ in found] == [piece * piece for piece in range(50)]
        assert os.getpid() not in {process for _, process in found}
        assert list(forks.in_forks(len, [])) == []
        assert list(forks.in_forks(lambda piece: os.getpid(), [1])) == [os.getpid()]
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_is_raised_where_the_results_are_asked_for() -> None:
    done = _run(
        """
        from aprgraph.graph.errors import TraceError
        def fail(piece):
            if piece == 7:
                raise TraceError("layer7.bin: too short")
            return piece
        found = forks.in_forks(fail, range(20))
        assert [next(found) for _ in range(7)] == list(range(7))
        try:
            next(found)
        except TraceError as error:
            assert str(error) == "layer7.bin: too short"
        else:
            sys.exit("nothing was raised")
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("which", ["piece == 5", "piece >= 5"])
def test_what_lost_forks_were_doing_is_done_here(which: str) -> None:
    """As where the system kills one, or all, for memory; in a process that a broken pipe ends, as a command is."""
    done = _run(
        f"""
        import signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        first = os.getpid()
        def lost(piece):
            if {which} and os.getpid() != first:
                os.kill(os.getpid(), 9)
            return piece
        for _ in range(5):
            assert list(forks.in_forks(lost, range(300))) == list(range(300))
        """
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_all_is_done_here_where_no_process_can_be_made() -> None:
    for place in ("os.fork", "multiprocessing.get_context"):
        done = _run(
            f"""
            import multiprocessing
            mock.patch({place!r}, side_effect=OSError(11, "Resource temporarily unavailable")).start()
            assert list(forks.in_forks(lambda piece: os.getpid(), range(9))) == [os.getpid()] * 9
            """
        )
        assert (done.returncode, done.stderr) == (0, ""), place


def test_forks_end_with_the_process_that_made_them(tmp_path: Path) -> None:
    """Whether it is interrupted, with all its group, or killed alone."""
    for number, whole_group in ((signal.SIGINT, True), (signal.SIGKILL, False)):
        places = tmp_path / str(number)
        places.mkdir()
        script = f"""
import pathlib, time
def wait(piece):
    (pathlib.Path({str(places)!r}) / str(os.getpid())).touch()
    time.sleep(300)
list(forks.in_forks(wait, range(9)))
"""
        process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN + script], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while len(forks := [int(path.name) for path in places.iterdir()]) < 3:
            assert time.monotonic() < deadline, f"{forks} of {process.pid}"
            time.sleep(0.01)
        (os.killpg if whole_group else os.kill)(process.pid, number)
        process.wait(30)
        while any(_is_running(fork) for fork in forks):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _is_running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
