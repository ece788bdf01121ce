"""aprgraph: find the first wrong tensor of a language model's forward pass.

    import aprgraph

    aprgraph.check("model.gguf").sentence           # is the file sound?
    model = aprgraph.load("model.gguf")
    compiled = model.compile(target="llvm")
    trace = compiled.run(taps="all", layers="0..2", prompt="What is 2+2?")
    trace["layer0.attn_scores"]                     # a float32 array, read-only
    report = aprgraph.diff("trace-a", "trace-b")
    report.headline, report.exit_code
    report.frame()                                  # columns: pandas.DataFrame and polars.DataFrame take them
    aprgraph.audit({"layer0.attn_norm": array, ...}, "model.gguf", tokens=tokens).sentence
    aprgraph.bisect("model.gguf", "llvm", "cuda").sentence  # where do two targets part?
    aprgraph.weights("a.gguf", "b.gguf").sentence   # are these the same model?
    aprgraph.Trace.write("theirs", {"layer0.attn_norm": array}, tokens=tokens)
    with aprgraph.capture.transformers(hf_model, "theirs"): ...
    aprgraph.register(MyFamily)                     # a model family of your own: docs/families.md

Models, traces, reports, audits and graphs show themselves in a notebook. For tests of an engine there is aprgraph.testing
(docs/testing.md). Everything that goes wrong on account of what was given raises an AprgraphError (see aprgraph.graph.errors).
"""

from __future__ import annotations

import os
import resource
import sys

# What starts is to be ready for an interrupt soon, so that nothing is imported here that takes time.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from aprgraph import capture, families, testing
    from aprgraph.api import CompiledModel, LoadedModel, load, open_artifact, trust
    from aprgraph.bisection import bisect
    from aprgraph.comparison import audit, diff
    from aprgraph.graph.errors import AprgraphError
    from aprgraph.graph.families import register
    from aprgraph.graph.tap_plan import Plan
    from aprgraph.model_files import check, compare_weights, weights
    from aprgraph.runtime.trace.reader import Trace

    __version__: str

# Python keeps what a limit for the size of files (`ulimit -f`) has cut of a module's bytecode, and every later import of it fails.
if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
    sys.dont_write_bytecode = True

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
    "bisect",
    "capture",
    "check",
    "compare_weights",
    "diff",
    "families",
    "load",
    "open_artifact",
    "register",
    "testing",
    "trust",
    "weights",
]

_HOMES = {
    "AprgraphError": "aprgraph.graph.errors",
    "Plan": "aprgraph.graph.tap_plan",
    "Trace": "aprgraph.runtime.trace.reader",
    "audit": "aprgraph.comparison",
    "bisect": "aprgraph.bisection",
    "check": "aprgraph.model_files",
    "compare_weights": "aprgraph.model_files",
    "diff": "aprgraph.comparison",
    "register": "aprgraph.graph.families",
    "weights": "aprgraph.model_files",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: the command line starts without what it does not need."""
    if name not in (*__all__, "__version__"):
        raise AttributeError(f"module 'aprgraph' has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415

        return version("aprgraph")
    if name in ("capture", "families", "testing"):
        return importlib.import_module(f"aprgraph.{name}")
    return getattr(importlib.import_module(_HOMES.get(name, "aprgraph.api")), name)


def __dir__() -> list[str]:
    """What there is to complete: the public names, though most are not imported yet."""
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
