"""The model of docs/families.md: the golden one of OLMo 1 under the names of a family that is not in the package."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.checkpoints import write_checkpoint
from tests.support.golden import FAMILIES

#: The golden model that it is.
GOLDEN_NAME = "olmo-f32"


def write_pico(path: Path) -> Path:
    """The GGUF file. The name has as many letters as that of the golden file, so that nothing moves."""
    path.write_bytes((FAMILIES / f"{GOLDEN_NAME}.gguf").read_bytes().replace(b"olmo", b"pico"))
    return path


def write_pico_checkpoint(folder: Path) -> Path:
    """The checkpoint, inside ``folder``."""
    checkpoint = write_checkpoint(GOLDEN_NAME, folder)
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"architectures": ["PicoForCausalLM"], "model_type": "pico"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    return checkpoint
