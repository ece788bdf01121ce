"""What arrays there are, for somebody who has to say where they belong: their names as patterns, their shapes, and a rule for each."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aprgraph.graph.stage_suggestions import nearest_part, remark_on
from aprgraph.runtime.trace.onnx_names import module_of
from aprgraph.runtime.trace.token_arrays import TOKENS
from aprgraph.runtime.trace.unread_files import name_of_place, suggest_place

#: Numbers that count something: a whole part of a name, or behind a word for what is counted. Others, as in `norm2`, are of the name.
_NUMBER = re.compile(
    r"(?:(?<=[./])|^|(?<=step)|(?<=step[-_])|(?<=layers)|(?<=layer)|(?<=layer[-_])|(?<=blocks)|(?<=block))\d+(?=[./]|$)|(?<=-)\d+$"
)
#: What vLLM and SGLang call the product of the activated gate and up, where one projection gives both; elsewhere it is the first alone.
_ACTIVATED, _FUSED = re.compile(r"(.*)act_fn"), "gate_up_proj"
#: What ends a name that means a stage beside one of some others: modules of a layer, most of them transformers', and the layer itself.
_BESIDE = (
    (".post_attention_layernorm", (".pre_feedforward_layernorm",), "attn_post_norm"),
    (".post_self_attn_layernorm", (".post_attention_layernorm",), "attn_post_norm"),
    (".post_attention_layernorm.1", (".post_attention_layernorm.0",), "post_attn_residual"),  # vLLM's, which add before they norm
    (".post_attention_layernorm", (".input_layernorm",), "ffn_norm"),
    (".attention.dense", (".attention.qkv", ".attention.query_key_value"), "attn_out"),
    (".mlp.fc", (".mlp.gate",), "ffn_gate"),  # TensorRT-LLM's
    (".mlp.gate", (".mlp.fc",), "ffn_up"),
    (".mlp.proj", (".mlp.fc",), "ffn_out"),
    (".mlp.hook_pre", (".mlp.hook_pre_linear",), "ffn_gate"),  # TransformerLens's
    (".mlp.hook_post", (".mlp.hook_pre_linear",), "ffn_swigl"),
    (".mlp.gate", (".mlp.experts", ".mlp.experts.act_fn"), "moe_router_logits"),
    (".mlp.router", (".mlp.experts",), "moe_router_logits"),
    (".mlp", (".mlp.experts", ".mlp.experts.act_fn"), "moe_ffn_out"),
)
#: What modules of transformers give that hold all experts.
_OF_EXPERTS = (".mlp.experts", ".mlp.experts.act_fn")
#: Of what there is a remark on, what has its place nevertheless.
_WITH_RULE = ("hidden_states",)
#: What a layer itself is called.
_A_LAYER = re.compile(r"(?:.*[./])?(?:layers|blocks|h)[./]\{\}")
#: What some call steps, in front of names that are the same in each, if anything; and what is step 0 where others count from 1.
_CALLED_STEPS = re.compile(r"((?:s|t|it|iter|pass|call|forward|token|tok|gen|generated|decode)[-_]?|)(\d+)(?=[./])", re.IGNORECASE)
_PROMPT = re.compile(r"(?:prefill|prompt)(?=[./])", re.IGNORECASE)
#: What else says that a name is of a layer, where a number stands in front of it.
_OF_LAYER = re.compile(r"(?:layers?|blk|blocks?|(?<=[./])h)[-_./]?\d|-\d+$")
#: Of what a module gives several of, which one: no more are seen, and they are not alike.
_OF_SEVERAL = re.compile(r"\d.*(?<!layers)(?<!layer)(?<!blocks)(?<!block)(?<!blk)(?<![./]h)\.([01])$")
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
        pattern = _pattern(_with_steps(name, word))
        groups.setdefault(pattern if word is None or not pattern.startswith("step{}") else word + pattern[4:], []).append(name)
    modules = {_module(pattern) for pattern in groups}
    found = []
    taken: dict[str, str] = {}
    for pattern, names in groups.items():
        of_tokens = re.split(r"[./]", pattern)[-1] in TOKENS
        rule, remark = (None, "the prompt's token ids") if of_tokens else _rule([_with_steps(name, word) for name in names])
        if (stage := _beside(pattern, modules)) is not None:
            rule = f"{_expression(names[0])}={stage}"
            remark = remark if stage == "ffn_norm" else None
        elif pattern.endswith(_OF_EXPERTS):
            rule, remark = None, "of all chosen experts of all positions: no stage holds that"
        product = _ACTIVATED.fullmatch(names[0])
        if rule is not None and product is not None and any(f"{product[1]}{fused}" in arrays for fused in (_FUSED, f"{_FUSED}.0")):
            rule = rule.replace("ffn_silu", "ffn_swigl")
        if rule is not None and word is not None and pattern.startswith(f"{word}{{}}") and rule.startswith("step"):
            rule = re.escape(word) + rule.removeprefix("step")
        # A rule is for what stands behind a dot too: here that is something else.
        if rule is not None and any(other.endswith((f".{pattern}", f"/{pattern}")) for other in groups):
            rule = f"^{rule}"
        if rule is not None:
            places = _places(rule, names)
            if len(set(places)) < len(places):
                rule, remark = None, "of one place by their names; say with rules which of them are whose"
            elif (other := next((taken[place] for place in places if place in taken), None)) is not None:
                expression, _, at = rule.rpartition("=")
                rule, remark = None, f"its place would be that of {other}; if it is of step 1, the rule is {expression}=step1.{at}"
            else:
                taken.update(dict.fromkeys(places, pattern))
        found.append(
            ArrayNames(pattern, len(names), tuple(dict.fromkeys(np.shape(arrays[name]) for name in names)), rule, remark, tuple(names))
        )
    return found


def _beside(pattern: str, modules: Collection[str]) -> str | None:
    """The place of arrays whose name means one thing beside some others, and another alone."""
    if pattern.count("{}") != 1:
        return None
    if _A_LAYER.fullmatch(pattern) and any(other.startswith((f"{pattern}.", f"{pattern}/")) for other in modules):
        return r"layer\1.post_ffn_residual"  # what a module gives that holds all of a layer
    name = _module(pattern)
    for end, others, stage in _BESIDE:
        front = name.removesuffix(end)
        if front != name and any(front + other in modules for other in others):
            return rf"layer\1.{stage}"
    return None


def _module(pattern: str) -> str:
    """What gives the arrays of a pattern, without what says that it gives them."""
    return (module_of(pattern) or pattern).removesuffix(".output")


def _pattern(name: str) -> str:
    """``name`` with {} for what counts."""
    end = _end_of_counts(name)
    return _NUMBER.sub("{}", name[:end]) + name[end:]


def _expression(name: str) -> str:
    """The regular expression of a name with what counts."""
    end = _end_of_counts(name)
    return r"(\d+)".join(re.escape(part) for part in _NUMBER.split(name[:end])) + re.escape(name[end:])


def _end_of_counts(name: str) -> int:
    """Where ``name`` ends but for what says which of several a module gives."""
    match = _OF_SEVERAL.search(name)
    return len(name) if match is None else match.start(1) - 1


def _places(rule: str, names: Sequence[str]) -> list[str]:
    """The places that a rule gives its own names."""
    expression, _, place = rule.rpartition("=")
    matches = (re.fullmatch(expression, name) for name in names)
    return [match.expand(place) for match in matches if match is not None]


def _word_for_steps(names: Collection[str]) -> str | None:
    """What stands before the number of a step in place of ``step``, perhaps nothing; None where no such word counts all of them."""
    counted: dict[str, set[int]] = {}
    for name in names:
        match = _CALLED_STEPS.match(name)
        if match is not None and (match[1] or _OF_LAYER.search(name, match.end())):
            counted.setdefault(match[1], set()).add(int(match[2]))
    first = int(any(map(_PROMPT.match, names)))
    return next((word for word, at in counted.items() if at == set(range(first, first + len(at))) and len(at) + first > 1), None)


def _with_steps(name: str, word: str | None) -> str:
    """``name`` with ``step`` for the ``word`` before the number of a step."""
    match = None if word is None else _CALLED_STEPS.match(name)
    return "step" + name[len(match[1]) :] if match is not None and match[1] == word else name


def _rule(names: Sequence[str]) -> tuple[str | None, str | None]:
    """The rule for names that differ in numbers alone, of which steps and layers are taken up, and what is to be known of it."""
    # Step 0 is the one that places do not name.
    # Of its layers the last: a number 0 at the end may say which of several results it is.
    name = next((name for name in reversed(names) if not re.match(r"step[-_]?0+[./]", name)), names[-1])
    place, word = suggest_place(name)
    remark = None if word is None else remark_on(word)
    # Of a layer, and the name has no number; or no array like this one has the place alone.
    if place is None or word is None or "<N>" in place or (remark is not None and nearest_part(word) is None and word not in _WITH_RULE):
        return None, remark
    target = name_of_place(place, word)
    numbers = [int(found) for found in _NUMBER.findall(name[: _end_of_counts(name)])]
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
