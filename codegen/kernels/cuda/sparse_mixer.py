"""The CUDA kernel of SparseMixer's weights of experts."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cuda.emitter import WARP, Emitter, get, launch, put, registers
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.kernels.sparse_mixer import is_far
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64, is_nan


def sparse_mixer(request: KernelRequest) -> Any:
    """scores [n, X], ids [n, k] -> out [n, k]. A warp for each row, a lane for each choice: there are few of either."""
    experts, k = int(request.operands[0].dims[1]), int(request.operands[1].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter()
        scores = parameters.buffer("scores", ("n", experts), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        tolerance = number_parameters(parameters, request, "float64")["tolerance"]
        out = parameters.buffer("out", ("n", k), "float32")
        with launch(parameters.size("n"), WARP) as (p, lane):
            best, total, gone = registers(1), registers(1), registers(1, "int32")
            for start in range(0, k, WARP):
                choice = lane + start
                with T.If(choice < k), T.Then():
                    put(best, scores[p, T.Cast("int64", T.Select(is_nan(ids[p, choice]), f32(0.0), ids[p, choice]))])
                    put(total, f32(0.0))
                    with T.serial(i64(0), i64(experts)) as expert:
                        score = scores[p, expert]
                        put(gone, T.Select(is_far(score, get(best), tolerance), T.int32(1), T.int32(0)))
                        with T.serial(i64(0), choice) as earlier:
                            put(gone, T.Select(ids[p, earlier] == T.Cast("float32", expert), T.int32(1), get(gone)))
                        with T.If(get(gone) == 0), T.Then():
                            put(total, get(total) + emitter.exp(score - get(best)))
                    assign(out, T.Select(is_nan(ids[p, choice]), ids[p, choice], f32(1.0) / get(total)), [p, choice])

    return build_function(request.symbol, emit)
