"""Stages of a family's own as an attribute of the graph, so that whoever reads its text knows them without the family.

The attribute ``stages`` is a list in JSON: the fields of each stage that are not as by default, and the stage that it
comes before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from aprgraph.graph.errors import AprgraphError, GraphError
from aprgraph.graph.ir import Attr
from aprgraph.graph.stages import Stage, StageKind, add_stage

_ATTRIBUTE = "stages"
_FIELDS = {field.name: field for field in fields(Stage)}
#: Of Stage, the fields that are tuples of text.
_TUPLES = ("dims", "reads", "recalls")
#: More than any family brings; for each the table is made anew. What lies behind these is not declared.
_MOST_STAGES = 256
_NETWORKS = (None, "dense", "experts")


def declare_stages(stages: Iterable[tuple[Stage, str]]) -> dict[str, Attr]:
    """The attributes of a graph with these stages, each given with the stage that it comes before."""
    documents = [_document(stage, before) for stage, before in stages]
    return {_ATTRIBUTE: json.dumps(documents, sort_keys=True)} if documents else {}


def make_stages_known(attrs: Mapping[str, Attr]) -> None:
    """Add the stages that the attributes of a graph declare. Raises GraphError for a declaration that is none."""
    if _ATTRIBUTE not in attrs:
        return
    try:
        documents = json.loads(str(attrs[_ATTRIBUTE]))
        stages = [_stage(document) for document in documents[:_MOST_STAGES]]
        for stage, before in stages:
            add_stage(stage, before, of_graph=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, AprgraphError) as error:
        raise GraphError(f"the graph's attribute {_ATTRIBUTE} declares no stages: {error}") from None


def _document(stage: Stage, before: str) -> dict[str, Any]:
    values = {name: getattr(stage, name) for name in _FIELDS}
    return (
        {"before": before} | {name: value for name, value in values.items() if value != _FIELDS[name].default} | {"kind": stage.kind.value}
    )


def _stage(document: Mapping[str, Any]) -> tuple[Stage, str]:
    given = {key: value for key, value in document.items() if key != "before"}
    strange = [key for key, value in given.items() if not _is_of_its_type(key, value)]
    if strange or not isinstance(document["before"], str):
        raise ValueError(f"{strange[0] if strange else 'before'} is not as expected")
    tuples = {key: tuple(given[key]) for key in _TUPLES if key in given}
    return Stage(**{**given, **tuples, "kind": StageKind(given["kind"])}), document["before"]


def _is_of_its_type(key: str, value: object) -> bool:
    """Whether ``value`` is what the field ``key`` of a stage may hold, as JSON has it."""
    if key not in _FIELDS:
        return False
    if key in _TUPLES:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if key == "network":
        return value in _NETWORKS
    default = _FIELDS[key].default
    return isinstance(value, str if default is MISSING else type(default))
