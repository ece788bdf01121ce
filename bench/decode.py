"""What a decoded token costs: the linear kernel at one position, and whole tokens against llama.cpp.

    python bench/decode.py                                             # kernels alone
    python bench/decode.py --model MODEL.gguf --llama-python VENV/bin/python

Kernels, on a matrix of a GB of random blocks: the linear kernel, against a loop in C of the same arithmetic (decode_rows.c, AVX2)
and against reading the same bytes alone; where the format has one, the integer kernel of `--arithmetic ggml-avx2` too. Tokens: the same
file, prompt and threads. All in turns; on one thread in seconds of its processor, so that other programs disturb little, on several by
the clock, since threads that wait take a processor as well. Only ratios mean something on a shared machine.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import repository  # noqa: F401 -- before what it makes importable

from aprgraph.graph.arithmetics import ARITHMETICS
from aprgraph.graph.block_formats import BLOCK_FORMATS
from aprgraph.graph.ir import TensorType
from bench.measuring import Failure, Row, in_turns, show, tried
from bench.worker import LLAMA, Sides
from tests.support.kernels import RUNNABLE, Weight, f32, prepared, request, set_threads
from tests.support.tiny_blocks import random_weight

HERE = Path(__file__).parent
COLUMNS = 14336
#: About so many bytes of blocks, of which no cache holds much.
_MATRIX_BYTES = 1 << 30
#: Rows that the loop in C takes at a time.
_ROWS_OF_C = 4
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K", "F16", "BF16")
#: Decoded in a round.
TOKENS = 24
_ARITHMETICS = ("plain", "ggml-avx2")


def kernels(formats: Iterable[str], rounds: int, scratch: Path, threads: int) -> Iterator[Row | Failure]:
    """For each format the linear kernel against the C loop and against reading alone, and the integer kernel against reading."""
    library = scratch / "decode_rows.so"
    source = HERE / "decode_rows.c"
    subprocess.run(["cc", "-O3", "-mavx2", "-mfma", "-mf16c", "-shared", "-fPIC", "-o", library, source], check=True)
    loops = ctypes.CDLL(str(library))
    # Before TVM's threads begin, which take half of the processors otherwise, and keep the one that asks on the first of them.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    processors = os.sched_getaffinity(0)
    set_threads(threads)
    with ThreadPoolExecutor(threads, initializer=lambda: os.sched_setaffinity(0, processors)) as pool:
        for fmt in formats:
            yield from tried("kernels", fmt, partial(_one_format, fmt, rounds, loops, pool, threads))


def _one_format(fmt: str, rounds: int, loops: ctypes.CDLL, pool: ThreadPoolExecutor, threads: int) -> Iterator[Row]:
    width = BLOCK_FORMATS[fmt].row_bytes(COLUMNS)
    rows = _MATRIX_BYTES // width // (64 * threads) * 64 * threads
    kind = TensorType(fmt.lower(), (rows, COLUMNS))
    # The same rows again and again: making random blocks takes long.
    some = random_weight(fmt, (64, COLUMNS), np.random.default_rng(0)).reshape(-1).view(np.uint8)
    stored = np.tile(some, rows // 64).reshape(rows, width)
    plain = {"F16": np.float16, "BF16": np.uint16}
    w = Weight(kind, stored.view(plain[fmt]) if fmt in plain else stored, np.zeros(0))
    x = np.random.default_rng(1).standard_normal((1, COLUMNS)).astype(np.float32)
    ours, result = prepared(request("linear", [f32("n", COLUMNS), kind]), [x, w], (1, rows), RUNNABLE[-1])
    out = np.zeros(rows, np.float32)
    loop, part = getattr(loops, f"products_{fmt.lower()}"), rows // threads
    assert part % _ROWS_OF_C == 0

    def at(array: np.ndarray, number: int) -> ctypes.c_void_p:
        """Where the part of a thread begins."""
        return ctypes.c_void_p(array.ctypes.data + number * part * array.strides[0])

    def products(number: int) -> None:
        loop(at(stored, number), ctypes.c_void_p(x.ctypes.data), at(out, number), ctypes.c_size_t(part), ctypes.c_size_t(COLUMNS))

    def read(number: int) -> None:
        loops.reading(at(stored, number), ctypes.c_size_t(part * width))

    def of_all(one: Callable[[int], None]) -> Callable[[], object]:
        return partial(one, 0) if threads == 1 else lambda: list(pool.map(one, range(threads)))

    calls: dict[str, Callable[[], object]] = {"linear": ours, "C loop": of_all(products), "reading alone": of_all(read)}
    pairs = [("linear", "C loop"), ("linear", "reading alone")]
    scheme = ARITHMETICS["ggml-avx2"].activations.get(fmt)
    if BLOCK_FORMATS[fmt].elements > 1 and scheme is not None:
        what = request("rounded_linear", [f32("n", COLUMNS), kind], scheme=scheme)
        calls["linear of ggml-avx2"], _ = prepared(what, [x, w], (1, rows), RUNNABLE[-1])
        pairs.append(("linear of ggml-avx2", "reading alone"))
    taken = in_turns(calls, rounds, time.thread_time if threads == 1 else time.perf_counter)
    same = "yes" if result.numpy().tobytes() == out.tobytes() else "no"
    for name, peer in pairs:
        rate = f"{stored.nbytes / statistics.median(taken[name]) / 1e9:.1f} GB/s"
        note = f"{rate}, same bits as C: {same}" if peer == "C loop" else rate
        yield Row.of("kernels", f"{fmt} {rows} x {COLUMNS}, one position, {name}", peer, taken[name], taken[peer], threads, note=note)


def tokens(sides: Sides, model: str, rounds: int, count: int = TOKENS, clock: str = "seconds") -> Iterator[Row | Failure]:
    """A row for each arithmetic: what a token takes in the median, of ``count`` after ten. ``model`` is what to call it; ``clock`` is
    "seconds" or "processors".
    """
    what = f"{model}, a token"
    yield from tried("tokens", what, partial(_whole_tokens, sides, what, rounds, count, clock))


def _whole_tokens(sides: Sides, what: str, rounds: int, count: int, clock: str) -> Iterator[Row]:
    question = {"tokens": [100 + i for i in range(10)], "decode": count}
    answers, peaks = sides.ask_in_turns((*sides.arithmetics, LLAMA), question, rounds, warm_up=1)
    taken = {name: [statistics.median(answer[clock]) for answer in those] for name, those in answers.items()}
    note = "seconds of processors" if clock == "processors" else ""
    for name in sides.arithmetics:
        yield Row.of("tokens", f"{what}, {name}", LLAMA, taken[name], taken[LLAMA], sides.threads, peaks[name], note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default=",".join(FORMATS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--llama-python", help="a Python that has llama-cpp-python")
    parser.add_argument("--cpu", default="", help="what whole tokens are compiled for [this machine's]")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="decoded in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        scratch = Path(folder)
        if options.model is None:
            return show(kernels(options.formats.split(","), options.rounds, scratch, options.threads))
        clock = "processors" if options.threads == 1 else "seconds"
        with closing(Sides.on(options.model, options.llama_python, scratch, options.threads, _ARITHMETICS, options.cpu)) as sides:
            return show(tokens(sides, options.model.stem, options.rounds, options.tokens, clock))


if __name__ == "__main__":
    sys.exit(main())
