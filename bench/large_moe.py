"""Traces one layer of a synthetic model of Qwen3-30B-A3B's shape: how long it takes, and how much memory stays resident.

    python bench/large_moe.py qwen3moe.gguf [--format Q4_K] [--layers 48]

Writes the model unless it is there: 48 layers of 128 experts, 8 of them used, random blocks, 17 GB in Q4_K (a minute). Weights of
one shape share their random bytes, but for where they begin in them. Then, as whole processes on a compiled artifact:

    a trace of all stages of layer 0 but for the whole-model ones, which need that layer alone
    a trace of all stages of layer 0 and of the whole model, and of the last layer, which need all layers
    the resident memory at its highest, of which the pages of the file are part, and without them

and beside it, as the peer, the time that reading the weights which the trace of layer 0 needs takes by itself.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

# The repository behind the installed package: its folder `aprgraph` is the front door alone, and `tests` lies nowhere else.
_HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() not in (_HERE, _HERE.parent)] + [str(_HERE.parent)]

import aprgraph  # noqa: E402 -- with the path above
from aprgraph.graph.block_formats import BLOCK_FORMATS  # noqa: E402
from tests.support.tiny_blocks import random_blocks  # noqa: E402

HIDDEN, HEADS, KV_HEADS, HEAD = 2048, 32, 4, 128
EXPERTS, USED, EXPERT_FFN, VOCABULARY = 128, 8, 768, 151936
TOKENS = [9707, 11, 1879, 0, 3555, 374, 220, 17, 10, 17, 30]
_POOL_BYTES = 64 << 20


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, HIDDEN)}
    for layer in range(layers):
        own = {
            "attn_norm": (HIDDEN,), "attn_q": (HEADS * HEAD, HIDDEN), "attn_k": (KV_HEADS * HEAD, HIDDEN),
            "attn_v": (KV_HEADS * HEAD, HIDDEN),
            "attn_q_norm": (HEAD,), "attn_k_norm": (HEAD,), "attn_output": (HIDDEN, HEADS * HEAD), "ffn_norm": (HIDDEN,),
            "ffn_gate_inp": (EXPERTS, HIDDEN), "ffn_gate_exps": (EXPERTS, EXPERT_FFN, HIDDEN), "ffn_up_exps": (EXPERTS, EXPERT_FFN, HIDDEN),
            "ffn_down_exps": (EXPERTS, HIDDEN, EXPERT_FFN),
        }  # fmt: skip
        found |= {f"blk.{layer}.{name}.weight": dims for name, dims in own.items()}
    return found | {"output_norm.weight": (HIDDEN,), "output.weight": (VOCABULARY, HIDDEN)}


def write_model(path: Path, fmt: str, layers: int) -> None:
    writer = GGUFWriter(path, "qwen3moe")
    writer.add_block_count(layers)
    writer.add_context_length(32768)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(6144)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(USED)
    writer.add_expert_feed_forward_length(EXPERT_FFN)
    writer.add_layer_norm_rms_eps(1e-6)
    random = np.random.default_rng(0)
    kinds: dict[str, str] = {}
    for name, dims in shapes(layers).items():
        kinds[name] = "F32" if len(dims) == 1 or "gate_inp" in name else fmt
        kind, block = GGMLQuantizationType[kinds[name]], BLOCK_FORMATS[kinds[name]]
        nbytes = math.prod(dims[:-1]) * block.row_bytes(dims[-1])
        raw_dims = dims if kinds[name] == "F32" else (*dims[:-1], block.row_bytes(dims[-1]))
        writer.add_tensor_info(name, raw_dims, np.dtype(np.float32 if kinds[name] == "F32" else np.uint8), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools: dict[int, np.ndarray] = {}
    assert writer.fout is not None
    file = writer.fout[0]
    for name, dims in shapes(layers).items():
        writer.write_padding(file, file.tell())
        deviation = dims[-1] ** -0.5
        if kinds[name] == "F32":
            values = random.standard_normal(dims) * deviation * 2 if len(dims) > 1 else 1 + 0.1 * random.standard_normal(dims)
            file.write(values.astype("<f4").tobytes())
            continue
        block = BLOCK_FORMATS[fmt]
        left = math.prod(dims[:-1]) * block.row_bytes(dims[-1])
        if dims[-1] not in pools:
            pools[dims[-1]] = random_blocks(fmt, _POOL_BYTES // block.block_bytes * block.elements, deviation, random)
        pool = pools[dims[-1]]
        start = int(random.integers(0, len(pool) // block.block_bytes)) * block.block_bytes
        while left:
            piece = pool[start : start + left]
            file.write(piece.data)
            left, start = left - len(piece), 0
    writer.close()


_MEASURED = """
import json, resource, sys, time
from aprgraph.cli import main
sys.argv = ["aprgraph", *sys.argv[1:]]
start = time.perf_counter()
try:
    main()
except SystemExit as exit_:
    assert not exit_.code, exit_.code
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
anonymous = int(status["RssAnon"].split()[0]) / 1024
print(json.dumps([time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, anonymous]), file=sys.stderr)
"""


def measure(artifact: Path, taps: str, layers: str, output: Path) -> tuple[float, float, float]:
    """Seconds, MiB resident at the highest, MiB that are not pages of files, at the end."""
    text = ["run", artifact, "--taps", taps, "--layers", layers, "--tokens", ",".join(map(str, TOKENS)), "-o", output]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *map(str, text)], check=True, capture_output=True, text=True)
    seconds, resident, anonymous = json.loads(done.stderr.splitlines()[-1])
    return seconds, resident, anonymous


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--format", default="Q4_K")
    parser.add_argument("--layers", type=int, default=48)
    options = parser.parse_args()
    if not options.model.exists():
        start = time.perf_counter()
        write_model(options.model, options.format, options.layers)
        print(f"wrote {options.model}, {options.model.stat().st_size / 1e9:.1f} GB, in {time.perf_counter() - start:.0f} s")
    last = options.layers - 1
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        model = aprgraph.load(options.model)
        artifact = model.compile(directory=Path(scratch) / "model.aprg").artifact.directory
        print(f"compiled in {time.perf_counter() - start:.1f} s")
        own = ",".join(dict.fromkeys(str(node.stage) for node in model.graph.staged() if node.layer == 0))
        for taps, layers in ((own, "0..1"), ("all", "0..1"), ("all", f"{last}..{last + 1}")):
            what = "own stages" if taps == own else "stages and the whole model's"
            for _ in range(2):  # the first compiles the plan's program
                seconds, resident, anonymous = measure(artifact, taps, layers, Path(scratch) / "out")
            print(
                f"layers {layers}, {what}: {seconds:.2f} s, at most {resident:.0f} MiB resident; "
                f"{anonymous:.0f} MiB without the file's pages"
            )
        file = model.model.file
        names = [name for name in file.tensors if name.startswith("blk.0.")]
        start = time.perf_counter()
        for name in names:
            file.tensor_bytes(file.tensors[name]).max()
        total = sum(file.tensors[name].nbytes for name in names)
        print(f"reading all {total / 1e6:.0f} MB of layer 0 by itself: {time.perf_counter() - start:.2f} s")


if __name__ == "__main__":
    main()
