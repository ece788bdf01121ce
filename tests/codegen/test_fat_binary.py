"""The reader of CUDA fat binaries, on compiled ones, on ones put together by hand, and on damaged ones.

None of this needs a GPU. What compiles is skipped where there is neither nvcc nor NVRTC.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from aprgraph.codegen.cuda.architectures import Architecture, parse_architectures
from aprgraph.codegen.cuda.compiler import compile_fat_binary, find_compiler
from aprgraph.codegen.cuda.fat_binary import Image, Kernel, read_fat_binary
from aprgraph.graph.errors import ArtifactError, ToolchainError

SOURCE = """
extern "C" __global__ void plain(float *a) { a[threadIdx.x] *= 2.f; }

extern "C" __global__ void shared(float *a) {
  __shared__ float s[300];
  s[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  a[threadIdx.x] = s[31 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(1024) spilled(float *a) {
  float r[96];
#pragma unroll
  for (int i = 0; i < 96; i++) r[i] = a[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 96; i++) a[i * 1024 + threadIdx.x] = r[i] * r[95 - i] + r[(i * 7) % 96];
}

template <int N> __global__ void instance(float *a) { a[0] = N; }
template __global__ void instance<3>(float *);
"""
NAMES = ("_Z8instanceILi3EEvPf", "plain", "shared", "spilled")


@pytest.fixture(scope="module")
def compiled() -> bytes:
    try:
        find_compiler()
    except ToolchainError as error:
        pytest.skip(str(error))
    return compile_fat_binary(SOURCE, parse_architectures(["sm_80", "sm_90"]))


@pytest.fixture(scope="module")
def images(compiled: bytes) -> dict[str, Image]:
    return {str(image): image for image in read_fat_binary(compiled)}


def header(size: int) -> bytes:
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, size)


def entry(payload: bytes, kind: int = 1, number: int = 90, flags: int = 0x11, size: int | None = None, header_size: int = 64) -> bytes:
    """One entry of a fat binary, around ``payload``."""
    fields = (kind, 0x101, header_size, len(payload) if size is None else size, 0, 9, number, flags)
    return struct.pack("<HHIQ8xHHI8xQ16x", *fields) + payload


def fat_binary(*entries: bytes) -> bytes:
    return header(sum(map(len, entries))) + b"".join(entries)


PTX = b".version 9.0\n.target sm_90\n.visible .entry b_kernel(\n)\n{\nret;\n}\n.entry a_kernel()\n{\nret;\n}\n\0\0\0"


# --- compiled


def test_images_and_the_kernels_in_each(images: dict[str, Image]) -> None:
    assert sorted(images) == ["PTX compute_90", "sm_80", "sm_90"]
    for image in images.values():
        assert image.kernel_names == NAMES
        assert not image.compressed
    assert [images[name].kind for name in ("sm_80", "PTX compute_90")] == ["SASS", "PTX"]
    assert images["sm_80"].architecture == Architecture(8, 0)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_what_a_kernel_takes(images: dict[str, Image], architecture: str) -> None:
    kernels = {kernel.name: kernel for kernel in images[architecture].kernels}
    # sm_90 reserves 1024 bytes of shared memory in every kernel of a cubin that has some, which are not the kernel's.
    assert {name: kernel.shared_bytes for name, kernel in kernels.items()} == {name: 1200 * (name == "shared") for name in NAMES}
    assert {name for name, kernel in kernels.items() if kernel.local_bytes} == {"spilled"}
    assert kernels["spilled"].registers == 64  # 65536 for 1024 threads
    assert 4 <= (kernels["plain"].registers or 0) <= 16


def test_ptxas_says_the_same(images: dict[str, Image], tmp_path: Path) -> None:
    ptxas = shutil.which("ptxas") or shutil.which("ptxas", path="/usr/local/cuda/bin")
    text = images["PTX compute_90"].text
    assert text is not None
    if ptxas is None:
        pytest.skip("no ptxas, which comes with nvcc")
    (tmp_path / "kernels.ptx").write_text(text)
    command = [ptxas, "-v", "-O3", "--fmad", "false", "-arch=sm_90", "kernels.ptx", "-o", os.devnull]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "Unsupported .version" in done.stderr:
        pytest.skip("ptxas is older than the compiler")
    report = r"Function properties for (\w+)\n\s+(\d+) bytes stack frame.*\n.*Used (\d+) registers(?:.*?(\d+) bytes smem)?"
    found = re.findall(report, done.stderr)
    said = sorted((name, int(registers), int(shared or 0), int(stack)) for name, stack, registers, shared in found)
    assert said == [(k.name, k.registers, k.shared_bytes, k.local_bytes) for k in images["sm_90"].kernels]


def test_ptx_is_given_as_text(images: dict[str, Image]) -> None:
    text = images["PTX compute_90"].text
    assert text is not None
    assert text.lstrip().startswith(f".version {images['PTX compute_90'].version}\n.target sm_90\n")
    assert "\0" not in text
    assert images["sm_90"].text is None
    assert {kernel.registers for kernel in images["PTX compute_90"].kernels} == {None}


# --- put together by hand


def test_ptx_by_hand() -> None:
    data = fat_binary(entry(PTX), entry(PTX, number=100, flags=0x200011), entry(PTX, flags=0x100011))
    (first, *others) = read_fat_binary(data)
    kernels = (Kernel("a_kernel"), Kernel("b_kernel"))
    assert first == Image("PTX", Architecture(9, 0), 80, len(PTX), "9.0", False, kernels, PTX.decode().rstrip("\0"))
    assert [str(image) for image in others] == ["PTX compute_100f", "PTX compute_90a"]


def test_a_compressed_image_is_listed_and_not_looked_into() -> None:
    (image,) = read_fat_binary(fat_binary(entry(b"\x28\xb5\x2f\xfd", flags=0x8011)))
    assert (image.compressed, image.kernels, image.text) == (True, (), None)


def test_one_without_images() -> None:
    assert read_fat_binary(fat_binary()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged CUDA fat binary: the header at byte 0 takes 16 bytes, but the data ends at byte 0; compile again"),
        (b"\x7fELF" + bytes(60), "not a CUDA fat binary: it begins with 7f 45 4c 46 .* at byte 0, expected 50 ed 55 ba"),
        (header(8), "the entries at byte 16 takes 8 bytes, but the data ends at byte 16"),
        (header(8) + bytes(8), "the entry at byte 16 takes 48 bytes"),
        (header(0) + b"xyz", "3 bytes follow its end at byte 16; expected none"),
        (fat_binary(entry(b"", kind=16)), r"the entry at byte 16 is of kind 16; expected 1 \(PTX\) or 2 \(SASS\)"),
        (fat_binary(entry(b"", header_size=12)), "has a header of 12 bytes; expected 48 or more"),
        (fat_binary(entry(b"", number=5)), "architecture 5 with flags 0x11"),
        (fat_binary(entry(b"", flags=0x300011)), "architecture 90 with flags 0x300011"),
        (fat_binary(entry(b"", header_size=65)), "the entry's header at byte 16 takes 65 bytes, but"),
        (fat_binary(entry(PTX, size=2**63)), f"the image at byte 80 takes {2**63} bytes, but"),
        (fat_binary(entry(b".entry \xff")), "the PTX at byte 80 is not text: byte 87"),
        (fat_binary(entry(b"\x7fELF", kind=2)), "the cubin's header at byte 80 takes 64 bytes"),
        (fat_binary(entry(bytes(64), kind=2)), "the image at byte 80 is not a cubin: an ELF64 object, little-endian, of machine 190"),
    ],
)
def test_damage_is_named_with_its_place(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_fat_binary(data)


# --- damaged


def parses_or_says_why(data: bytes) -> bool:
    """Whether ``data`` is read; if not, that is said in one line, and no other exception is raised."""
    try:
        read_fat_binary(data)
    except ArtifactError as error:
        assert "\n" not in str(error)
        return False
    return True


def test_cut_off_at_every_length(compiled: bytes) -> None:
    for length in range(len(compiled)):
        assert not parses_or_says_why(compiled[:length])


def test_cut_off_at_every_length_with_a_header_that_fits(compiled: bytes, images: dict[str, Image]) -> None:
    ends = [0, *(image.offset + image.size - 16 for image in images.values())]
    step = 7  # no divisor of what things are aligned to
    for length in [*range(0, len(compiled) - 16, step), *ends]:
        assert parses_or_says_why(header(length) + compiled[16 : 16 + length]) == (length in ends)


def test_every_bit_of_the_structures_and_some_of_the_rest(compiled: bytes, images: dict[str, Image]) -> None:
    starts = [0, *(image.offset - 64 for image in images.values()), *(image.offset for image in images.values())]
    places = [byte for start in starts for byte in range(start, start + 64)]
    places += random.Random(1).choices(range(len(compiled)), k=1500)
    for place in places:
        damaged = bytearray(compiled)
        damaged[place] ^= 1 << (place % 8)
        parses_or_says_why(bytes(damaged))


def test_whole_fields_at_their_extremes(compiled: bytes) -> None:
    generator = random.Random(2)
    for _ in range(1500):
        damaged = bytearray(compiled)
        place = generator.randrange(16, len(compiled) - 8) & ~3
        width = generator.choice((2, 4, 8))
        damaged[place : place + width] = generator.choice((b"\0", b"\xff", b"\x7f")) * width
        parses_or_says_why(bytes(damaged))
