"""Checks of what a run is given."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from aprgraph.graph.errors import TokenError, shown
from aprgraph.graph.model import Model


def parse_tokens(text: str) -> list[int]:
    """Parse ``--tokens 1,2,3``. Raises TokenError."""
    parts = [part.strip() for part in text.split(",")]
    if any(not (part.isascii() and part.isdigit()) or len(part) > 12 for part in parts):
        raise TokenError(f"--tokens {text!r}: expected token ids separated by commas, such as 1,2,3")
    return [int(part) for part in parts]


def check_tokens(tokens: Sequence[int], model: Model) -> tuple[int, ...]:
    """The tokens as Python's integers.

    Raises TokenError unless there are some, all inside the vocabulary, and no more than the model's context holds.
    """
    try:
        ids = tuple(operator.index(token) for token in tokens)
    except TypeError:
        raise TokenError(f"tokens {shown(tokens)}: expected a list of token ids, which are whole numbers") from None
    if not ids:
        raise TokenError("no tokens to run: the prompt is empty; give --prompt TEXT or --tokens 1,2,3")
    for position, token in enumerate(ids):
        if not 0 <= token < model.vocabulary:
            raise TokenError(
                f"token {token} at position {position} is outside the vocabulary of {model.path}, expected 0 to {model.vocabulary - 1}"
            )
    if len(ids) > model.hyperparameters.context:
        raise TokenError(f"{len(ids)} tokens, but {model.path} has a context of {model.hyperparameters.context}; shorten the prompt")
    return ids
