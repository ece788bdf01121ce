"""A family with a recurrent op, as somebody might bring one: a Llama whose feed-forward networks remember.

In place of act(gate) · up each channel has a gated linear recurrence, h = sigmoid(gate) · h + up, whose state is of a
fixed shape. The op and its kernels are no part of the package: as a file of ``--family``, this puts them into the tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels import cpu as cpu_kernels
from aprgraph.codegen.kernels import cuda as cuda_kernels
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter as CpuEmitter
from aprgraph.codegen.kernels.cuda.emitter import Emitter as CudaEmitter
from aprgraph.codegen.kernels.cuda.emitter import get, launch_over, put, registers
from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64
from aprgraph.families import GraphBuilder, Llama
from aprgraph.graph.ir import TensorType
from aprgraph.graph.ops import OPS
from aprgraph.graph.ops.base import Array, Attrs, Op, Types, activation, require, width
from aprgraph.graph.ops.state import Fixed
from aprgraph.graph.ops.traits import Traits

#: With a digest of this file: kernels are cached by what they are asked for, and a change of one here would not be seen.
NAME = f"gated_recurrence_{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]}"


def _infer(types: Types, _attrs: Attrs) -> TensorType:
    activation(2, types[0], "x")
    require(types[0] == types[1], f"x is {types[0]}, but the decay is {types[1]}")
    return types[0]


def _step(operands: Sequence[Array], _attrs: Attrs, state: Array) -> tuple[Array, Array]:
    x, decay = operands
    rows = []
    for position in range(len(x)):
        state = decay[position] * state + x[position]
        rows.append(state)
    return np.array(rows).reshape(x.shape), state


_STATE = Fixed(lambda types, _attrs: (width(types[0].dims[1], "columns of x"),), _step)

GATED_RECURRENCE = Op(
    NAME,
    "h = decay · h + x for each channel, position after position: x, decay [n, C] -> [n, C]; the state is h [C].",
    ("x", "decay"),
    infer=_infer,
    reference=_STATE.first_pass,
    traits=Traits(state=_STATE),
)


def cpu_kernel(request: KernelRequest, cpu: Cpu) -> Any:
    """x, decay [n, C], state [C] -> out [n, C]."""
    columns = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = CpuEmitter(cpu)
        x, decay = (parameters.buffer(name, ("n", columns), "float32") for name in ("x", "decay"))
        state = parameters.buffer("state", (columns,), "float32")
        out = parameters.buffer("out", ("n", columns), "float32")
        with T.serial(i64(0), parameters.size("n")) as p:

            def step(column: Expr, count: int) -> None:
                def one(lane: Expr) -> None:
                    at = column + lane
                    assign(out, emitter.fma(decay[p, at], state[at], x[p, at]), [p, at])
                    assign(state, out[p, at], [at])

                emitter.vector(count, one)

            emitter.chunks(columns, step)

    return build_function(request.symbol, emit)


def cuda_kernel(request: KernelRequest) -> Any:
    """x, decay [n, C], state [C] -> out [n, C]: a thread for each channel."""
    columns = int(request.operands[0].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = CudaEmitter()
        x, decay = (parameters.buffer(name, ("n", columns), "float32") for name in ("x", "decay"))
        state = parameters.buffer("state", (columns,), "float32")
        out = parameters.buffer("out", ("n", columns), "float32")
        with launch_over(i64(columns)) as at:
            held = registers(1)
            put(held, state[at])
            with T.serial(i64(0), parameters.size("n")) as p:
                put(held, emitter.fma(decay[p, at], get(held), x[p, at]))
                assign(out, get(held), [p, at])
            assign(state, get(held), [at])

    return build_function(request.symbol, emit)


OPS[NAME] = GATED_RECURRENCE
cpu_kernels.KERNELS[NAME] = cpu_kernel
cuda_kernels.KERNELS[NAME] = cuda_kernel


class Recurrent(Llama):
    """Recurrent models (of these tests): the feed-forward networks remember earlier positions."""

    architecture = "recur"

    def down(self, g: GraphBuilder, gate: str, up: str, slot: str = "ffn_out") -> str:
        product = g.apply("ffn_swigl", NAME, up, g.apply("ffn_silu", "sigmoid", gate))
        return g.linear("ffn_out", product, self.hidden, slot=slot)
