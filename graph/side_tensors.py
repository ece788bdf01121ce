"""Tensors that cannot touch the numbers of a text, which a file may hold beside the model's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aprgraph.graph.arguments import IGNORE
from aprgraph.graph.errors import AprgraphError, shown
from aprgraph.graph.message import Message
from aprgraph.graph.regular_expression import compile_expression


@dataclass(frozen=True)
class SideTensors:
    """``what`` tensors are whose whole name matches ``pattern``."""

    what: str
    pattern: re.Pattern[str]


_BLOCK = r"blk\.\d+\."

#: As llama.cpp skips them, or reads them for something else than the text.
SIDE_TENSORS = (
    SideTensors(
        "of the encoders of images and sounds",
        re.compile(
            r"(model\.)?(v|a|mm|mm_[a-z_]+|resampler|adapter|vision_(tower|model)|visual|audio_(tower|model)|embed_(vision|audio)|multi_modal_projector)\..*|model\.image_newline"
        ),
    ),
    SideTensors("that predict later tokens", re.compile(rf"(model\.)?(mtp[a-z_]*|nextn)\..*|{_BLOCK}nextn\..*")),
    SideTensors(
        "that repeat RoPE's frequencies",
        re.compile(
            rf"(model\.)?({_BLOCK}|layers\.\d+\.)(attn_rot_embd|(attn\.|self_attn\.)?rotary_emb)(\.inv_freq|\.weight)?"
            r"|(model\.)?rotary_emb(_local)?\.(original_)?inv_freq"
        ),
    ),
    SideTensors("that are masks of attention", re.compile(r"(transformer\.)?h\.\d+\.attn\.(masked_)?bias")),
    SideTensors("of a classifier", re.compile(r"cls(\..*)?|(bert|roberta)\.pooler\.dense\..*")),
    SideTensors("that are the numbers of positions", re.compile(r"((bert|roberta)\.)?embeddings\.position_ids")),
    SideTensors(
        "that scale the keys and values of a cache in 8 bits, which nothing here has,",
        re.compile(r".*\.((self_attn|attn|[kv]_proj|qkv_proj)\.([kv]|kv|q|prob)_scale|([kv]|qkv)_proj\.output_scale|kv_scale)"),
    ),
    SideTensors(
        "that scale activations before they are rounded, which nothing here does,", re.compile(r".*\.(input|activation)_(global_)?scale")
    ),
)

_MOST_SHOWN = 200
#: How many names a notice gives.
_NAMED = 2
_LAYER = re.compile(r"(?:blk|model\.layers)\.(\d+)\.(.*)")


def parse_ignored(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """The regular expressions of the argument ``ignore``. Raises AprgraphError."""
    return tuple(map(_compile, patterns))


def pattern_of(name: str) -> str:
    """The regular expression that ``name`` alone matches, on one line; in place of a name without end the word REGEX."""
    exact = "".join(re.escape(c) if c.isprintable() else f"\\U{ord(c):08x}" for c in name)
    return exact if len(exact) <= _MOST_SHOWN else "REGEX"


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return compile_expression(pattern)
    except ValueError as error:
        raise AprgraphError(
            IGNORE.given(shown(pattern), f"[{shown(pattern)}]"),
            f": not a regular expression ({error}); expected one such as 'blk\\.0\\.extra.*'",
        ) from None


@dataclass(frozen=True)
class LeftOut:
    """``names`` of tensors, and why they are left out."""

    names: tuple[str, ...]
    why: str

    @property
    def sentence(self) -> str:
        """One line about them."""
        some = ", ".join(self.names[:_NAMED])
        return Message("tensors ", self.why, f" are left out ({len(self.names)}): {some}{', …' if len(self.names) > _NAMED else ''}")


def find_left_out(
    tensors: Collection[str], layers: int, extra_layers: int, ignore: Sequence[re.Pattern[str]], unused: Mapping[str, str] | None = None
) -> list[LeftOut]:
    """What is left out of a file's ``tensors``: what cannot touch a text's numbers, what ``ignore`` names, and the ``unused``
    tensors of the model, each with what it is.
    """
    last = _predicting_layers(tensors, layers, extra_layers)
    found: dict[str, list[str]] = {}
    for name in tensors:
        layer = _LAYER.fullmatch(name)
        if any(pattern.fullmatch(name) for pattern in ignore):
            why: str = Message("that ", IGNORE, " names")
        elif layer is not None and int(layer[1]) in last:
            why = SIDE_TENSORS[1].what
        elif unused is not None and name in unused:
            why = unused[name]
        else:
            side = next((side for side in SIDE_TENSORS if side.pattern.fullmatch(name)), None)
            if side is None:
                continue
            why = side.what
        found.setdefault(why, []).append(name)
    return [LeftOut(tuple(names), why) for why, names in found.items()]


def _predicting_layers(tensors: Collection[str], layers: int, extra_layers: int) -> set[int]:
    """Numbers of the blocks behind the last layer that predict later tokens: by the metadata, or by what they hold."""
    found = set(range(layers, layers + extra_layers))
    for name in tensors:
        layer = _LAYER.fullmatch(name)
        if layer is not None and int(layer[1]) >= layers and layer[2].startswith("nextn."):
            found.add(int(layer[1]))
    return found
