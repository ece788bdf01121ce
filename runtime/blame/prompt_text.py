"""What a prompt says, by the tokenizer of the model that judges its runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.model import Model
from aprgraph.runtime.diff.prompt import Prompt
from aprgraph.runtime.tokenizer import load_tokenizer


def with_text(prompt: Prompt, model: Model, tokens: Sequence[int] | None) -> Prompt:
    """The prompt with the tokens that were given, where no manifest names any, and its text by the model's tokenizer, if it has one."""
    ids = prompt.tokens or tuple(tokens or ())
    try:
        text = load_tokenizer(model.metadata).decode(ids) if ids else None
    except AprgraphError:
        text = None
    return replace(prompt, tokens=ids, text=text)
