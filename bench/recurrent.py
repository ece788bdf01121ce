"""What the sequential scans of recurrent layers cost beside the projections of the same layer.

    python bench/recurrent.py [--threads 2] [--rounds 7] [--format Q8_0]

A scan goes position by position, so that prefill, chunks and decoding have the same bits; chunked forms, which other engines use for
prompts, multiply matrices instead. For layers of published sizes, each kernel runs alone on random numbers, in turns with the input and
output projections that its layer has: medians in ms, and the scan's time as a share of the projections'.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import repository  # noqa: F401 -- before what it makes importable

from aprgraph.codegen.kernels import KernelRequest
from tests.support.kernels import RUNNABLE, Weight, f32, prepared, request, set_threads, weight, zeros

_LENGTHS = (1, 16, 128, 512)


def delta_rule(n: int) -> tuple[KernelRequest, list[object], tuple[int, ...], int]:
    """Qwen3-Next 80B-A3B: 16 heads of keys and 32 of values, of 128 each, hidden size 2048."""
    keys, heads, size = 16, 32, 128
    types = [f32("n", keys * size)] * 2 + [f32("n", heads * size)] + [f32("n", heads)] * 2
    what = request("delta_rule", types, key_heads=keys, scale=size**-0.5)
    rows = [_random(n, keys * size) / size**0.5, _random(n, keys * size) / size**0.5, _random(n, heads * size)]
    return what, [*rows, -np.abs(_random(n, heads)), np.abs(_random(n, heads)) / 2], (heads, size, size), heads * size


def ssm_scan(n: int) -> tuple[KernelRequest, list[object], tuple[int, ...], int]:
    """Mamba 2 2.7B: 80 heads of 64, one group, a state of 128, hidden size 2560."""
    heads, size, state = 80, 64, 128
    skip = weight("F32", heads)
    types = [f32("n", heads * size), *[f32("n", state)] * 2, *[f32("n", heads)] * 2, skip.type]
    what = request("ssm_scan", types, groups=1)
    rows = [_random(n, heads * size), _random(n, state), _random(n, state), -np.abs(_random(n, heads)), np.abs(_random(n, heads))]
    return what, [*rows, skip], (heads, state, size), heads * size


def ssm_scan_with_rates(n: int) -> tuple[KernelRequest, list[object], tuple[int, ...], int]:
    """Mamba 2.8B: 5,120 columns, each a head, a state of 16, hidden size 2560."""
    heads, state = 5120, 16
    skip, rates = weight("F32", heads), weight("F32", heads, state)
    types = [f32("n", heads), *[f32("n", state)] * 2, *[f32("n", heads)] * 2, skip.type, rates.type]
    step = np.abs(_random(n, heads))
    rows = [_random(n, heads), _random(n, state), _random(n, state), -step, step]
    return request("ssm_scan", types, groups=1), [*rows, skip, rates], (heads, state, 1), heads


#: Each scan, with the (outputs, inputs) of its layer's projections.
_LAYERS = {
    "delta_rule, Qwen3-Next": (delta_rule, ((12288 + 64, 2048), (2048, 4096))),
    "ssm_scan, Mamba 2 2.7B": (ssm_scan, ((10576, 2560), (2560, 5120))),
    "ssm_scan, Mamba 2.8B": (ssm_scan_with_rates, ((10240, 2560), (192, 5120), (5120, 160), (2560, 5120))),
}


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _projections(shapes: tuple[tuple[int, int], ...], fmt: str, n: int) -> list[Callable[[], object]]:
    calls = []
    for rows, columns in shapes:
        matrix = weight(fmt, rows, columns)
        what = request("linear", [f32("n", columns), matrix.type])
        calls.append(prepared(what, [_random(n, columns), matrix], (n, rows), RUNNABLE[-1])[0])
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--format", default="Q8_0")
    options = parser.parse_args()
    set_threads(options.threads)
    print(f"{RUNNABLE[-1].name}, {options.threads} threads, projections in {options.format}, medians of {options.rounds}")
    print("| layer | positions | scan ms | projections ms | share |\n|---|---|---|---|---|")
    for name, (scan, shapes) in _LAYERS.items():
        for n in _LENGTHS:
            what, operands, state, columns = scan(n)
            held = zeros(*state)
            run_scan = prepared(what, [*operands, Weight(what.result, held, held)], (n, columns), RUNNABLE[-1])[0]
            projections = _projections(shapes, options.format, n)
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(options.rounds + 1):
                for kept, calls in zip(seconds, ([run_scan], projections), strict=True):
                    start = time.perf_counter()
                    for call in calls:
                        call()
                    if turn:  # the first one loads
                        kept.append(time.perf_counter() - start)
            one, other = map(statistics.median, seconds)
            print(f"| {name} | {n} | {one * 1e3:.2f} | {other * 1e3:.2f} | {one / other:.2f} |", flush=True)


if __name__ == "__main__":
    main()
