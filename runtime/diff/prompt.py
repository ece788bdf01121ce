"""What the runs of a report computed on: the prompt's tokens, and its text where a tokenizer is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aprgraph.graph.words import counted
from aprgraph.runtime.trace.manifest import TraceInfo

#: Ids that are shown, and characters of the text, from its start and from its end, where a chat has what was asked.
_IDS, _HEAD, _TAIL = 12, 70, 70


@dataclass(frozen=True)
class Prompt:
    """``tokens`` of the prompt, empty where nobody knows them; ``generated`` those that a run went on with; ``text`` is of the prompt."""

    tokens: tuple[int, ...] = ()
    generated: tuple[int, ...] = ()
    text: str | None = None

    def __str__(self) -> str:
        """``8 tokens: 5, 9, 17, 33, … ("What is 2+2?"); then 4 generated: 7, 9, 1, 3``."""
        if not self.tokens:
            return "tokens not known"
        text = "" if self.text is None or not _is_legible(self.text) else f' ("{_shown(self.text)}")'
        generated = f"; then {len(self.generated):,} generated: {_ids(self.generated)}" if self.generated else ""
        return f"{counted(len(self.tokens), 'token')}: {_ids(self.tokens)}{text}{generated}"


NOT_KNOWN = Prompt()


def prompt_of(infos: Sequence[TraceInfo | None]) -> Prompt:
    """The prompt that the first of several manifests names."""
    for info in infos:
        if info is not None and info.tokens:
            generated = info.extra.get("generated")
            known = isinstance(generated, list) and all(isinstance(token, int) for token in generated)
            return Prompt(tuple(info.tokens), tuple(generated) if known and isinstance(generated, list) else ())
    return NOT_KNOWN


def _ids(tokens: Sequence[int]) -> str:
    return ", ".join(map(str, tokens[:_IDS])) + (", …" if len(tokens) > _IDS else "")


def _is_legible(text: str) -> bool:
    """Whether most of a text can be printed; tokens that were drawn at random say nothing."""
    return 2 * sum((character.isprintable() and character != "�") or character.isspace() for character in text) > len(text)


def _shown(text: str) -> str:
    """On one line, and without what a terminal would obey."""
    line = "".join(character if character.isprintable() else {"\n": "⏎", "\t": "→"}.get(character, "�") for character in text)
    return line if len(line) <= _HEAD + _TAIL else f"{line[:_HEAD]} … {line[-_TAIL:]}"
