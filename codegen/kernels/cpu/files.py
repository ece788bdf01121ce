"""A kernel that makes files: threads of Python, of which one runs at a time, take longer to make those of a trace than a pass takes to
compute what is in them.

Not an op of the graph, as the statistics kernels. It calls the C library's functions by their names.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from aprgraph.codegen.tir import Expr, Parameters, assign, build_function, i64, only, registers
from aprgraph.graph.calling_convention import FILE_COLUMNS, FILES_KERNEL

#: The mode of a new file, of which the process's umask takes what it takes.
_MODE = 0o666


def make_files(_cpu: object) -> Any:
    """bounds [groups + 1], files [count, FILE_COLUMNS], a number for flags -> states [count], all i64; see FILES_KERNEL."""

    def emit(parameters: Parameters) -> None:
        bounds = parameters.buffer("bounds", ("bounds_count",), "int64", align=8)
        files = parameters.buffer("files", ("count", FILE_COLUMNS), "int64", align=8)
        flags = parameters.number("flags", "int64")
        states = parameters.buffer("states", ("count",), "int64", align=8)
        groups = parameters.size("bounds_count") - 1

        def make_group(group: Expr) -> None:
            descriptor, written = registers(1, "int32"), registers(1, "int64")
            with T.serial(i64(0), bounds[group + 1] - bounds[group]) as place:
                file = bounds[group] + place
                # Addresses are as wide as int64 where these kernels run, and are given as such.
                opened = T.call_extern("int32", "open", files[file, i64(0)], T.Cast("int32", flags), T.int32(_MODE))
                assign(descriptor, opened, [i64(0)])
                assign(states, i64(1), [file])
                with T.If(only(descriptor) >= 0), T.Then():
                    pieces = T.address_of(files.elements[files.place((file, i64(1)))])
                    assign(written, T.call_extern("int64", "writev", only(descriptor), pieces, T.int32(2)), [i64(0)])
                    assign(descriptor, T.call_extern("int32", "close", only(descriptor)), [i64(0)])
                    is_whole = tirx.And(only(written) == files[file, i64(2)] + files[file, i64(4)], only(descriptor) == 0)
                    assign(states, T.Select(is_whole, i64(0), i64(2)), [file])

        with T.If(groups == 1):
            with T.Then():
                make_group(i64(0))
            with T.Else(), T.parallel(i64(0), groups) as group:
                make_group(group)

    return build_function(FILES_KERNEL, emit)
