"""From what a user types to token ids, by the model's own tokenizer and chat template."""

from __future__ import annotations

from aprgraph.graph.errors import AprgraphError, TokenError
from aprgraph.graph.model import Model
from aprgraph.runtime.chat import chat_messages, render_chat
from aprgraph.runtime.tokenizer import Tokenizer, check_embedding_rows, load_tokenizer

#: Characters of a prompt that need not be looked at before they are encoded.
_SHORT = 1 << 18
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
    tokenizer = tokenizer_of(model)
    _require_room(model, tokenizer, prompt)
    return tokenizer.encode(prompt, affixes=affixes)


def encode_chat(model: Model, prompt: str, system: str | None = None) -> list[int]:
    """Token ids of a chat of one user message, after a system message if there is one, up to where the answer begins.

    Raises AprgraphError.
    """
    tokenizer = tokenizer_of(model)
    _require_room(model, tokenizer, f"{system or ''}{prompt}")
    return tokenizer.encode_chat(render_chat(model.metadata, chat_messages(prompt, system)))


def _require_room(model: Model, tokenizer: Tokenizer, prompt: str) -> None:
    """Raise TokenError for a text that cannot fit, before it is encoded: that takes a minute and gigabytes for 16 MB.

    Blanks are not counted, of which some tokenizers drop any number.
    """
    if len(prompt) < _SHORT:
        return
    longest = max(len(text.encode("utf-8", "surrogatepass")) for text in tokenizer.vocabulary.texts)
    length = sum(len(word.encode("utf-8", "surrogatepass")) for word in prompt.split())
    if length > model.family.context * longest:
        holds = f"{model.family.context} tokens of at most {longest} bytes"
        raise TokenError(
            f"the prompt has {length:,} bytes that are no blanks, more than the context of {model.path} holds: {holds}; shorten the prompt"
        )


def end_tokens_of(model: Model) -> frozenset[int]:
    """The tokens that end a generation; of a tokenizer that is not known here, the one that the metadata names, if it does."""
    metadata = model.metadata
    try:
        return load_tokenizer(metadata).eos_ids
    except AprgraphError:
        return frozenset({metadata.integer(_EOS)}) if _EOS in metadata else frozenset()
