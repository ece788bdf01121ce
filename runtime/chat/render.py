"""Applies `tokenizer.chat_template` of a GGUF file to messages, as Hugging Face transformers' `apply_chat_template` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aprgraph.graph.arguments import PROMPT
from aprgraph.graph.errors import ModelError, TokenError, shown
from aprgraph.graph.metadata import ArrayValue, Metadata
from aprgraph.runtime.chat.process import DEFAULT_LIMITS, Limits, run_worker
from aprgraph.runtime.tokenizer.vocabulary import TOKENS_KEY, read_token_id

TEMPLATE_KEY = "tokenizer.chat_template"
#: A role and a content; templates that know more keys find them here too.
Message = Mapping[str, object]
#: The names of special tokens in templates, and in GGUF.
_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def chat_messages(prompt: str, system: str | None = None) -> list[dict[str, object]]:
    """The messages of a chat that begins with ``prompt``; without ``system`` the template may put its own one first."""
    messages: list[dict[str, object]] = [] if system is None else [{"role": "system", "content": system}]
    return [*messages, {"role": "user", "content": prompt}]


def render_chat(
    metadata: Metadata, messages: Sequence[Message], *, add_generation_prompt: bool = True, limits: Limits = DEFAULT_LIMITS
) -> str:
    """The text of a chat. ``add_generation_prompt``: it ends where the model's answer begins.

    A BOS that the template writes is in the text, so encode it with ``Tokenizer.encode_chat``. Templates come from whoever
    made the file: this one runs in Jinja's sandbox, in a process of its own, within ``limits``.
    Raises TokenError if the file has no template, or if it fails on these messages or exceeds the limits, and ModelError if
    its special tokens do not exist.
    """
    template = _template(metadata)
    # What transformers passes where there are none.
    variables = {"tools": None, "documents": None, **_special_tokens(metadata), "add_generation_prompt": add_generation_prompt}
    reply = run_worker({"template": template, "variables": {**variables, "messages": list(messages)}}, limits)
    if reply.text is not None:
        return reply.text
    line = "" if reply.line is None else f" in line {reply.line} of the template"
    raise TokenError(
        f"{metadata.path}: {TEMPLATE_KEY} cannot be applied{line}: {reply.reason}; "
        "change the messages, or write the whole prompt out and give it with ",
        PROMPT,
    )


def _template(metadata: Metadata) -> str:
    if TEMPLATE_KEY in metadata:
        return metadata.text(TEMPLATE_KEY)
    named = sorted(key.removeprefix(f"{TEMPLATE_KEY}.") for key in metadata if key.startswith(f"{TEMPLATE_KEY}."))
    others = f" (there are others, for special uses: {shown(', '.join(named))})" if named else ""
    raise TokenError(
        f"{metadata.path}: the model has no chat template, its metadata lacks {TEMPLATE_KEY!r}{others}; "
        "is it a base model? write the whole prompt out and give it with ",
        PROMPT,
    )


def _special_tokens(metadata: Metadata) -> dict[str, str]:
    """The texts of the special tokens that the file names."""
    values = metadata.get(TOKENS_KEY)
    if not isinstance(values, ArrayValue):
        return {}
    tokens = {variable: read_token_id(metadata, name, len(values)) for variable, name in _SPECIAL.items()}
    texts = values.values() if any(token is not None for token in tokens.values()) else []
    return {variable: _text(metadata, token, texts[token]) for variable, token in tokens.items() if token is not None}


def _text(metadata: Metadata, token: int, raw: object) -> str:
    try:
        return raw.decode("utf-8") if isinstance(raw, bytes) else str(raw)
    except UnicodeDecodeError:
        where = f"element {token} of {TOKENS_KEY}"
        raise ModelError(f"{metadata.path}: {where} is not valid UTF-8: {shown(raw)}; the file is damaged") from None
