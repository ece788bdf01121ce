"""Writes the token id files: the ids that llama.cpp gives to the prompts of token_prompts.py.

    python make_token_ids.py SmolLM2-135M-Instruct.Q4_1.gguf gemma-3-270m-q4_k_m.gguf

Needs llama-cpp-python and gguf; versions and date are in README.md.
smollm2_token_ids.json, gemma3_token_ids.json: prompts, their ids, and the tokens that end a generation.
pre_tokenizer_ids.json: SmolLM2's vocabulary under other pre-tokenizers, by llama.cpp's override of `tokenizer.ggml.pre`.
byte_pair.gguf, byte_pair_ids.json: a vocabulary with merges across all kinds of characters, so that splits show, and with "hell",
which no merge makes; llama.cpp's ids under it by each name of a pre-tokenizer that aprgraph knows. Of names that give the same
ids the first has them, and the others its name.
sentence_piece.gguf, sentence_piece_ids.json: a small SentencePiece vocabulary made here, of substrings of the prompts with
random scores among which there are ties, and llama.cpp's ids under it.
phi3.gguf, phi3_ids.json: the same for a model called Phi-3, whose special tokens llama.cpp lets strip the white space after
them.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from token_prompts import BYTE_PAIR_PROMPTS, PHI3_PROMPTS, PROMPTS

HERE = Path(__file__).parent
#: One name per set of patterns, as far as SmolLM2's vocabulary tells them apart.
PRE_TOKENIZERS = ("default", "gpt-2", "llama-bpe", "dbrx", "qwen2", "falcon", "deepseek-coder", "deepseek-v3", "tekken")
NAMES = (
    *PRE_TOKENIZERS, "smollm", "glm4", "deepseek-llm", "gpt-4o", "qwen35", "superbpe", "bloom", "viking", "seed-coder", "minicpm5",
    "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat", "granite-docling", "mellum", "a.x-4.0", "starcoder",
    "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral",
    "midm-2.0", "lfm2", "smaug-bpe", "chatglm-bpe", "glm5", "deepseek-r1-qwen", "kormo", "stablelm2", "megrez", "hunyuan", "solar-open",
    "grok-2", "bailingmoe", "bailingmoe2", "llada-moe", "hunyuan-dense", "joyai-llm", "hy_v4", "llama4", "kanana2", "talkie", "minimax-m2",
    "poro-chat", "gpt3-finnish", "kimi-k2",
)  # fmt: skip
_OVERRIDE_TEXT = 3


class Vocabulary:
    """A model's vocabulary in llama.cpp, opened without its tensors."""

    def __init__(self, path: Path, pre: str | None = None) -> None:
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        if pre is not None:
            self.overrides = (llama_cpp.llama_model_kv_override * 2)()
            self.overrides[0].tag = _OVERRIDE_TEXT
            self.overrides[0].key = b"tokenizer.ggml.pre"
            self.overrides[0].value.val_str = pre.encode()
            params.kv_overrides = self.overrides
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path} (pre-tokenizer {pre})")
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def encode(self, text: str) -> list[int]:
        """Ids with add_special (BOS if the model asks) and parse_special (special tokens in the text)."""
        raw = text.encode()
        ids = (llama_cpp.llama_token * (2 * len(raw) + 16))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), ids, len(ids), True, True)
        return list(ids[:count])

    def end_tokens(self) -> list[int]:
        """The tokens that llama.cpp stops at."""
        count = llama_cpp.llama_vocab_n_tokens(self.vocabulary)
        return [token for token in range(count) if llama_cpp.llama_vocab_is_eog(self.vocabulary, token)]

    def close(self) -> None:
        """Free the model."""
        llama_cpp.llama_model_free(self.model)


def byte_alphabet() -> list[str]:
    """GPT-2's letters for the 256 bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def write_byte_pair(path: Path) -> None:
    """All bytes, merges of the pairs that the prompts have, in random order, and a BOS that the file does not ask for."""
    alphabet = byte_alphabet()
    spelled = ["".join(alphabet[byte] for byte in prompt.encode()) for prompt in PROMPTS]
    pairs = sorted({text[start : start + 2] for text in spelled for start in range(len(text) - 1)} - {"he", "ll"})
    np.random.default_rng(19).shuffle(pairs)
    tokens = [*alphabet, "he", "hell", *pairs, "<s>"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["h e", *(f"{first} {second}" for first, second in pairs)])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    write_header(writer)


def write_header(writer: gguf.GGUFWriter) -> None:
    """Write a file without tensors."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sentence_piece(path: Path, name: str | None = None, controls: Sequence[str] = ()) -> None:
    """A vocabulary of SentencePiece's kind, with special tokens, all bytes, and 600 pieces."""
    counts: Counter[str] = Counter()
    characters: set[str] = set()
    for prompt in PROMPTS:
        text = "▁" + prompt.replace(" ", "▁")
        characters |= {character for character in text if character.isascii() or character == "▁" or character.isalpha()}
        counts.update(text[start : start + length] for length in range(2, 8) for start in range(len(text) - length + 1))
    characters = {character for character in characters if character.isprintable()}
    pieces = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if piece.isprintable()][:600]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *sorted(characters), "[INST]", *controls]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) + len(characters)), 4, *[3] * len(controls)]
    random = np.random.default_rng(17)
    scores = [0.0] * 259 + [-float(score) for score in random.integers(1, 200, len(pieces))]
    scores += [-1000.0] * (len(texts) - len(scores))
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if name is not None:
        writer.add_name(name)
    write_header(writer)


def rows(items: list[str]) -> str:
    """A JSON list with one item per line, so that a change shows as a line."""
    return "[\n" + ",\n".join(items) + "\n]"


def write_model_ids(model: Path, name: str) -> None:
    """The ids of a real model and the tokens that it stops at."""
    vocabulary = Vocabulary(model)
    pairs = [json.dumps({"text": text, "ids": vocabulary.encode(text)}) for text in PROMPTS]
    (HERE / name).write_text(f'{{"end_tokens": {vocabulary.end_tokens()},\n"prompts": {rows(pairs)}}}\n')
    vocabulary.close()


def write_byte_pair_ids() -> None:
    """The ids of all names under byte_pair.gguf."""
    path = HERE / "byte_pair.gguf"
    write_byte_pair(path)
    written: dict[str, list[list[int]]] = {}
    lines = []
    for name in NAMES:
        vocabulary = Vocabulary(path, name)
        ids = [vocabulary.encode(text) for text in BYTE_PAIR_PROMPTS]
        vocabulary.close()
        same = next((other for other, others in written.items() if others == ids), None)
        written.setdefault(same or name, ids)
        lines.append(f"{json.dumps(name)}: " + (rows([json.dumps(row) for row in ids]) if same is None else json.dumps(same)))
    (HERE / "byte_pair_ids.json").write_text("{" + ",\n".join(lines) + "}\n")


def main() -> None:
    """Write the files."""
    quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(quiet, None)
    smollm2, gemma3 = map(Path, sys.argv[1:])
    write_model_ids(smollm2, "smollm2_token_ids.json")
    write_model_ids(gemma3, "gemma3_token_ids.json")
    others = []
    for pre in PRE_TOKENIZERS:
        vocabulary = Vocabulary(smollm2, pre)
        others.append(f"{json.dumps(pre)}: " + rows([json.dumps(vocabulary.encode(text)) for text in PROMPTS]))
        vocabulary.close()
    (HERE / "pre_tokenizer_ids.json").write_text("{" + ",\n".join(others) + "}\n")
    write_byte_pair_ids()
    write_sentence_piece(HERE / "sentence_piece.gguf")
    write_sentence_piece(HERE / "phi3.gguf", "Phi-3 mini", ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"))
    for name, texts in (("sentence_piece", PROMPTS), ("phi3", PHI3_PROMPTS)):
        pieces = Vocabulary(HERE / f"{name}.gguf")
        (HERE / f"{name}_ids.json").write_text(rows([json.dumps(pieces.encode(text)) for text in texts]) + "\n")
        pieces.close()


if __name__ == "__main__":
    main()
