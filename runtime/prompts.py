"""From what a user types to token ids, by the model's own tokenizer and chat template."""

from __future__ import annotations

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.model import Model
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.tokenizer import Tokenizer, check_embedding_rows, load_tokenizer

_EOS = "tokenizer.ggml.eos_token_id"


def tokenizer_of(model: Model) -> Tokenizer:
    """The model's own tokenizer. Raises AprgraphError, also if it has tokens for which there is no embedding row."""
    tokenizer = load_tokenizer(model.metadata)
    check_embedding_rows(tokenizer.vocabulary, model.vocabulary, model.path)
    return tokenizer


def encode_prompt(model: Model, prompt: str, *, affixes: bool = True) -> list[int]:
    """Token ids of a prompt; special tokens written in it are parsed, and BOS and EOS added where the model asks for them,
    unless ``affixes`` is False. Raises AprgraphError.
    """
    return tokenizer_of(model).encode(prompt, affixes=affixes)


def encode_chat(model: Model, prompt: str, system: str | None = None) -> list[int]:
    """Token ids of a chat of one user message, after a system message if there is one, up to where the answer begins.

    Raises AprgraphError.
    """
    return tokenizer_of(model).encode_chat(render_chat(model.metadata, chat_messages(prompt, system)))


def end_tokens_of(model: Model) -> frozenset[int]:
    """The tokens that end a generation; of a tokenizer that is not known here, the one that the metadata names, if it does."""
    metadata = model.metadata
    try:
        return load_tokenizer(metadata).eos_ids
    except AprgraphError:
        return frozenset({metadata.integer(_EOS)}) if _EOS in metadata else frozenset()
