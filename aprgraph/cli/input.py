"""What a model is run on: the options that give a text or token ids, and the ids that they come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aprgraph.cli.notices import print_notice

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, LoadedModel
    from aprgraph.graph.model import Model


def read_input(
    prompt: str | None,
    prompt_file: Path | None,
    tokens: str | None,
    tokens_file: Path | None,
    chat: bool,
    system: str | None,
    *,
    raw: bool = False,
) -> str | Sequence[int]:
    """What is to be run: text, or token ids. ``raw``: --apr is given. Raises TokenError."""
    from aprgraph.api import DEFAULT_PROMPT  # noqa: PLC0415
    from aprgraph.graph.errors import TokenError  # noqa: PLC0415
    from aprgraph.runtime.tokens import parse_tokens, read_prompt_file, read_tokens_file  # noqa: PLC0415

    options = {"--prompt": prompt, "--prompt-file": prompt_file, "--tokens": tokens, "--tokens-file": tokens_file}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise TokenError(f"{' and '.join(given)} exclude each other; give one of them")
    if system is not None and not chat:
        raise TokenError("--system goes with --chat; add --chat, or put the text into the prompt")
    if chat and raw:
        raise TokenError("--apr runs a prompt as it is, and --chat puts it through the model's template; give one of them")
    if chat and given and given[0].startswith("--tokens"):
        raise TokenError(f"--chat puts a text through the model's template, and {given[0]} gives token ids; give --prompt instead")
    if tokens is not None:
        return parse_tokens(tokens)
    if tokens_file is not None:
        return read_tokens_file(tokens_file)
    if prompt_file is not None:
        return read_prompt_file(prompt_file)
    return DEFAULT_PROMPT if prompt is None else prompt


def encode(
    opened: CompiledModel | LoadedModel, given: str | Sequence[int], chat: bool, system: str | None, *, raw: bool = False
) -> Sequence[int]:
    """The token ids of what ``read_input`` gave; a text gets no BOS if it is ``raw``. Raises AprgraphError."""
    if not isinstance(given, str):
        return given
    return opened.encode_chat(given, system) if chat else opened.encode(given, affixes=not raw)


def chat_by_default(model: Model) -> bool:
    """Whether a prompt that nobody gave goes through the chat template, for a text that is to go on: if there is one; and says so.

    As a raw text, a question ends a chat model at once.
    """
    from aprgraph.api import DEFAULT_PROMPT  # noqa: PLC0415
    from aprgraph.graph.errors import AprgraphError  # noqa: PLC0415
    from aprgraph.runtime.prompts import encode_chat  # noqa: PLC0415

    if not _has_chat_template(model):
        return False
    try:
        encode_chat(model, DEFAULT_PROMPT)
    except AprgraphError:  # a template that does not work is no reason for the default not to
        return False
    print_notice(f"no prompt is given: {DEFAULT_PROMPT!r} goes through the model's chat template; --prompt runs a text as it is")
    return True


def say_ended_at_once(model: Model, generated: Sequence[int], *, is_next: bool = False) -> None:
    """Where a raw text ended a chat model at its first token: that there is a template. ``is_next``: the token is what would come next."""
    from aprgraph.runtime.prompts import end_tokens_of  # noqa: PLC0415

    if len(generated) == 1 and generated[0] in end_tokens_of(model) and _has_chat_template(model):
        what = "the next token ends this raw text: the model" if is_next else "the model ended the text at once: it"
        print_notice(f"{what} was trained on chats; --chat puts the prompt through its template")


def _has_chat_template(model: Model) -> bool:
    from aprgraph.runtime.chat import TEMPLATE_KEY  # noqa: PLC0415

    return TEMPLATE_KEY in model.metadata
