"""A request for each op that has a kernel, with operands into which NaN and Inf can be planted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from aprgraph.codegen.kernels import KernelRequest
from aprgraph.codegen.kernels.cpu import KERNELS
from aprgraph.graph.ir import Attr, TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.formula import Elementwise
from tests.support.kernels import Weight, f32, i32, reference, request, weight

#: Positions, and those of earlier passes too.
N, T = 5, 7
HEADS, KV_HEADS, SIZE = 4, 2, 10
EXPERTS, CHOSEN = 8, 3
#: What is planted, by name: one kind alone, and all beside each other.
PLANTED: dict[str, tuple[float, ...]] = {
    "nan": (np.nan,),
    "inf": (np.inf,),
    "-inf": (-np.inf,),
    "all": (np.nan, np.inf, -np.inf),
}  # fmt: skip
_PLACES = 3

Operand = npt.NDArray[Any] | Weight


@dataclass(frozen=True)
class Case:
    """A request with ``operands`` whose result has ``shape``; ``state`` is the shape of what the kernel keeps, () for nothing."""

    what: KernelRequest
    operands: tuple[Operand, ...]
    shape: tuple[int, ...]
    state: tuple[int, ...] = ()

    @property
    def plantable(self) -> list[int]:
        """The operands that can hold NaN: neither ids nor positions."""
        names = OPS[self.what.op].operands
        return [
            index
            for index, operand in enumerate(self.operands)
            if names[min(index, len(names) - 1)].rstrip("?*") not in ("ids", "tokens", "positions")
            and (isinstance(operand, Weight) or operand.dtype == np.float32)
        ]

    def planted(self, index: int, values: Sequence[float], seed: int) -> Case:
        """With ``values`` at places of the operand ``index``."""
        generator = np.random.default_rng([seed, index])
        operands = list(self.operands)
        old = operands[index]
        changed = np.array(old.decoded if isinstance(old, Weight) else old)
        flat = changed.reshape(-1)
        count = min(flat.size, max(_PLACES, len(values)))
        flat[generator.choice(flat.size, count, replace=False)] = np.resize(values, count)
        if isinstance(old, Weight):
            operands[index] = replace(old, decoded=changed, stored=changed.astype(np.float32).reshape(old.stored.shape))
        else:
            operands[index] = changed
        return replace(self, operands=tuple(operands))

    def expected(self) -> npt.NDArray[np.float32]:
        """What the reference makes of it, as kernels keep it."""
        with np.errstate(all="ignore"):
            return reference(self.what, self.operands).astype(np.float32).reshape(self.shape)


def kinds(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """0 for a finite element, 1 for NaN, 2 for Inf, 3 for -Inf."""
    return np.select([np.isnan(values), np.isposinf(values), np.isneginf(values)], [1, 2, 3], 0)


def assert_alike(got: npt.NDArray[np.float32], case: Case) -> None:
    """``got`` is finite, NaN, Inf and -Inf where the reference is, and near it where both are finite."""
    expected = case.expected()
    differing = np.argwhere(kinds(got) != kinds(expected))
    place = tuple(differing[0]) if len(differing) else ()
    assert not len(differing), f"{len(differing)} of {got.size} elements differ, the first at {place}: {got[place]}, not {expected[place]}"
    finite = np.isfinite(expected)
    np.testing.assert_allclose(got[finite], expected[finite], rtol=1e-3, atol=1e-4)


def _activations(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def _ids() -> npt.NDArray[np.float32]:
    generator = np.random.default_rng(7)
    return np.stack([generator.permutation(EXPERTS)[:CHOSEN] for _ in range(N)]).astype(np.float32)


def _type_of(operand: Operand) -> TensorType:
    if isinstance(operand, Weight):
        return operand.type
    dims = ("n", *operand.shape[1:])
    return i32(*dims) if operand.dtype == np.int32 else f32(*dims)


def _of(op: str, *operands: Operand, state: tuple[int, ...] = (), **attrs: Attr) -> Case:
    what = request(op, [_type_of(operand) for operand in operands], **attrs)
    rows = {"cache": {"t": N}}.get(op, {"t": T})
    return Case(what, operands, tuple(what.result.bind(n=N, **rows)), state)


def _attention(op: str, operands: Sequence[Operand], types: Sequence[TensorType], **attrs: Attr) -> Case:
    what = request(op, types, **attrs)
    return Case(what, tuple(operands), tuple(what.result.bind(n=N, t=T)))


def _attentions() -> Iterator[Case]:
    q, k, v = _activations(N, HEADS * SIZE), _activations(T, KV_HEADS * SIZE), _activations(T, KV_HEADS * SIZE)
    sinks = weight("F32", HEADS)
    of_q, of_k, of_v = f32("n", HEADS * SIZE), f32("t", KV_HEADS * SIZE), f32("t", KV_HEADS * SIZE)
    scores, masks = {"heads": HEADS, "kv_heads": KV_HEADS, "scale": 0.3}, ({"window": 0}, {"window": 3}, {"window": 0, "causal": False})
    for mask in masks:
        for cap in (0.0, 2.0):
            yield _attention("attn_scores", [q, k], [of_q, of_k], **scores, **mask, **({"cap": cap} if cap else {}))
        square = _activations(HEADS, N, T)
        yield _attention("attn_softmax", [square], [f32(HEADS, "n", "t")], **mask)
        yield _attention("attn_softmax", [square, sinks], [f32(HEADS, "n", "t"), sinks.type], **mask)
        weights = np.abs(square)
        yield _attention("attn_mix", [weights, v], [f32(HEADS, "n", "t"), of_v], kv_heads=KV_HEADS, **mask)
        yield _attention("attention", [q, k, v], [of_q, of_k, of_v], **scores, **mask)
        yield _attention("attention", [q, k, v, sinks], [of_q, of_k, of_v, sinks.type], **scores, **mask, cap=2.0)


def _rows() -> Iterator[Case]:
    x, columns = _activations(N, 37), 37
    yield _of("embed", np.array([1, 4, 1, 0, 2], np.int32), weight("F32", 6, 13), scale=2.0)
    yield _of("linear", x, weight("F32", 19, columns))
    yield _of("linear", x, weight("F32", 19, columns), weight("F32", 5, columns))
    yield _of("bias_add", x, weight("F32", columns))
    yield _of("row_add", x, weight("F32", 2, columns), row=1)
    for op in ("rms_norm", "layer_norm"):
        yield _of(op, x, weight("F32", columns), eps=1e-5, groups=1)
        yield _of(op, _activations(N, 36), eps=1e-5, groups=4)
    yield _of("layer_norm", x, weight("F32", columns), weight("F32", columns), eps=1e-5, groups=1)
    yield _of("l2_norm", _activations(N, 36), eps=1e-6, groups=4)
    angle = np.random.default_rng(1).uniform(0, 6, (N, 3))
    angles = np.concatenate([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    for pairing in ("interleaved", "halves"):
        yield _of("rope", _activations(N, 25), angles, heads=2, head_size=10, start=2, pairing=pairing)
    ramp = {"base": 1e4, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.0}
    yield _of("rope_angles", np.arange(N, dtype=np.int32), weight("F32", 10), **ramp)
    yield _of("query_temperature", np.arange(N, dtype=np.int32), strength=0.1, span=4, offset=1)
    yield _of("columns", x, start=3, stop=20)
    yield _of("scale_columns", x, weight("F32", columns))
    for op in ("last_row", "first_row", "mean_rows"):
        yield _of(op, x)
    yield _of("join_heads", _activations(N, 3 * 7), _activations(N, 3 * 2), heads=3)
    yield _of("head_linear", _activations(N, 3 * 16), weight("F32", 3, 11, 16))
    yield _of("head_linear", _activations(N, 16), weight("F32", 3, 11, 16), shared=True)
    yield _of("gaussian_top_k", x, factor=0.5)
    yield _of("gaussian_top_k", x, factor=-0.5, sample=True)
    yield _of("cache", x)
    yield _of("softmax", x)


def _streams() -> Iterator[Case]:
    streams, size = 3, 13
    x, one = _activations(N, streams * size), _activations(N, size)
    yield _of("altup_predict", x, _activations(N, streams**2))
    yield _of("altup_correct", x, one, _activations(N, streams), active=1)
    yield _of("stream_add", x, one, streams=streams, start=1)
    yield _of("stream_mean", x, streams=streams)
    yield _of("match_rms", x, one, least=1e-5)


def _experts() -> Iterator[Case]:
    scores, ids, each = _activations(N, EXPERTS), _ids(), np.abs(_activations(N, CHOSEN))
    yield _of("top_k", scores, k=CHOSEN)
    yield _of("top_k", scores, k=CHOSEN, groups=4, used_groups=2, best_of_group=2)
    for gating in ("softmax", "sigmoid"):
        for normalise in (False, True):
            yield _of("router_weights", scores, ids, normalise=normalise, scale=1.5, gating=gating)
    for tolerance in (0.02, 1.5):
        yield _of("sparse_mixer", scores, ids, tolerance=tolerance)
    yield _of("expert_inputs", _activations(N, 21), each)
    yield _of("expert_linear", _activations(N, 21), ids, weight("F32", EXPERTS, 9, 21))
    yield _of("expert_linear", _activations(N, CHOSEN, 21), ids, weight("F32", EXPERTS, 9, 21))
    yield _of("expert_bias_add", _activations(N, CHOSEN, 9), ids, weight("F32", EXPERTS, 9))
    yield _of("expert_scale", each, ids, weight("F32", EXPERTS))
    yield _of("expert_sum", _activations(N, CHOSEN, 9), each)
    yield _of("expert_sum", _activations(N, CHOSEN, 9))


def _recurrent() -> Iterator[Case]:
    yield _of("short_conv", _activations(N, 13), weight("F32", 13, 4), weight("F32", 13), state=(3, 13))
    heads, key_heads, keys, values = 4, 2, 6, 9
    decay, beta = -np.abs(_activations(N, heads)), np.abs(_activations(N, heads + 1)[:, :heads])
    q, k, v = _activations(N, key_heads * keys), _activations(N, key_heads * keys) / 4, _activations(N, heads * values)
    yield _of("delta_rule", q, k, v, decay, beta, key_heads=key_heads, scale=0.3, state=(heads, keys, values))
    x, skip = _activations(N, heads * values), weight("F32", heads)
    yield _of("ssm_scan", x, q, k, decay, beta, skip, groups=key_heads, state=(heads, keys, values))
    rates = weight("F32", heads, keys)
    yield _of("ssm_scan", x[:, :heads].copy(), q, k, beta, beta, skip, rates, groups=key_heads, state=(heads, keys, 1))


def _elementwise() -> Iterator[Case]:
    for name, op in OPS.items():
        if isinstance(op, Elementwise) and not op.is_own:
            operands = [_activations(N, 1 if operand in op.per_row else 43) * (index + 1) for index, operand in enumerate(op.operands)]
            attrs: dict[str, Any] = {attr: kind(2) for attr, kind in op.attrs.items()}
            yield _of(name, *operands, **attrs)


def _of_engines() -> Iterator[Case]:
    """Ops of an engine's arithmetic."""
    yield _of("gelu_half", _activations(N, 43))
    ramp = {"base": 1e4, "dims": 20, "scale": 0.25, "ramp_start": 2.0, "ramp_end": 6.5, "magnitude": 1.0}
    yield _of("rope_angles_chained", np.arange(N, dtype=np.int32), weight("F32", 10), **ramp)
    for scheme in ("f16", "bf16", "q8_0_avx", "q8_k"):
        yield _of("round", _activations(N, 512), scheme=scheme)
    yield _of("round_sum_errors", _activations(N, 512), scheme="q8_1_avx")
    q, k, v = _activations(N, HEADS * 16), _activations(T, KV_HEADS * 16), _activations(T, KV_HEADS * 16)
    types = [f32("n", HEADS * 16), f32("t", KV_HEADS * 16), f32("t", KV_HEADS * 16)]
    yield _attention("flash_attention", [q, k, v], types, heads=HEADS, kv_heads=KV_HEADS, scale=0.3, window=0, lanes=8)


_MAKERS: tuple[Callable[[], Iterator[Case]], ...] = (_rows, _streams, _attentions, _experts, _recurrent, _elementwise, _of_engines)


CASES = [case for make in _MAKERS for case in make()]
#: Of each the op, and its number.
NAMES = [f"{case.what.op}-{index}" for index, case in enumerate(CASES)]


def covered() -> bool:
    """Whether there is a case for every op that has a kernel."""
    formulas = {name for name, op in OPS.items() if isinstance(op, Elementwise) and not op.is_own}
    return {case.what.op for case in CASES} >= formulas | KERNELS.keys()
