"""How a text is split into words before byte-pair merging, by `tokenizer.ggml.pre`.

Each entry is a sequence of patterns in Oniguruma's syntax; a pattern splits every piece that the ones before it left, and
what it does not match stays a piece. The patterns are facts of the models, as llama.cpp records them in llama-vocab.cpp.
Only entries are here whose ids were compared with llama.cpp's (see tests/golden/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from aprgraph.graph.errors import UnsupportedModelError, shown
from aprgraph.graph.metadata import Metadata

PRE_KEY = "tokenizer.ggml.pre"


@dataclass(frozen=True)
class PreTokenizer:
    """``ignores_merges``: a word that is a token is that token, whatever the merges make of it.

    ``adds_bos``: texts begin with BOS where the metadata does not say.
    """

    patterns: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def _gpt4_words(digits: str) -> str:
    return _CONTRACTIONS + rf"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))
_GPT2 = PreTokenizer((_GPT2_WORDS,))
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, "[0-9][0-9][0-9]"))
_LLAMA3 = PreTokenizer((_gpt4_words(r"\p{N}{1,3}"),), ignores_merges=True, adds_bos=True)
_THREE_DIGITS = PreTokenizer((_gpt4_words(r"\p{N}{1,3}"),))
_QWEN2 = PreTokenizer((_gpt4_words(r"\p{N}"),))
_DEEPSEEK_CODER = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"))
_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK_V3 = PreTokenizer((
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    _ASCII_PUNCTUATION + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
))  # fmt: skip
# Upper and lower case as llama.cpp approximates them: outside A-Z and a-z a letter is both.
_TEKKEN_UPPER, _TEKKEN_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_TEKKEN_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}*{_TEKKEN_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_TEKKEN_UPPER}+{_TEKKEN_LOWER}*"
_TEKKEN = PreTokenizer((_TEKKEN_WORD + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",), ignores_merges=True, adds_bos=True)

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": _DEFAULT,
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat", "granite-docling"), _GPT2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), _SINGLE_DIGITS),
    "falcon": _FALCON,
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"), _LLAMA3),
    **dict.fromkeys(("dbrx", "smaug-bpe", "chatglm-bpe", "glm4"), _THREE_DIGITS),
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-v3": _DEEPSEEK_V3,
    "tekken": _TEKKEN,
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan"), _QWEN2),
}


def read_pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    """The pre-tokenizer that the metadata names, `default` if it names none. Raises UnsupportedModelError."""
    name = metadata.text(PRE_KEY, "default") or "default"
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{metadata.path}: {PRE_KEY} is {shown(name)}; supported: {', '.join(PRE_TOKENIZERS)}; "
            "give the prompt as token ids with --tokens"
        )
    return PRE_TOKENIZERS[name]
