"""The JSON Schemas in docs that are made of what the readers check: ``python -m tests.support.published_schemas`` writes them."""

from __future__ import annotations

import json
from pathlib import Path

from aprgraph.codegen.artifact_form import ARTIFACT_FILE
from aprgraph.graph.json_documents import Document
from aprgraph.runtime.blame.repro import SIGNATURE_FILE
from aprgraph.runtime.trace.manifest_form import TRACE_FILE

DOCS = Path(__file__).parents[2] / "docs"
PUBLISHED: dict[str, Document] = {"trace": TRACE_FILE, "artifact": ARTIFACT_FILE, "repro": SIGNATURE_FILE}


def text_of(document: Document) -> str:
    """The file's text."""
    return json.dumps(document.schema(), indent=1) + "\n"


if __name__ == "__main__":
    for name, document in PUBLISHED.items():
        (DOCS / f"{name}.schema.json").write_text(text_of(document), encoding="utf-8")
