"""What ``aprgraph run`` is to run: an artifact, or a model and what it is compiled to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from aprgraph.cli.artifact_here import artifact_here
from aprgraph.cli.notices import print_notice
from aprgraph.cli.progress import spinner

if TYPE_CHECKING:
    from aprgraph.api import CompiledModel, LoadedModel


def open_source(
    source: Path | None,
    target: str | None,
    model: Path | None,
    override_kv: list[str],
    ignore: list[str],
    arithmetic: str | None,
    *,
    elsewhere: bool,
) -> CompiledModel | LoadedModel:
    """What the arguments name: an artifact, or a model, as the artifact that the cache has of it. Raises AprgraphError.

    An artifact may be for another CPU if it is to run ``elsewhere``.
    """
    from aprgraph.api import load, open_artifact  # noqa: PLC0415
    from aprgraph.graph.arithmetics import PLAIN  # noqa: PLC0415
    from aprgraph.graph.errors import ArtifactError  # noqa: PLC0415
    from aprgraph.graph.metadata import parse_overrides  # noqa: PLC0415
    from aprgraph.graph.near_names import did_you_mean_path  # noqa: PLC0415
    from aprgraph.graph.sources.checkpoint import is_checkpoint  # noqa: PLC0415

    overrides = parse_overrides(override_kv)
    chosen = source if source is not None else artifact_here(target, arithmetic)
    if chosen.is_dir() and not is_checkpoint(chosen):
        compiled = open_artifact(chosen, model, elsewhere=elsewhere)
        if overrides or ignore:
            option = "--override-kv" if overrides else "--ignore"
            raise ArtifactError(
                f"{chosen}: {option} changes the graph, so it must be given to `aprgraph compile`, or to run with the MODEL"
            )
        if target is not None and target != compiled.artifact.target:
            raise ArtifactError(
                f"{chosen}: compiled for {compiled.artifact.target}, not for {target}; compile the model with --target {target}"
            )
        return compiled
    if model is not None:
        raise ArtifactError(f"{chosen}: --model goes with an artifact directory, and this is none")
    if not os.path.lexists(chosen):
        raise ArtifactError(
            f"{chosen}: not there{did_you_mean_path(chosen)}; "
            "expected a GGUF file, an .apr file, a checkpoint, or the directory of an artifact"
        )
    loaded = load(chosen, overrides, ignore)
    return loaded.find_cached(target or "llvm", arithmetic=arithmetic or PLAIN) or loaded


def compile_source(
    opened: CompiledModel | LoadedModel, target: str | None, gpu: int | None, arithmetic: str | None = None
) -> CompiledModel:
    """Compiles what is not compiled yet; that takes seconds, so it comes after all else, a GPU here included, has been checked."""
    from aprgraph.api import CompiledModel  # noqa: PLC0415
    from aprgraph.graph.arithmetics import PLAIN  # noqa: PLC0415

    if isinstance(opened, CompiledModel):
        return opened
    if target == "cuda" and gpu is not None:
        from aprgraph.runtime.cuda.driver import find_gpu, load_driver  # noqa: PLC0415

        find_gpu(load_driver(), gpu)
    with spinner(f"compiling {opened.model.path.name}"):
        return opened.compile_cached(target or "llvm", on_notice=print_notice, progress=False, arithmetic=arithmetic or PLAIN)


def stages_of(opened: CompiledModel | LoadedModel) -> frozenset[str]:
    """The stages that the model has. Raises AprgraphError."""
    from aprgraph.api import CompiledModel  # noqa: PLC0415
    from aprgraph.graph.passes.insert_taps import stages_in  # noqa: PLC0415

    return stages_in(opened.artifact.graph if isinstance(opened, CompiledModel) else opened.graph)
