"""The kernel of short causal convolutions."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import Emitter, get, launch_over, put, registers
from aprgraph.codegen.kernels.cuda.weights import Weight
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64


def short_conv(request: KernelRequest) -> Any:
    """x [n, C], weight [C, S], bias [C], state [S - 1, C] -> out [n, C]: a thread for each channel."""
    x_type, weight_type, *bias_types = request.operands
    channels, size = int(x_type.dims[1]), int(weight_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        x = parameters.buffer("x", ("n", channels), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type)
        biases = [Weight(emitter, parameters, "bias", kind) for kind in bias_types]
        state = parameters.buffer("state", (size - 1, channels), "float32")
        out = parameters.buffer("out", ("n", channels), "float32")
        for each in (weight, *biases):
            each.open()
        with launch_over(i64(channels)) as channel:
            held, factors, total = registers(size), registers(size), registers(1)
            for place in range(size):
                put(factors, weight.element(channel, i64(place)), place)
            for place in range(size - 1):
                put(held, state[place, channel], place)
            with T.serial(i64(0), parameters.size("n")) as p:
                put(held, x[p, channel], size - 1)
                put(total, f32(0.0))
                for place in range(size):
                    put(total, emitter.fma(get(held, place), get(factors, place), get(total)))
                for bias in biases:
                    put(total, get(total) + bias.element(i64(0), channel))
                assign(out, get(total), [p, channel])
                for place in range(size - 1):
                    put(held, get(held, place + 1), place)
            for place in range(size - 1):
                assign(state, get(held, place), [i64(place), channel])

    return build_function(request.symbol, emit)
