"""Which tokens are matched whole in a prompt, which end a text, and which are not shown.

Files do not always mark these tokens, so llama.cpp also goes by their text; the lists of texts and the exceptions are facts
from its llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer.vocabulary import TokenKind, Vocabulary, read_token_id

#: Texts that end a turn or a document wherever they are in a vocabulary.
END_TEXTS = frozenset({
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "<|endoftext|>", "</s>",
    "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    "<｜end▁of▁sentence｜>", "[e~[",
})  # fmt: skip

#: By metadata key, texts that frame the code to fill in, where the file does not set the key.
INFILL_TEXTS = {
    "fim_pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>"),
    "fim_suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>"),
    "fim_mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>"),
}

#: The same for texts that end a completion when a model fills in code: padding, the next repository, the next file.
INFILL_END_TEXTS = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

#: Where a vocabulary has one of each of these, "<|end|>" ends a message and not the turn.
_CALLS, _RETURNS = ("<|call|>", "<|calls|>"), ("<|return|>", "<|flush|>")

#: Special tokens of Phi 3 that keep the white space after them.
_PHI3_KEEPS_SPACE = frozenset({"<unk>", "<s>", "<|endoftext|>"})

_MATCHED_KINDS = (TokenKind.CONTROL, TokenKind.USER_DEFINED, TokenKind.UNKNOWN)


@dataclass(frozen=True)
class SpecialTokens:
    """``ends``: a generation stops after these. ``whole``: looked for in a prompt before anything else, longest first.

    ``hidden``: marks, not text, for a reader. ``strips``: white space after these in a prompt is dropped.
    """

    ends: frozenset[int]
    whole: dict[str, int]
    hidden: frozenset[int]
    strips: frozenset[int]


def read_special_tokens(metadata: Metadata, vocabulary: Vocabulary, default_eos: int | None) -> SpecialTokens:
    """The special tokens; ``default_eos`` holds where the metadata is silent.

    Raises ModelError if the metadata names a token that does not exist.
    """
    ids, count = vocabulary.ids, len(vocabulary)
    marks = {ids[text] for text in END_TEXTS if text in ids}
    ends = set(marks)
    for key, texts in (INFILL_TEXTS | INFILL_END_TEXTS).items():
        token = read_token_id(metadata, key, count)
        found = {ids[text] for text in texts if text in ids} if token is None else set()
        marks |= found
        if key in INFILL_END_TEXTS:
            ends |= found if token is None else {token}
    for key in ("eos", "eot", "eom"):
        token = read_token_id(metadata, key, count)
        if token is not None:
            ends.add(token)
        elif key == "eos" and default_eos is not None and default_eos < count:
            ends.add(default_eos)
    if any(text in ids for text in _CALLS) and any(text in ids for text in _RETURNS):
        ends.discard(ids.get("<|end|>", -1))
    kinds, texts_by_id, strip = vocabulary.kinds, vocabulary.texts, _is_phi3(metadata)
    whole = marks | {token for token, kind in enumerate(kinds) if kind in _MATCHED_KINDS}
    longest_first = sorted((texts_by_id[token] for token in whole), key=lambda text: (-len(text.encode()), ids[text]))
    return SpecialTokens(
        ends=frozenset(ends),
        whole={text: ids[text] for text in longest_first},
        hidden=frozenset(token for token in whole if token in marks or kinds[token] != TokenKind.USER_DEFINED),
        strips=frozenset(token for token in whole if strip and texts_by_id[token] not in _PHI3_KEEPS_SPACE),
    )


def _is_phi3(metadata: Metadata) -> bool:
    # GGUF has no key for what a token strips, so llama.cpp goes by the model's name.
    name = metadata.text("general.name", "").lower()
    return "phi-3" in name or "phi3" in name
