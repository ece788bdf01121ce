"""What the pages show a command to print is what it prints, word for word, on the models that they are of."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.blame import traced
from tests.support.cli import run_cli

DOCS = Path(__file__).parents[2] / "docs"


def shown(page: str, begins: str) -> list[str]:
    """The pieces of the output on a page that begins so, between those that it leaves out (…), however lines are broken."""
    text = (DOCS / page).read_text(encoding="utf-8")
    (block,) = [one for one in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE) if one.strip().startswith(begins)]
    return [" ".join(piece.split()) for piece in block.split("…")]


@pytest.mark.parametrize(("page", "begins"), [
    ("blame.md", "theirs (B) is not a run of model.gguf"), ("blame.md", "Alike: all 35 compared tensors agree"),
])  # fmt: skip
def test_what_a_page_shows(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, begins: str
) -> None:
    monkeypatch.chdir(tmp_path)
    models: dict[str, dict[str, object]]
    if begins.startswith("Alike"):
        models, options = {"ours": {"format": "Q4_0"}, "theirs": {"format": "F32"}}, ("--model-a", "ours.gguf", "--model-b", "theirs.gguf")
        models = {side: {"hidden": 64, **of} for side, of in models.items()}
    else:
        models, options = {"ours": {"rope_base": None}, "theirs": {"rope_base": 1e6}}, ("--model", "model.gguf")
        models = {side: {"family": "qwen2", "qkv_bias": True, **of} for side, of in models.items()}
    for side, of in models.items():
        Path(f"{side}.gguf").symlink_to(tiny_model(**of))
        traced(Path(side), Path(f"{side}.gguf"))
    Path("model.gguf").symlink_to("ours.gguf")
    said = " ".join(run_cli("diff", "ours", "theirs", *options).out.split())
    for piece in shown(page, begins):
        assert piece in said
