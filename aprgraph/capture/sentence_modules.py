"""What the modules of sentence-transformers give behind the model: how positions are pooled, dense layers, length 1."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from aprgraph.graph.stages import POOLED, STAGES

#: The stages of a whole text, which come behind what a model of transformers computes.
STAGES_OF_TEXT = tuple(stage.name for stage in STAGES if stage.is_of_text)
_PACKAGE, _EMBEDDING = "sentence_transformers", "sentence_embedding"
#: What a dense layer gives, the last one the latter, and the end of what its activation makes of it.
_DENSE, _ACTIVATED = ("pooled_up", "pooled_down"), "_act"
_STAGES = {"Pooling": POOLED, "Normalize": "pooled_normed"}
#: Called with (stage, tensor [1, Y]).
RecordRow = Callable[[str, Any], None]


def find_modules(given: Any, record: RecordRow) -> Iterator[tuple[str, Callable[[contextlib.ExitStack], None]]]:
    """The stages that modules of sentence-transformers in ``given`` show, each with what installs its hook until the stack closes."""
    modules = [part for part in given.modules() if type(part).__module__.partition(".")[0] == _PACKAGE]
    dense = [part for part in modules if type(part).__name__ == "Dense"]
    # Of more than two, none is the first or the last alone.
    stages = dict(zip(map(id, dense), _DENSE[-len(dense) :], strict=True)) if 0 < len(dense) <= len(_DENSE) else {}
    for part in modules:
        kind, stage = type(part).__name__, stages.get(id(part))
        if kind in _STAGES:
            yield _STAGES[kind], partial(_watch, part, _STAGES[kind], record)
        elif stage is not None:
            yield stage, partial(_watch, part.linear, stage, record)
            if not isinstance(part.activation_function, torch.nn.Identity):
                yield stage + _ACTIVATED, partial(_watch, part, stage + _ACTIVATED, record)


def _watch(module: Any, stage: str, record: RecordRow, stack: contextlib.ExitStack) -> None:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        record(stage, output if isinstance(output, torch.Tensor) else output[_EMBEDDING])

    stack.callback(module.register_forward_hook(hook).remove)
