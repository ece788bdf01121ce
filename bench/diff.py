"""What `aprgraph diff` costs on large traces: its time beside that of `cmp` on the same files in the same run, and its memory.

    python bench/diff.py --bytes 10e9 --scratch DIR

Writes a trace, an exact copy of it, and one with a relative error of 1e-6 in every element; three times --bytes on the disk, removed
at the end. Then in turns, each in processes of their own: `cmp` of the trace and its copy, file by file; `aprgraph diff` of the same
two; `aprgraph diff` of the trace and the noisy one. `cmp` stops at the first difference, so that its time on the exact copy is what
both are held against: the rate of `aprgraph diff` as a share of that of `cmp`, its start included. Prints medians, the
peak memory (resident set, mapped pages included), and what came from the disk; --cold empties the page cache of these files before
each measurement, so that the last shows how often each file was read.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import repository  # noqa: F401 -- before what it makes importable

from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.writer import TraceWriter
from bench.measuring import APRGRAPH, PROCESSORS, Cost, Failure, Row, empty_cache, measure, show, tried

_POSITIONS, _HIDDEN, _FFN = 2048, 4096, 14336
#: The tensors of one layer, and their widths.
_STAGES = {"attn_norm": _HIDDEN, "attn_out": _HIDDEN, "ffn_norm": _HIDDEN, "ffn_gate": _FFN, "ffn_up": _FFN}
#: Relative rms of the error of the noisy trace, about that of float32 in another order of additions.
_NOISE = np.float32(1e-6)


def write_traces(directory: Path, noisy: Path, size: int) -> int:
    """Two traces of about ``size`` bytes each, at least one layer's worth. Returns the bytes of the tensors of one."""
    rng = np.random.default_rng(0)
    writers = TraceWriter(directory), TraceWriter(noisy)
    written = layer = 0
    while written < size:
        for stage, width in _STAGES.items():
            values = rng.standard_normal((_POSITIONS, width), dtype=np.float32)
            error = rng.standard_normal(values.shape, dtype=np.float32)
            for writer, tensor in zip(writers, (values, values * (1 + _NOISE * error)), strict=True):
                writer.write(f"layer{layer}.{stage}", stage, layer, 0, tensor)
            written += values.nbytes
        layer += 1
    info = TraceInfo({"name": "bench"}, "numpy", tuple(range(_POSITIONS)), f"{','.join(_STAGES)} 0..{layer}", "all", "")
    for writer in writers:
        writer.finish(info)
    return written


def files_of(*directories: Path) -> list[Path]:
    """The tensors of some traces."""
    return [path for directory in directories for path in directory.rglob("*.bin")]


def shares(size: int, rounds: int, scratch: Path, *, cold: bool = False) -> Iterator[Row | Failure]:
    """A row for an exact copy and one for the noisy trace, of about ``size`` bytes each; three times as many are needed in ``scratch``."""
    yield from tried("diff", f"traces of {size / 1e9:g} GB", partial(_both, size, rounds, scratch, cold=cold))


def _both(size: int, rounds: int, scratch: Path, *, cold: bool) -> Iterator[Row]:
    needed, free = 3 * size, shutil.disk_usage(scratch).free
    if needed > 0.9 * free:
        sys.exit(f"error: {needed / 1e9:.1f} GB are needed in {scratch}, where {free / 1e9:.1f} GB are free; give fewer --bytes")
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        a, copy, noisy = (Path(folder) / name for name in ("a", "copy", "noisy"))
        # In another process: the system counts the memory of this one, at the time of the fork, among the peak memory of its children.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            written = pool.submit(write_traces, a, noisy, size).result()
        shutil.copytree(a, copy)
        empty_cache(files_of(a, copy, noisy))  # what is still to be written would slow the first round
        names = sorted(path.relative_to(a) for path in a.rglob("*.bin"))
        runs = {
            "cmp": [("cmp", str(a / name), str(copy / name)) for name in names],
            "identical": [(*APRGRAPH, "diff", str(a), str(copy))],
            "noisy": [(*APRGRAPH, "diff", str(a), str(noisy))],
        }
        sides = {"cmp": (a, copy), "identical": (a, copy), "noisy": (a, noisy)}
        costs: dict[str, list[Cost]] = {name: [] for name in runs}
        for _ in range(rounds + 1):
            for name, commands in runs.items():
                if cold:
                    empty_cache(files_of(*sides[name]))
                costs[name].append(measure(commands))
    seconds = {name: [cost.seconds for cost in those[1:]] for name, those in costs.items()}
    for name in ("identical", "noisy"):
        rate = 2 * written / statistics.median(seconds[name]) / 1e9
        disk = statistics.median(cost.disk for cost in costs[name][1:])
        note = f"{rate:.2f} GB/s, {disk / 1e9:.2f} GB from the disk"
        memory = max(cost.memory for cost in costs[name][1:])
        what = f"diff of {name} traces of {written / 1e9:.2f} GB each{', cold' if cold else ''}"
        yield Row.of("diff", what, "cmp of identical ones", seconds[name], seconds["cmp"], PROCESSORS, memory, note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=10e9, help="of each trace (default 10e9)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where the traces are written")
    parser.add_argument("--cold", action="store_true", help="empty the page cache of the files before each measurement")
    options = parser.parse_args()
    return show(shares(int(options.bytes), options.rounds, options.scratch, cold=options.cold))


if __name__ == "__main__":
    sys.exit(main())
