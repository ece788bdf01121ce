"""Token ids to text while they come, one at a time."""

from __future__ import annotations

import codecs

from aprgraph.runtime.tokenizer.tokenizer import Tokenizer


class TokenStream:
    """The text of tokens as soon as it is whole characters.

    What ``feed`` and ``finish`` return, put together, is ``Tokenizer.decode`` of the tokens without the hidden ones (control
    tokens such as the end of a turn); with ``after``, what decoding them adds to the text of the tokens before them.
    """

    def __init__(self, tokenizer: Tokenizer, after: int | None = None) -> None:
        """``after`` is the token before the first, the prompt's last; None at the start of a text. Raises TokenError."""
        self._tokenizer = tokenizer
        self._after_special = after is None or tokenizer.is_special(after)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """The text that ``token`` completes; empty inside a character. Raises TokenError for an id outside the vocabulary."""
        piece = self._tokenizer.piece(token, after_special=self._after_special)
        if self._tokenizer.is_hidden(token):
            return ""
        self._after_special = self._tokenizer.is_special(token)
        return self._decoder.decode(piece)

    def finish(self) -> str:
        """What is left: U+FFFD where the last character is not whole. The stream then stands at the start of a text."""
        self._after_special = True
        return self._decoder.decode(b"", final=True)
