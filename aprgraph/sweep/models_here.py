"""Models in a worker: found by path or among those that were sent, known by their fingerprints, and open from cell to cell."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from aprgraph.api import CompiledModel, LoadedModel, load
from aprgraph.graph.errors import AprgraphError, DeviceError, ToolchainError
from aprgraph.graph.families.registry import own_sources
from aprgraph.graph.metadata import parse_overrides
from aprgraph.option_words import in_option_words
from aprgraph.runtime.blame.replayed_model import ReplayedModel
from aprgraph.runtime.cuda.driver import find_gpu, load_driver
from aprgraph.runtime.executors.workers import NotOnThisMachineError
from aprgraph.sweep.cells import ModelOf
from aprgraph.sweep.received import received_model

#: How many models, and how many compiled ones, a worker keeps open: files that are mapped, and what was decoded of them.
_OPEN = 8


class ModelMissingError(NotOnThisMachineError):
    """The machine has not the file of a model, or has another one in its place."""

    def __init__(self, fingerprint: str, why: str) -> None:
        super().__init__(fingerprint, why)
        self.fingerprint = fingerprint

    def __str__(self) -> str:
        """Why, in a sentence."""
        return str(self.args[1])


@lru_cache(maxsize=_OPEN)
def model_here(model: ModelOf) -> LoadedModel:
    """The model, opened. Raises ModelMissingError where this machine does not have it, and AprgraphError."""
    for file in model.families:
        file.load()
    why = ""
    for path in filter(None, (Path(model.path), received_model(model.fingerprint))):
        if not os.path.lexists(path):
            why = why or f"{path} is not there"
            continue
        try:
            opened = load(path, parse_overrides(list(model.overrides)), model.ignore)
            fingerprint = opened.model.file.fingerprint()
        except AprgraphError as error:
            why = f"{path}: {error}"
            continue
        if fingerprint == model.fingerprint:
            _check_family(opened, model)
            return opened
        why = f"{path} is another file: its fingerprint is not {model.fingerprint[:12]}…"
    raise ModelMissingError(model.fingerprint, f"the model {model.name} is missing on {os.uname().nodename}: {why}")


def _check_family(opened: LoadedModel, model: ModelOf) -> None:
    family = type(opened.model.family)
    if own_sources(family)[1] != model.sources:
        raise NotOnThisMachineError(
            f"the family {family.__name__} on {os.uname().nodename} is another than the head has: install there the package that brings it"
        )


@lru_cache(maxsize=2 * _OPEN)
def compiled_here(model: ModelOf, target: str, cpu: str, arithmetic: str) -> CompiledModel:
    """The model compiled for a target of a matrix: reference, llvm, cuda:N, or rpc:HOST:PORT. Raises as ``model_here``.

    What this machine lacks is a NotOnThisMachineError.
    """
    kind, _, rest = target.partition(":")
    name = "llvm" if kind == "rpc" else kind
    try:
        if kind == "cuda":
            find_gpu(load_driver(), int(rest or 0))  # before a minute of compiling for nothing
        opened = model_here(model).compile_cached(
            name, cpu if name == "llvm" else None, on_notice=lambda _: None, arithmetic=arithmetic, progress=False
        )
    except (DeviceError, ToolchainError) as error:
        raise NotOnThisMachineError(in_option_words(error.message)) from None
    if kind == "rpc":
        return opened.on(rest)
    return CompiledModel(opened.artifact, opened.model, gpu=int(rest)) if rest else opened


@lru_cache(maxsize=_OPEN)
def replayed_here(model: ModelOf) -> ReplayedModel:
    """The model as replays read it, with what they decoded. Raises as ``model_here``."""
    return ReplayedModel(model_here(model).model)


def forget_models() -> None:
    """Open each anew when it is asked for next."""
    for opened in (model_here, compiled_here, replayed_here):
        opened.cache_clear()
