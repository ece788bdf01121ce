"""Prefill against llama.cpp: same file, same tokens, same threads, in turns within one run.

    python bench/prefill.py --model MODEL.gguf --llama-python VENV/bin/python

Both sides compute the logits of the last position. "plain" records nothing; "dump" writes every tensor of every layer to
the same file system (llama.cpp by a C callback, as raw files; aprgraph as APRT files with their statistics). Prints medians and
the ratio; only the ratio means something on a shared machine.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from typing import Any

from worker import Worker

SIZES = (7, 32, 256)
#: Between two measurements, so that the idle side's threads have gone to sleep.
_PAUSE_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--llama-python", required=True, help="a Python that has llama-cpp-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="where both sides write")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="prompts of so many tokens")
    parser.add_argument("--arithmetic", default="plain", help="of aprgraph")
    parser.add_argument("--cpu", default="", help="what aprgraph compiles for [this machine's]")
    parser.add_argument("--modes", default="plain,dump")
    options = parser.parse_args()
    common = (options.model, str(options.threads), options.scratch)
    ours, theirs = (
        Worker(sys.executable, "worker_aprgraph.py", *common, options.arithmetic, options.cpu),
        Worker(options.llama_python, "worker_llama.py", *common),
    )
    print(f"{options.threads} threads, {options.rounds} rounds")
    for worker in (ours, theirs):
        print(f"{worker.info['name']}: {worker.info['system']}")
    print(
        f"{'tokens':>6}  {'mode':5}  {'aprgraph ms':>11}  {'llama.cpp ms':>12}  {'ratio':>6}  {'spread of ratios':>16}  {'MB written':>16}"
    )
    for dump in (mode == "dump" for mode in options.modes.split(",")):
        for count in map(int, options.sizes.split(",")):
            tokens = [100 + i for i in range(count)]
            pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
            for _ in range(options.rounds + 2):
                pair = []
                for worker in (ours, theirs):
                    time.sleep(_PAUSE_SECONDS)
                    pair.append(worker.ask(tokens, dump=dump))
                pairs.append((pair[0], pair[1]))
            pairs = pairs[2:]
            ratios = sorted(b["seconds"] / a["seconds"] for a, b in pairs)
            mine, peer = (statistics.median(pair[i]["seconds"] for pair in pairs) * 1e3 for i in (0, 1))
            written = " / ".join(f"{pairs[0][i]['bytes'] / 1e6:.0f}" for i in (0, 1)) if dump else "-"
            print(
                f"{count:6}  {'dump' if dump else 'plain':5}  {mine:11.1f}  {peer:12.1f}  {statistics.median(ratios):6.2f}"
                f"  {ratios[0]:7.2f} .. {ratios[-1]:.2f}  {written:>16}"
            )
    ours.close()
    theirs.close()


if __name__ == "__main__":
    main()
