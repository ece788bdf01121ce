"""The form of ``trace.json``, declared once: reading checks it, docs/trace.schema.json is made from it."""

from __future__ import annotations

from aprgraph.graph.errors import TraceError
from aprgraph.graph.json_documents import Document, Exactly, Flag, ListOf, MapOf, Number, OneOf, Optional, Record, Text, Whole
from aprgraph.runtime.trace.aprt import MAX_ELEMENTS, WHOLE_MODEL

FORMAT = "aprgraph-trace"
VERSION = 1
#: Bytes of a path, and axes of a tensor: stages have at most three.
_MOST_PATH, _MOST_AXES = 4096, 8
_TOKENS = ListOf(Whole(0, (1 << 31) - 1), 1 << 24)
_COUNT = Whole(0, MAX_ELEMENTS)
_VALUE = Optional(Number())

STATISTICS = Record(
    {"count": _COUNT, "min": _VALUE, "max": _VALUE, "mean": _VALUE, "rms": _VALUE, "nan": _COUNT, "inf": _COUNT},
    about="Over the finite elements, null where there is none; and how many are NaN and Inf.",
)

TENSOR = Record(
    {
        "stage": Text(64, "[a-z][a-z_]*", about="A stage of the stage table, or one that the graph declares."),
        "layer": Optional(Whole(0, WHOLE_MODEL - 1), about="Null for stages of the whole model."),
        "step": Whole(0, (1 << 31) - 1, about="0 is the prefill."),
        "shape": ListOf(Whole(0, MAX_ELEMENTS), _MOST_AXES, about=f"Outermost axis first; at most {MAX_ELEMENTS} elements in all."),
        "file": Optional(
            Text(_MOST_PATH, r"[^\x00]+"), about="Relative to the directory, and inside it; null where only statistics were kept."
        ),
        "node": Optional(Text(_MOST_PATH), about="Its node in the graph."),
        "statistics": STATISTICS,
    },
    about="One tensor. Of one stage, layer and step there is one.",
)

MODEL = Record(
    {},
    {
        "name": Text(_MOST_PATH, about="The file's or folder's name, without its place."),
        "fingerprint": Text(128, about="Of the file's header and samples of its weights."),
        "digest": Text(128, about="Of every byte of the file, where the run was asked for it."),
        "overrides": MapOf(OneOf((Flag(), Number(), Text())), about="Metadata keys that the model was loaded with in place of its own."),
    },
    about="What was run, as far as the writer knows it.",
)

TRACE = Record(
    {
        "format": Exactly((FORMAT,)),
        "version": Exactly((VERSION,), about="Goes up when something here is renamed, removed or means something else."),
        "model": MODEL,
        "target": Text(4096, about="What computed it."),
        "tokens": ListOf(_TOKENS.form, _TOKENS.longest, about="The prompt's; empty where they are not known."),
        "positions": Text(64, about="Of which positions there are logits: all, or last."),
        "plan": Text(about="The stages and layers that were asked for."),
        "tensors": ListOf(TENSOR, 1 << 22),
        "graph": Optional(ListOf(Text()), about="The graph's text, line by line; null in traces of other programs."),
    },
    {
        "generated": ListOf(_TOKENS.form, _TOKENS.longest, about="The tokens of the steps after the prefill."),
        "writer": Text(4096, about="The program that recorded it, where that is another than aprgraph."),
        "arithmetic": Text(64, about="What it was computed in: float64, float32, float16, bfloat16, q8-activations."),
        "engine_arithmetic": Text(4096, about="An engine's arithmetic, with its options (docs/arithmetic.md)."),
        "weights": Text(64, about="float or quantised."),
        "qk_rows": Text(64, about="The order of the rows of q and k: interleaved or halves."),
        "notes": ListOf(Text(), 1 << 12, about="Sentences that a reader should know."),
    },
    about="What ran, and which tensors it recorded (runtime/trace/manifest.py). Other keys are not looked at.",
)

TRACE_FILE = Document("trace manifest", TRACE, TraceError, "run the trace again", FORMAT, VERSION)
