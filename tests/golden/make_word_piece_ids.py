"""Writes word_piece.gguf and word_piece_ids.json: a small WordPiece vocabulary, and llama.cpp's ids under it.

    python -m tests.golden.make_word_piece_ids

in the repository's root. The vocabulary is of substrings of the words of token_prompts.py, with few tokens of single characters, so that
some words are unknown. Needs llama-cpp-python and gguf; versions and date are in README.md.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path

import gguf
import llama_cpp

from tests.golden.token_prompts import PROMPTS

HERE = Path(__file__).parent
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_vocabulary(path: Path) -> None:
    """Whole words, their beginnings and what may follow, in small letters without marks."""
    counts: Counter[str] = Counter()
    for prompt in PROMPTS:
        plain = "".join(unicodedata.normalize("NFD", character)[0].lower()[0] for character in prompt)
        for word in "".join(character if character.isalnum() else f" {character} " for character in plain).split():
            if word.isprintable():
                counts["▁" + word[:6]] += 1
                counts.update(word[start : start + length] for length in (1, 2, 3) for start in range(1, len(word)))
                counts["▁" + word[0]] += 1
    tokens = [*_SPECIAL, *(text for text, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if text != "▁")][:900]
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(_SPECIAL) + [1] * (len(tokens) - len(_SPECIAL)))
    writer.add_token_type_count(2)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(1)
    writer.add_sep_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_mask_token_id(4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Write both files."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    path = HERE / "word_piece.gguf"
    write_vocabulary(path)
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"{path}: llama.cpp cannot load it"
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    lines = []
    for prompt in (*PROMPTS, "Hello [MASK], [CLS]world"):
        raw = prompt.encode()
        ids = (llama_cpp.llama_token * (2 * len(raw) + 16))()
        count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), True, True)
        lines.append(json.dumps([prompt, list(ids[:count])]))
    (HERE / "word_piece_ids.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
