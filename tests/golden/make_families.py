"""Writes families/: tiny models of families as GGUF files, and every stage of a prefill beside each.

    python -m tests.golden.make_families [NAME ...]

in the repository's root: the models of those names (family_models.py lists them), or all. Hugging Face transformers computes
the stages in float64. Needs torch, transformers and gguf; versions and date are in README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from tests.golden.family_models import FAMILIES, MODELS, make_model
from tests.golden.stage_files import write_stages


def make(names: Collection[str]) -> None:
    """Write the models of those names, all if there are none, and all their stages as f32."""
    for name in MODELS:
        if not names or name in names:
            path = FAMILIES / f"{name}.gguf"
            write_stages(path, make_model(name, path))


if __name__ == "__main__":
    make(sys.argv[1:])
