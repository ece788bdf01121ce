"""CPU targets: the x86-64 microarchitecture levels and two of aarch64, and what a kernel may use on each.

Levels (x86-64 psABI; ARMv8-A, and that with the dot products of ARMv8.2-A), rather than the name of this machine's CPU: kernels then
do the same arithmetic on every machine of a level (but for the cosines of RoPE, which are the C library's, in float64), an artifact
runs wherever the level's instructions are, and a hypervisor that hides some instruction of a named CPU cannot make one crash.

Vectors of aarch64 are pairs of NEON's registers, so that they have the lanes of x86-64-v3: sums in the same order, and the same bits.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aprgraph.graph.arguments import RPC, TARGET
from aprgraph.graph.errors import ArtifactError, UnsupportedModelError, shown

_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_V4_VNNI = (*_V4, "avx512_vnni")
_NEON = ("fp", "asimd")

#: What LLVM calls a CPU of which nothing is known but the machine.
_ANY = "generic"

#: The machines, as uname(2) and LLVM name them.
X86_64, AARCH64 = "x86_64", "aarch64"


@dataclass(frozen=True)
class Cpu:
    """One CPU target.

    ``lanes`` is how many f32 a vector holds: sums over a row are kept in that many partial sums, so it is part of the
    arithmetic. ``registers`` is the number of vectors that there are registers for. ``flags`` are names in /proc/cpuinfo.
    ``features`` are what LLVM calls those that it is to use beside those of its CPU ``model``, where that is not ``name``.
    """

    name: str
    lanes: int
    registers: int
    fma: bool
    flags: tuple[str, ...]
    machine: str = X86_64
    features: tuple[str, ...] = ()
    model: str = ""

    @property
    def has_sdot(self) -> bool:
        """Whether it multiplies and adds four bytes by one instruction of ARM's."""
        return "dotprod" in self.features

    @property
    def has_vnni(self) -> bool:
        """Whether it multiplies and adds four bytes by one instruction of AVX-512."""
        return "avx512vnni" in self.features


CPUS: dict[str, Cpu] = {
    cpu.name: cpu
    for cpu in (
        Cpu("x86-64-v2", 4, 16, fma=False, flags=_V2),
        Cpu("x86-64-v3", 8, 16, fma=True, flags=_V3),
        Cpu("x86-64-v4", 16, 32, fma=True, flags=_V4),
        Cpu("x86-64-v4-vnni", 16, 32, fma=True, flags=_V4_VNNI, features=("avx512vnni",), model="x86-64-v4"),
        Cpu("aarch64", 8, 16, fma=True, flags=_NEON, machine=AARCH64, features=("neon",), model=_ANY),
        Cpu("aarch64-dotprod", 8, 16, fma=True, flags=(*_NEON, "asimddp"), machine=AARCH64, features=("neon", "dotprod"), model=_ANY),
    )
}


@cache
def machine_flags() -> frozenset[str]:
    """The instruction sets of this machine, as /proc/cpuinfo names them; empty where it cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), []))


def native_cpu() -> Cpu:
    """The highest level that this machine has. Raises UnsupportedModelError on other processors."""
    flags = machine_flags()
    for cpu in reversed(CPUS.values()):
        if flags.issuperset(cpu.flags):
            return cpu
    raise UnsupportedModelError(
        f"this processor ({platform.machine()}) is neither x86-64-v2 or later nor aarch64, which the LLVM target needs; use ",
        TARGET.given("reference", "'reference'"),
    )


def find_cpu(name: str | None) -> Cpu:
    """The CPU target ``name``, or this machine's for None. Raises ArtifactError that lists the names."""
    if name is None:
        return native_cpu()
    if name not in CPUS:
        raise ArtifactError(f"unknown CPU {shown(name)}; expected one of {', '.join(CPUS)}")
    return CPUS[name]


def check_runs_here(cpu: Cpu, where: str) -> None:
    """Raise ArtifactError if this machine is another than that of ``cpu``, or lacks instructions; ``where`` names the artifact."""
    check_machine(cpu.machine, where, cpu.name)
    missing = [flag for flag in cpu.flags if flag not in machine_flags()]
    if missing:
        raise ArtifactError(f"{where}: built for {cpu.name}, but this machine lacks {', '.join(missing)}; compile it here again")


def check_machine(machine: str | None, where: str, name: str | None = None) -> None:
    """Raise ArtifactError for machine code of another ``machine`` than this one; None is not known.

    ``name`` is the CPU target that it was built for.
    """
    if machine not in (None, platform.machine()):
        raise ArtifactError(
            f"{where}: built for {name or machine}, but this machine is {platform.machine()}; run it on such a machine with ",
            RPC.given("HOST:PORT", "'HOST:PORT'"),
            ", or compile it here again",
        )
