"""The prompts of the token id files: what tokenizers are known to disagree about."""

from __future__ import annotations

PROMPTS: tuple[str, ...] = (
    # plain text, contractions, punctuation
    "",
    "What is 2+2?",
    "Hello, world!",
    "hello",
    " hello",
    "The quick brown fox jumps over the lazy dog.",
    "I'm sure they've said we'll go; she'd know it's Bob's, can't you're.",
    "I'M SURE THEY'VE SAID WE'LL GO; SHE'D KNOW IT'S BOB'S",
    "It's 'quoted' and \"double quoted\", isn't it? 'tis 'Re 'lL",
    "e.g. i.e. U.S.A. Dr. No... wait --- what?! (really) [yes] {ok} <tag/>",
    "$100 + 50% = ^~|`a=b<c>d `code` |x| a^b ~c",
    "email@example.com https://example.com/a/b?c=d&e=f#g",
    # numbers
    "1", "12", "123", "1234", "12345678901234567890",
    "3.14159 1,000,000 0x1F 1e-9 2024-02-29T12:34:56Z",
    "a1b22c333 room404 v2.0.1",
    "\u0663\u0664\u0665 \u09e7\u09e8\u09e9 \u00bd \u2167 \u00b2 \u2460",
    # whitespace
    " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ",
    "a  b   c    d",
    "a\nb\n\nc\n\n\nd",
    "tabs\tand\t\ttabs",
    "trailing spaces   ",
    "   leading spaces",
    "line one\r\nline two\r\n\r\nline three",
    "  \n  \n\t\n  indented\n",
    "no\u00a0break\u2003em\u3000ideographic\u200bzero\u2028separator\u0085next",
    # code
    "def f(x: int) -> int:\n    return x ** 2  # square\n\nprint(f(3))\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i] * b[i];\n}\n",
    '<div class="a">&nbsp;</div>\n<!-- comment -->',
    "SELECT * FROM t WHERE id != 10 AND name LIKE '%x%';",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
    "#include <stdio.h>\n#define MAX(a,b) ((a)>(b)?(a):(b))",
    "if __name__ == '__main__':\r\n\tsys.exit(main())",
    # languages and scripts
    "Le c\u0153ur d\u00e9\u00e7u mais l'\u00e2me plut\u00f4t na\u00efve",
    "Die Stra\u00dfe f\u00fcr \u00c4pfel und \u00d6l",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u041a\u0430\u043a \u0434\u0435\u043b\u0430?",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c\u3002\u30ab\u30bf\u30ab\u30ca\u3068\u6f22\u5b57",
    "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "e\u0301 versus \u00e9, n\u0303 versus \u00f1, \u017ft and '\u017f",
    # emoji and rare code points
    "\U0001f600", "I \u2764\ufe0f \U0001f355\U0001f355!",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family, \U0001f1eb\U0001f1f7 flag, \U0001f44d\U0001f3fd thumb",
    "\U0001d54f \u2211\u222b\u221e \u2260 \u2264 \u03b1\u03b2\u03b3 \u2192 \u20ac\u00a3\u00a5",
    "\u0001\u0002\u0003\u0004\u0006\u0013\u0014\u0016\u001d\u007f",
    "ab\u0004cd th\u0006e \u0013\u0014",
    "\U000e0041\U0010ffff\ufffd\ufeff",
    # special tokens and what looks like them
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
    "<|endoftext|>",
    "text<|endoftext|>text <|endoftext|> text",
    "<|im_end|><|im_end|>",
    "<|im_start|", "<|im_start |>", "< |im_start|>", "|im_start|>",
    "<repo_name>a/b<file_sep>c.py\n<filename>d<gh_stars>10<issue_start><issue_comment>x<issue_closed>",
    "<reponame><jupyter_start><jupyter_text>t<jupyter_code>c<jupyter_output>o<jupyter_script><empty_output>",
    "<s>[INST] hi [/INST]</s>",
    "a<|im_start|>b<|im_start|>  c\n<|im_end|>\n\nd",
    # long runs
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "--------------------------------",
    "????!!!!....,,,,",
    "internationalization antidisestablishmentarianism",
    "                                        x",
)  # fmt: skip

#: For byte_pair.gguf: a token that no merge makes, and blanks before digits that are cut out first.
BYTE_PAIR_PROMPTS: tuple[str, ...] = (*PROMPTS, "hell", "a  12\n\n 345")

#: For phi3.gguf.
PHI3_PROMPTS: tuple[str, ...] = (*PROMPTS, "<|system|>\nBe brief.<|end|>\n<|user|>\n  What is 2+2? <|end|> \t<|assistant|>\n")

#: For unigram.gguf: a token that a user has defined, the mask, what the map replaces at both ends, and a token nobody uses.
UNIGRAM_PROMPTS: tuple[str, ...] = (
    *PROMPTS, "a <tag/> b<tag/>c", "the <mask> is </s> here", "\u2026\ufb01ne \u2167\u2026", "qz q zqz", "\u2028\u0085\u2028x", "\u200b \u200b", "\x00a\x00",
)  # fmt: skip
