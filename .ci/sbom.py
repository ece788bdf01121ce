"""Writes sbom.cdx.json, the bill of materials: every package that the lock files pin, as CycloneDX 1.6 (JSON).

    python .ci/sbom.py           write it (`make sbom`)
    python .ci/sbom.py --check   say whether it is current, by the exit code

The same lock files give the same bytes. The digests of each package's files stand in the lock files, which are named by their own.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "sbom.cdx.json"
LOCKS = (
    "requirements.lock", "requirements-model.lock", "requirements-linker.lock", "requirements-cuda.lock", "requirements-docs.lock",
    "bench/requirements.lock",
)  # fmt: skip

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==([^\s;\\]+)(?:\s*;\s*(.*?))?\s*\\?$", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")


def bill_of_materials() -> str:
    """The document. ``scope`` is required for what the package itself asks for, and optional for what an extra does."""
    scopes = _scopes()
    components: dict[tuple[str, str], dict[str, Any]] = {}
    for lock in LOCKS:
        for name, pinned, marker in _PIN.findall((ROOT / lock).read_text(encoding="utf-8")):
            key = (_normal(name), pinned)
            found = components.setdefault(key, _component(*key, scopes))
            found["properties"].append({"name": "aprgraph:lock-file", "value": lock})
            if marker and {"name": "aprgraph:marker", "value": marker} not in found["properties"]:
                found["properties"].append({"name": "aprgraph:marker", "value": marker})
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "aprgraph",
                "name": "aprgraph",
                "version": version("aprgraph"),
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            },
            "properties": [{"name": f"aprgraph:sha256:{lock}", "value": _sha256(ROOT / lock)} for lock in LOCKS],
        },
        "components": [components[key] for key in sorted(components)],
    }
    return json.dumps(document, indent=1) + "\n"


def _component(name: str, pinned: str, scopes: dict[str, str]) -> dict[str, Any]:
    purl = f"pkg:pypi/{name}@{pinned}"
    scope = {"scope": scopes[name]} if name in scopes else {}
    return {"type": "library", "bom-ref": purl, "name": name, "version": pinned, **scope, "purl": purl, "properties": []}


def _scopes() -> dict[str, str]:
    """By package: required, or optional for one that only an extra asks for."""
    found: dict[str, str] = {}
    for requirement in requires("aprgraph") or []:
        name = _NAME.match(requirement)
        assert name is not None
        scope = "optional" if "extra ==" in requirement else "required"
        if found.get(_normal(name[0])) != "required":
            found[_normal(name[0])] = scope
    return found


def _normal(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    """Write or check; the exit code."""
    text = bill_of_materials()
    if "--check" not in sys.argv[1:]:
        PLACE.write_text(text, encoding="utf-8")
        return 0
    if PLACE.is_file() and PLACE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PLACE.name} is not what the lock files give; run: make sbom", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
