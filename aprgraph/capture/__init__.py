"""Other people's dumps: traces that other programs write while they compute, to be compared with our own.

    import aprgraph

    with aprgraph.capture.transformers(model, "theirs"):
        model(input_ids)
    aprgraph.diff("ours", "theirs")

Other programs' tensors go through ``aprgraph.Trace.write``, which takes arrays of any library; docs/captures.md has
the recipes. torch and transformers are imported when a capture begins, and need not be there otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aprgraph.capture.session import Capture

__all__ = ["transformers"]


def transformers(
    model: Any,
    directory: str | Path,
    *,
    taps: str | Sequence[str] = "all",
    layers: str | int | range | None = None,
    positions: str = "last",
    force: bool = False,
) -> Capture:
    """A context manager that records what ``model`` computes inside it into the trace ``directory``.

    ``model`` is a causal language model of Hugging Face transformers 5, of a class of one of its families, in evaluation mode.
    Inside the block goes one text of batch size 1: a forward pass on the whole prompt, step 0, and then, with a KV cache, passes on
    one token each, steps 1, 2, …, as ``model.generate`` makes them. Nothing that the model computes changes by a bit.

    ``taps`` and ``layers`` select as on the command line; ``layers`` None means all. ``positions`` is "last" or "all": of which
    positions ``lm_head`` is recorded. Tensors have the shapes of the stage table, and q and k the row order of the GGUF file. Only what the
    model itself computes is recorded, so some stages are not there (see docs/captures.md), and the manifest's notes say which.

    An earlier capture in ``directory`` is replaced whole; what else is there is written over only with ``force``.

    After the block, the object that it yields has the trace as ``trace``. If the block raises, hooks are removed, and the directory is
    no trace.

    Raises UnsupportedModelError for another class, PlanError for stages and layers that the model does not show, and inside or
    at the end of the block TraceError for passes that cannot be recorded, or for a directory that cannot be written.
    """
    try:
        from aprgraph.capture.session import Capture  # noqa: PLC0415 -- imports torch
    except ModuleNotFoundError as error:
        from aprgraph.graph.errors import UnsupportedModelError  # noqa: PLC0415

        raise UnsupportedModelError(f"{error.name} is not here; captures need torch and transformers 5, as the model does") from None

    return Capture(model, Path(directory), taps, layers, positions, force=force)
