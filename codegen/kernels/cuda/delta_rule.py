"""The kernel of the gated delta rule."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch_over, put, registers, split_index
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64
from aprgraph.graph.ops.base import number


def delta_rule(request: KernelRequest) -> Any:
    """q, k [n, G·K], v [n, H·V], decay, beta [n, H], state [H, K, V] -> out [n, H·V]: a thread for each column of a state."""
    q_type, _, v_type, decay_type, _ = request.operands
    heads, key_heads, scale = int(decay_type.dims[1]), request.attr_int("key_heads"), number(request.attrs, "scale")
    keys, values = int(q_type.dims[1]) // key_heads, int(v_type.dims[1]) // heads
    tiled = bool(request.attrs.get("tiled", False))

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        q, k = (parameters.buffer(name, ("n", key_heads * keys), "float32") for name in ("q", "k"))
        v = parameters.buffer("v", ("n", heads * values), "float32")
        decay, beta = (parameters.buffer(name, ("n", heads), "float32") for name in ("decay", "beta"))
        state = parameters.buffer("state", (heads, keys, values), "float32")
        out = parameters.buffer("out", ("n", heads * values), "float32")
        with launch_over(i64(heads * values)) as index:
            head, column = split_index(index, values)
            key_head = T.floormod(head, i64(key_heads)) if tiled else T.floordiv(head, i64(heads // key_heads))
            fade, total, correction, held = (registers(1) for _ in range(4))
            with T.serial(i64(0), parameters.size("n")) as p:
                put(fade, emitter.exp(decay[p, head]))
                put(total, f32(0.0))
                with T.serial(i64(0), i64(keys)) as i:
                    put(held, state[head, i, column] * get(fade))
                    put(total, emitter.fma(get(held), k[p, key_head * keys + i], get(total)))
                    assign(state, get(held), [head, i, column])
                put(correction, (v[p, index] - get(total)) * beta[p, head])
                put(total, f32(0.0))
                with T.serial(i64(0), i64(keys)) as i:
                    put(held, emitter.fma(k[p, key_head * keys + i], get(correction), state[head, i, column]))
                    put(total, emitter.fma(get(held), q[p, key_head * keys + i], get(total)))
                    assign(state, get(held), [head, i, column])
                assign(out, get(total) * f32(scale), [p, index])

    return build_function(request.symbol, emit)
