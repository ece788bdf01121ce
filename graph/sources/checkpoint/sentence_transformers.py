"""What a folder of sentence-transformers says beside the checkpoint: how positions are pooled, and what comes behind.

`modules.json` lists the modules in their order. Those that are applied here are Transformer, Pooling, Dense, Normalize and
Dropout, which does nothing; from the source of sentence-transformers 6.2.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import ModelFileError, UnsupportedModelError, shown
from aprgraph.graph.families.pooling import ACTIVATIONS, DENSE_SLOTS, KEY, Pooling
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.checkpoint.places import read_json, read_text

MODULES = "modules.json"
#: What sentence-transformers calls the pooled row.
_EMBEDDING = "sentence_embedding"
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
#: A pooling by the field of its config.json that switches it on, and by its name in newer ones.
_POOLINGS: Mapping[str, tuple[str, Pooling]] = {
    "pooling_mode_mean_tokens": ("mean", Pooling.MEAN),
    "pooling_mode_cls_token": ("cls", Pooling.FIRST),
    "pooling_mode_lasttoken": ("lasttoken", Pooling.LAST),
}
_NAMES = dict(_POOLINGS.values())


@dataclass
class SentenceTransformer:
    """``values`` by GGUF's key without the architecture, and the files of ``dense`` layers by slot."""

    values: dict[str, object] = field(default_factory=dict)
    dense: dict[str, Path] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def read_modules(folder: Path) -> SentenceTransformer:
    """What the modules of a folder are; nothing if it has none. Raises ModelFileError or UnsupportedModelError."""
    where, found = folder / MODULES, SentenceTransformer()
    if not where.is_file():
        return found
    order: list[str] = []
    for module in _list_of_modules(where):
        kind = str(module.get("type", "")).rpartition(".")[2]
        place = folder / str(module.get("path", ""))
        if kind in ("Dropout", "Transformer"):
            continue
        if kind not in ("Pooling", "Dense", "Normalize") or (kind == "Pooling") == bool(order) or "Normalize" in order:
            raise UnsupportedModelError(
                f"{where}: the module {shown(kind)} behind {', '.join(order) or 'the transformer'}; supported are Pooling, then perhaps "
                "Dense once or twice, then perhaps Normalize"
            )
        order.append(kind)
        if kind == "Pooling":
            found.values[KEY] = int(_pooling(place / _CONFIG, found))
        elif kind == "Dense":
            _add_dense(found, place, where)
    if order:
        found.values["pooling_normalize"] = "Normalize" in order
        _note_prompts(folder, found)
    return found


def _list_of_modules(where: Path) -> list[Mapping[str, Any]]:
    try:
        modules = parse_json(read_text(where))
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{where}: no JSON ({error}); download the file again") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelFileError(f"{where}: is {shown(modules)}, expected a list of modules; download the file again")
    return modules


def _pooling(where: Path, found: SentenceTransformer) -> Pooling:
    """The one pooling that a configuration names."""
    config = read_json(where)
    named = config.get("pooling_mode")
    modes = [name for name, value in config.items() if name.startswith("pooling_mode_") and value is True]
    poolings = [_NAMES.get(str(named))] if named is not None else [_POOLINGS[name][1] if name in _POOLINGS else None for name in modes]
    if len(poolings) != 1 or poolings[0] is None:
        said = shown(named) if named is not None else ", ".join(modes) or "nothing"
        raise UnsupportedModelError(f"{where}: pools by {said}; supported is one of {', '.join((*_POOLINGS, *_NAMES))}")
    if config.get("include_prompt") is False:
        found.notices.append(
            f"{where.parent.name}/{where.name}: include_prompt is false, so that sentence-transformers leaves out the positions of a "
            "prompt that it is given beside the text; here all positions are pooled"
        )
    return poolings[0]


def _add_dense(found: SentenceTransformer, place: Path, where: Path) -> None:
    config, weights = read_json(place / _CONFIG), place / _WEIGHTS
    activation = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
    rows = config.get("out_features")
    if len(found.dense) == len(DENSE_SLOTS):
        raise UnsupportedModelError(f"{where}: has more than {len(DENSE_SLOTS)} Dense modules; supported are at most these")
    read = config.get("module_input_name", _EMBEDDING)
    if read != _EMBEDDING:
        raise UnsupportedModelError(f"{place / _CONFIG}: module_input_name is {shown(read)}; supported is {_EMBEDDING}")
    if activation not in ACTIVATIONS:
        raise UnsupportedModelError(
            f"{place / _CONFIG}: activation_function is {shown(activation)}; supported are {', '.join(ACTIVATIONS)}"
        )
    if type(rows) is not int or rows < 1:
        raise ModelFileError(f"{place / _CONFIG}: out_features is {shown(rows)}, expected a number of features; download the file again")
    if not weights.is_file():
        raise ModelFileError(f"{weights}: is not there, and {where.name} names it; download it (a pytorch_model.bin is not read)")
    slot = DENSE_SLOTS[len(found.dense)]
    found.dense[slot] = weights
    found.values |= {f"{slot}_feat_out": rows, f"{slot}_activation": activation}


def _note_prompts(folder: Path, found: SentenceTransformer) -> None:
    """What sentence-transformers puts before texts, or makes of them, before they are divided into tokens."""
    settings = folder / "config_sentence_transformers.json"
    config = read_json(settings) if settings.is_file() else {}
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is not None and isinstance(prompts, dict) and prompts.get(name):
        found.notices.append(
            f"{settings.name}: sentence-transformers puts {json.dumps(prompts[name])} before each text; here a prompt is taken as it is"
        )
    lower = folder / "sentence_bert_config.json"
    if lower.is_file() and read_json(lower).get("do_lower_case"):
        found.notices.append(f"{lower.name}: do_lower_case: sentence-transformers makes texts lower case; here a prompt is taken as it is")
