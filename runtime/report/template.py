"""What the pages are made with: templates, resources of the package, and the policy that forbids everything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Any

from aprgraph.graph.message import Message, Words
from aprgraph.runtime.summary import is_command

#: The largest number of names that a list of a page has.
NAMED = 12


@lru_cache(maxsize=8)
def template(name: str, words: Words) -> Any:
    """A page's template, which takes longer to compile than to fill in."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined  # noqa: PLC0415 -- a tenth of a second that only pages need

    environment = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value.text(words) if isinstance(value, Message) else value,
    )
    environment.globals["is_command"] = is_command
    return environment.get_template(name)


def resource(name: str) -> str:
    """The text of a file beside this one."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def policy(style: str, script: str = "") -> str:
    """Nothing from anywhere but this page's own style and script, known by their hashes, and pictures within the page."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in (style, script)]
    scripts = f"'sha256-{hashes[1]}'" if script else "'none'"
    return f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src {scripts}; img-src data:; base-uri 'none'; form-action 'none'"
