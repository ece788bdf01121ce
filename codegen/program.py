"""The program of a plan: the tapped, pruned graph as bytecode of TVM's virtual machine, which calls kernels compiled before.

What a tap can change is which buffers are copied out, never a kernel. Every value has storage of its own until its last use; the
allocator's pool hands it on after that. (TVM's memory planner has reused storage through an alias, apache/tvm issue 20134, and
a tap that reads an overwritten buffer is fatal for a tracer.)

The instructions are those that Relax emits for such a function (relax/backend/vm), through the same builder of executables. A program
holds no loop and no arithmetic, so there is nothing for a compiler to do, and the import of TVM's is a second of every new plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from aprgraph.codegen.kernels.base import request_of
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
from aprgraph.graph.errors import ToolchainError
from aprgraph.graph.ir import Dim, Graph, Node, TensorType
from aprgraph.graph.ops import is_own_state, is_tap, is_weight, state_type, states_of, traits_of
from aprgraph.graph.tvm_libraries import COMPILER, load_tvm_library
from aprgraph.graph.weight_pieces import comes_in_pieces, table_shape

_DTYPES = {"f32": "float32", "i32": "int32"}
#: The register that a call without a result writes to, and the one that holds the machine (Instruction::kVoidRegister, kVMRegister).
_VOID, _MACHINE = 1 << 54, (1 << 54) + 1
#: VMFuncInfo::FuncKind::kPackedFunc.
_PACKED = 0


class _Match(IntEnum):
    """What is done with one dim of a shape: MatchShapeCode of relax/backend/vm."""

    IS = 0
    STORE = 1
    IS_STORED = 3


class _Make(IntEnum):
    """Where one dim of a shape comes from: MakeShapeCode of relax/backend/vm."""

    NUMBER = 0
    STORED = 1


@dataclass(frozen=True)
class Register:
    """A place for one value in a frame of the machine."""

    index: int


Argument = Register | int | float | str


class _Instructions:
    """The instructions of one function of ``parameters``, which begin with a heap for dims."""

    def __init__(self, name: str, parameters: Sequence[str], dims: int) -> None:
        ffi = _builder_functions()
        self._function, self._dtype = ffi.get_global_func, ffi.dtype
        self._name = name
        self._builder = self._exec("Create")()
        self._exec("EmitFunction")(self._builder, name, len(parameters), list(parameters))
        self._free: list[int] = []
        self._registers = len(parameters)
        self._declared: set[str] = set()
        self._heap = self.register()
        self.call("vm.builtin.alloc_shape_heap", [Register(_MACHINE), dims], self._heap)

    def _exec(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = self._function(f"relax.ExecBuilder{name}")
        return function

    def register(self) -> Register:
        """One that holds nothing that is read later."""
        if self._free:
            return Register(self._free.pop())
        self._registers += 1
        return Register(self._registers - 1)

    def dtype(self, name: str) -> Any:
        """A dtype as an argument."""
        return self._dtype(name)

    def call(self, function: str, arguments: Iterable[Argument | Any], result: Register | None = None) -> None:
        """Call a function of the process or of the library by its name."""
        if function not in self._declared:
            self._declared.add(function)
            self._exec("DeclareFunction")(self._builder, function, _PACKED)
        given = [self._argument(one) for one in arguments]
        self._exec("EmitCall")(self._builder, function, given, _VOID if result is None else result.index)

    def _argument(self, value: Argument | Any) -> int:
        if isinstance(value, Register):
            return int(self._exec("R")(self._builder, value.index))
        if isinstance(value, int):
            return int(self._exec("Imm")(self._builder, value))
        return int(self._exec("ConvertConstant")(self._builder, value))

    def let_go(self, register: Register) -> None:
        """Nothing reads what a register holds any more."""
        self.call("vm.builtin.null_value", [], register)
        self._free.append(register.index)

    def check(self, value: Register, rank: int, dtype: str, what: str) -> None:
        """Require a tensor of so many dims."""
        self.call("vm.builtin.check_tensor_info", [value, rank, self.dtype(dtype), what])

    def match(self, value: Register, codes: Iterable[int], rank: int, what: str) -> None:
        """Require, or store, the dims of a tensor or a shape."""
        self.call("vm.builtin.match_shape", [value, self._heap, rank, *codes, what])

    def shape(self, codes: Sequence[int]) -> Register:
        """A shape of numbers and stored dims."""
        made = self.register()
        self.call("vm.builtin.make_shape", [self._heap, len(codes) // 2, *codes], made)
        return made

    def executable(self, results: Sequence[Register]) -> Any:
        """The executable whose function returns the tuple of ``results``."""
        made = self.register()
        self.call("vm.builtin.make_tuple", results, made)
        self._exec("EmitRet")(self._builder, self._argument(made))
        self._exec("EndFunction")(self._builder, self._name)
        return self._exec("Get")(self._builder)


@cache
def _builder_functions() -> Any:
    """The module `tvm_ffi`, through which the builder of executables is reached."""
    try:
        return load_tvm_library(COMPILER)[0]
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise ToolchainError(f"TVM's compiler cannot be loaded: {reason[-1] if reason else error}; install apache-tvm again") from None


@dataclass(frozen=True)
class _Parameter:
    """A parameter of the program; None for what is not required of it: a dtype, or dims."""

    register: Register
    name: str
    dtype: str | None
    dims: Sequence[Dim] | None


class _Program:
    """The lowering of one graph."""

    def __init__(self, graph: Graph, target: str) -> None:
        self._graph = graph
        self._reads_file = target == "llvm"
        self._last_use = _last_uses(graph)
        self._parameters: list[_Parameter] = []
        #: Symbols of dims, then the sizes of types in bytes, by their places in the heap.
        self._dims: dict[object, int] = {}
        self._values: dict[str, list[Register]] = {}
        self._states: dict[str, Register] = {}

    def executable(self) -> Any:
        """The executable of the graph."""
        graph = self._graph
        self._declare_values()
        halves = self._parameter("the half table", "float32", [HALF_TABLE_SIZE]) if self._reads_file else None
        sizes = self._parameter("the sizes of values", None, None)

        types = computed_types(graph)
        symbols = {dim for one in self._parameters for dim in one.dims or () if isinstance(dim, str)}
        self._code = _Instructions(ENTRY, [one.name for one in self._parameters], len(symbols) + len(types))
        self._check_parameters()
        self._make_shapes(sizes, types)

        large = self._reads_file and is_large(graph)
        for index, node in enumerate(graph):
            if node.name not in self._values:
                self._emit(node, halves, large=large)
            self._let_go(index)
        return self._code.executable([self._values[node.name][0] for node in returned_nodes(graph)])

    def _parameter(self, name: str, dtype: str | None, dims: Sequence[Dim] | None) -> Register:
        """One more parameter: the first registers are theirs, in their order."""
        register = Register(len(self._parameters))
        self._parameters.append(_Parameter(register, name, dtype, dims))
        return register

    def _declare_values(self) -> None:
        """Parameters for the inputs, the weights and the states."""
        for node in program_parameters(self._graph):
            dtype, dims = weight_storage(node.type) if is_weight(node) else (_DTYPES[node.type.dtype], node.type.dims)
            in_pieces = is_weight(node) and comes_in_pieces(node.type)
            # In a file the pieces of a weight lie wherever they do: the buffer is as long as the memory that they lie in.
            self._values[node.name] = [self._parameter(f"%{node.name}", dtype, None if in_pieces else dims)]
            if in_pieces:
                self._values[node.name].append(self._parameter(f"the places of %{node.name}", "int64", table_shape(node.type)))
        for node in states_of(self._graph):
            kind = state_type(self._graph, node)
            self._states[node.name] = self._parameter(f"the state of %{node.name}", _DTYPES[kind.dtype], kind.dims)

    def _check_parameters(self) -> None:
        """Instructions that require the dtypes and dims of the parameters, and store what symbols stand for."""
        for one in self._parameters:
            what = f"program, {one.name}"
            if one.dtype is not None:
                self._code.check(one.register, 1 if one.dims is None else len(one.dims), one.dtype, f"{what}: another dtype or rank")
            if one.dims is not None:
                codes = [code for dim in one.dims for code in self._match_of(dim)]
                self._code.match(one.register, codes, len(one.dims), f"{what}: another shape")

    def _make_shapes(self, sizes: Register, types: Sequence[TensorType]) -> None:
        """Instructions that make the size in bytes, which the caller gives in ``sizes``, and the shape of each of ``types``."""
        stored = [self._dims.setdefault(kind, len(self._dims)) for kind in types]
        self._code.match(sizes, [code for place in stored for code in (_Match.STORE, place)], len(types), "program: other sizes of values")
        self._sizes = {kind: self._code.shape([_Make.STORED, self._dims[kind]]) for kind in types}
        self._shapes = {kind: self._code.shape([code for dim in kind.dims for code in self._make_of(dim)]) for kind in types}

    def _match_of(self, dim: Dim) -> tuple[int, int]:
        if isinstance(dim, int):
            return _Match.IS, dim
        known = dim in self._dims
        return _Match.IS_STORED if known else _Match.STORE, self._dims.setdefault(dim, len(self._dims))

    def _make_of(self, dim: Dim) -> tuple[int, int]:
        return (_Make.NUMBER, dim) if isinstance(dim, int) else (_Make.STORED, self._dims[dim])

    def _emit(self, node: Node, halves: Register | None, *, large: bool) -> None:
        """The instructions of one node."""
        operands = [register for name in self._graph.operand_names(node.name) for register in self._values[name]]
        if is_tap(node):
            self._code.call(TAP_FUNCTION, [operands[0], node.name])
            self._values[node.name] = operands[:1]
            return
        traits, request = traits_of(node), request_of(self._graph, node)
        state = [self._states[node.name]] if node.name in self._states else []
        result = state.pop() if is_own_state(node) else self._allocate(node.type)
        self._values[node.name] = [result]
        given: list[Argument] = [halves] if halves is not None and request.needs_half_table else []
        self._code.call(request.symbol, [*given, *operands, *request.numbers.values(), *state, result])
        if traits.chooses:
            self._code.call(CHOICE_FUNCTION, [result, node.name])
        if large and traits.is_matmul:
            self._code.call(USED_FUNCTION, [node.name])

    def _allocate(self, kind: TensorType) -> Register:
        """A tensor of ``kind`` with storage of its own, which it keeps alive."""
        code, dtype = self._code, self._code.dtype
        storage, value = code.register(), code.register()
        code.call("vm.builtin.alloc_storage", [Register(_MACHINE), self._sizes[kind], 0, dtype("uint8"), "global"], storage)
        code.call("vm.builtin.alloc_tensor", [storage, 0, self._shapes[kind], dtype(_DTYPES[kind.dtype])], value)
        code.let_go(storage)
        return value

    def _let_go(self, index: int) -> None:
        for name in self._last_use.get(index, ()):
            self._code.let_go(self._values[name][0])


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """By place in the graph, the values that nothing behind it reads: neither the caller's nor returned."""
    given = {node.name for node in program_parameters(graph)}
    behind: dict[str, str] = {}  # a tap is the value that it reads
    last: dict[str, int] = {}
    for index, node in enumerate(graph):
        operands = graph.operand_names(node.name)
        behind[node.name] = behind[operands[0]] if is_tap(node) else node.name
        for name in (node.name, *operands):
            last[behind[name]] = index
    kept = {behind[node.name] for node in returned_nodes(graph)}
    found: dict[int, list[str]] = {}
    for name, index in last.items():
        if name not in given and name not in kept and not is_own_state(graph[name]):
            found.setdefault(index, []).append(name)
    return found


def lower(graph: Graph, *, target: str = "llvm") -> Any:
    """The executable of ``graph``: one function of its inputs, weights and states that returns its outputs.

    Tap nodes become calls of TAP_FUNCTION. Half tables and the giving back of pages are for kernels that read the file
    itself, those of the ``target`` llvm. Raises ToolchainError where TVM's compiler is not there.
    """
    return _Program(graph, target).executable()


def build_program(graph: Graph, path: Path, *, target: str = "llvm") -> None:
    """Write the program of ``graph`` as VM bytecode into the file ``path``; no linker is needed."""
    lower(graph, target=target).write_to_file(str(path), "relax.VMExecutable")
