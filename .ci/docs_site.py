"""What mkdocs needs beside mkdocs.yml: files of the repository that pages link to, and the package where the API reference looks for it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ROOT / "build/docs-sources/aprgraph"
#: A link from docs/ to what lies beside it.
_LINK = re.compile(r"\]\(\.\./([^)#\s]+)\)")
#: What a browser would load with a page from another machine.
_FROM_ELSEWHERE = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^>]*>")


def on_startup(**_: Any) -> None:
    """Lay out the package as it is installed: the folder aprgraph with the other three in it. Griffe follows no links out of a package.

    Before plugins are configured: mkdocstrings keeps no place that is not there then.
    """
    shutil.rmtree(_SOURCES.parent, ignore_errors=True)
    for folder, place in ((".", "aprgraph"), *((name, name) for name in ("graph", "codegen", "runtime"))):
        shutil.copytree(ROOT / place, _SOURCES / folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)


def on_files(files: Any, *, config: Any) -> Any:
    """Take the linked files into the site. One that is not there is missed by mkdocs, as any other."""
    linked = {name for file in files.documentation_pages() for name in _LINK.findall(file.content_string)}
    for name in sorted(linked):
        if (ROOT / name).is_file():
            files.append(File.generated(config, _place(name), abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Have links lead to where ``on_files`` put what they name."""
    return _LINK.sub(lambda found: f"]({_place(found[1])})", markdown)


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse a page that would not open without a network."""
    if found := _FROM_ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri}: loads {found[0]} from elsewhere; the site has to open without a network")
    return output


def _place(name: str) -> str:
    """Where a file of the repository lies in the site. Markdown would become a page, whose own links lead out of the site."""
    return f"repository/{name}{'.txt' if name.endswith('.md') else ''}"
