"""What `aprgraph weights` costs on large models: its time beside that of `cmp A B` in the same run, and its memory.

    python bench/weights.py --bytes 4e9 --scratch DIR

Writes a model of random weights, a copy of it, and the same weights in other block formats, all removed at the end; then, in turns, each in
a process of its own: `cmp` of the model and its copy, and `aprgraph weights` of the model and each other file. Prints
medians, the rate over the bytes of both files, the time of cmp as a share of its own, seconds of processors, and the peak memory.
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
from gguf.quants import quantize

from bench.measuring import APRGRAPH, Cost, empty_cache, measure

_ROWS, _COLUMNS = 4096, 4096
_WEIGHTS = (*APRGRAPH, "weights")


def write_model(path: Path, name: str, matrices: int) -> int:
    """A file of ``matrices`` random ones in a block format, the same in every format but for rounding. Returns its bytes."""
    kind = GGMLQuantizationType[name]
    values = (np.random.default_rng(0).standard_normal((_ROWS, _COLUMNS), dtype=np.float32) * 0.02).astype(np.float32)
    data = values.astype(np.float16) if name == "F16" else quantize(values, kind)
    writer = GGUFWriter(path, "llama")
    for index in range(matrices):
        writer.add_tensor(f"blk.{index}.ffn_up.weight", np.roll(data, index, axis=0), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.stat().st_size


def written(path: Path, name: str, matrices: int) -> int:
    """``write_model`` in another process: the system counts the memory of this one among that of the commands."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(write_model, path, name, matrices).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=4e9, help="of the model in F16 (default 4e9)")
    parser.add_argument("--format", action="append", choices=("BF16", "Q8_0", "Q5_0", "Q4_0"), help="of the others (default Q8_0, Q4_0)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="where the files are written")
    parser.add_argument("--cold", action="store_true", help="empty the page cache of the files before each measurement")
    options = parser.parse_args()
    formats = options.format or ["Q8_0", "Q4_0"]
    free, needed = shutil.disk_usage(options.scratch).free, options.bytes * (2 + len(formats))
    if needed > 0.9 * free:
        sys.exit(f"error: {needed / 1e9:.1f} GB are needed in {options.scratch}, where {free / 1e9:.1f} GB are free; give fewer --bytes")
    print(
        f"{options.rounds} rounds, page cache {'emptied before each measurement' if options.cold else 'as the round before left it'}; "
        f"{len(os.sched_getaffinity(0))} processors ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    )
    matrices = max(1, int(options.bytes / (2 * _ROWS * _COLUMNS)))
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        model, copy = Path(scratch) / "model.gguf", Path(scratch) / "copy.gguf"
        size = written(model, "F16", matrices)
        shutil.copyfile(model, copy)
        others = {"copy": (copy, size)}
        for name in formats:
            other = Path(scratch) / f"{name}.gguf"
            others[name] = (other, written(other, name, matrices))
        costs: dict[str, list[Cost]] = {what: [] for what in ("cmp", *others)}
        for _ in range(options.rounds):
            for what, found in costs.items():
                if options.cold:
                    empty_cache([model, *(path for path, _ in others.values())])
                other = copy if what == "cmp" else others[what][0]
                command = ("cmp", str(model), str(other)) if what == "cmp" else (*_WEIGHTS, str(model), str(other))
                found.append(measure([command]))
    cmp = statistics.median(one.seconds for one in costs["cmp"])
    for what, (_, nbytes) in (("cmp", others["copy"]), *others.items()):
        seconds = statistics.median(one.seconds for one in costs[what])
        busy = statistics.median(one.processors for one in costs[what])
        rate, peak = (size + nbytes) / seconds / 1e9, max(one.memory for one in costs[what]) / 1e6
        both = cmp * (size + nbytes) / (2 * size)
        print(f"F16 and {what:5} {size / 1e9:5.2f} + {nbytes / 1e9:5.2f} GB  {seconds:7.2f} s  {rate:5.2f} GB/s  "
              f"cmp's rate over it {both / seconds:5.2f}  processors {busy:6.2f} s  peak {peak:4.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
