"""Passes as text: ``insert-taps{taps=qkv_matmul,ffn_up layers=0..2},prune``.

Names are separated by commas; in braces behind a name stand its options, separated by blanks. They are the fields of the
pass: ``keep_outputs`` is ``keep-outputs``, a truth value alone means true, a set of names is a list with commas. A plan is
two options, ``taps`` and ``layers``, as on the command line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any, get_type_hints

from aprgraph.graph.errors import GraphError, shown
from aprgraph.graph.passes.base import Pass
from aprgraph.graph.tap_plan import Plan, parse_layers, parse_plan, parse_taps

#: A name, and perhaps options in braces.
_PASS = re.compile(r"\s*(?P<name>[^\s{}]*)\s*(?:\{(?P<options>[^{}]*)\})?\s*")
#: A comma that is not in braces.
_COMMA = re.compile(r",(?![^{}]*\})")
#: What gives the stages of the model, where it is known.
StagesOfModel = Callable[[], Collection[str]]
_PLAN_OPTIONS = ("taps", "layers")
_TRUTH = {"true": True, "false": False}


def split_passes(text: str) -> list[tuple[str, dict[str, str]]]:
    """The passes that ``text`` names, in order, each with its options as text; names in lower case. Raises GraphError."""
    if not text.strip():
        raise GraphError(f"passes {shown(text)}: names no pass; expected such as insert-taps,prune")
    found: list[tuple[str, dict[str, str]]] = []
    for part in _COMMA.split(text):
        match = _PASS.fullmatch(part)
        if match is None or not match["name"]:
            raise GraphError(
                f"passes {shown(text)}: expected names with commas between, and options as in NAME{{OPTION=VALUE OPTION=VALUE}}"
            )
        found.append((match["name"].lower(), _split_options(text, match["options"] or "")))
    return found


def _split_options(text: str, options: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for option in options.split():
        name, equals, value = option.partition("=")
        if not name or (equals and not value):
            raise GraphError(f"passes {shown(text)}: {shown(option)} is no option, expected OPTION=VALUE")
        if name in found:
            raise GraphError(f"passes {shown(text)}: the option {name} appears twice")
        found[name] = value if equals else "true"
    return found


def build_pass(kind: type[Pass], given: Mapping[str, str], plan: Plan | None, stages: StagesOfModel | None = None) -> Pass:
    """A pass with the options ``given``. ``plan`` has the taps and the layers that they leave out (default: all, of layer 0).

    ``stages`` gives those of the model, for a message. Raises GraphError for an option that the pass does not have, or that has no such
    value; PlanError for a plan.
    """
    types = get_type_hints(kind)
    declared: list[Field[Any]] = list(fields(kind))  # type: ignore[arg-type]  # passes are dataclasses
    known = [option for field in declared for option in _options_of(field, types[field.name])]
    for option in given:
        if option not in known:
            raise GraphError(f"pass {kind.name}: no option {shown(option)}; expected {', '.join(known) or 'none'}")
    values: dict[str, Any] = {}
    for field in declared:
        if types[field.name] is Plan:
            values[field.name] = _plan(given, plan, stages)
            continue
        (option,) = _options_of(field, types[field.name])
        if option in given:
            values[field.name] = _value(f"pass {kind.name}: {option}={given[option]}", types[field.name], given[option])
        elif field.default is MISSING and field.default_factory is MISSING:
            raise GraphError(f"pass {kind.name}: the option {option} is missing, as in {kind.name}{{{option}=VALUE}}")
    made: Pass = kind(**values)
    return made


def _options_of(field: Field[Any], kind: object) -> tuple[str, ...]:
    return _PLAN_OPTIONS if kind is Plan else (field.name.replace("_", "-"),)


def _plan(given: Mapping[str, str], plan: Plan | None, stages: StagesOfModel | None) -> Plan:
    if plan is None:
        return parse_plan(given.get("taps", "all"), given.get("layers", "0..1"), stages)
    if "taps" in given:
        plan = replace(parse_taps(given["taps"], stages), layers=plan.layers)
    return replace(plan, layers=parse_layers(given["layers"])) if "layers" in given else plan


def _value(where: str, kind: object, text: str) -> object:
    if kind is bool:
        if text not in _TRUTH:
            raise GraphError(f"{where}: expected true or false")
        return _TRUTH[text]
    if kind is int:
        if re.fullmatch(r"[0-9]{1,18}", text) is None:
            raise GraphError(f"{where}: expected a whole number")
        return int(text)
    if kind is str:
        return text
    return frozenset(text.split(","))
