"""What a decoded token costs: the linear kernel at one position, and whole tokens against llama.cpp.

    python bench/decode.py                                             # kernels alone
    python bench/decode.py --model MODEL.gguf --llama-python VENV/bin/python

Kernels, on one thread and a matrix of random blocks: the linear kernel, a loop in C of the same arithmetic (decode_rows.c, AVX2), and
reading the same bytes alone; where the format has one, the integer kernel of `--arithmetic ggml-avx2` too. Tokens: the same file,
prompt and threads, in turns. Both are seconds of processors, minima in turns, so that other programs disturb little; only ratios
mean something on a shared machine. Tokens on several threads are taken by the clock: threads that wait take a processor too.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from worker import Worker

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from aprgraph.graph.arithmetics import ARITHMETICS
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.ir import TensorType
from tests.support.kernels import RUNNABLE, Weight, f32, prepared, request, set_threads
from tests.support.tiny_blocks import random_weight

HERE = Path(__file__).parent
ROWS, COLUMNS = 4096, 14336
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model")
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--cpu", default="", help="what whole tokens are compiled for [this machine's]")
    parser.add_argument("--threads", type=int, default=1, help="of whole tokens")
    parser.add_argument("--tokens", type=int, default=24, help="decoded in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        if options.model is None:
            kernels(options.formats.split(","), options.rounds, Path(scratch))
        else:
            whole_tokens(options, scratch)


def kernels(formats: list[str], rounds: int, scratch: Path) -> None:
    """Print a line for each format: GB/s of blocks, and shares of the C loop and of reading alone."""
    library = scratch / "decode_rows.so"
    source = HERE / "decode_rows.c"
    subprocess.run(["cc", "-O3", "-mavx2", "-mfma", "-mf16c", "-shared", "-fPIC", "-o", library, source], check=True)
    loops = ctypes.CDLL(str(library))
    set_threads(1)
    print(f"n = 1, {ROWS} x {COLUMNS}, one thread, {RUNNABLE[-1].name}; GB/s of blocks, best of {rounds} in turns")
    print("format   linear   C loop  reading   of C  of reading  integer  same bits as C")
    for fmt in formats:
        one_format(fmt, rounds, loops)


def one_format(fmt: str, rounds: int, loops: ctypes.CDLL) -> None:
    kind = TensorType(fmt.lower(), (ROWS, COLUMNS))
    # The same rows again and again: making random blocks takes long.
    some = random_weight(fmt, (64, COLUMNS), np.random.default_rng(0)).reshape(-1).view(np.uint8)
    width = BLOCK_FORMATS[fmt].row_bytes(COLUMNS)
    stored = np.tile(some, ROWS // 64).reshape(ROWS, width)
    w = Weight(kind, stored.view(np.float16) if fmt == "F16" else stored, np.zeros(0))
    x = np.random.default_rng(1).standard_normal((1, COLUMNS)).astype(np.float32)
    ours, result = prepared(request("linear", [f32("n", COLUMNS), kind]), [x, w], (1, ROWS), RUNNABLE[-1])
    out = np.zeros(ROWS, np.float32)
    loop = getattr(loops, f"products_{fmt.lower()}")
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (stored, x, out)]
    calls: dict[str, Callable[[], object]] = {
        "linear": ours,
        "C": lambda: loop(*pointers, ctypes.c_size_t(ROWS), ctypes.c_size_t(COLUMNS)),
        "reading": lambda: loops.reading(pointers[0], ctypes.c_size_t(stored.nbytes)),
    }
    scheme = ARITHMETICS["ggml-avx2"].activations.get(fmt)
    if BLOCK_FORMATS[fmt].elements > 1 and scheme is not None:
        what = request("rounded_linear", [f32("n", COLUMNS), kind], scheme=scheme)
        calls["integer"], _ = prepared(what, [x, w], (1, ROWS), RUNNABLE[-1])
    taken = {name: min(times) for name, times in in_turns(calls, rounds).items()}
    rate = {name: stored.nbytes / seconds / 1e9 for name, seconds in taken.items()}
    integer = f"{rate['integer']:7.1f}" if "integer" in rate else "      -"
    same = "yes" if result.numpy().tobytes() == out.tobytes() else "no"
    print(
        f"{fmt:6}  {rate['linear']:7.1f}  {rate['C']:7.1f}  {rate['reading']:7.1f}  {taken['C'] / taken['linear']:5.2f}"
        f"  {taken['reading'] / taken['linear']:10.2f}  {integer}  {same:>14}",
        flush=True,
    )


def in_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of this thread for each call, in each round but the first."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.thread_time()
            call()
            if number:
                taken[name].append(time.thread_time() - start)
    return taken


def whole_tokens(options: argparse.Namespace, scratch: str) -> None:
    """Print what a token takes on each side, and how many times as fast as llama.cpp ours is."""
    common = (options.model, str(options.threads), scratch)
    workers = {
        "aprgraph": Worker(sys.executable, "worker_aprgraph.py", *common, "plain", options.cpu),
        "ggml-avx2": Worker(sys.executable, "worker_aprgraph.py", *common, "ggml-avx2", options.cpu),
        "llama.cpp": Worker(options.llama_python, "worker_llama.py", *common),
    }
    key = "processors" if options.threads == 1 else "seconds"
    tokens, taken = [100 + i for i in range(10)], {name: [] for name in workers}
    for number in range(options.rounds + 1):
        for name, worker in workers.items():
            answer = worker.request({"tokens": tokens, "decode": options.tokens})
            if number:
                taken[name].append(statistics.median(answer[key]))
    print(f"one decoded token after 10, {options.threads} threads, {options.rounds} rounds of {options.tokens}: ms ({key})")
    theirs = taken["llama.cpp"]
    for name, times in taken.items():
        ratios = sorted(b / a for a, b in zip(times, theirs, strict=True))
        print(
            f"{name:10}  {statistics.median(times) * 1e3:8.1f}  best {min(times) * 1e3:8.1f}   {statistics.median(ratios):5.2f} x as fast"
            f"  ({ratios[0]:.2f} .. {ratios[-1]:.2f}), best to best {min(theirs) / min(times):.2f}"
        )
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
