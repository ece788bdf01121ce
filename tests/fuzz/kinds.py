"""Every kind of input that has a fuzzer."""

from __future__ import annotations

from tests.fuzz.models import Apr, Config, Gguf, Safetensors, SplitGguf, TokenizerJson
from tests.fuzz.others import ArtifactJson, GraphText, Options, Repro, Template, Tokens
from tests.fuzz.target import Target
from tests.fuzz.traces import Aprt, Arrays, Manifest, Names

KINDS: dict[str, type[Target]] = {
    kind.name: kind
    for kind in (
        Gguf, SplitGguf, Apr, Config, Safetensors, TokenizerJson, Aprt, Manifest, Arrays, Names, ArtifactJson, GraphText, Repro, Tokens,
        Template, Options,
    )
}  # fmt: skip
