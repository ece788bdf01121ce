"""What arrays there are, for somebody who has to say where they belong: their names as patterns, their shapes, and a rule for each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprgraph.graph.stage_suggestions import nearest_part, remark_on
from aprgraph.runtime.trace.array_trace import TOKENS
from aprgraph.runtime.trace.unread_files import name_of_place, suggest_place

#: Numbers that count something: a whole part of a name, or behind a word for what is counted. Others, as in `norm2`, are of the name.
_NUMBER = re.compile(r"(?:(?<=[./])|^|(?<=step)|(?<=layers)|(?<=layer)|(?<=layer[-_])|(?<=blocks)|(?<=block))\d+(?=[./]|$)|(?<=-)\d+$")
#: What vLLM and SGLang call the product of the activated gate and up, where one projection gives both; elsewhere it is the first alone.
_ACTIVATED, _FUSED = re.compile(r"(.*)act_fn"), "gate_up_proj"
#: What ends a name that means a stage beside one of some others: transformers' modules of a layer, and the layer itself.
_BESIDE = (
    (".post_attention_layernorm", (".pre_feedforward_layernorm",), "attn_post_norm"),
    (".post_self_attn_layernorm", (".post_attention_layernorm",), "attn_post_norm"),
    (".mlp.gate", (".mlp.experts", ".mlp.experts.act_fn"), "moe_router_logits"),
    (".mlp.router", (".mlp.experts",), "moe_router_logits"),
    (".mlp", (".mlp.experts", ".mlp.experts.act_fn"), "moe_ffn_out"),
)
#: What modules of transformers give that hold all experts.
_OF_EXPERTS = (".mlp.experts", ".mlp.experts.act_fn")
#: What a layer itself is called.
_A_LAYER = re.compile(r"(?:.*[./])?(?:layers|blocks|h)[./]\{\}")
#: What some call steps, in front of names that are the same in each.
_CALLED_STEPS = re.compile(r"(s|t|it|iter|pass|call|forward|token|tok)(\d+)(?=[./])")
_STEP, _LAYER = re.compile(r"step(\d+)\."), re.compile(r"layer(\d+)\.")


@dataclass(frozen=True)
class ArrayNames:
    """Arrays whose names differ in what they count alone: ``pattern`` has {} for each, ``shapes`` are theirs, each once.

    ``names`` are theirs. ``rule`` is the REGEX=PLACE that puts them where their name says they belong; None where it says nothing.
    ``remark`` is what to know of the name then.
    """

    pattern: str
    count: int
    shapes: tuple[tuple[int, ...], ...]
    rule: str | None
    remark: str | None
    names: tuple[str, ...] = ()


def survey_names(arrays: Mapping[str, Any]) -> list[ArrayNames]:
    """The arrays by pattern, in their order. Raises TraceError for a file that cannot be read."""
    word = _word_for_steps(arrays)
    groups: dict[str, list[str]] = {}
    for name in arrays:
        pattern = _NUMBER.sub("{}", _with_steps(name, word))
        groups.setdefault(word + pattern.removeprefix("step") if word and pattern.startswith("step{}") else pattern, []).append(name)
    found = []
    taken: dict[str, str] = {}
    for pattern, names in groups.items():
        rule, remark = (None, "the prompt's token ids") if pattern in TOKENS else _rule([_with_steps(name, word) for name in names])
        if (stage := _beside(pattern, groups)) is not None:
            rule, remark = f"{_expression(names[0])}={stage}", None
        elif pattern.endswith(_OF_EXPERTS):
            rule, remark = None, "of all chosen experts of all positions: no stage holds that"
        product = _ACTIVATED.fullmatch(names[0])
        if rule is not None and product is not None and f"{product[1]}{_FUSED}" in arrays:
            rule = rule.replace("ffn_silu", "ffn_swigl")
        if rule is not None and word and pattern.startswith(f"{word}{{}}"):
            rule = word + rule.removeprefix("step")
        # A rule is for what stands behind a dot too: here that is something else.
        if rule is not None and any(other.endswith((f".{pattern}", f"/{pattern}")) for other in groups):
            rule = f"^{rule}"
        if rule is not None:
            places = _places(rule, names)
            if (other := next((taken[place] for place in places if place in taken), None)) is not None:
                expression, _, at = rule.rpartition("=")
                rule, remark = None, f"its place would be that of {other}; if it is of step 1, the rule is {expression}=step1.{at}"
            else:
                taken.update(dict.fromkeys(places, pattern))
        found.append(
            ArrayNames(pattern, len(names), tuple(dict.fromkeys(np.shape(arrays[name]) for name in names)), rule, remark, tuple(names))
        )
    return found


def _beside(pattern: str, groups: Collection[str]) -> str | None:
    """The place of arrays whose name means one thing beside some others, and another alone."""
    if pattern.count("{}") != 1:
        return None
    if _A_LAYER.fullmatch(pattern) and any(other.startswith((f"{pattern}.", f"{pattern}/")) for other in groups):
        return r"layer\1.post_ffn_residual"  # what a module gives that holds all of a layer
    for end, others, stage in _BESIDE:
        front = pattern.removesuffix(end)
        if front != pattern and any(front + other in groups for other in others):
            return rf"layer\1.{stage}"
    return None


def _expression(name: str) -> str:
    """The regular expression of a name with its one number."""
    return r"(\d+)".join(re.escape(part) for part in _NUMBER.split(name))


def _places(rule: str, names: Sequence[str]) -> list[str]:
    """The places that a rule gives its own names."""
    expression, _, place = rule.rpartition("=")
    matches = (re.fullmatch(expression, name) for name in names)
    return [match.expand(place) for match in matches if match is not None]


def _word_for_steps(names: Collection[str]) -> str:
    """What stands before the number of a step in place of ``step``; empty where no such word counts from 0."""
    counted: dict[str, set[int]] = {}
    for name in names:
        if (match := _CALLED_STEPS.match(name)) is not None:
            counted.setdefault(match[1], set()).add(int(match[2]))
    return next((word for word, numbers in counted.items() if numbers == set(range(len(numbers))) and len(numbers) > 1), "")


def _with_steps(name: str, word: str) -> str:
    """``name`` with ``step`` for the ``word`` before the number of a step."""
    match = _CALLED_STEPS.match(name)
    return "step" + name[len(word) :] if word and match is not None and match[1] == word else name


def _rule(names: Sequence[str]) -> tuple[str | None, str | None]:
    """The rule for names that differ in numbers alone, of which steps and layers are taken up, and what is to be known of it."""
    # Step 0 is the one that places do not name.
    name = next((name for name in names if not re.match(r"step0+[./]", name)), names[0])
    place, word = suggest_place(name)
    if place is None or word is None or "<N>" in place:  # of a layer, and the name has no number
        return None, None
    remark = remark_on(word)
    if remark is not None and nearest_part(word) is None:  # no array like this one has the place alone
        return None, remark
    target = name_of_place(place, word)
    numbers = [int(found) for found in _NUMBER.findall(name)]
    expression = _expression(name)
    written = ""
    for counted, pattern in (("step", _STEP), ("layer", _LAYER)):
        if (match := pattern.match(target)) is None:
            continue
        first = numbers.index(int(match[1])) + 1 if int(match[1]) in numbers else 0
        # The step stands before the layer, whose number may be the same.
        group = len(numbers) - numbers[::-1].index(int(match[1])) if first and counted == "layer" else first
        written += f"{counted}\\{group}." if group else match[0]
        target = target[match.end() :]
    return f"{expression}={written}{target}", remark
