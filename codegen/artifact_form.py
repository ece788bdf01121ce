"""The form of ``artifact.json``, declared once: reading checks it, docs/artifact.schema.json is made from it."""

from __future__ import annotations

from aprgraph.graph.errors import ArtifactError
from aprgraph.graph.json_documents import Document, Exactly, Flag, ListOf, MapOf, Number, OneOf, Optional, Record, Text

FORMAT = "aprgraph-artifact"
#: Raised whenever kernels, programs or the files of an artifact change in a way that older artifacts do not follow.
VERSION = 10
TARGETS = ("llvm", "cuda", "reference")

#: Digests are SHA-256. The first of their digits become names of files, so nothing else may stand in their place.
_DIGEST = Text(64, "[0-9a-f]{64}")
_NAME = Text(4096, r"[^\x00]+")
_WORD = Text(4096)
_ARGUMENT = Record({"name": _WORD}, dict.fromkeys(("value", "in_python", "call"), Optional(_WORD)), closed=True)

DEVICE = Record(
    {
        "fat_binary": _DIGEST,
        "architectures": ListOf(Text(64), 64, about="Those that it has machine code for, such as sm_90."),
        "compiler": Text(4096),
        "functions": Text(1 << 26, about="How kernels are called, as TVM's runtime reads it."),
    },
    about="The code for the GPU.",
)

ARTIFACT = Record(
    {
        "format": Exactly((FORMAT,)),
        "version": Exactly((VERSION,)),
        "aprgraph": Text(64, about="The version that compiled it."),
        "apache-tvm": Text(64),
        "sources": Text(128, "([0-9a-f]{2})+", about="The digest of the files that make graphs, kernels and programs."),
        "target": Exactly(TARGETS),
        "cpu": Optional(Text(64), about="The CPU level; for the target llvm alone."),
        "model": Record({"path": _NAME, "fingerprint": Text(128)}),
        "overrides": MapOf(OneOf((Flag(), Number(), Text())), about="Metadata keys that the model was loaded with in place of its own."),
        "graph": Text(64, "[0-9a-f]{64}", about="The digest of graph.txt."),
        "library": Optional(_DIGEST, about="The digest of the kernel library, which names it; null for the target reference alone."),
        "device": Optional(DEVICE),
        "kernels": MapOf(Text(), about="What each kernel computes, by its symbol."),
    },
    {
        "arithmetic": Text(256, about="The arithmetic that the kernels round as, such as plain; absent: plain."),
        "ignore": ListOf(Text(), about="Keys that the model was loaded without."),
        "unapplied": ListOf(
            OneOf((Text(), ListOf(OneOf((Text(), _ARGUMENT))))), about="What had to be said of keys that were not applied."
        ),
    },
    about="What was compiled, and from what (codegen/artifact.py). Other keys are not looked at.",
)

ARTIFACT_FILE = Document("artifact manifest", ARTIFACT, ArtifactError, "compile the model again", FORMAT, VERSION)
