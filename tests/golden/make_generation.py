"""Writes smollm2_generation.json: what llama.cpp answers in full precision to the chat "What is 2+2?".

    python make_generation.py SmolLM2-135M-Instruct.Q4_1.gguf

In full precision: on a copy of the file with all weights decoded to F32 and with an f32 KV cache, so that llama.cpp rounds no
activation to 8 bits. Greedy; the prompt is written out as SmolLM2's template has it. Also kept: by how much the best logit of
each step leads, and the best ids of the file as it is, whose matrix products llama.cpp does round.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

HERE = Path(__file__).parent
PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
)
TOKENS = 40


def write_f32(source: Path, target: Path) -> None:
    """A copy of a GGUF file with every tensor decoded."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            writer.add_key_value(field.name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def generate(path: Path) -> tuple[list[int], list[int], list[float]]:
    """The prompt's ids, those of the answer up to and with its end token, and each one's lead over the second best logit."""
    model = llama_cpp.Llama(str(path), n_ctx=256, type_k=0, type_v=0, flash_attn=False, logits_all=True, verbose=False)
    prompt = model.tokenize(PROMPT.encode(), add_bos=False, special=True)
    answer, leads, waiting = [], [], prompt
    for _ in range(TOKENS):
        model.eval(waiting)
        logits = np.array(model.scores[model.n_tokens - 1], np.float64)
        second, first = np.argsort(logits)[-2:]
        answer.append(int(first))
        leads.append(round(float(logits[first] - logits[second]), 4))
        if first == model.token_eos():
            break
        waiting = [int(first)]
    return prompt, answer, leads


def main() -> None:
    """Write the file."""
    source = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder, "f32.gguf")
        write_f32(source, whole)
        prompt, answer, leads = generate(whole)
    _, rounded, _ = generate(source)
    document = {"prompt": prompt, "generated": answer, "leads": leads, "generated_with_8_bit_activations": rounded}
    (HERE / "smollm2_generation.json").write_text(json.dumps(document) + "\n")
    print(document)


if __name__ == "__main__":
    main()
