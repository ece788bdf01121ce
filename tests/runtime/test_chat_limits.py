"""Templates that loop for ever or fill the memory are stopped."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from aprgraph.graph.errors import TokenError
from aprgraph.graph.metadata import Metadata
from aprgraph.runtime.chat import Limits, chat_messages, process, render_chat

LIMITS = Limits(cpu_seconds=1, seconds=10, memory=64 << 20, characters=100_000)


def apply(template: str, limits: Limits = LIMITS) -> str:
    return render_chat(Metadata(Path("chat.gguf"), {"tokenizer.chat_template": template}), chat_messages("hi"), limits=limits)


@pytest.mark.parametrize(("template", "message"), [
    ("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "stopped after 1 s of processor time"),
    ("{% if 9 ** (9 ** 9) %}{% endif %}", "stopped after 1 s of processor time"),
    ("{% for i in range(1000000000) %}{% endfor %}", "OverflowError: Range too big"),
    ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "RecursionError"),
    ("{% for m in messages recursive %}{{ loop([m]) }}{% endfor %}", "RecursionError"),
    ("{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}", "RecursionError"),
    ("{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "needs more than 64 MiB"),
    ("{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = [ns.x] + ns.x + ns.x + [i] %}{% endfor %}", "than 64 MiB"),
    ("{{ 'x' * 10 ** 12 }}", "needs more than 64 MiB of memory"),
    ("{{ '%1000000000d' % 1 }}", "needs more than 64 MiB of memory"),
    ("{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}", "makes a text of more than 100000 characters"),
])  # fmt: skip
def test_a_template_without_an_end_is_stopped(template: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(TokenError, match=f"^chat.gguf: tokenizer.chat_template cannot be applied.*{message}"):
        apply(template)
    assert time.monotonic() - start < LIMITS.seconds


def test_a_template_may_not_take_long_even_if_the_processor_is_busy() -> None:
    with pytest.raises(TokenError, match="cannot be applied: it was stopped after 0.01 s;"):
        apply("x", Limits(seconds=0.01))


def test_texts_as_long_as_a_prompt_may_be_come_through() -> None:
    assert len(apply("{{ 'é' * 99999 }}")) == 99999


def test_a_worker_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text("import sys\nsys.exit('a\\nlast words')")
    monkeypatch.setattr(process, "_WORKER", worker)
    with pytest.raises(RuntimeError, match="that renders templates failed: a\nlast words"):  # a defect, and not the template's
        apply("x")
    worker.write_text("import os\nos.abort()")
    with pytest.raises(TokenError, match="it broke off with status -6: no message;"):
        apply("x")


def test_no_python_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonesuch/python")
    with pytest.raises(TokenError, match=r"Python cannot be started \('/nonesuch/python': No such file or directory\)"):
        apply("x")
