"""The kernel of short causal convolutions."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.cpu.weights import Weight
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, f32, i64, registers


def short_conv(request: KernelRequest, cpu: Cpu) -> Any:
    """x [n, C], weight [C, S], bias [C], state [S - 1, C] -> out [n, C]: a thread for each vector of channels."""
    x_type, weight_type, *bias_types = request.operands
    channels, size = int(x_type.dims[1]), int(weight_type.dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        x = parameters.buffer("x", ("n", channels), "float32")
        weight = Weight(emitter, parameters, "weight", weight_type)
        biases = [Weight(emitter, parameters, "bias", kind) for kind in bias_types]
        state = parameters.buffer("state", (size - 1, channels), "float32")
        out = parameters.buffer("out", ("n", channels), "float32")

        def scan(first: Expr, width: int) -> None:
            sums = registers(width)

            def at(lane: Expr) -> None:
                channel = first + lane
                total: Expr = f32(0.0)
                for place in range(size - 1):
                    total = emitter.fma(state[place, channel], weight.plain(channel, i64(place)), total)
                total = emitter.fma(x[p, channel], weight.plain(channel, i64(size - 1)), total)
                for bias in biases:
                    total = total + bias.plain(i64(0), channel)
                assign(sums, total, [lane])

            def move_on(lane: Expr) -> None:
                channel = first + lane
                for place in range(size - 2):
                    assign(state, state[place + 1, channel], [i64(place), channel])
                assign(state, x[p, channel], [i64(size - 2), channel])
                assign(out, sums[lane], [p, channel])

            with T.serial(i64(0), parameters.size("n")) as p:
                emitter.vector(width, at)
                emitter.vector(width, move_on)

        whole, rest = divmod(channels, cpu.lanes)
        if whole:
            with T.parallel(i64(0), i64(whole)) as vector:
                scan(vector * cpu.lanes, cpu.lanes)
        if rest:
            with T.parallel(i64(0), i64(1)) as vector:
                scan(vector + whole * cpu.lanes, rest)

    return build_function(request.symbol, emit)
