"""What PEFT and mlx-lm leave of fine-tuning: an adapter, which adds to the weights of a model that lies elsewhere.

``adapter_config.json`` says which: PEFT's `peft_type` and `base_model_name_or_path` (peft/config.py, peft/utils/peft_types.py), or
mlx-lm's `fine_tune_type` and `model` (mlx_lm/lora.py).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from aprgraph.graph.errors import shown
from aprgraph.graph.input_file import read_input_text
from aprgraph.graph.json_documents import parse_json
from aprgraph.graph.sources.kind import FileKind

#: Their configuration, and their weights, which may lie beside a model's.
CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapters.safetensors")
#: More than any such configuration has.
_MOST_BYTES = 1 << 20
#: Names of tensors of adapters, in the header of a file.
_TENSOR = re.compile(
    rb'"[^"]*\.(?:lora_[abAB]|lora_(?:embedding|magnitude)[^".]*|ia3_[^".]*|lok[^".]*|hada_[^".]*|oft_[^".]*)(?:\.[^"]*)?":'
)
#: Fields that no other configuration has.
_FIELDS = (b'"peft_type"', b'"fine_tune_type"', b'"base_model_name_or_path"')
#: PEFT's kinds that put something into the prompt or beside the layers, so that there is nothing to merge.
_NOT_MERGED = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT", "XLORA")
_ANY = "a LoRA adapter, or another one of PEFT's"


def begins_an_adapter(head: bytes) -> bool:
    """Whether a file that begins so holds an adapter's tensors, or is its configuration."""
    is_json = head.lstrip()[:1] == b"{"
    return any(field in head for field in _FIELDS) if is_json else head[8:9] == b"{" and _TENSOR.search(head) is not None


def adapter_in(folder: Path | None) -> FileKind:
    """The adapter in a folder, with the model that it is for and how the two are made one, as far as its configuration says.

    None: one without its configuration.
    """
    config = {} if folder is None else _configuration(folder / CONFIG)
    is_mlx = "fine_tune_type" in config
    base, kind = config.get("model" if is_mlx else "base_model_name_or_path"), config.get("fine_tune_type" if is_mlx else "peft_type")
    named = isinstance(base, str) and bool(base)
    what = _what(kind, is_dora=config.get("use_dora") is True)
    if named:
        what += f" for {shown(base)}"
    name = "lora" if "LoRA" in what else "adapter"
    if kind in _NOT_MERGED:
        return FileKind(name, what, f"this kind ({kind}) changes no weights that it could be merged into; give that model itself")
    return FileKind(name, what, _merge(json.dumps(base) if named else "BASE", str(folder or "ADAPTER"), is_mlx=is_mlx))


def _configuration(path: Path) -> dict[str, Any]:
    """What it says; nothing where it cannot be read."""
    try:
        found = parse_json(read_input_text(path, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _what(kind: object, *, is_dora: bool) -> str:
    if not isinstance(kind, str) or not kind:
        return _ANY
    if kind.upper() in ("LORA", "DORA"):
        return "a DoRA adapter, a kind of LoRA adapter," if is_dora or kind.upper() == "DORA" else "a LoRA adapter"
    return f"an adapter of PEFT ({shown(kind).strip(chr(39))})"


def _merge(base: str, folder: str, *, is_mlx: bool) -> str:
    if is_mlx:
        return f"merge the two with `mlx_lm.fuse` of mlx-lm, of the model {base} and the adapter path {folder}, and give what it saves"
    in_python = f"PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base}), {json.dumps(folder)}).merge_and_unload()"
    return f'merge the two in Python, `{in_python}.save_pretrained("merged")` (peft, transformers), and give `merged`'
