"""The text of a generation, printed as it comes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

import typer

from aprgraph.cli.leaving import line_begun
from aprgraph.graph.errors import AprgraphError, TokenError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.tokenizer import Tokenizer, load_tokenizer
from aprgraph.runtime.tokenizer.stream import TokenStream


class GeneratedText:
    """Prints to standard output unless ``quiet``. Tokens of a tokenizer that is not known here are printed as ids."""

    def __init__(self, metadata: Metadata, prompt: Sequence[int], *, quiet: bool) -> None:
        self._metadata, self._prompt, self._quiet = metadata, prompt, quiet
        self._stream: TokenStream | None = None
        self._parts: list[str] = []
        self._started = False
        self._line = ExitStack()

    @property
    def text(self) -> str:
        """What has come so far."""
        return "".join(self._parts)

    def add(self, token: int) -> None:
        """A token was chosen."""
        if not self._started:
            self._started = True
            if not self._quiet and sys.stdout.isatty():
                self._line.enter_context(line_begun())
            tokenizer = self._load()
            self._stream = TokenStream(tokenizer, after=self._prompt[-1]) if tokenizer is not None else None
        try:
            self._put(f"{token} " if self._stream is None else self._stream.feed(token))
        except TokenError:  # a row of a padded embedding table, which no text stands for
            self._put(f"[token {token}]")

    def finish(self) -> None:
        """No more tokens come."""
        if self._stream is not None:
            self._put(self._stream.finish())
        if self._started and not self._quiet:
            typer.echo()
        self._line.close()

    def _load(self) -> Tokenizer | None:
        try:
            return load_tokenizer(self._metadata)
        except AprgraphError:
            return None

    def _put(self, text: str) -> None:
        self._parts.append(text)
        if text and not self._quiet:
            typer.echo(text, nl=False)
