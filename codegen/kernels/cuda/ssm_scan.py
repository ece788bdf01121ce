"""The kernel of the scan of a state space model."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch_over, put, registers, split_index
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64


def ssm_scan(request: KernelRequest) -> Any:
    """x [n, H·V], b, c [n, G·K], decay, step [n, H], skip [H], perhaps rates [H, K], state [H, K, V] -> out [n, H·V].

    A thread for each column of a state.
    """
    x_type, b_type, _, decay_type, _, skip_type, *rates_types = request.operands
    heads, groups = int(decay_type.dims[1]), request.attr_int("groups")
    keys, values = int(b_type.dims[1]) // groups, int(x_type.dims[1]) // heads

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", heads * values), "float32")
        b, c = (parameters.buffer(name, ("n", groups * keys), "float32") for name in ("b", "c"))
        decay, step = (parameters.buffer(name, ("n", heads), "float32") for name in ("decay", "step"))
        skip = Weight(emitter, parameters, "skip", skip_type)
        rates = [Weight(emitter, parameters, "rates", kind) for kind in rates_types]
        state = parameters.buffer("state", (heads, keys, values), "float32")
        out = parameters.buffer("out", ("n", heads * values), "float32")
        for weight in (skip, *rates):
            weight.open()
        with launch_over(i64(heads * values)) as index:
            head, column = split_index(index, values)
            group = T.floordiv(head, i64(heads // groups))
            fade, total, added, held, kept = (registers(1) for _ in range(5))
            put(kept, skip.element(i64(0), head))
            with T.serial(i64(0), parameters.size("n")) as p:
                if not rates:
                    put(fade, emitter.exp(decay[p, head]))
                put(added, x[p, index] * step[p, head])
                put(total, f32(0.0))
                with T.serial(i64(0), i64(keys)) as i:
                    for rate in rates:
                        put(fade, emitter.exp(decay[p, head] * rate.element(head, i)))
                    put(held, emitter.fma(b[p, group * keys + i], get(added), state[head, i, column] * get(fade)))
                    put(total, emitter.fma(get(held), c[p, group * keys + i], get(total)))
                    assign(state, get(held), [head, i, column])
                assign(out, emitter.fma(x[p, index], get(kept), get(total)), [p, index])

    return build_function(request.symbol, emit)
