"""The measurements of bench/cuda.py, each a generator of rows."""

from __future__ import annotations

import contextlib
import math
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import aprgraph
from aprgraph.api import CompiledModel, RunPlan
from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cuda.linear import Product
from aprgraph.graph.block_formats import decode_reference, weight_format, weight_storage
from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.tap_plan import Plan, parse_plan
from aprgraph.runs.execute import execute
from aprgraph.runs.open_engine import open_engine
from aprgraph.runs.recorder import Recorder
from aprgraph.runtime.engine import Engine
from aprgraph.runtime.trace.writer import TraceWriter
from bench.cuda_device import Action, CuBlas, Device, Times
from bench.cuda_report import Row
from tests.support.tiny_blocks import random_weight

_F32 = 4
#: Random rows of a weight: they repeat, as the values of many cost minutes to make and nothing depends on them.
_RANDOM_ROWS = 256
#: Results are compared with float64 in so many weight rows. TF32 would be off by 1e-7.
_CHECKED_ROWS, _TOLERANCE = 16, 1e-10


@dataclass(frozen=True)
class Sizes:
    """What is measured; ``QUICK`` is for an emulator."""

    formats: tuple[str, ...]
    weights: tuple[tuple[int, int], ...]  # rows and columns
    few: tuple[int, ...]
    many: tuple[int, ...]
    copy_bytes: int
    heads: tuple[int, int, int]  # heads, KV heads, columns of a head
    attention: tuple[tuple[int, int], ...]  # queries and keys
    tokens: tuple[int, ...]


FULL = Sizes(
    ("Q4_0", "Q4_K", "Q6_K", "Q8_0", "F16"), ((4096, 4096), (11008, 4096)), (1, 2, 8), (512, 2048), 256 << 20,
    (32, 8, 128), ((512, 512), (2048, 2048), (1, 2048)), (7, 256),
)  # fmt: skip
QUICK = Sizes(("Q4_K", "F16"), ((70, 1024),), (1, 2), (9,), 1 << 16, (2, 1, 16), ((9, 9), (1, 9)), (5,))


def _compare(section: str, case: str, times: Times, measured: str, peer: str) -> Row:
    """A row of times."""
    ratios = times.ratios(measured, peer)
    return Row(
        section, case, measured, peer, statistics.median(ratios), ratios[0], ratios[-1], times.median(measured), times.median(peer), ""
    )  # fmt: skip


def _share(section: str, case: str, times: Times, measured: str, peer: str, unit: str, amount: float, peer_amount: float) -> Row:
    """A row of rates."""
    inverse = _compare(section, case, times, peer, measured)
    scale = amount / peer_amount
    return Row(
        section, case, measured, peer, inverse.ratio * scale, inverse.least * scale, inverse.most * scale,
        times.median(measured), times.median(peer), unit, amount, peer_amount,
    )  # fmt: skip


def _request(op: str, operands: Sequence[TensorType], **attrs: Attr) -> KernelRequest:
    return KernelRequest(op, tuple(operands), attrs, OPS[op].infer(operands, attrs))


# -- linear kernels ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Linear:
    """A linear kernel of one weight: the weight's bytes as a file would hold them, in its first rows, and how it is called."""

    kind: TensorType
    request: KernelRequest

    @classmethod
    def of(cls, fmt: str, rows: int, columns: int) -> _Linear:
        kind = TensorType(fmt.lower(), (rows, columns))
        return cls(kind, _request("linear", [TensorType("f32", ("n", columns)), kind]))

    @property
    def case(self) -> str:
        rows, columns = self.kind.dims
        return f"{self.kind.dtype.upper()} {rows}×{columns}"

    def stored(self) -> np.ndarray:
        """The weight as kernels take it."""
        rows, columns = (int(dim) for dim in self.kind.dims)
        some = min(rows, _RANDOM_ROWS)
        raw = random_weight(self.kind.dtype.upper(), (some, columns), np.random.default_rng(0)).reshape(some, -1)
        dtype, shape = weight_storage(self.kind)
        return np.ascontiguousarray(np.tile(raw, (-(-rows // some), 1))[:rows]).reshape(-1).view(dtype).reshape(shape)

    def check(self, x: np.ndarray, stored: np.ndarray, out: np.ndarray, who: str) -> None:
        """Compare the first rows with float64, that no time is that of something else."""
        rows = min(len(out[0]), _CHECKED_ROWS)
        raw = stored.reshape(int(self.kind.dims[0]), -1)[:rows].reshape(-1).view(np.uint8)
        expected = x.astype(np.float64) @ decode_reference(weight_format(self.kind), raw, (rows, x.shape[1])).T
        error = float(((out[:, :rows] - expected) ** 2).sum() / (expected**2).sum())
        if not error < _TOLERANCE:
            raise AprgraphError(f"{self.case}, n = {len(x)}: {who} is wrong (NMSE {error:.1e})")


class Linears:
    """The linear kernels of all cases, built once: as they are, and with rows that are not split."""

    def __init__(self, device: Device, sizes: Sizes) -> None:
        self.cases = [_Linear.of(fmt, *weight) for weight in sizes.weights for fmt in sizes.formats]
        requests = {case.request.symbol: case.request for case in self.cases}
        self.session = device.build(requests)
        with patch.object(Product, "parts", property(lambda _: 1)):
            self.unsplit = device.build(requests)


def bandwidth(device: Device, sizes: Sizes, linears: Linears) -> Iterator[Row]:
    """Few positions: bytes a second, against a copy."""
    source, target = (device.empty((sizes.copy_bytes,), "uint8") for _ in range(2))
    section = "bandwidth"

    def copy(number: int, nbytes: int) -> None:
        start = number % (sizes.copy_bytes // nbytes) * nbytes
        device.driver.copy_on_device(target.data_ptr() + start, source.data_ptr() + start, nbytes)

    for case in linears.cases:
        stored = case.stored()
        rows, columns = (int(dim) for dim in case.kind.dims)
        # Of each weight so many that none is still in the cache when its turn comes again.
        count = 2 if device.quick else 2 + math.ceil(4 * device.l2_bytes / stored.nbytes)
        weights = [device.session.tensor(stored)]
        for _ in range(count - 1):
            weights.append(device.empty(stored.shape, stored.dtype.name))
            device.driver.copy_on_device(weights[-1].data_ptr(), weights[0].data_ptr(), stored.nbytes)
        kernel = linears.session.kernels[case.request.symbol]
        for n in sizes.few:
            values = np.random.default_rng(n).standard_normal((n, columns)).astype(np.float32)
            x, out = device.session.tensor(values), device.empty((n, rows))
            nbytes = stored.nbytes + n * (columns + rows) * _F32
            half = min(nbytes // 2 // 256 * 256, sizes.copy_bytes)
            large, equal = f"copy of {sizes.copy_bytes >> 10} KiB", "copy of as many bytes"
            actions: dict[str, Action] = {
                "linear": lambda number, weights=weights, x=x, out=out, kernel=kernel: kernel(x, weights[number % len(weights)], out),
                large: lambda number: copy(number, sizes.copy_bytes),
                equal: lambda number, half=half: copy(number, half),
            }
            times = device.time(actions)
            case.check(values, stored, device.fetch(out), "the kernel")
            label = f"{case.case}, n = {n}"
            yield _share(section, label, times, "linear", large, "B", nbytes, 2 * sizes.copy_bytes)
            yield _share(section, label, times, "linear", equal, "B", nbytes, 2 * half)


def prefill(device: Device, sizes: Sizes, linears: Linears, cublas: CuBlas | None) -> Iterator[Row]:
    """Many positions: operations a second against a float32 product and a loop of FMAs, and what the fixed split costs."""
    turns = 1 if device.quick else 2000
    split_rows = []
    for case in linears.cases:
        stored = case.stored()
        rows, columns = (int(dim) for dim in case.kind.dims)
        weight = device.session.tensor(stored)
        dense = _Linear.of("F32", rows, columns)
        dense_stored = dense.stored() if cublas is not None else np.empty(0)
        dense_weight = device.session.tensor(dense_stored) if cublas is not None else None
        for n in sizes.many:
            values = np.random.default_rng(n).standard_normal((n, columns)).astype(np.float32)
            x = device.session.tensor(values)
            outs = {who: device.empty((n, rows)) for who in ("linear", "linear, 1 part", "sgemm")}
            split, unsplit = (session.kernels[case.request.symbol] for session in (linears.session, linears.unsplit))
            actions: dict[str, Action] = {
                "linear": lambda _, f=split, x=x, weight=weight, out=outs["linear"]: f(x, weight, out),
                "linear, 1 part": lambda _, f=unsplit, x=x, weight=weight, out=outs["linear, 1 part"]: f(x, weight, out),
                "FMA loop": lambda _: device.fma_loop(turns),
            }
            if cublas is not None:
                actions["sgemm"] = lambda _, x=x, w=dense_weight, out=outs["sgemm"]: cublas.product(x, w, out)
            times = device.time(actions)
            case.check(values, stored, device.fetch(outs["linear"]), "the kernel")
            case.check(values, stored, device.fetch(outs["linear, 1 part"]), "the kernel of one part")
            label, flop = f"{case.case}, n = {n}", 2 * n * rows * columns
            if cublas is not None:
                dense.check(values, dense_stored, device.fetch(outs["sgemm"]), "sgemm")
                yield _share("prefill", label, times, "linear", "sgemm", "FLOP", flop, flop)
            yield _share("prefill", label, times, "linear", "FMA loop", "FLOP", flop, device.fma_loop_flop(turns))
            split_rows.append(_compare("split", label, times, "linear", "linear, 1 part"))
    yield from split_rows


# -- attention -----------------------------------------------------------------------------------------------------------


def attention(device: Device, sizes: Sizes) -> Iterator[Row]:
    """The fused kernel against the three that keep scores and softmax."""
    heads, kv_heads, size = sizes.heads
    q, kv = TensorType("f32", ("n", heads * size)), TensorType("f32", ("t", kv_heads * size))
    square = TensorType("f32", (heads, "n", "t"))
    scale = size**-0.5
    attrs: dict[str, Attr] = {"heads": heads, "kv_heads": kv_heads, "scale": scale, "window": 0}
    requests = {
        "attention": _request("attention", [q, kv, kv], **attrs),
        "attn_scores": _request("attn_scores", [q, kv], **attrs),
        "attn_softmax": _request("attn_softmax", [square], window=0),
        "attn_mix": _request("attn_mix", [square, kv], kv_heads=kv_heads, window=0),
    }
    kernels = device.build({request.symbol: request for request in requests.values()}).kernels
    call = {op: kernels[request.symbol] for op, request in requests.items()}
    for n, t in sizes.attention:
        random = np.random.default_rng(n + t)

        def tensor(rows: int, columns: int, random: np.random.Generator = random) -> Any:
            return device.session.tensor(random.standard_normal((rows, columns)).astype(np.float32))

        queries, keys, values = tensor(n, heads * size), tensor(t, kv_heads * size), tensor(t, kv_heads * size)
        scores, weights = (device.empty((heads, n, t)) for _ in range(2))
        fused_out, out = (device.empty((n, heads * size)) for _ in range(2))

        def fused(_: int, q: Any = queries, k: Any = keys, v: Any = values, out: Any = fused_out) -> None:
            call["attention"](q, k, v, scale, out)

        def three(
            _: int, q: Any = queries, k: Any = keys, v: Any = values, scores: Any = scores, weights: Any = weights, out: Any = out
        ) -> None:
            call["attn_scores"](q, k, scale, scores)
            call["attn_softmax"](scores, weights)
            call["attn_mix"](weights, v, out)

        times = device.time({"fused": fused, "three kernels": three})
        if device.fetch(fused_out).tobytes() != device.fetch(out).tobytes():
            raise AprgraphError(f"attention, n = {n}, t = {t}: the fused kernel and the three do not have the same bits")
        yield _compare("attention", f"{heads} heads, {kv_heads} of KV, {size} wide, n = {n}, t = {t}", times, "fused", "three kernels")


# -- a model -------------------------------------------------------------------------------------------------------------


def model(device: Device, sizes: Sizes, path: Path, scratch: Path, rounds: int) -> Iterator[Row]:
    """A full trace against a run without taps, and CUDA against the CPU; seconds of the clock on the wall."""
    loaded = aprgraph.load(path)
    cuda = loaded.compile("cuda", scratch / "cuda.aprg", architectures=[str(device.architecture)])
    compiled = {"CUDA": replace(cuda, gpu=device.gpu.index), "CPU": loaded.compile("llvm", scratch / "llvm.aprg")}
    layers = loaded.model.family.layers
    for count in sizes.tokens:
        tokens = [100 + i for i in range(count)]
        with contextlib.ExitStack() as stack:
            actions: dict[str, Callable[[], object]] = {}
            for target, program in compiled.items():
                plain, full = (program.plan(plan, tokens) for plan in (Plan(), parse_plan("all", f"0..{layers}")))
                for what, run in (("untapped", plain), ("trace", full)):
                    engine = stack.enter_context(open_engine(program.artifact, program.model, run, None, gpu=program.gpu))
                    if what == "untapped":
                        actions[f"{target} untapped"] = lambda run=run, engine=engine: execute(run, engine, None)
                    else:
                        actions[f"{target} trace"] = lambda run=run, engine=engine: _trace(run, engine, scratch, stats_only=False)
                        actions[f"{target} statistics"] = lambda run=run, engine=engine: _trace(run, engine, scratch, stats_only=True)
                actions[f"{target} output_of()"] = lambda program=program, run=plain: program.output_of(run)
                actions[f"{target} record()"] = lambda program=program, run=full: _record(program, run, scratch)
            times = _on_the_wall(actions, rounds)
        label = f"{path.stem}, {count} tokens"
        for measured, peer in (
            ("CUDA trace", "CUDA untapped"), ("CUDA statistics", "CUDA untapped"), ("CUDA untapped", "CPU untapped"),
            ("CUDA trace", "CPU trace"), ("CUDA record()", "CUDA output_of()"), ("CUDA output_of()", "CPU output_of()"),
            ("CUDA record()", "CPU record()"),
        ):  # fmt: skip
            yield _compare("model", label, times, measured, peer)


def _on_the_wall(actions: Mapping[str, Callable[[], object]], rounds: int) -> Times:
    """Each in turn; the first round warms up."""
    found: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if number:
                found[name].append(time.perf_counter() - start)
    return Times(found)


def _trace(run: RunPlan, engine: Engine, scratch: Path, *, stats_only: bool) -> None:
    writer = TraceWriter(_fresh(scratch), stats_only=stats_only)
    with contextlib.closing(writer):
        execute(run, engine, Recorder(run, writer, engine, None))


def _record(program: CompiledModel, run: RunPlan, scratch: Path) -> None:
    program.record(run, _fresh(scratch))


def _fresh(scratch: Path) -> Path:
    directory = scratch / "trace"
    shutil.rmtree(directory, ignore_errors=True)
    return directory
