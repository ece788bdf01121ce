"""Which tokens are matched whole in a prompt, and which end a text.

Files do not always mark these tokens, so llama.cpp also goes by their text; the lists of texts are facts from its
llama-vocab.cpp, as far as the supported model families go.
"""

from __future__ import annotations

from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.vocabulary import TokenKind, Vocabulary, read_token_id

#: Texts that end a turn or a document wherever they are in a vocabulary.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>",
    "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<｜end▁of▁sentence｜>",
})  # fmt: skip

#: Texts that end a completion when a model fills in code: padding, the next repository, the next file.
INFILL_END_TEXTS = {
    "fim_pad": frozenset({"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}),
    "fim_rep": frozenset({"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}),
    "fim_sep": frozenset({"<|file_sep|>"}),
}

#: Texts that frame the code to fill in.
INFILL_TEXTS = frozenset({
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
})  # fmt: skip

_MATCHED_KINDS = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)


def end_tokens(metadata: Metadata, vocabulary: Vocabulary) -> frozenset[int]:
    """The tokens after which a generation stops. Raises ModelError if the metadata names a token that does not exist."""
    ends = {vocabulary.ids[text] for text in END_TEXTS if text in vocabulary.ids}
    for name in ("eos", "eot", "eom"):
        token = read_token_id(metadata, name, len(vocabulary))
        if token is not None:
            ends.add(token)
    for name, texts in INFILL_END_TEXTS.items():
        token = read_token_id(metadata, name, len(vocabulary))
        ends.update([token] if token is not None else [vocabulary.ids[text] for text in texts if text in vocabulary.ids])
    return frozenset(ends)


def whole_tokens(vocabulary: Vocabulary, ends: frozenset[int]) -> dict[str, int]:
    """The tokens that are looked for in a prompt before anything else, longest first."""
    tokens = {token for token, kind in enumerate(vocabulary.kinds) if kind in _MATCHED_KINDS} | ends
    tokens |= {vocabulary.ids[text] for text in INFILL_TEXTS if text in vocabulary.ids}
    texts = sorted((vocabulary.texts[token] for token in tokens), key=lambda text: (-len(text.encode()), vocabulary.ids[text]))
    return {text: vocabulary.ids[text] for text in texts}
