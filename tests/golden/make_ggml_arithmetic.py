"""Writes ggml_arithmetic.npz: what ggml's CPU backend computes for the cases of ggml_cases.py, at three levels of x86-64.

    python -m tests.golden.make_ggml_arithmetic LIBRARIES [LEVEL ...]

in the repository's root; LIBRARIES is the folder of ggml's shared libraries (see ggml_cpu.py). Given levels, as a CPU has them, are
computed anew, and what the file holds of the others stays. Version and date are in README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType

from aprgraph.graph.ops.attention import mask_of
from aprgraph.graph.roundings import F32
from tests.golden import ggml_cases as cases
from tests.golden.ggml_cpu import GgmlCpu

_NEOX = 2


def product(ggml: GgmlCpu, name: str, blocks: Any, x: F32) -> F32:
    """x times the transpose of the weight that ``blocks`` of a format hold."""
    with ggml:
        weight = ggml.tensor(blocks, kind=int(GGMLQuantizationType[name]), dims=(cases.ROWS, cases.COLUMNS))
        return ggml.compute(ggml.ggml_mul_mat(ggml.context, weight, ggml.tensor(x)), (len(x), cases.ROWS))


def long_product(ggml: GgmlCpu, name: str, blocks: Any, count: int) -> F32:
    """The kept rows of the product with a longer pass, which every number of threads must give."""
    x = cases.activations(count)
    with ggml:
        weight = ggml.tensor(blocks, kind=int(GGMLQuantizationType[name]), dims=(cases.ROWS, cases.COLUMNS))
        return _on_any_threads(ggml, weight, x, cases.ROWS)


def repacked_product(ggml: GgmlCpu, name: str, blocks: Any, count: int) -> F32:
    """The kept rows of the product with a weight in ggml's own order."""
    with ggml.repacked(int(GGMLQuantizationType[name]), blocks, cases.COLUMNS) as weight, ggml:
        return _on_any_threads(ggml, weight, cases.activations(count), cases.REPACKED_ROWS)


def _on_any_threads(ggml: GgmlCpu, weight: int, x: F32, rows: int) -> F32:
    each = [ggml.compute(ggml.ggml_mul_mat(ggml.context, weight, ggml.tensor(x)), (len(x), rows), count) for count in cases.THREADS]
    assert len({found.tobytes() for found in each}) == 1
    return each[0][cases.kept_rows(len(x))]


def rope(ggml: GgmlCpu, case: cases.RopeCase) -> F32:
    """RoPE of the case's x."""
    x, factors = cases.rope_inputs(case)
    with ggml:
        heads = ggml.tensor(x.reshape(len(x), cases.ROPE_HEADS, case.size))
        positions = ggml.tensor(np.array(cases.POSITIONS, np.int32))
        turned = ggml.ggml_rope_ext(
            ggml.context, heads, positions, ggml.tensor(factors) if case.with_factors else None, case.size,
            _NEOX if case.pairing == "halves" else 0, 2048, case.base, case.scale, 0.0 if case.yarn is None else 1.0, 1.0,
            *(case.yarn or (32.0, 1.0)),
        )  # fmt: skip
        return ggml.compute(turned, x.shape)


def gelu(ggml: GgmlCpu) -> F32:
    """GELU of its input."""
    x = cases.gelu_input()
    with ggml:
        return ggml.compute(ggml.ggml_gelu(ggml.context, ggml.tensor(x)), x.shape)


def attention(ggml: GgmlCpu, case: cases.AttentionCase) -> F32:
    """Attention with k and v of float16, as llama.cpp builds it with and without flash attention."""
    q, k, v, sinks = cases.attention_inputs(case)
    empty = ((0, case.cells - case.t), (0, 0), (0, 0))
    keys, values = (np.pad(each, empty).astype(np.float16).transpose(1, 0, 2) for each in (k, v))
    seen = np.pad(mask_of(case.n, case.t, case.attrs), ((0, 0), empty[0]))
    mask = np.where(seen, 0, -np.inf).astype(np.float16)
    with ggml:
        context = ggml.context
        q_, k_, mask_ = (ggml.tensor(each) for each in (q.transpose(1, 0, 2), keys, mask))
        if case.flash:
            mixed = ggml.ggml_flash_attn_ext(context, q_, k_, ggml.tensor(values), mask_, case.attrs["scale"], 0.0, case.cap)
            if case.with_sinks:
                ggml.ggml_flash_attn_ext_add_sinks(mixed, ggml.tensor(sinks))
            return ggml.compute(mixed, (case.n, 4 * case.size), case.threads)
        weights = ggml.ggml_soft_max_ext(context, ggml.ggml_mul_mat(context, k_, q_), mask_, case.attrs["scale"], 0.0)
        if case.with_sinks:
            ggml.ggml_soft_max_add_sinks(weights, ggml.tensor(sinks))
        mixed = ggml.ggml_mul_mat(context, ggml.tensor(values.transpose(0, 2, 1)), weights)
        return ggml.compute(mixed, (4, case.n, case.size)).transpose(1, 0, 2).reshape(case.n, -1)


def main(libraries: Path, levels: Sequence[str] = ()) -> None:
    """Write the file."""
    found: dict[str, Any] = {}
    if levels:
        with np.load(cases.GOLDEN) as earlier:
            found = dict(earlier)
    for level in levels or cases.LEVELS:
        ggml = GgmlCpu(libraries, level)
        found |= {f"{level}/attention/{name}": attention(ggml, case)[case.kept] for name, case in cases.ATTENTIONS.items()}
        if level in cases.ONLY_ATTENTION:
            continue
        for name in cases.FORMATS:
            blocks = found.setdefault(f"weights/{name}", ggml.quantise(int(GGMLQuantizationType[name]), cases.weights()))
            for count in cases.COUNTS:
                found[f"{level}/{name}/{count}"] = product(ggml, name, blocks, cases.activations(count))
            found |= {f"{level}/{name}/{count}": long_product(ggml, name, blocks, count) for count in cases.LONG_COUNTS}
        for name in cases.REPACKED if level == "haswell" else ():
            kind = int(GGMLQuantizationType[name])
            blocks = found.setdefault(f"repacked-weights/{name}", ggml.quantise(kind, cases.weights(cases.REPACKED_ROWS)))
            found |= {f"repacked/{name}/{count}": repacked_product(ggml, name, blocks, count) for count in cases.REPACKED_COUNTS}
        found |= {f"{level}/rope/{name}": rope(ggml, case) for name, case in cases.ROPES.items()}
        found[f"{level}/gelu"] = gelu(ggml)
    np.savez_compressed(cases.GOLDEN, **found)
    print(f"{cases.GOLDEN.name}: {len(found)} arrays, {cases.GOLDEN.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
