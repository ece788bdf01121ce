"""CUDA source, as TVM prints it, to C++ that a host compiler takes: declarations of arrays rewritten, and a launcher per kernel.

What the compiler and the engine say of a line holds for the CUDA source.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

#: Static shared memory that a block may have, in bytes; more is an error of ptxas.
MOST_SHARED = 48 << 10
#: Kernels of so many characters are compiled together: less would mostly read headers, more would wait for one another.
_PART = 30_000

_SIZES = {
    "bool": 1, "char": 1, "signed char": 1, "uchar": 1, "unsigned char": 1, "int8_t": 1, "uint8_t": 1,
    "short": 2, "ushort": 2, "unsigned short": 2, "int16_t": 2, "uint16_t": 2, "half": 2, "__half": 2, "nv_bfloat16": 2, "__nv_bfloat16": 2,
    "int": 4, "uint": 4, "unsigned int": 4, "unsigned": 4, "int32_t": 4, "uint32_t": 4, "float": 4, "half2": 4,
    "long": 8, "long long": 8, "unsigned long long": 8, "int64_t": 8, "uint64_t": 8, "double": 8, "float2": 8, "int2": 8, "uint2": 8,
    "float4": 16, "int4": 16, "uint4": 16,
}  # fmt: skip

_ALIGNED = r"(?:(?:alignas|__align__)\s*\(\s*(\d+)\s*\)\s*)?"
_TYPE = r"((?:const\s+)?(?:(?:un)?signed\s+)?[A-Za-z_][\w:]*(?:\s+(?:int|long|char|short))*)"
_KERNEL = re.compile(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\(([^()]*)\)\s*)?(\w+)\s*\(([^()]*)\)\s*([;{])', re.DOTALL)
_DECLARATION = re.compile(r'^extern\s+"C"\s+__global__\s+void[^;{]*;', re.MULTILINE)
_SHARED = re.compile(rf"__shared__\s+{_ALIGNED}{_TYPE}\s+(\w+)\s*((?:\[[^\[\]]*\])*)\s*;")
_DYNAMIC_SHARED = re.compile(rf"extern\s+__shared__\s+{_ALIGNED}{_TYPE}\s+(\w+)\s*\[\s*\]\s*;")
_LOCAL_ARRAY = re.compile(rf"^(\s*){_ALIGNED}{_TYPE}\s+(\w+)((?:\[[^\[\]]+\])+)\s*;", re.MULTILINE)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: its name, and its type without ``const`` and ``__restrict__``, as "float*" or "int64_t"."""

    name: str
    type: str

    @property
    def is_pointer(self) -> bool:
        return self.type.endswith("*")


@dataclass(frozen=True)
class Kernel:
    """A kernel's declaration. ``most_threads`` is that of ``__launch_bounds__``, 0 without; ``shared_bytes`` what a block takes."""

    name: str
    parameters: tuple[Parameter, ...]
    most_threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Translation:
    """Host C++ in parts, each to be compiled by itself, and the kernels in them."""

    parts: tuple[str, ...]
    kernels: tuple[Kernel, ...]


def translate(source: str, name: str = "kernels.cu") -> Translation:
    """The host C++ of CUDA ``source``, which messages call ``name``."""
    definitions = [found for found in _KERNEL.finditer(source) if found[4] == "{"]
    if not definitions:
        return Translation((), ())
    # What stands before the first definition, and between two, may be used by every kernel after it.
    # But for declarations of kernels, with which every part would change when one kernel does.
    common = _DECLARATION.sub("", _placed(source, 0, definitions[0].start(), name))
    kernels, parts, texts = [], [], []
    for found, following in zip(definitions, [*(other.start() for other in definitions[1:]), len(source)], strict=True):
        end = _end_of_block(source, found.end())
        text = source[found.start() : end]
        shared = sum(map(_shared_size, _SHARED.finditer(text)))
        kernel = Kernel(found[2], tuple(_parameters(found[3])), _first_number(found[1]), shared)
        kernels.append(kernel)
        texts.append(f"{_rewritten(_placed(source, found.start(), end, name))}{_launcher(kernel)}")
        between = source[end:following].strip()
        if between or sum(map(len, texts)) > _PART or following == len(source):
            parts.append(common + "".join(texts))
            texts = []
        if between:
            common += _placed(source, end, following, name)
    # One part takes the table too; of more, none changes when another does.
    parts = [parts[0] + _table(kernels)] if len(parts) == 1 else [*parts, _table(kernels)]
    return Translation(tuple(parts), tuple(kernels))


def _placed(source: str, start: int, end: int, name: str) -> str:
    """Part of the source, which says where it comes from."""
    line = source.count("\n", 0, start) + 1
    return f'#line {line} "{name}"\n{source[start:end]}\n'


def _end_of_block(source: str, at: int) -> int:
    """Where the block ends whose brace was opened just before ``at``."""
    depth = 1
    for found in re.compile(r"[{}]").finditer(source, at):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return found.end()
    return len(source)


def _rewritten(text: str) -> str:
    """A kernel with its declarations of arrays replaced."""
    sites = itertools.count(1)
    text = _DYNAMIC_SHARED.sub(lambda match: f"{match[2]}* {match[3]} = CUDA_EMULATOR_DYNAMIC_SHARED({match[2]});", text)
    text = _SHARED.sub(lambda match: _shared(match, next(sites)), text)
    return _LOCAL_ARRAY.sub(_local_array, text)


def _parameters(text: str) -> list[Parameter]:
    found = []
    for declaration in filter(str.strip, text.split(",")):
        words = re.sub(r"\b(?:__restrict__|__grid_constant__)\b", " ", declaration)
        kind, name = re.fullmatch(r"\s*(.*?)\s*(\w+)\s*", words, re.DOTALL).groups()  # type: ignore[union-attr]
        kind = re.sub(r"\bconst\b", " ", kind)
        found.append(Parameter(name, re.sub(r"\s*\*\s*", "*", " ".join(kind.split()))))
    return found


def _first_number(bounds: str | None) -> int:
    found = re.match(r"\s*(\d+)", bounds or "")
    return int(found[1]) if found else 0


def _shared_size(match: re.Match[str]) -> int:
    """Bytes of a declaration; 0 for a type or a length that is not understood, which the engine then counts as it runs."""
    size = _SIZES.get(" ".join(match[2].split()), 0)
    for length in re.findall(r"\[([^\[\]]*)\]", match[4]):
        size *= int(length) if length.strip().isdigit() else 0
    return size


def _shared(match: re.Match[str], site: int) -> str:
    alignment, kind, name, dimensions = match.groups()
    # A reference to memory that the engine hands out, of the array's type: indices beyond it are still known to be.
    return f'auto& {name} = CUDA_EMULATOR_SHARED({site}, "{name}", {alignment or f"alignof({kind})"}, {kind}{dimensions});'


def _local_array(match: re.Match[str]) -> str:
    kind, name = match[3], match[4]
    if kind.split()[0] in ("return", "typedef", "using", "extern", "static", "const", "delete"):
        return match[0]
    return f"{match[0]} CUDA_EMULATOR_POISON({name});"


def _launcher(kernel: Kernel) -> str:
    """A function that unpacks a kernel's arguments, and the description of its parameters."""
    arguments = ", ".join(f"*({parameter.type}*)arguments[{index}]" for index, parameter in enumerate(kernel.parameters))
    described = ", ".join(f'{{"{p.name}", "{p.type}", sizeof({p.type})}}' for p in kernel.parameters)
    lines = [
        f"void cuda_emulator_run_{kernel.name}([[maybe_unused]] void** arguments) {{ {kernel.name}({arguments}); }}",
        f"extern const cuda_emulator_parameter cuda_emulator_parameters_{kernel.name}[] = {{{described or '{}'}}};",
    ]
    if kernel.shared_bytes:  # takes no room; says what a cubin says
        lines.append(f'asm(".section .nv.shared.{kernel.name},\\"\\",@nobits\\n.zero {kernel.shared_bytes}\\n.text");')
    return "\n".join([*lines, ""])


def _table(kernels: list[Kernel]) -> str:
    """What the engine looks for: the table of the kernels."""
    lines = ['#include "cuda_emulator_abi.h"']
    for kernel in kernels:
        lines.append(f"void cuda_emulator_run_{kernel.name}(void**);")
        lines.append(f"extern const cuda_emulator_parameter cuda_emulator_parameters_{kernel.name}[];")
    lines.append("static const cuda_emulator_kernel cuda_emulator_kernels[] = {")
    lines += [
        f'  {{"{k.name}", cuda_emulator_run_{k.name}, cuda_emulator_parameters_{k.name}, {len(k.parameters)}, {k.most_threads}}},'
        for k in kernels
    ]
    lines += [
        "};",
        "const cuda_emulator_engine* cuda_emulator_engine_;",
        "const cuda_emulator_thread* cuda_emulator_current;",
        'extern "C" __attribute__((visibility("default"))) const cuda_emulator_module_table cuda_emulator_module = {',
        f"  cuda_emulator_abi, cuda_emulator_kernels, {len(kernels)}, &cuda_emulator_engine_, &cuda_emulator_current}};",
        "",
    ]
    return "\n".join(lines)
