"""Prefill against llama.cpp: same file, same tokens, same threads, in turns within one run.

    python bench/prefill.py --model MODEL.gguf --llama-python VENV/bin/python

Both sides compute the logits of the last position. "plain" records nothing; "dump" writes every tensor of every layer to
the same file system (llama.cpp by a C callback, as raw files; aprgraph as APRT files with their statistics), llama.cpp once with its
fused attention and once without, for that has the scores and the softmax that a float32 dump has too. Prints medians and the
ratio; only the ratio means something on a shared machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import repository  # noqa: F401 -- before what it makes importable

from bench.measuring import PROCESSORS, Failure, Row, show, tried
from bench.worker import LLAMA, LLAMA_UNFUSED, Sides

SIZES = (7, 32, 256)


def prefill(sides: Sides, model: str, sizes: Iterable[int], rounds: int, *, dump: bool) -> Iterator[Row | Failure]:
    """For each number of tokens a row for each arithmetic. ``model`` is what to call it; ``dump``: with every tensor written."""
    for count in sizes:
        what = f"{model}, {count} tokens, {'every tensor written' if dump else 'nothing recorded'}"
        yield from tried("prefill", what, partial(_one_size, sides, what, count, rounds, dump=dump))


def _one_size(sides: Sides, what: str, count: int, rounds: int, *, dump: bool) -> Iterator[Row]:
    request = {"tokens": [100 + i for i in range(count)], "dump": dump}
    peers = (LLAMA, LLAMA_UNFUSED) if dump else (LLAMA,)
    answers, peaks = sides.ask_in_turns((*sides.arithmetics, *peers), request, rounds)
    seconds = {name: [answer["seconds"] for answer in those] for name, those in answers.items()}
    written = {name: f"{those[0]['bytes'] / 1e6:.0f}" for name, those in answers.items()}
    for name in sides.arithmetics:
        for peer in peers:
            note = f"{written[name]} MB written, the other {written[peer]}" if dump else ""
            yield Row.of("prefill", f"{what}, {name}", peer, seconds[name], seconds[peer], sides.threads, peaks[name], note)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--llama-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=PROCESSORS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="where both sides write")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="prompts of so many tokens")
    parser.add_argument("--arithmetic", default="plain", help="of aprgraph; several as plain,ggml-avx2")
    parser.add_argument("--cpu", default="", help="what aprgraph compiles for [this machine's]")
    parser.add_argument("--modes", default="plain,dump")
    options = parser.parse_args()
    sizes, arithmetics = [int(size) for size in options.sizes.split(",")], options.arithmetic.split(",")
    with closing(Sides.on(options.model, options.llama_python, options.scratch, options.threads, arithmetics, options.cpu)) as sides:
        modes = options.modes.split(",")
        return max(show(prefill(sides, options.model.stem, sizes, options.rounds, dump=mode == "dump")) for mode in modes)


if __name__ == "__main__":
    sys.exit(main())
