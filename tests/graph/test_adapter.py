"""Adapters of PEFT and mlx-lm, which somebody gives in place of the model that they are for."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from aprgraph.graph.sources.adapter import adapter_in
from tests.support.checkpoints import write_checkpoint
from tests.support.cli import run_cli

_BASE = "Qwen/Qwen3-0.6B"
_MERGED = 'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("Qwen/Qwen3-0.6B"), '


def _adapter(folder: Path, **config: object) -> Path:
    """A folder as PEFT saves it, of one projection."""
    folder.mkdir(exist_ok=True)
    header, data = {"__metadata__": {"format": "pt"}}, bytes(4 * 8 * 2 * 4)
    for number, side in enumerate("AB"):
        name = f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"
        header[name] = {"dtype": "F32", "shape": [4, 8], "data_offsets": [number * 128, number * 128 + 128]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.contract("CHECK-KIND-1")
@pytest.mark.parametrize("name", [".", "adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("has_config", [False, True])
def test_every_command_names_the_model_and_how_to_merge(name: str, has_config: bool, tmp_path: Path) -> None:
    """Also where the model's config.json lies beside the adapter, and none of its weights."""
    folder = _adapter(tmp_path / "lora", base_model_name_or_path=_BASE, peft_type="LORA", use_dora=False)
    if has_config:
        (folder / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}')
    path = folder / name
    for command in (("run", path, "--tokens", "1,2"), ("weights", path, path), ("inspect", path), ("stages", path), ("compile", path)):
        done = run_cli(*command)
        assert (done.code, done.out) == (2, "")
        assert "a LoRA adapter for 'Qwen/Qwen3-0.6B'" in done.err
        assert f'{_MERGED}"{folder}").merge_and_unload().save_pretrained("merged")' in done.err
    checked = run_cli("check", path)
    assert checked.code == 1
    assert "1 error: this is a LoRA adapter for 'Qwen/Qwen3-0.6B'." in checked.out
    assert "get the file again" not in checked.out


@pytest.mark.parametrize(("config", "what", "advice"), [
    ({"peft_type": "LORA", "use_dora": True, "base_model_name_or_path": "x"}, "a DoRA adapter, a kind of LoRA adapter, for 'x'", "merge_and_unload"),
    ({"peft_type": "IA3", "base_model_name_or_path": "x"}, "an adapter of PEFT (IA3) for 'x'", "merge_and_unload"),
    ({"peft_type": "PREFIX_TUNING", "base_model_name_or_path": "x"}, "an adapter of PEFT (PREFIX_TUNING) for 'x'", "changes no weights"),
    ({"peft_type": "LORA", "base_model_name_or_path": None}, "a LoRA adapter", "from_pretrained(BASE)"),
    ({"fine_tune_type": "lora", "model": "mlx/x"}, "a LoRA adapter for 'mlx/x'", 'mlx_lm.fuse` of mlx-lm, of the model "mlx/x"'),
    ({"peft_type": 7, "base_model_name_or_path": ["x"]}, "a LoRA adapter, or another one of PEFT's", "from_pretrained(BASE)"),
    ({"base_model_name_or_path": "x\n"}, "a LoRA adapter, or another one of PEFT's for 'x\\n'", 'from_pretrained("x\\n")'),
])  # fmt: skip
def test_kinds_of_adapters(config: dict[str, object], what: str, advice: str, tmp_path: Path) -> None:
    found = adapter_in(_adapter(tmp_path / "a", **config))
    assert found.what == what
    assert advice in found.advice


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_configuration_that_cannot_be_read_says_nothing(text: str, tmp_path: Path) -> None:
    folder = _adapter(tmp_path / "a")
    (folder / "adapter_config.json").write_bytes(text.encode("latin-1"))
    assert adapter_in(folder).what == "a LoRA adapter, or another one of PEFT's"


def test_an_adapter_is_no_trace(tmp_path: Path) -> None:
    model = write_checkpoint("qwen3-f32", tmp_path)
    done = run_cli("audit", _adapter(tmp_path / "lora", base_model_name_or_path=_BASE, peft_type="LORA"), "--model", model)
    assert done.code == 2
    assert "it is a LoRA adapter for 'Qwen/Qwen3-0.6B'; record a run of the model that it was merged into" in done.err
