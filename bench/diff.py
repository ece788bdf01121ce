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
import os
import platform
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from measuring import Cost, empty_cache, measure

from aprgraph.runtime.trace.manifest import TraceInfo
from aprgraph.runtime.trace.writer import TraceWriter

_POSITIONS, _HIDDEN, _FFN = 2048, 4096, 14336
#: The tensors of one layer, and their widths.
_STAGES = {"attn_norm": _HIDDEN, "attn_out": _HIDDEN, "ffn_norm": _HIDDEN, "ffn_gate": _FFN, "ffn_up": _FFN}
#: Relative rms of the error of the noisy trace, about that of float32 in another order of additions.
_NOISE = np.float32(1e-6)
_DIFF = (sys.executable, "-c", "from aprgraph.cli import main; main()", "diff")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=10e9, help="of each trace (default 10e9)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="where the traces are written")
    parser.add_argument("--cold", action="store_true", help="empty the page cache of the files before each measurement")
    options = parser.parse_args()
    needed, free = 3 * options.bytes, shutil.disk_usage(options.scratch).free
    if needed > 0.9 * free:
        sys.exit(f"error: {needed / 1e9:.1f} GB are needed in {options.scratch}, where {free / 1e9:.1f} GB are free; give fewer --bytes")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        a, copy, noisy = (Path(scratch) / name for name in ("a", "copy", "noisy"))
        # In another process: the system counts the memory of this one, at the time of the fork, among the peak memory of its children.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            size = pool.submit(write_traces, a, noisy, int(options.bytes)).result()
        shutil.copytree(a, copy)
        empty_cache(files_of(a, copy, noisy))  # what is still to be written would slow the first round
        names = sorted(path.relative_to(a) for path in a.rglob("*.bin"))
        runs = {
            "cmp, exact copy": [("cmp", str(a / name), str(copy / name)) for name in names],
            "diff, exact copy": [(*_DIFF, str(a), str(copy))],
            "diff, noisy": [(*_DIFF, str(a), str(noisy))],
        }
        sides = dict(zip(runs, ((a, copy), (a, copy), (a, noisy)), strict=True))
        costs: dict[str, list[Cost]] = {name: [] for name in runs}
        for _ in range(options.rounds + 1):
            for name, commands in runs.items():
                if options.cold:
                    empty_cache(files_of(*sides[name]))
                costs[name].append(measure(commands))
    yardstick, *_ = costs.values()
    print(
        f"two traces of {size / 1e9:.2f} GB, {len(names)} tensors each; {options.rounds} rounds, page cache "
        f"{'emptied before each measurement' if options.cold else 'as the round before left it'}; "
        f"{len(os.sched_getaffinity(0))} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    )
    for name, found in costs.items():
        found = found[1:]
        shares = sorted(base.seconds / one.seconds for base, one in zip(yardstick[1:], found, strict=True))
        seconds, disk = (statistics.median(getattr(one, what) for one in found) for what in ("seconds", "disk"))
        print(
            f"{name:16}  {seconds:7.2f} s  {2 * size / seconds / 1e9:5.2f} GB/s  share of cmp {statistics.median(shares):5.2f}"
            f"  ({shares[0]:.2f} .. {shares[-1]:.2f})  peak {max(one.memory for one in found) / 1e6:4.0f} MB"
            f"  from disk {disk / 1e9:5.2f} GB"
        )


if __name__ == "__main__":
    main()
