"""What documents and help texts show: a prompt of one token cannot show a fault of RoPE, of masks or of the softmax."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aprgraph.api import DEFAULT_PROMPT, load
from tests.support.models import require_smollm2

ROOT = Path(__file__).parents[2]
LEAST = 6


def sources() -> Iterator[Path]:
    yield ROOT / "README.md"
    for folder, pattern in (("docs", "*.md"), ("examples", "*"), ("aprgraph", "**/*.py"), ("bench", "*.md")):
        yield from sorted(path for path in (ROOT / folder).glob(pattern) if path.is_file())


def test_every_prompt_in_an_example_has_at_least_six_tokens() -> None:
    model = load(require_smollm2())
    prompts = {DEFAULT_PROMPT: "the default"}
    for path in sources():
        text = path.read_text(encoding="utf-8")
        prompts |= dict.fromkeys(re.findall(r'(?:--prompt |\bprompt=)"([^"]*)"', text), path.name)
        for ids in re.findall(r"--tokens ([\d,]+)", text):
            assert ids.count(",") + 1 >= LEAST, (path.name, ids)
    assert len(prompts) > 1
    for prompt, where in prompts.items():
        assert len(model.encode(prompt)) >= LEAST, (where, prompt)


@pytest.mark.parametrize("path", [path for path in sources() if path.suffix == ".md"], ids=lambda path: path.name)
def test_examples_name_options_that_the_commands_have(path: Path) -> None:
    """A cheap look: each long option of an `aprgraph COMMAND` line is one of its command."""
    import typer

    from aprgraph.cli.app import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command, rest in re.findall(r"^(?:    |\$ )+aprgraph (\w+)([^#\n]*)", path.read_text(encoding="utf-8"), re.MULTILINE):
        known = {option for parameter in commands[command].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)(--?[a-z][\w-]*)", rest)) <= known, (command, rest)
