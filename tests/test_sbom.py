"""The bill of materials is what the lock files give, names no registry, and says what the package itself needs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "sbom.cdx.json").read_text(encoding="utf-8")


def test_it_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / ".ci/sbom.py", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_it_has_every_pin_and_no_address() -> None:
    document = json.loads(TEXT)
    found = {(item["name"], item["version"]) for item in document["components"]}
    pins = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert len(pins) > 50
    assert {(name.lower(), version) for name, version in pins} <= found
    assert "://" not in TEXT
    required = {item["name"] for item in document["components"] if item.get("scope") == "required"}
    assert {"apache-tvm", "gguf", "jinja2", "numpy", "tokenizers"} <= required
    assert "mypy" not in required


def test_the_licence_goes_with_the_package() -> None:
    found = metadata("aprgraph")
    assert found["License-Expression"] == "Apache-2.0"
    assert found.get_all("License-File") == ["LICENSE"]
    assert (ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
