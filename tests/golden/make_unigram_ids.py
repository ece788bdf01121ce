"""Writes unigram.gguf and unigram_ids.json: a small unigram vocabulary with a map of characters, and llama.cpp's ids under it.

    python -m tests.golden.make_unigram_ids

in the repository's root. sentencepiece trains on token_prompts.py and compiles the map; tokens stand where XLM-RoBERTa has them, as
llama.cpp's converter writes them. Each line holds a prompt, and its ids by how the file says that spaces are treated
(``add_space_prefix``, ``remove_extra_whitespaces``). Needs llama-cpp-python, gguf and sentencepiece; versions and date are in README.md.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import gguf
import llama_cpp
import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from tests.golden.token_prompts import PROMPTS, UNIGRAM_PROMPTS

HERE = Path(__file__).parent
#: What the map replaces: ligatures, wide letters, a letter and its accent together, blanks; characters that vanish; one that becomes three.
_RULES = {
    "\ufb01": "fi", "\ufb02": "fl", "\uff0c": ",", "\uff01": "!", "\u2026": "...", "\u00bd": "1/2", "\u2167": "VIII", "e\u0301": "\u00e9",
    "n\u0303": "\u00f1", "\u00a0": " ", "\u3000": " ", "\u2003": " ", "\t": " ", "\n": " ", "\r": " ", "\u200b": "", "\ufeff": "", "\x01": "",
    "\U0001d54f": "X", "\u017f": "s", "\u20ac": "EUR", "\u2028": " ", "\u2028\u0085": "|",
}  # fmt: skip
_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_CONTROL, _UNKNOWN, _NORMAL, _USER_DEFINED, _UNUSED = 3, 2, 1, 4, 5
#: (add_space_prefix, remove_extra_whitespaces) of the variants.
VARIANTS = ((True, True), (True, False), (False, False), (False, True))


def train() -> sentencepiece_model_pb2.ModelProto:
    """A model of every second prompt and of no bytes: characters that it has not are unknown."""
    rules = HERE / "rules.tsv"
    rules.write_text(
        "".join(f"{' '.join(f'{ord(one):X}' for one in text)}\t{' '.join(f'{ord(one):X}' for one in to)}\n" for text, to in _RULES.items()),
        encoding="utf-8",
    )
    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in PROMPTS[::2] for _ in range(3)]), model_writer=found, model_type="unigram", vocab_size=420,
        character_coverage=0.98, normalization_rule_tsv=str(rules), hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    rules.unlink()
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(found.getvalue())
    return model


def write_vocabulary(path: Path) -> None:
    """The tokens behind XLM-RoBERTa's four, one that a user has defined, two unused ones and a mask."""
    model = train()
    pieces = [(piece.piece, piece.score, _NORMAL) for piece in model.pieces[3:]]
    entries = [(text, 0.0, _UNKNOWN if text == "<unk>" else _CONTROL) for text in _SPECIAL]
    entries += [
        *pieces,
        ("[PAD0]", -10000.0, _UNUSED),
        ("qz", -10000.0, _UNUSED),
        ("<tag/>", -1000.0, _USER_DEFINED),
        ("<mask>", 0.0, _CONTROL),
    ]
    texts, scores, kinds = zip(*entries, strict=True)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(False)
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(list(texts))
    writer.add_token_scores(list(scores))
    writer.add_token_types(list(kinds))
    writer.add_add_space_prefix(True)
    writer.add_token_type_count(1)
    writer.add_remove_extra_whitespaces(True)
    writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_sep_token_id(2)
    writer.add_pad_token_id(1)
    writer.add_mask_token_id(len(texts) - 1)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def override(key: str, value: bool) -> llama_cpp.llama_model_kv_override:
    """A key's value in place of the file's."""
    entry = llama_cpp.llama_model_kv_override()
    entry.tag, entry.key = llama_cpp.LLAMA_KV_OVERRIDE_TYPE_BOOL, key.encode()
    entry.value.val_bool = value
    return entry


def ids_of(path: Path, *, prefix: bool, merge: bool) -> list[list[int]]:
    """llama.cpp's ids of the prompts."""
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    keys = {"tokenizer.ggml.add_space_prefix": prefix, "tokenizer.ggml.remove_extra_whitespaces": merge}
    overrides = (llama_cpp.llama_model_kv_override * 3)(*(override(key, value) for key, value in keys.items()))
    parameters.kv_overrides = overrides
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"{path}: llama.cpp cannot load it"
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    found = []
    for prompt in UNIGRAM_PROMPTS:
        raw = prompt.encode()
        ids = (llama_cpp.llama_token * (2 * len(raw) + 16))()
        count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), True, True)
        found.append(list(ids[:count]))
    llama_cpp.llama_model_free(model)
    return found


def main() -> None:
    """Write both files."""
    silent = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(silent, None)
    llama_cpp.llama_backend_init()
    path = HERE / "unigram.gguf"
    write_vocabulary(path)
    variants = [ids_of(path, prefix=prefix, merge=merge) for prefix, merge in VARIANTS]
    lines = [json.dumps([prompt, *ids]) for prompt, *ids in zip(UNIGRAM_PROMPTS, *variants, strict=True)]
    (HERE / "unigram_ids.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
