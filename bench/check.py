"""What `aprgraph check` costs on a large model: its time beside that of `cat FILE` to nowhere in the same run, and its memory.

    python bench/check.py --bytes 4e9 --scratch DIR --format Q4_K --format Q4_0 --format F16

Writes a model of random weights for each --format, which is removed at the end, then in turns, each in a process of its own: `cat` of
the file with its output thrown away; `aprgraph check`. Prints medians, the rate of the check as a share of that of `cat`, its start
included, the peak memory, and what came from the disk; --cold empties the page cache of the file before each measurement.
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
import repository  # noqa: F401 -- before what it makes importable
from gguf import GGMLQuantizationType, GGUFWriter

from aprgraph.graph.block_formats import BLOCK_FORMATS
from bench.measuring import APRGRAPH, Cost, empty_cache, measure

_ROWS, _COLUMNS = 4096, 4096
_CHECK = (*APRGRAPH, "check")


def write_model(path: Path, name: str, size: int) -> int:
    """A file of about ``size`` bytes of sound random weights. Returns its bytes."""
    fmt, rng = BLOCK_FORMATS[name], np.random.default_rng(0)
    raw = rng.integers(0, 256, (_ROWS, fmt.row_bytes(_COLUMNS)), dtype=np.uint8)
    blocks = raw.reshape(-1, fmt.block_bytes)
    for field in fmt.fields:  # scales of usual size; plain numbers between -2 and 2
        start = fmt.offset(field.name)
        if field.dtype == "float16":
            scales = rng.uniform(0.5, 1.5, (len(blocks), field.count)).astype("<f2") * np.float16(0.01)
            blocks[:, start : start + 2 * field.count] = scales.view(np.uint8)
        elif fmt.is_plain:
            values = rng.standard_normal(len(blocks), dtype=np.float32)
            blocks[:] = values.view(np.uint8).reshape(-1, 4)[:, 4 - fmt.block_bytes :]
    writer = GGUFWriter(path, "llama")
    for index in range(max(1, size // raw.nbytes)):
        writer.add_tensor(f"blk.{index}.ffn_up.weight", np.roll(raw, index, axis=0), raw_dtype=GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=4e9, help="of each file (default 4e9)")
    parser.add_argument("--format", action="append", choices=BLOCK_FORMATS, help="(default Q4_K, Q4_0, Q8_0, F16)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="where the files are written")
    parser.add_argument("--cold", action="store_true", help="empty the page cache of the file before each measurement")
    options = parser.parse_args()
    free = shutil.disk_usage(options.scratch).free
    if options.bytes > 0.9 * free:
        sys.exit(
            f"error: {options.bytes / 1e9:.1f} GB are needed in {options.scratch}, where {free / 1e9:.1f} GB are free; give fewer --bytes"
        )
    print(
        f"{options.rounds} rounds, page cache {'emptied before each measurement' if options.cold else 'as the round before left it'}; "
        f"{len(os.sched_getaffinity(0))} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    )
    for name in options.format or ["Q4_K", "Q4_0", "Q8_0", "F16"]:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            path = Path(scratch) / "model.gguf"
            # In another process: the system counts the memory of this one, at the time of the fork, among that of its children.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                size = pool.submit(write_model, path, name, int(options.bytes)).result()
            compare(name, path, size, options.rounds, cold=options.cold)


def compare(name: str, path: Path, size: int, rounds: int, *, cold: bool) -> None:
    """Measure both on one file, and print what they cost."""
    empty_cache([path])  # what is still to be written would slow the first round
    runs = {"cat": (("cat", str(path)), {0}), "check": ((*_CHECK, str(path)), {0, 1})}
    costs: dict[str, list[Cost]] = {what: [] for what in runs}
    for _ in range(rounds + 1):
        for what, (command, codes) in runs.items():
            if cold:
                empty_cache([path])
            costs[what].append(measure([command], codes))
    cats, checks = costs["cat"][1:], costs["check"][1:]
    shares = sorted(cat.seconds / one.seconds for cat, one in zip(cats, checks, strict=True))
    seconds = statistics.median(one.seconds for one in checks)
    rate, share = size / seconds / 1e9, f"share of cat {statistics.median(shares):5.2f}  ({shares[0]:.2f} .. {shares[-1]:.2f})"
    peak, disk = max(one.memory for one in checks) / 1e6, statistics.median(one.disk for one in checks) / 1e9
    print(f"{name:8} {size / 1e9:5.2f} GB  {seconds:6.2f} s  {rate:5.2f} GB/s  {share}  peak {peak:4.0f} MB  from disk {disk:5.2f} GB")


if __name__ == "__main__":
    main()
