"""Writes the token id files: the ids that llama.cpp gives to the prompts of token_prompts.py.

    python make_token_ids.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs llama-cpp-python and gguf; versions and date are in README.md.
smollm2_token_ids.json: prompts, their ids, and the tokens that end a generation.
pre_tokenizer_ids.json: the same vocabulary under other pre-tokenizers, by llama.cpp's override of `tokenizer.ggml.pre`; one
name for each set of patterns.
sentence_piece.gguf, sentence_piece_ids.json: a small SentencePiece vocabulary made here, of substrings of the prompts with
random scores among which there are ties, and llama.cpp's ids under it.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from token_prompts import PROMPTS

HERE = Path(__file__).parent
#: One name per set of patterns.
PRE_TOKENIZERS = ("default", "gpt-2", "llama-bpe", "dbrx", "qwen2", "falcon", "deepseek-coder", "deepseek-v3", "tekken")
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


def write_sentence_piece(path: Path) -> None:
    """A vocabulary of SentencePiece's kind, with special tokens, all bytes, and 600 pieces."""
    counts: Counter[str] = Counter()
    characters: set[str] = set()
    for prompt in PROMPTS:
        text = "▁" + prompt.replace(" ", "▁")
        characters |= {character for character in text if character.isascii() or character == "▁" or character.isalpha()}
        counts.update(text[start : start + length] for length in range(2, 8) for start in range(len(text) - length + 1))
    characters = {character for character in characters if character.isprintable()}
    pieces = [piece for piece, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if piece.isprintable()][:600]
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *sorted(characters), "[INST]"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * (len(pieces) + len(characters)), 4]
    random = np.random.default_rng(17)
    scores = [0.0] * 259 + [-float(score) for score in random.integers(1, 200, len(pieces))] + [-1000.0] * (len(characters) + 1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_scores(scores)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rows(items: list[str]) -> str:
    """A JSON list with one item per line, so that a change shows as a line."""
    return "[\n" + ",\n".join(items) + "\n]"


def main() -> None:
    """Write the files."""
    quiet = llama_cpp.llama_log_callback(lambda _level, _text, _data: None)
    llama_cpp.llama_log_set(quiet, None)
    model = Path(sys.argv[1])
    smollm = Vocabulary(model)
    ends = smollm.end_tokens()
    pairs = [json.dumps({"text": text, "ids": smollm.encode(text)}) for text in PROMPTS]
    smollm.close()
    (HERE / "smollm2_token_ids.json").write_text(f'{{"end_tokens": {ends},\n"prompts": {rows(pairs)}}}\n')
    others = []
    for pre in PRE_TOKENIZERS:
        vocabulary = Vocabulary(model, pre)
        others.append(f"{json.dumps(pre)}: " + rows([json.dumps(vocabulary.encode(text)) for text in PROMPTS]))
        vocabulary.close()
    (HERE / "pre_tokenizer_ids.json").write_text("{" + ",\n".join(others) + "}\n")
    write_sentence_piece(HERE / "sentence_piece.gguf")
    pieces = Vocabulary(HERE / "sentence_piece.gguf")
    (HERE / "sentence_piece_ids.json").write_text(rows([json.dumps(pieces.encode(text)) for text in PROMPTS]) + "\n")
    pieces.close()


if __name__ == "__main__":
    main()
