"""What `aprgraph check` finds: each kind of finding declared once, and the findings themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from aprgraph.graph.arguments import CHAT, FAMILY, MODELS, OVERRIDES, RUN, TOKENS
from aprgraph.graph.message import Message


class Level(str, Enum):
    """How bad a finding is."""

    ERROR = "error"  # a run fails, or its numbers are wrong
    WARNING = "warning"  # hardly meant so
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Rule:
    """A kind of finding. ``code`` is its name for programs; ``title`` what is wrong, for any number of names; ``advice`` what to do."""

    code: str
    level: Level
    title: str
    advice: str


_E, _W, _N = Level.ERROR, Level.WARNING, Level.NOTE
_AGAIN = "get the file again and compare its checksum with the publisher's; if that is right, the file was made so"
_CONVERT = "convert the model again with a converter of today"
_DOWNLOAD = "get the checkpoint again, with all of its files"
_AS_IDS = Message("give prompts as token ids, with ", TOKENS)

_RULES: tuple[tuple[str, Level, str, str], ...] = (
    ("file-kind", _E, "this is no whole model", ""),
    ("file-damaged", _E, "the file cannot be opened: it is damaged, or part of it is missing", _AGAIN),
    ("file-truncated", _E, "the file ends before its tensors do", "download or copy the rest, or all of it again"),
    ("file-checksum", _E, "the file's own checksum does not hold", _AGAIN),
    ("file-notice", _N, "what is to be said of the kind of file", "a run says it too"),
    ("file-tail", _N, "something follows the last tensor", "nothing reads it"),
    ("file-gap", _N, "something lies before the first tensor or between two", "nothing reads it"),
    ("key-wrong", _E, "metadata that makes no model", _CONVERT),
    ("key-unsupported", _E, "the model asks for what aprgraph does not have",
     Message("`", MODELS, "` lists what it has, ", FAMILY.given("FILE"), " brings a family of your own, and `",
             RUN, "` says how to go on without it")),
    (
        "key-absent", _W, "the metadata leave out what the numbers depend on",
        Message(f"{_CONVERT}, or give the value with ", OVERRIDES),
    ),
    ("key-default", _N, "the metadata leave out what the family itself tells", Message("others can be given with ", OVERRIDES)),
    ("key-unread", _N, "keys of the family that nothing applies", "where the model depends on them, its numbers are others here"),
    ("key-differs", _N, "keys that llama.cpp treats otherwise", "expect other numbers from it"),
    ("key-odd", _W, "keys have values that models seldom have", "compare with the checkpoint's own configuration"),
    ("key-rows", _W, "the metadata name another number of tokens than the weights have", _CONVERT),
    ("tensor-damaged", _E, "tensors that do not lie in the file as they should", _AGAIN),
    ("tensor-missing", _E, "tensors that the model needs are missing", _CONVERT),
    ("tensor-shape", _E, "tensors are of other shapes than the metadata say", _CONVERT),
    ("tensor-unused", _E, "tensors have no place in the model", "without them the numbers would be wrong, so the file is not run"),
    ("tensor-ignored", _N, "tensors that a text's numbers do not depend on", "they are left out"),
    ("tokenizer-absent", _N, "the file has no tokenizer", _AS_IDS),
    (
        "tokenizer-wrong", _E, "the tokenizer is incomplete or contradicts itself",
        Message(f"{_CONVERT}; token ids (", TOKENS, ") still run"),
    ),
    ("tokenizer-unknown", _W, "the tokenizer is one that aprgraph does not have", _AS_IDS),
    ("tokenizer-rows", _E, "there are tokens without a row of weights", _CONVERT),
    ("tokenizer-padding", _N, "there are many more rows of weights than tokens", "ids beyond the vocabulary have no text"),
    ("template-absent", _N, "the file has no chat template", Message(CHAT, " does not work; is it a base model?")),
    ("template-wrong", _W, "the chat template cannot be applied", Message("write the whole prompt out, without ", CHAT)),
    ("weight-nonfinite", _E, "weights hold NaN or Inf", _AGAIN),
    ("weight-absurd", _W, "weights hold values out of all proportion to the others", _AGAIN),
    ("weight-large", _W, "weights are larger than a network's are", _AGAIN),
    (
        "weight-other-float", _E, "weights are the bits of one 16-bit format, read as those of the other",
        "correct the type where it is said, or convert the model again: whoever wrote the file took BF16 for F16, or F16 for BF16",
    ),
    (
        "weight-scale", _W, "weights are of another size than those of the other layers",
        "compare with the checkpoint: was a factor applied twice, or not at all?",
    ),
    ("weight-zero", _W, "weights are all 0", _AGAIN),
    ("weight-zero-part", _W, "parts of weights are 0 where their neighbours are not", _AGAIN),
    ("weight-hole", _W, "stretches of the file are zeros", f"a download may have left a hole: {_AGAIN}"),
    ("weight-zero-rows", _N, "parts of weights are 0 that may be meant so", "unused tokens, padding and pruned neurons are so"),
    ("weight-zero-bias", _N, "biases are all 0", "they change nothing"),
    ("weight-constant", _W, "all elements of a matrix are equal", _AGAIN),
    ("weight-untrained", _N, "norms are all 1", "they were not trained, or not filled in"),
    (
        "weight-tiny", _W, "weights are too small for their type to hold them with precision",
        "compare with the checkpoint: was a factor applied twice?",
    ),
    ("weight-twice", _N, "tensors hold the same bytes", "layers may have been doubled on purpose"),
    (
        "norm-odd", _W, "norms hold what norms seldom do",
        "compare with the checkpoint: is a 1 missing or added twice, or is it another tensor?",
    ),
    ("rope-factor", _E, "what RoPE's frequencies are divided by is not positive", _CONVERT),
)  # fmt: skip

#: By code.
RULES: dict[str, Rule] = {code: Rule(code, level, title, advice) for code, level, title, advice in _RULES}


@dataclass(frozen=True)
class Finding:
    """One finding: the rule, what it is about (a tensor, a key; empty for the file), and what was found, with numbers and places.

    ``advice`` is the rule's unless given.
    """

    rule: Rule
    name: str
    text: str
    advice: str

    @staticmethod
    def of(code: str, name: str, text: str, advice: str | None = None) -> Finding:
        """A finding of the rule ``code``."""
        rule = RULES[code]
        return Finding(rule, name, text, rule.advice if advice is None else advice)

    def of_checkpoint(self) -> Finding:
        """The same with advice for somebody who has not converted the model."""
        parts = self.advice.parts if isinstance(self.advice, Message) else (self.advice,)
        advice = Message(*(part.replace(_CONVERT, _DOWNLOAD) if isinstance(part, str) else part for part in parts))
        return replace(self, advice=advice)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "level": self.rule.level.value,
            "code": self.rule.code,
            "title": self.rule.title,
            "name": self.name,
            "text": self.text,
            "advice": self.advice,
        }
