"""The program of a plan: the tapped, pruned graph as a small Relax function that calls kernels compiled before.

What a tap can change is which buffers are copied out, never a kernel. TVM's memory planner is left out of the pipeline:
it has reused storage through an alias (apache/tvm issue 20134), and a tap that reads an overwritten buffer is fatal
for a tracer. Every value has storage of its own until its last use; the allocator's pool hands it on after that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.relax import transform

from aprgraph.codegen.compiler_lock import compiling
from aprgraph.codegen.kernels import request_of
from aprgraph.graph.block_formats import weight_storage
from aprgraph.graph.calling_convention import (
    CHOICE_FUNCTION,
    ENTRY,
    HALF_TABLE_SIZE,
    TAP_FUNCTION,
    USED_FUNCTION,
    computed_types,
    is_large,
    program_parameters,
    returned_nodes,
)
from aprgraph.graph.ir import Dim, Graph, Node, TensorType
from aprgraph.graph.ops import is_own_state, is_tap, is_weight, state_type, states_of, traits_of
from aprgraph.graph.weight_pieces import comes_in_pieces, table_shape

_DTYPES = {"f32": "float32", "i32": "int32"}


def lower(graph: Graph, *, target: str = "llvm") -> Any:
    """The Relax module of ``graph``: one function of its inputs, weights and states that returns its outputs.

    Tap nodes become calls of TAP_FUNCTION. Half tables and the giving back of pages are for kernels that read the file
    itself, those of the ``target`` llvm.
    """
    symbols: dict[str, Any] = {}

    def dim(value: Dim) -> Any:
        if isinstance(value, int):
            return tirx.IntImm("int64", value)
        return symbols.setdefault(value, tirx.Var(value, "int64"))

    def tensor(kind: TensorType) -> Any:
        return relax.TensorType([dim(d) for d in kind.dims], _DTYPES[kind.dtype])

    def parameter(node: Node) -> Any:
        if not is_weight(node):
            return tensor(node.type)
        dtype, dims = weight_storage(node.type)
        # In a file the pieces of a weight lie wherever they do: the buffer is as long as the memory that they lie in.
        return relax.TensorType(ndim=1, dtype=dtype) if comes_in_pieces(node.type) else relax.TensorType([dim(d) for d in dims], dtype)

    def call(function: str, *arguments: Any) -> Any:
        return builder.emit(relax.Call(relax.ExternFunc(function), list(arguments), None, [relax.ObjectType()]))

    def constant(value: float) -> Any:
        return relax.prim_value(tirx.IntImm("int64", value) if isinstance(value, int) else tirx.FloatImm("float64", value))

    def allocate(node: Node) -> Any:
        size, shape = relax.ShapeExpr([sizes[node.type]]), relax.ShapeExpr([dim(d) for d in node.type.dims])
        place = builder.emit(relax.op.memory.alloc_storage(size, 0, "global", "uint8"))
        return builder.emit(relax.op.memory.alloc_tensor(place, 0, shape, _DTYPES[node.type.dtype]))

    def given_for(name: str) -> list[Any]:
        """What a kernel is given for an operand: its value, and the table of places of a weight in pieces."""
        return [values[name], places[name]] if name in places else [values[name]]

    reads_file = target == "llvm"
    large = reads_file and is_large(graph)
    parameters = program_parameters(graph)
    values: dict[str, Any] = {node.name: relax.Var(f"p{index}", parameter(node)) for index, node in enumerate(parameters)}
    places = {
        node.name: relax.Var(f"places{index}", relax.TensorType([dim(d) for d in table_shape(node.type)], "int64"))
        for index, node in enumerate(parameters)
        if is_weight(node) and comes_in_pieces(node.type)
    }
    states = {node.name: relax.Var(f"s{index}", tensor(state_type(graph, node))) for index, node in enumerate(states_of(graph))}
    sizes = {kind: tirx.Var(f"bytes{index}", "int64") for index, kind in enumerate(computed_types(graph))}
    halves = relax.Var("halves", relax.TensorType([dim(HALF_TABLE_SIZE)], "float32"))
    shapes = relax.Var("sizes", relax.ShapeType(list(sizes.values())))
    arguments = [*(var for name in values for var in given_for(name)), *states.values(), *([halves] if reads_file else []), shapes]
    builder = relax.BlockBuilder()
    with builder.function(ENTRY, arguments):
        for node in graph:
            if node.name in values:
                continue
            operands = [var for name in graph.operand_names(node.name) for var in given_for(name)]
            if is_tap(node):
                call(TAP_FUNCTION, operands[0], tvm.ir.StringImm(node.name))
                values[node.name] = operands[0]
                continue
            traits, request = traits_of(node), request_of(graph, node)
            state = [states[node.name]] if node.name in states else []
            values[node.name] = state.pop() if is_own_state(node) else allocate(node)
            given = [halves] if reads_file and request.needs_half_table else []
            given += [*operands, *map(constant, request.numbers.values()), *state, values[node.name]]
            builder.emit(relax.Call(relax.ExternFunc(request.symbol), given, None, [relax.TupleType([])]))
            if traits.chooses:
                call(CHOICE_FUNCTION, values[node.name], tvm.ir.StringImm(node.name))
            if large and traits.is_matmul:
                call(USED_FUNCTION, tvm.ir.StringImm(node.name))
        builder.emit_func_output(relax.Tuple([values[node.name] for node in returned_nodes(graph)]))
    return builder.get()


def _pipeline() -> Any:
    """Of TVM's own build pipeline what this program needs: no legalisation, no fusion, no memory planning."""
    return tvm.transform.Sequential(
        [
            transform.RemovePurityChecking(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def build_program(graph: Graph, path: Path, *, target: str = "llvm") -> None:
    """Compile the program of ``graph`` to VM bytecode in the file ``path``; no linker is needed."""
    with compiling():
        executable = relax.build(lower(graph, target=target), target="llvm", relax_pipeline=_pipeline())
    executable.mod.write_to_file(str(path), "relax.VMExecutable")
