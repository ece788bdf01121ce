"""The kernel of SparseMixer's weights of experts."""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from aprgraph.codegen.cpu.levels import Cpu
from aprgraph.codegen.kernels.base import KernelRequest
from aprgraph.codegen.kernels.cpu.emitter import Emitter
from aprgraph.codegen.kernels.numbers import number_parameters
from aprgraph.codegen.kernels.sparse_mixer import is_far
from aprgraph.codegen.tir import Parameters, assign, build_function, f32, i64, is_nan, only, registers


def sparse_mixer(request: KernelRequest, cpu: Cpu) -> Any:
    """scores [n, X], ids [n, k] -> out [n, k]."""
    experts, k = int(request.operands[0].dims[1]), int(request.operands[1].dims[1])

    def emit(parameters: Parameters) -> None:
        emitter = Emitter(cpu)
        scores = parameters.buffer("scores", ("n", experts), "float32")
        ids = parameters.buffer("ids", ("n", k), "float32")
        tolerance = number_parameters(parameters, request, "float64")["tolerance"]
        out = parameters.buffer("out", ("n", k), "float32")
        with T.parallel(i64(0), parameters.size("n")) as p, T.serial(i64(0), i64(k)) as choice:
            best, total, gone = registers(1), registers(1), registers(1, "int32")
            assign(best, scores[p, T.Cast("int64", T.Select(is_nan(ids[p, choice]), f32(0.0), ids[p, choice]))], [i64(0)])
            assign(total, f32(0.0), [i64(0)])
            with T.serial(i64(0), i64(experts)) as expert:
                score = scores[p, expert]
                assign(gone, T.Select(is_far(score, only(best), tolerance), T.int32(1), T.int32(0)), [i64(0)])
                with T.serial(i64(0), choice) as earlier:
                    is_it = ids[p, earlier] == T.Cast("float32", expert)
                    assign(gone, T.Select(is_it, T.int32(1), only(gone)), [i64(0)])
                with T.If(only(gone) == 0), T.Then():
                    assign(total, only(total) + emitter.exp(score - only(best)), [i64(0)])
            assign(out, T.Select(is_nan(ids[p, choice]), ids[p, choice], f32(1.0) / only(total)), [p, choice])

    return build_function(request.symbol, emit)
