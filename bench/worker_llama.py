"""One side of bench/prefill.py and bench/decode.py: llama.cpp through llama-cpp-python. JSON lines in, answers with seconds out."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import llama_cpp
from dump_folders import DumpFolders
from llama_cpp import llama_cpp as low


def dumper(scratch: Path) -> ctypes.CDLL:
    """The compiled callback, linked against the libggml-base that llama-cpp-python loads."""
    library = Path(llama_cpp.__file__).parent / "lib"
    out = scratch / "libllama_nodes.so"
    source = Path(__file__).with_name("llama_nodes.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", out, source, f"-L{library}", "-lggml-base", f"-Wl,-rpath,{library}"], check=True)
    return ctypes.CDLL(str(out))


class Context:
    """A context of one batch size, with or without the callback."""

    def __init__(self, model: ctypes.c_void_p, tokens: int, threads: int, callback: object | None, *, fused: bool) -> None:
        parameters = low.llama_context_default_params()
        parameters.n_ctx = max(256, tokens)
        parameters.n_batch = parameters.n_ubatch = max(256, tokens)
        parameters.n_threads = parameters.n_threads_batch = threads
        if not fused:
            parameters.flash_attn_type = low.LLAMA_FLASH_ATTN_TYPE_DISABLED
        if callback is not None:
            parameters.cb_eval = callback
        self.handle = low.llama_init_from_model(model, parameters)

    def prefill(self, tokens: list[int]) -> float:
        self.clear()
        return self.decode(tokens)

    def clear(self) -> None:
        low.llama_memory_clear(low.llama_get_memory(self.handle), True)

    def decode(self, tokens: list[int]) -> float:
        array = (low.llama_token * len(tokens))(*tokens)
        batch = low.llama_batch_get_one(array, len(tokens))  # logits of the last position alone
        start = time.perf_counter()
        code = low.llama_decode(self.handle, batch)
        low.llama_synchronize(self.handle)
        seconds = time.perf_counter() - start
        if code:
            raise RuntimeError(f"llama_decode: {code}")
        return seconds


def decode(context: Context, tokens: list[int], count: int) -> dict[str, list[float]]:
    """Seconds of each token after ``tokens``, and those of processors; the first two are left out."""
    context.prefill(tokens)
    found: dict[str, list[float]] = {"seconds": [], "processors": []}
    for index in range(count):
        before = time.process_time()
        found["seconds"].append(context.decode([200 + index]))
        found["processors"].append(time.process_time() - before)
    return {name: values[2:] for name, values in found.items()}


def _version() -> str:
    return f"{low.llama_version().decode()} (llama-cpp-python {llama_cpp.__version__})"


def main() -> None:
    model_path, threads, fused = sys.argv[1], int(sys.argv[2]), "unfused" not in sys.argv[4:]
    quiet = low.llama_log_callback(lambda *_: None)
    low.llama_log_set(quiet, None)
    low.llama_backend_init()
    model = low.llama_model_load_from_file(model_path.encode(), low.llama_model_default_params())
    scratch = Path(tempfile.mkdtemp(prefix="bench-", dir=sys.argv[3]))
    library: ctypes.CDLL | None = None  # which tokens alone do not need
    contexts: dict[tuple[int, bool], Context] = {}
    folders = DumpFolders(scratch)
    size: dict[tuple[int, bool], int] = {}  # of a dump, as it was the last time
    print(json.dumps({"name": "llama.cpp", "system": low.llama_print_system_info().decode(), "version": _version()}), flush=True)
    try:
        for line in sys.stdin:
            request = json.loads(line)
            if "decode" in request:
                key = (0, False)
                if key not in contexts:
                    contexts[key] = Context(model, 256, threads, None, fused=fused)
                print(json.dumps(decode(contexts[key], request["tokens"], request["decode"])), flush=True)
                continue
            tokens, dump = request["tokens"], request["dump"]
            if library is None:
                library = dumper(scratch)
                callback = ctypes.cast(library.dump_node, low.ggml_backend_sched_eval_callback)
                library.dump_bytes.restype = ctypes.c_size_t
            key = (len(tokens), dump)
            if key not in contexts:
                contexts[key] = Context(model, len(tokens), threads, callback if dump else None, fused=fused)
            directory = folders.new(size.get(key, 0))
            directory.mkdir()
            library.dump_begin(os.fsencode(directory))
            seconds = contexts[key].prefill(tokens)
            size[key] = library.dump_bytes()
            print(json.dumps({"seconds": seconds, "files": library.dump_files(), "bytes": size[key]}), flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
