"""aprgraph: find the first wrong tensor of a language model's forward pass.

    import aprgraph

    aprgraph.check("model.gguf").sentence           # is the file sound?
    model = aprgraph.load("model.gguf")
    compiled = model.compile(target="llvm")
    trace = compiled.run(taps="all", layers="0..2", prompt="What is 2+2?")
    trace.tensor("attn_scores", layer=0)            # a memory-mapped float32 array
    report = aprgraph.diff("trace-a", "trace-b")
    report.verdict, report.exit_code
    aprgraph.compare_weights("a.gguf", "b.gguf").sentence    # are these the same model?
    aprgraph.Trace.write("theirs", {"layer0.attn_norm": array}, tokens=tokens)
    with aprgraph.capture.transformers(hf_model, "theirs"): ...
    aprgraph.register(MyFamily)                     # a model family of your own: docs/families.md

Everything that goes wrong on account of what was given raises an AprgraphError (see aprgraph.graph.errors).
"""

from __future__ import annotations

import os

# What starts is to be ready for an interrupt soon, so that nothing is imported here that takes time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aprgraph import capture, families
    from aprgraph.api import CompiledModel, LoadedModel, load, open_artifact, trust
    from aprgraph.comparison import audit, diff
    from aprgraph.graph.errors import AprgraphError
    from aprgraph.graph.families import register
    from aprgraph.graph.tap_plan import Plan
    from aprgraph.runtime.check import check
    from aprgraph.runtime.trace.reader import Trace
    from aprgraph.weights import compare_weights

# In a checkout the folders graph, codegen and runtime lie beside this one, and Python finds this one first when it is started
# there; the installed package has them inside.
_HERE = os.path.dirname(__file__)  # noqa: PTH120
if not os.path.isdir(f"{_HERE}/graph"):  # noqa: PTH112
    __path__.append(os.path.dirname(_HERE))  # noqa: PTH120

__all__ = [
    "AprgraphError",
    "CompiledModel",
    "LoadedModel",
    "Plan",
    "Trace",
    "audit",
    "capture",
    "check",
    "compare_weights",
    "diff",
    "families",
    "load",
    "open_artifact",
    "register",
    "trust",
]

_HOMES = {
    "AprgraphError": "aprgraph.graph.errors",
    "Plan": "aprgraph.graph.tap_plan",
    "Trace": "aprgraph.runtime.trace.reader",
    "audit": "aprgraph.comparison",
    "check": "aprgraph.runtime.check",
    "compare_weights": "aprgraph.weights",
    "diff": "aprgraph.comparison",
    "register": "aprgraph.graph.families",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line starts without what it does not need."""
    if name not in __all__:
        raise AttributeError(f"module 'aprgraph' has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    if name in ("capture", "families"):
        return importlib.import_module(f"aprgraph.{name}")
    return getattr(importlib.import_module(_HOMES.get(name, "aprgraph.api")), name)
