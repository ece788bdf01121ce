"""The numbers of a model that its transforms depend on: how many heads, and how much of each RoPE turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aprgraph.graph.metadata import ArrayValue
from aprgraph.graph.sources.source import Source
from aprgraph.runtime.weights.own_order import family_of


def head_counts(files: Sequence[Source]) -> list[int]:
    """The numbers of heads that the files name, of queries and of keys, each once."""
    return list(dict.fromkeys(_integers(files, "attention.head_count", "attention.head_count_kv")))


def head_size(files: Sequence[Source], slot: str, rows: int) -> int:
    """How many of ``rows`` rows of q, k or v a head has, as the first file says that does; 0 if none does."""
    of_keys = slot.startswith(("attn_k.", "attn_v."))
    names = ("attention.head_count_kv", "attention.head_count") if of_keys else ("attention.head_count",)
    count = next((count for name in names for count in _integers(files, name)), 0)
    return rows // count if count and rows % count == 0 else 0


def turned_sizes(files: Sequence[Source]) -> list[int]:
    """How many elements of a head RoPE turns, as the files say."""
    return list(dict.fromkeys(_integers(files, "rope.dimension_count")))


def _integers(files: Sequence[Source], *names: str) -> Iterator[int]:
    for file in files:
        architecture = file.metadata.get("general.architecture")
        for name in names:
            value = file.metadata.get(f"{architecture}.{name}")
            for number in value.values() if isinstance(value, ArrayValue) else [value]:
                if isinstance(number, int) and not isinstance(number, bool) and number > 0:
                    yield number


def expert_groups(files: Sequence[Source]) -> list[int]:
    """Into how many groups each file's router puts the experts, where it chooses among those of some groups alone."""
    found = []
    for file in files:
        family = family_of(file.metadata)
        groups, used = getattr(family, "groups", 1), getattr(family, "used_groups", 1)
        if used < groups:
            found.append(groups)
    return found
