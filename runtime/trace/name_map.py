r"""Which place in a trace an array of another program has: rules such as ``layers\.(\d+)\.mlp=layer\1.ffn_out``."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from aprgraph.graph.arguments import NAMES
from aprgraph.graph.errors import TraceError, quoted, shown
from aprgraph.graph.regular_expression import compile_expression
from aprgraph.graph.stage_parts import stage_or_part
from aprgraph.graph.words import listed
from aprgraph.runtime.place import Place
from aprgraph.runtime.trace.bounded_match import match_names
from aprgraph.runtime.trace.from_arrays import is_place_of_array, read_name
from aprgraph.runtime.trace.names import NameRules
from aprgraph.runtime.trace.rule_files import FILE_MARK, WrittenRule, is_rule_file, written_rules

#: How a rule is written, for messages.
EXAMPLE = r"'layers\.(\d+)\.mlp=layer\1.ffn_out'"
_SHOWN = 4
_QUOTES = "'\""
#: In place of a place: leave the arrays out.
IGNORE: Final = "ignore"
#: Where such an array belongs: nowhere.
LEFT_OUT: Final = Place(0, None, "left out")


@dataclass(frozen=True)
class _Rule:
    r"""``written`` as it was given; ``place`` may name groups of ``pattern``, as ``\1`` does. ``found``: places by name."""

    written: WrittenRule
    pattern: re.Pattern[str]
    place: str
    found: dict[str, str | None] = field(default_factory=dict, compare=False)

    def place_in(self, name: str) -> str | None:
        """The place of an array, None if the rule is not about it: the whole of its name matches, or all behind a dot or slash."""
        self.look_up([name])
        return self.found[name]

    def look_up(self, names: Iterable[str]) -> None:
        """Find the places of all names. Raises TraceError where that takes too long."""
        new = [name for name in names if name not in self.found]
        if new:
            self.found.update(match_names(self.pattern, self.place, new))


class NameMap:
    r"""Rules ``REGEX=PLACE``, or a mapping of regular expressions to places: the place is a name as ``Trace.write`` takes it, in
    which ``\1`` stands for the first group, or ``ignore``. Where a stage of a layer is named without one, as in
    ``layers\.(\d+)\.mlp=ffn_out``, the one group of the expression is the layer. A path, or ``@FILE`` among rules, stands for
    the rules of a file, one a line.

    A regular expression matches the whole of a name, or all of it behind a dot or slash, so that ``layers\.(\d+)\.mlp`` matches
    ``model.layers.3.mlp`` but not ``model.layers.3.mlp.up_proj``. Names that are stages' own need no rule.
    """

    def __init__(self, rules: NameRules = ()) -> None:
        """Raises TraceError for rules, and files of them, that cannot be read."""
        self.rules = tuple(map(_parse, written_rules(rules)))

    def look_up(self, names: Collection[str]) -> None:
        """Match all ``names``, which is quicker than one by one. Raises TraceError where that takes too long."""
        for rule in self.rules:
            rule.look_up(names)

    def place_of(self, where: str, name: str) -> Place | None:
        """The place of an array of this name; None if nothing tells, and LEFT_OUT if a rule says so.

        Raises TraceError where the rules give no stage, or several.
        """
        places = {rule.written.label: _read(where, rule, name, place) for rule in self.rules if (place := rule.place_in(name)) is not None}
        if len(set(places.values())) > 1:
            ways = " and ".join(f"{place.label} by {rule}" for rule, place in places.items())
            raise TraceError(f"{where}: {shown(name)} is {ways}; make one of these match less, in ", NAMES)
        if places:
            return next(iter(places.values()))
        return read_name(where, name) if is_place_of_array(name) else None

    def check_used(self, dumps: Sequence[tuple[str, Collection[str]]]) -> tuple[str, ...]:
        """Raise TraceError for a rule that matches no name of any of ``dumps``, each given with the names of its arrays.

        A file may hold rules for all that an engine can dump, so of one it is an error where none matches; the sentences that
        come back say which do not.
        """
        self.look_up([name for _, names in dumps for name in names])
        unused = [rule.written for rule in self.rules if not any(rule.place_in(name) is not None for _, names in dumps for name in names)]
        of_file = {rule.written.file: [one for one in self.rules if one.written.file == rule.written.file] for rule in self.rules}
        sentences = []
        for file, rules in of_file.items():
            idle = [one for one in unused if one.file == file]
            if idle and (file is None or len(idle) == len(rules)):
                held = "; ".join(f"{where} holds {listed(map(shown, names), _SHOWN)}" for where, names in dumps)
                one = len(rules) == 1 or file is None
                none = f"{idle[0].label} matches no array" if one else f"{FILE_MARK}{file}: none of its {len(rules)} rules matches an array"
                raise TraceError(NAMES, f" {none}: {held}; the whole name has to match, from a dot or slash on")
            if idle:
                which = listed((f"line {one.line} {quoted(one.text)}" for one in idle), _SHOWN)
                sentences.append(f"{len(idle)} of the {len(rules)} rules of {file} match no array: {which}")
        return tuple(sentences)


def _parse(written: WrittenRule) -> _Rule:
    expression, equals, place = written.text.rpartition("=")
    expression, place = expression.strip(), place.strip()
    if not equals or not expression or not place:
        meant = f"; a file of rules is {FILE_MARK}{written.text}" if written.file is None and is_rule_file(written.text) else ""
        raise TraceError(NAMES, f" {written.label}: expected REGEX=PLACE, such as {EXAMPLE}{meant}")
    if written.file is not None and expression[0] in _QUOTES and place[-1] == expression[0]:
        raise TraceError(NAMES, f" {written.label}: in a file a rule stands without quotes; take them off")
    try:
        pattern = compile_expression(expression)
        if pattern.groups == 1 and (stage := stage_or_part(place)) is not None and stage.per_layer:
            place = rf"layer\1.{place}"
        pattern.sub(place, "")  # complains of groups that are not there
    except (re.error, ValueError, IndexError, OverflowError, RecursionError) as error:
        raise TraceError(NAMES, f" {written.label}: no regular expression and place ({error}); expected such as {EXAMPLE}") from None
    return _Rule(written, pattern, place)


def _read(where: str, rule: _Rule, name: str, place: str) -> Place:
    """The place that a rule gives an array."""
    if place == IGNORE:
        return LEFT_OUT
    try:
        return read_name(where, place)
    except TraceError as error:
        raise TraceError(*error.message.parts, "; ", NAMES, f" {rule.written.label} makes that of {shown(name)}") from None
