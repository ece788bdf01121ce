"""How a text is split into words before byte-pair merging, by `tokenizer.ggml.pre`.

Each entry is a sequence of patterns in Oniguruma's syntax; a pattern splits every piece that the ones before it left, and
what it does not match stays a piece. The patterns are facts of the models, as llama.cpp records them in llama-vocab.cpp.
Only entries are here whose ids were compared with llama.cpp's (see tests/golden/README.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from aprgraph.graph.arguments import TOKENS
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
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
#: llama.cpp takes every white space outside ASCII for an ordinary blank, so its ranges of characters do not match them.
_CJK = "(?:(?!\\s)[一-龥ࠀ-一가-퟿])+"
_ASCII_PUNCTUATION = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
#: Letters of the scripts that have case, without CJK.
_CASED = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
    "\U0001e900-\U0001e943]"
)
# Upper and lower case as llama.cpp approximates them: outside A-Z and a-z a letter is both.
_UPPER, _LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"


def _gpt4_words(digits: str) -> str:
    return _CONTRACTIONS + rf"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}"


def _cased_words(ending: str, digits: str) -> str:
    start = r"[^\r\n\p{L}\p{N}]?"
    return rf"{start}{_UPPER}*{_LOWER}+{ending}|{start}{_UPPER}+{_LOWER}*{ending}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_REST}"


_DEFAULT = PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))
_GPT2 = PreTokenizer((_GPT2_WORDS,))
_SINGLE_DIGITS = PreTokenizer((r"\p{N}", _GPT2_WORDS))
_FALCON = PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2_WORDS, "[0-9][0-9][0-9]"))
_LLAMA3 = PreTokenizer((_gpt4_words(r"\p{N}{1,3}"),), ignores_merges=True, adds_bos=True)
_THREE_DIGITS = PreTokenizer((_gpt4_words(r"\p{N}{1,3}"),))
_GLM4 = PreTokenizer((_gpt4_words(r"\p{N}{1,3}"),), ignores_merges=True)
_QWEN2 = PreTokenizer((_gpt4_words(r"\p{N}"),))
# As Qwen 2, but accents belong to the word of their letter.
_QWEN35 = PreTokenizer((
    _CONTRACTIONS + rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_REST}",
))  # fmt: skip
_MINICPM5 = PreTokenizer((r"\p{N}{1,3}", _gpt4_words(r"\p{N}+")), ignores_merges=True)
_SEED_CODER = PreTokenizer((_CONTRACTIONS + rf"|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_REST}",))
_DEEPSEEK_LLM = PreTokenizer((
    r"[\r\n]", rf"\s?{_CASED}+", r"\s?(?:(?!\s)[!-/:-~！-／：-～‘-‟　-。])+", r"\s+\z", _CJK, r"\p{N}+",
))  # fmt: skip
_DEEPSEEK_CODER = PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"))
_DEEPSEEK_V3 = PreTokenizer((
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    _ASCII_PUNCTUATION + rf"[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_REST}",
))  # fmt: skip
# Chinese characters by themselves. A word does not end where case changes, as it does in the model's own pattern: llama.cpp
# leaves that out.
_HAN = r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}]"
_KIMI_K2 = PreTokenizer((
    rf"{_HAN}+|[^\r\n\p{{L}}\p{{N}}]?(?:(?!{_HAN})\p{{L}})+{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_REST}",
))  # fmt: skip
_TEKKEN = PreTokenizer((_cased_words("", r"\p{N}"),), ignores_merges=True, adds_bos=True)
_GPT4O = PreTokenizer((_cased_words(f"{_CONTRACTIONS}?", r"\p{N}{1,3}"),))
# Groups of three digits, counted from the end of the number.
_SUPERBPE = PreTokenizer((r"\p{N}+", "(?=([0-9]{3})+(?![0-9]))"))
_BLOOM_WORDS = r" ?[^(\s|.,!?…。，、।۔،)]+"
_BLOOM = PreTokenizer((_BLOOM_WORDS,))
_VIKING = PreTokenizer((_BLOOM_WORDS, r"\p{N}"))

_NAMES: dict[PreTokenizer, str] = {
    _DEFAULT: "default",
    _GPT2: "gpt-2 phi-2 mpt olmo jais trillion exaone4 gigachat granite-docling mellum a.x-4.0",
    _SINGLE_DIGITS: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2",
    _FALCON: "falcon",
    _LLAMA3: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    _THREE_DIGITS: "dbrx smaug-bpe chatglm-bpe",
    _GLM4: "glm4 glm5",
    _QWEN2: "qwen2 deepseek-r1-qwen kormo stablelm2 megrez hunyuan solar-open grok-2 bailingmoe bailingmoe2 llada-moe",
    _QWEN35: "qwen35",
    _MINICPM5: "minicpm5",
    _SEED_CODER: "seed-coder",
    _DEEPSEEK_LLM: "deepseek-llm",
    _DEEPSEEK_CODER: "deepseek-coder",
    _DEEPSEEK_V3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    _KIMI_K2: "kimi-k2",
    _TEKKEN: "tekken",
    _GPT4O: "gpt-4o llama4 kanana2 talkie minimax-m2",
    _SUPERBPE: "superbpe",
    _BLOOM: "bloom poro-chat gpt3-finnish",
    _VIKING: "viking",
}

#: By the value of ``tokenizer.ggml.pre``.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {name: entry for entry, names in _NAMES.items() for name in names.split()}


def read_pre_tokenizer(metadata: Metadata) -> PreTokenizer:
    """The pre-tokenizer that the metadata names, `default` if it names none. Raises UnsupportedModelError."""
    name = metadata.text(PRE_KEY, "default") or "default"
    if name not in PRE_TOKENIZERS:
        raise UnsupportedModelError(
            f"{metadata.path}: {PRE_KEY} is {shown(name)}; supported: {', '.join(PRE_TOKENIZERS)}; give the prompt as token ids with ",
            TOKENS,
        )
    return PRE_TOKENIZERS[name]
