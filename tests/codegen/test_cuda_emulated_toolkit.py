"""The emulated CUDA toolkit, in processes of their own: nvcc, the driver, the runtime with its streams, and TVM on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aprgraph.codegen.cuda import compiler
from aprgraph.codegen.cuda.fat_binary import read_fat_binary
from tests.support.cuda_emulator import host_compiler, toolkit

pytestmark = pytest.mark.skipif(host_compiler() is None, reason="no g++ 12 or later, with which kernels are compiled for the CPU")

_SCALE = """
extern "C" __global__ void __launch_bounds__(32) scale(float* __restrict__ x, float* __restrict__ out, int64_t n, float factor);
extern "C" __global__ void __launch_bounds__(32) scale(float* __restrict__ x, float* __restrict__ out, int64_t n, float factor) {
  __shared__ alignas(64) float s[32];
  int64_t i = ((int64_t)blockIdx.x) * (int64_t)32 + ((int64_t)threadIdx.x);
  if (i < n) {
    s[threadIdx.x] = x[i];
    out[i] = s[threadIdx.x] * factor;
  }
}
"""

_CUDART = """
import ctypes, json
from ctypes import byref, c_size_t, c_void_p
cudart = ctypes.CDLL("libcudart.so.13")
def call(name, *arguments):
    code = getattr(cudart, name)(*arguments)
    assert code == 0, (name, code)
def new(name, *arguments):
    made = c_void_p()
    call(name, byref(made), *arguments)
    return made
pinned = lambda: new("cudaMallocHost", c_size_t(4))
def device(content):
    made = new("cudaMalloc", c_size_t(4))
    call("cudaMemcpy", made, content, c_size_t(4), 1)
    return made
def host(content):
    made = pinned()
    ctypes.memmove(made, content, 4)
    return made
stream = lambda blocking=False: new("cudaStreamCreateWithFlags", int(not blocking))
copy = lambda to, source, on=None: call("cudaMemcpyAsync", to, source, c_size_t(4), 4, on)
sync = lambda on=None: call("cudaStreamSynchronize", on)
text = lambda place: ctypes.string_at(place, 4).decode("latin-1")
"""

_STREAMS = """
found = {}
a, d, h = stream(), device(b"new!"), pinned()
copy(h, d, a)
found["read before it is waited for"] = text(h)
sync(a)
found["read afterwards"] = text(h)

b, d, h = stream(), device(b"old!"), pinned()
copy(d, host(b"new!"), a)
copy(h, d, b)
sync(b)
found["another stream that does not wait"] = text(h)

d, h, event = device(b"old!"), pinned(), new("cudaEventCreate")
copy(d, host(b"new!"), a)
call("cudaEventRecord", event, a)
call("cudaStreamWaitEvent", b, event, 0)
copy(h, d, b)
sync(b)
found["another stream that waits"] = text(h)

d, h, event = device(b"old!"), pinned(), new("cudaEventCreate")
copy(h, d, a)
call("cudaEventRecord", event, a)
copy(d, host(b"new!"))
call("cudaEventSynchronize", event)
found["overwritten by the default stream meanwhile"] = text(h)

for blocking in (False, True):
    d, h = device(b"old!"), ctypes.create_string_buffer(4)
    copy(d, host(b"new!"), stream(blocking))
    call("cudaMemcpy", h, d, c_size_t(4), 2)
    found[f"default stream after a stream, blocking {blocking}"] = text(h)
    c, d, h = stream(blocking), device(b"old!"), pinned()
    copy(d, host(b"new!"))
    copy(h, d, c)
    sync(c)
    found[f"stream after the default stream, blocking {blocking}"] = text(h)

source, d, h = ctypes.create_string_buffer(b"new!"), device(b"old!"), ctypes.create_string_buffer(4)
copy(d, source, a)
source.value = b"late"
copy(h, d, a)
found["pageable memory, both ways"] = text(h)

d, h = device(b"new!"), pinned()
copy(h, d, a)
call("cudaFree", d)
found["a buffer that was freed"] = text(h)
print(json.dumps(found))
"""


def emulated(script: str, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    """Run Python code with the emulated CUDA, and that of the environment out of the way."""
    environment = {**os.environ, **toolkit().environment(settings)}
    return subprocess.run([sys.executable, "-c", script, *arguments], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def fat_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """_SCALE for sm_80 and as PTX of compute_90, by the emulated nvcc."""
    path = tmp_path_factory.mktemp("nvcc") / "scale.fatbin"
    source = path.with_suffix(".cu")
    source.write_text("#include <cstdint>\n" + _SCALE, encoding="utf-8")
    options = ["-fatbin", "--fmad=false", "-gencode", "arch=compute_80,code=sm_80", "--generate-code=arch=compute_90,code=compute_90"]
    environment = {**os.environ, **toolkit().environment()}
    subprocess.run(["nvcc", *options, "-o", path, source], env=environment, check=True)
    return path


def test_nvcc_makes_fat_binaries(fat_binary: Path) -> None:
    images = read_fat_binary(fat_binary.read_bytes())
    assert [(str(image), image.kernel_names, image.kernels[0].shared_bytes) for image in images] == [
        ("sm_80", ("scale",), 128),
        ("PTX compute_90", ("scale",), None),
    ]


@pytest.mark.parametrize(("arch", "code"), [("8.0", 0), ("8.6", 0), ("9.0", 0), ("12.0", 0), ("7.5", 209)])
def test_devices_run_what_is_for_them(fat_binary: Path, arch: str, code: int) -> None:
    script = "import ctypes, sys; print(ctypes.CDLL('libcuda.so.1').cuModuleLoadData(ctypes.byref(ctypes.c_void_p()), open(sys.argv[1], 'rb').read()))"
    assert emulated(script, str(fat_binary), arch=arch).stdout == f"{code}\n"


@pytest.mark.parametrize("schedule", ["lazy", "ahead", "eager"])
def test_streams_do_their_work_when_cuda_may(schedule: str) -> None:
    done = emulated(_CUDART + _STREAMS, streams=schedule)
    assert done.returncode == 0, done.stderr
    lazy, ahead = schedule == "lazy", schedule == "ahead"
    old_if_lazy = "old!" if lazy else "new!"
    assert json.loads(done.stdout) == {
        "read before it is waited for": "new!" if schedule == "eager" else "\xff" * 4,
        "read afterwards": "new!",
        "another stream that does not wait": old_if_lazy,
        "another stream that waits": "new!",
        "overwritten by the default stream meanwhile": "new!" if ahead else "old!",
        "default stream after a stream, blocking False": old_if_lazy,
        "default stream after a stream, blocking True": "new!",
        "stream after the default stream, blocking False": old_if_lazy,
        "stream after the default stream, blocking True": "new!",
        "pageable memory, both ways": "new!",
        "a buffer that was freed": "new!",
    }


def test_device_memory_ends_where_the_environment_says() -> None:
    script = """
def malloc(size):
    place = c_void_p()
    return cudart.cudaMalloc(byref(place), c_size_t(size)), place
def memory():
    free, total = c_size_t(), c_size_t()
    call("cudaMemGetInfo", byref(free), byref(total))
    return [free.value, total.value]
first, place = malloc(600000)
print(json.dumps([first, malloc(600000)[0], memory(), cudart.cudaFree(place), malloc(600000)[0], cudart.cudaFree(c_void_p(1 << 20))]))
"""
    assert json.loads(emulated(_CUDART + script, memory=1 << 20).stdout) == [0, 2, [448576, 1048576], 0, 0, 1]


def test_there_may_be_no_device() -> None:
    script = "count = ctypes.c_int(7)\nprint(cudart.cudaGetDeviceCount(byref(count)), count.value, ctypes.CDLL('libcuda.so.1').cuInit(0))"
    assert emulated(_CUDART + script, devices=0).stdout == "100 0 100\n"


def test_tvms_cuda_runtime_works_on_it(fat_binary: Path) -> None:
    script = """
import ctypes, json, sys
import numpy as np
import tvm, tvm_ffi
device = tvm.cuda(0)
print(device.exist, device.device_name, device.compute_version, device.warp_size)
kernel = {"name": "", "arg_types": ["handle", "handle", "int64", "float32"], "launch_param_tags": ["blockIdx.x", "threadIdx.x"]}
described = json.dumps({"tvm_version": tvm.__version__, "func_info": {"scale": kernel}})
functions = tvm_ffi.get_global_func("runtime.LoadMetaDataFromJSON")(described)
module = tvm_ffi.get_global_func("ffi.Module.create.cuda")(open(sys.argv[1], "rb").read(), "fatbin", functions, {})
x, out = (tvm.runtime.tensor(np.arange(100, dtype=np.float32) * scale, device=device) for scale in (1, 0))
scale = module["scale"]
pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (x, out)]
scale(*pointers, 100, 3.0, 4, 32)
print((out.numpy() == np.arange(100, dtype=np.float32) * 3).all())
scale(*pointers, 101, 3.0, 4, 32)
try:
    out.numpy()
except Exception as error:
    print(str(error).strip().splitlines()[-1])
"""
    done = emulated(script, str(fat_binary), arch="8.6")
    assert done.stdout.splitlines()[:2] == ["True emulated CUDA device 8.6 32", "True"], done.stderr
    assert "cudaErrorIllegalAddress (700)" in done.stdout.splitlines()[2]
    assert done.stderr.startswith("CUDA emulator: kernel scale, block (3,0,0), thread (4,0,0): line 8: invalid read at 0x")
    assert done.stderr.endswith("0 bytes beyond the end of argument 0 (x), device buffer 0 (400 bytes)\n")


def test_a_models_kernels_are_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again for other architectures, other kernels and another compiler."""
    from aprgraph.codegen.cuda import library
    from aprgraph.codegen.cuda.architectures import parse_architectures
    from tests.support.kernels import f32, request

    add, mul = (request(op, [f32("n", 8), f32("n", 8)]) for op in ("add", "mul"))
    for name, value in (toolkit().environment() | {"APRGRAPH_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("APRGRAPH_CACHE_SIZE", raising=False)  # which `make test-cold` sets
    compiled = []
    compile_fat_binary = library.compile_fat_binary

    def compile_it(source: str, architectures: Any) -> bytes:
        compiled.append([str(architecture) for architecture in architectures])
        return compile_fat_binary(source, architectures)

    monkeypatch.setattr(library, "compile_fat_binary", compile_it)

    def build(name: str, requests: list[Any], architectures: list[str]) -> tuple[str, bytes, bytes]:
        shared, binary = tmp_path / f"{name}.so", tmp_path / f"{name}.fatbin"
        functions = library.build_cuda_library({each.symbol: each for each in requests}, parse_architectures(architectures), shared, binary)
        return functions, shared.read_bytes(), binary.read_bytes()

    cold = build("cold", [add], ["sm_80"])
    assert build("warm", [add], ["sm_80"]) == cold
    assert compiled == [["sm_80"]]
    build("architecture", [add], ["sm_90"])
    build("kernels", [add, mul], ["sm_80"])
    monkeypatch.setattr(compiler.Nvcc, "identity", "another nvcc")
    build("compiler", [add], ["sm_80"])
    assert compiled == [["sm_80"], ["sm_90"], ["sm_80"], ["sm_80"]]
    (path, *_) = (tmp_path / "cache/kernels").glob("1-kernels.sm_90.*.cuda")
    path.write_bytes(path.read_bytes()[:-1])
    build("damaged", [add], ["sm_90"])
    assert len(compiled) == 5
