"""Writes window_logits.npz: transformers' logits of checkpoints whose config.json gives them a sliding window.

    python -m tests.golden.make_window_logits

in the repository's root. windows.json names the checkpoints and what is changed in their config.json. Computed in
float64 for all positions of the golden models' prompt. Needs torch, transformers, gguf and safetensors.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.support.checkpoints import write_checkpoint
from tests.support.golden import golden_models

HERE = Path(__file__).parent


def main() -> None:
    """Compute the logits and write the file."""
    found, tokens = {}, {model.name: model.tokens for model in golden_models()}
    for variant, (name, changes) in json.loads((HERE / "windows.json").read_text()).items():
        with tempfile.TemporaryDirectory() as folder:
            path = write_checkpoint(name, Path(folder))
            config = json.loads((path / "config.json").read_text()) | changes
            (path / "config.json").write_text(json.dumps({field: value for field, value in config.items() if value is not None}))
            model = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
            )
            with torch.no_grad():
                found[variant] = model.eval()(torch.tensor([tokens[name]])).logits[0].numpy().astype(np.float32)
    np.savez_compressed(HERE / "window_logits.npz", **found)


if __name__ == "__main__":
    main()
