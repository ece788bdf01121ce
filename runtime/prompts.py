"""From what a user types to token ids, by the model's own tokenizer and chat template."""

from __future__ import annotations

from aprgraph.graph.errors import AprgraphError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.tokenizer import load_tokenizer

_EOS = "tokenizer.ggml.eos_token_id"


def encode_prompt(metadata: Metadata, prompt: str) -> list[int]:
    """Token ids of a prompt; special tokens written in it are parsed. Raises AprgraphError."""
    return load_tokenizer(metadata).encode(prompt)


def encode_chat(metadata: Metadata, prompt: str, system: str | None = None) -> list[int]:
    """Token ids of a chat of one user message, after a system message if there is one, up to where the answer begins.

    Raises AprgraphError.
    """
    tokenizer = load_tokenizer(metadata)
    return tokenizer.encode_chat(render_chat(metadata, chat_messages(prompt, system)))


def end_tokens_of(metadata: Metadata) -> frozenset[int]:
    """The tokens that end a generation; of a tokenizer that is not known here, the one that the metadata names, if it does."""
    try:
        return load_tokenizer(metadata).eos_ids
    except AprgraphError:
        return frozenset({metadata.integer(_EOS)}) if _EOS in metadata else frozenset()
